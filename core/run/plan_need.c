/* What a run needs: bytes of weights, pages and steps from the configuration. */
#include <string.h>

#include "core/dist/shard.h"
#include "core/model/codes.h"
#include "core/model/decoder.h"
#include "core/model/kv.h"
#include "core/run/plan.h"
#include "kernels/args_w4a8.h"

#define TABLES 64 /* bytes of a token in the step's tables */
#define ITEM 32   /* bytes of a piece of attention, at most one a head */

static size_t elem_bytes(enum lb_dtype dtype)
{
    return dtype == LB_F32 ? 4 : 2;
}

/* KV heads on a rank: some are on more than one where query heads of a KV head are. */
static int64_t kv_heads(const struct lb_config *c, int tp)
{
    const struct lb_shard_shape shape = {c->n_seg, c->n_head, c->n_kv_head, 0};
    struct lb_slice slice;
    struct lb_err err = LB_ERR_INIT;
    if (tp <= 1 || lb_slice_init(&slice, &shape, 0, tp, &err) != LB_OK)
        return c->n_kv_head;
    return slice.n_kv_head;
}

size_t lb_plan_page_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp)
{
    int64_t kv = c->n_layer * kv_heads(c, tp) * (c->head_dim + c->v_dim);
    return (size_t)((kv + lb_config_index_layers(c) * c->index.head_dim) * LK_PAGE_TOKENS) * elem_bytes(dtype);
}

size_t lb_plan_device_page_bytes(const struct lb_config *c, const struct lb_backend *be, int tp)
{
    return lb_config_page_bytes(c, kv_heads(c, tp), be);
}

/* What every rank holds whole in a layer: latents, routers, what an indexer needs. */
static double replicated(const struct lb_config *c, int64_t il)
{
    const struct lb_mla *m = &c->mla;
    const struct lb_index *x = &c->index;
    double dim = (double)c->dim, n = 0;
    if (m->kv_rank > 0)
        n += dim * (double)(m->q_rank + m->kv_rank + m->rope_dim);
    if (x->topk > 0 && !c->layer[il].index_shared)
        n += (double)(m->q_rank * x->n_head * x->head_dim) + dim * (double)(x->head_dim + x->n_head);
    return c->layer[il].moe ? n + dim * (double)c->moe.n_expert : n;
}

/* Whether a tensor becomes an int8 matrix: those of a layer do, but for what chooses and what attention absorbs. */
static bool is_int8(const struct lb_config *c, const struct lb_wtensor *t)
{
    static const struct {
        enum lb_role role;
        const char *suffix;
    } stays[] = {{LB_R_ROUTER, ".weight"},
                 {LB_R_INDEX_Q, ".weight"},
                 {LB_R_INDEX_K, ".weight"},
                 {LB_R_INDEX_W, ".weight"},
                 {LB_R_KV_B, ".weight"},
                 {LB_R_K_B, ""},
                 {LB_R_V_B, ""}};
    int64_t il = lb_family_layer_of(c->family, c->gguf, t->name);
    if (il < 0 || t->n_dim < 2)
        return false;
    for (size_t i = 0; i < sizeof stays / sizeof *stays; i++)
        if (strcmp(t->name, lb_family_tensor(c->family, c->gguf, stays[i].role, (int)il, stays[i].suffix).text) == 0)
            return false;
    return true;
}

/* Columns in whole blocks, and for each row and segment a scale and what a kernel set may need beside it. */
static double int8_bytes(const struct lb_config *c, const struct lb_wtensor *t)
{
    int il = (int)lb_family_layer_of(c->family, c->gguf, t->name);
    int64_t n_col = t->dim[t->n_dim - 1], n_seg = 1;
    if (strcmp(t->name, lb_family_tensor(c->family, c->gguf, LB_R_O, il, ".weight").text) == 0 ||
        strcmp(t->name, lb_family_tensor(c->family, c->gguf, LB_R_DOWN, il, ".weight").text) == 0)
        n_seg = c->n_seg;
    int64_t width = (n_col - 1) / n_seg + 1, blocks = (width - 1) / LK_INT8_BLOCK + 1;
    double row = (double)(n_seg * blocks * LK_INT8_BLOCK) + 2 * sizeof(float) * (double)n_seg;
    return n_col > 0 ? (double)(lb_wtensor_elements(t) / n_col) * row : 0;
}

