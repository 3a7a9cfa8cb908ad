#include "core/run/standin.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/model/codes.h"
#include "core/model/quant.h"

#define COLD_BYTES (96.0 * 1048576)   /* weights of this size are in no cache when their turn comes again */
#define MOST_BYTES (2048.0 * 1048576) /* of layers in front of one that differs in its window alone */
#define MOST_VOCAB 32768

static bool same_kind(const struct lb_config *c, int64_t a, int64_t b)
{
    return c->layer[a].moe == c->layer[b].moe && (c->layer[a].window > 0) == (c->layer[b].window > 0);
}

void lb_standin_cut(struct lb_standin *s, const struct lb_config *config, double layer_bytes)
{
    int64_t n = config->n_layer, enough = layer_bytes > 0 ? (int64_t)(COLD_BYTES / layer_bytes) + 1 : n;
    *s = (struct lb_standin){.config = *config, .head_share = 1};
    if (config->n_vocab > MOST_VOCAB) {
        s->config.n_vocab = MOST_VOCAB;
        s->head_share = (double)config->n_vocab / MOST_VOCAB;
    }
    int64_t end = 0;
    for (int64_t il = 0; il < n && s->n_kind < LB_STANDIN_KINDS; il = end) {
        bool known = false;
        for (int k = 0; k < s->n_kind; k++)
            known = known || same_kind(config, il, s->kind[k].first);
        for (end = il + 1; end < n && same_kind(config, il, end);)
            end++;
        if (known)
            continue;
        double of_kind = 0;
        for (int64_t k = 0; k < n; k++)
            of_kind += same_kind(config, il, k);
        bool alike = s->n_kind > 0 && config->layer[il].moe == config->layer[s->kind[0].first].moe;
        if (alike && (double)il * layer_bytes > MOST_BYTES) { /* the first kind stands for it */
            s->kind[0].share += of_kind / (double)(s->kind[0].end - s->kind[0].first);
            continue;
        }
        struct lb_standin_kind *kind = &s->kind[s->n_kind++];
        *kind = (struct lb_standin_kind){(int)il, (int)(end - il > enough ? il + enough : end), 0};
        kind->share = of_kind / (double)(kind->end - kind->first);
        s->config.n_layer = kind->end;
    }
}

/* Numbers like those of weights, in bf16: 0.02 to 0.06, of either sign. */
static void make_up(uint16_t *x, size_t n)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float v = 0.02f + 0.04f * (float)(state >> 9) / 8388608.0f;
        x[i] = lb_bf16_round(state & 256 ? -v : v);
    }
}

/* Rows of the vocabulary that are there, of embedding and head. */
static void cut_vocab(const struct lb_standin *s, struct lb_wtensor *t, int64_t n_vocab)
{
    if (lb_family_layer_of(s->config.family, s->config.gguf, t->name) < 0 && t->n_dim == 2 && t->dim[0] == n_vocab)
        t->dim[0] = s->config.n_vocab;
}

/* What stands for a tensor: of the type that it stays packed in or one as large, else bf16. */
static enum lb_wtype type_for(const struct lb_wtensor *t)
{
    struct lk_packed how;
    if (t->n_dim < 2 || !lb_codes_of(t, 0, &how))
        return LB_W_BF16;
    if (t->type != LB_W_PACKED)
        return t->type;
    if (t->dim[t->n_dim - 1] % lb_quant_block(LB_W_Q8_0) != 0)
        return LB_W_BF16;
    return how.kind == LK_PK_S8 || how.kind == LK_PK_Z8 || how.kind == LK_PK_E4M3 ? LB_W_Q8_0 : LB_W_Q4_0;
}

/* Bytes of which any two are a small number in half precision: scales of any block. */
static void make_up_blocks(uint8_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (uint8_t)(0x10 + i * 2654435761u % 0x20);
}

/* Tensors of the layers that are there; all have the same numbers. */
static enum lb_status make_weights(struct lb_standin *s, const struct lb_wfile *header, int64_t n_vocab,
                                   struct lb_err *err)
{
    struct lb_wfile *w = &s->weights;
    size_t most = 2, most_blocks = 1;
    w->tensor = lb_mem_new(header->n_tensor, sizeof *w->tensor);
    if (!w->tensor)
        return lb_err_memory(err, "a model to measure", header->n_tensor * sizeof *w->tensor);
    for (size_t i = 0; i < header->n_tensor; i++) {
        struct lb_wtensor *t = &w->tensor[w->n_tensor];
        *t = header->tensor[i];
        if (lb_family_layer_of(s->config.family, s->config.gguf, t->name) >= s->config.n_layer)
            continue;
        cut_vocab(s, t, n_vocab);
        t->type = type_for(t);
        t->pack = NULL;
        t->n_bytes = lb_quant_bytes(t->type, lb_wtensor_elements(t));
        size_t *least = t->type == LB_W_BF16 ? &most : &most_blocks;
        *least = t->n_bytes > *least ? t->n_bytes : *least;
        w->n_tensor++;
    }
    uint16_t *data = lb_mem_new(most / 2, sizeof *data);
    LB_TRY(lb_wfile_own(w, data, err));
    uint8_t *blocks = lb_mem_new(most_blocks, 1);
    LB_TRY(lb_wfile_own(w, blocks, err));
    make_up(data, most / 2);
    make_up_blocks(blocks, most_blocks);
    for (size_t i = 0; i < w->n_tensor; i++)
        w->tensor[i].data = w->tensor[i].type == LB_W_BF16 ? (const uint8_t *)data : blocks;
    return LB_OK;
}

enum lb_status lb_standin_open(struct lb_standin *s, const struct lb_wfile *header, struct lb_backend *backend,
                               struct lb_err *err)
{
    int64_t n_vocab = (int64_t)((double)s->config.n_vocab * s->head_share + 0.5);
    LB_TRY(make_weights(s, header, n_vocab, err));
    struct lb_model_spec spec = {.config = &s->config, .weights = &s->weights, .backend = backend};
    return lb_model_open(&s->model, &spec, err);
}

void lb_standin_close(struct lb_standin *s)
{
    lb_model_free(s->model);
    lb_wfile_close(&s->weights);
    *s = (struct lb_standin){0};
}