static double tensor_bytes(const struct lb_plan_spec *spec, const struct lb_wtensor *t)
{
    const bool int8 = spec->int8 && is_int8(spec->config, t);
    struct lk_packed how;
    if (int8 && !(spec->w4a8 && lb_codes_of(t, 0, &how) && lk_w4a8_has(how.kind)))
        return int8_bytes(spec->config, t);
    double kept = spec->unpack ? 0 : lb_codes_kept_bytes(t);
    return kept > 0 ? kept : (double)lb_wtensor_elements(t) * (double)elem_bytes(spec->dtype);
}

double lb_plan_layer_bytes(const struct lb_plan_spec *spec)
{
    const struct lb_config *c = spec->config;
    double sum = 0;
    if (!spec->weights)
        return 0;
    for (size_t i = 0; i < spec->weights->n_tensor; i++) {
        int64_t il = lb_family_layer_of(c->family, c->gguf, spec->weights->tensor[i].name);
        sum += il >= 0 && il < c->n_layer ? tensor_bytes(spec, &spec->weights->tensor[i]) : 0;
    }
    return sum / (double)c->n_layer;
}

/* Copies in memory. The embedding is read where the file lies, unless the head is made of it; a device has it besides.
 * Layers behind the model's own (multi-token prediction) are never read. */
static int n_copy(const struct lb_plan_spec *spec, const struct lb_wtensor *t)
{
    const struct lb_config *c = spec->config;
    const char *head = lb_family_tensor(c->family, c->gguf, LB_R_HEAD, 0, ".weight").text;
    if (strcmp(t->name, lb_family_tensor(c->family, c->gguf, LB_R_EMBED, 0, ".weight").text) == 0)
        return !lb_wfile_find(spec->weights, head) + spec->device;
    return lb_family_layer_of(c->family, c->gguf, t->name) < c->n_layer;
}

double lb_plan_weight_bytes(const struct lb_plan_spec *spec, int tp)
{
    const struct lb_wfile *w = spec->weights;
    const struct lb_config *c = spec->config;
    double sum = 0, n = 0, whole = 0, kv = 0;
    if (!w)
        return 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        int copies = n_copy(spec, &w->tensor[i]);
        sum += copies * tensor_bytes(spec, &w->tensor[i]);
        n += copies * (double)lb_wtensor_elements(&w->tensor[i]);
    }
    if (tp <= 1 || n == 0)
        return sum;
    for (int64_t il = 0; il < c->n_layer; il++)
        whole += replicated(c, il);
    if (c->mla.kv_rank == 0)
        kv = (double)(c->n_layer * 2 * c->head_dim) * (double)c->dim;
    double cut = n - whole - kv * (double)c->n_kv_head;
    return sum / n * ((cut > 0 ? cut / tp : 0) + whole + kv * (double)kv_heads(c, tp));
}

/* A row of the vocabulary: columns in whole blocks, what scales it, what bounds it. */
double lb_plan_screen_bytes(const struct lb_plan_spec *spec, int tp)
{
    const struct lb_config *c = spec->config;
    const struct lb_wtensor *head = NULL;
    if (!spec->weights || spec->device)
        return 0;
    for (int i = 0; i < 2 && !head; i++)
        head = lb_wfile_find(spec->weights,
                             lb_family_tensor(c->family, c->gguf, i == 0 ? LB_R_HEAD : LB_R_EMBED, 0, ".weight").text);
    if (!head || (!spec->unpack && lb_codes_kept_bytes(head) > 0))
        return 0;
    double row = (double)((c->dim + LK_INT8_BLOCK - 1) / LK_INT8_BLOCK * LK_INT8_BLOCK) + 4 * sizeof(float);
    return (double)c->n_vocab / tp * row;
}

double lb_plan_lora_bytes(const struct lb_plan_spec *spec)
{
    return spec->lora ? (double)lb_lora_elements(spec->lora) * (double)elem_bytes(spec->dtype) : 0;
}

/* A fused matrix has three modules, and a cut one numbers for each segment. */
double lb_plan_lora_step_bytes(const struct lb_plan_spec *spec, int64_t n_tok)
{
    int64_t rank = 0, each = spec->config->n_seg > 3 ? spec->config->n_seg : 3;
    for (int32_t i = 0; spec->lora && i < spec->lora->n; i++)
        rank = spec->lora->adapter[i].max_rank > rank ? spec->lora->adapter[i].max_rank : rank;
    return rank > 0 ? (double)n_tok * ((double)((rank + 7) * each) * sizeof(float) + 2 * sizeof(int32_t)) : 0;
}

double lb_plan_moe_bytes(const struct lb_config *c, int64_t n_tok)
{
    const struct lb_moe_shape *m = &c->moe;
    if (m->n_expert == 0)
        return 0;
    /* of each choice its input, what is gated, its output; the router's input and logits; the shared expert's segments
     */
    double choice = 2 * (double)c->dim + (double)m->ffn_dim, shared = (double)c->n_seg * (double)c->dim;
    double token = (double)m->n_used * choice + (double)c->dim + (double)m->n_expert + (double)m->shared_dim + shared;
    return (double)n_tok * token * sizeof(float);
}

/* Floats and elements of the backend's type that a token takes in latent attention, on a rank with n_head heads. */
static double latent_bytes(const struct lb_config *c, double n_head, double elem)
{
    const struct lb_mla *m = &c->mla;
    if (m->kv_rank == 0)
        return 0;
    double f32 = (double)(m->q_rank + m->kv_rank + m->rope_dim) +
                 n_head * (double)(2 * m->nope_dim + m->rope_dim + c->out_dim) +
                 (double)((c->index.n_head + 1) * c->index.head_dim + c->index.n_head);
    return sizeof(float) * f32 + elem * ((double)m->q_rank + n_head * (double)m->kv_rank);
}

/* The widest input of a product, in numbers of 16 bits at most, and of experts those of all choices. */
double lb_plan_int8_bytes(const struct lb_plan_spec *spec, int tp, int64_t n_tok)
{
    const struct lb_config *c = spec->config;
    const struct lb_moe_shape *m = &c->moe;
    if (!spec->int8)
        return 0;
    double dim = (double)c->dim, heads = (double)(c->n_head * c->out_dim) / tp, ffn = (double)c->ffn_dim / tp;
    double widest = dim > heads ? dim : heads;
    widest = widest > ffn ? widest : ffn;
    if (m->n_expert > 0)
        widest += (double)(m->n_used + 1) * (dim > (double)m->ffn_dim ? dim : (double)m->ffn_dim);
    return (double)n_tok * (2 * widest + (double)c->n_seg * sizeof(float));
}

double lb_plan_step_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp, int64_t n_tok, int64_t n_out)
{
    double elem = (double)elem_bytes(dtype), n_head = (double)c->n_head / tp, kv = (double)kv_heads(c, tp);
    double f32 =
        2 * (double)c->dim + (n_head + kv) * (double)c->head_dim + kv * (double)c->v_dim + (double)c->rope.n_rot;
    double rounded = (double)c->dim + n_head * (double)(c->out_dim + c->head_dim) + (double)c->ffn_dim / tp;
    double token = sizeof(float) * f32 + elem * rounded + latent_bytes(c, n_head, elem) + TABLES + kv * n_head * ITEM;
    double out = (double)c->n_vocab * sizeof(float) + LK_TOP * (sizeof(float) + sizeof(int32_t));
    return (double)n_tok * token + lb_plan_moe_bytes(c, n_tok) + (double)n_out * out;
}

#define DEVICE_PIECE (256.0 * 1048576) /* that logits take at most, and sums of products */
#define DEVICE_REST (64.0 * 1048576)   /* tables, tails of pieces, what libraries want */
#define INDEX_TOKENS 32                /* whose chosen positions are gathered at a time */
#define INDEX_SUMS (32.0 * 1048576)

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

double lb_plan_device_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp, int64_t n_tok, int64_t n_out)
{
    double elem = (double)elem_bytes(dtype), vocab = (double)c->n_vocab * sizeof(float);
    double widest = (double)c->n_seg * (double)c->dim, ffn = 2 * (double)c->ffn_dim;
    widest = widest > ffn ? widest : ffn;
    if (dtype == LB_F32 && widest < (double)c->n_vocab)
        widest = (double)c->n_vocab;
    double sums = smaller((double)n_tok * widest * sizeof(float), DEVICE_PIECE);
    double logits = smaller((double)n_out * vocab, DEVICE_PIECE > vocab ? DEVICE_PIECE : vocab);
    double index = 0;
    if (c->index.topk > 0)
        index = (double)c->index.topk *
                    (INDEX_TOKENS * elem * (double)(c->head_dim + c->v_dim) + (double)n_tok * sizeof(int32_t)) +
                INDEX_SUMS;
    return lb_plan_step_bytes(c, dtype, tp, n_tok, 0) + sums + logits + index + DEVICE_REST;
}
