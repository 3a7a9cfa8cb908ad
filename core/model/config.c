/* What the readers of config.json and of GGUF metadata share: end tokens, segments, the checks across settings, the
 * model card. */
#include "core/model/config.h"

#include <math.h>
#include <stdio.h>

#include "core/base/mem.h"
#include "core/base/str.h"
#include "core/model/rope.h"
#include "kernels/args.h"

#define UNIT 32 /* columns that stay together in a segment of FFN or vocabulary */

void lb_config_release(struct lb_config *c)
{
    lb_mem_free(c->rope.inv_freq);
    lb_mem_free(c->layer);
    *c = (struct lb_config){.bos = -1, .pad = -1};
}

enum lb_status lb_config_new_layers(struct lb_config *c, int64_t window, struct lb_err *err)
{
    c->layer = lb_mem_new((size_t)c->n_layer, sizeof *c->layer);
    if (!c->layer)
        return lb_err_memory(err, "the layers' settings", (unsigned long long)c->n_layer * sizeof *c->layer);
    for (int64_t il = 0; il < c->n_layer; il++)
        c->layer[il].window = window;
    return LB_OK;
}

enum lb_status lb_config_new_moe(struct lb_config *c, int64_t n_shared, int64_t n_dense, const char *where,
                                 struct lb_err *err)
{
    struct lb_moe_shape *m = &c->moe;
    if (m->n_expert > LK_MAX_EXPERT || m->n_expert % m->n_group != 0 || m->n_group_used > m->n_group)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld experts in %lld groups of which %lld are used: not supported",
                          where, (long long)m->n_expert, (long long)m->n_group, (long long)m->n_group_used);
    int64_t size = m->n_expert / m->n_group;
    if (m->n_group > 1 && size < 2)
        return lb_err_set(err, LB_E_INPUT, "%s: a group of experts has %lld, fewer than the two that rank it", where,
                          (long long)size);
    if (m->n_used > m->n_group_used * size)
        return lb_err_set(err, LB_E_INPUT, "%s: a token takes %lld experts, but may choose among %lld", where,
                          (long long)m->n_used, (long long)(m->n_group_used * size));
    if (n_shared > LB_MAX_DIM / m->ffn_dim)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld shared experts of %lld are more than %lld in all", where,
                          (long long)n_shared, (long long)m->ffn_dim, (long long)LB_MAX_DIM);
    m->shared_dim = n_shared * m->ffn_dim;
    bool any = false;
    for (int64_t il = 0; il < c->n_layer; il++) {
        c->layer[il].moe = il >= n_dense;
        any = any || c->layer[il].moe;
    }
    if (!any)
        *m = (struct lb_moe_shape){0};
    return LB_OK;
}

int64_t lb_config_index_layers(const struct lb_config *c)
{
    int64_t n = 0;
    for (int64_t il = 0; c->index.topk > 0 && il < c->n_layer; il++)
        n += !c->layer[il].index_shared;
    return n;
}

enum lb_status lb_config_finish_index(struct lb_config *c, const char *where, struct lb_err *err)
{
    struct lb_index *x = &c->index;
    if (x->n_head > LB_MAX_DIM / x->head_dim)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld index heads of %lld are more than %lld in all", where,
                          (long long)x->n_head, (long long)x->head_dim, (long long)LB_MAX_DIM);
    if (c->mla.q_rank == 0 || x->head_dim < c->mla.rope_dim)
        return lb_err_set(err, LB_E_INPUT, "%s: an indexer needs q_lora_rank, and index_head_dim >= qk_rope_head_dim",
                          where);
    if (c->rope.max_position <= x->topk)
        x->topk = 0;
    return LB_OK;
}

void lb_config_add_eos(struct lb_config *c, int64_t id, const char *origin, const struct lb_log *log)
{
    if (id < 0 || id >= c->n_vocab) {
        lb_log_put(log, LB_LOG_WARN, "end token %lld (%s) is left out: the vocabulary has %lld tokens", (long long)id,
                   origin, (long long)c->n_vocab);
        return;
    }
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i].id == id)
            return;
    if (c->n_eos == LB_MAX_EOS) {
        lb_log_put(log, LB_LOG_WARN, "end token %lld (%s) is left out: there are more than %d", (long long)id, origin,
                   LB_MAX_EOS);
        return;
    }
    c->eos[c->n_eos++] = (struct lb_eos_origin){(int32_t)id, origin};
}

int lb_config_segments(int64_t n_head)
{
    for (int s = n_head >= 64 ? 16 : 8; s > 1; s /= 2)
        if (n_head % s == 0)
            return s;
    for (int s = 3; s <= 16; s++)
        if (n_head % s == 0)
            return s;
    return 1;
}

void lb_segments_heads(const struct lb_config *c, int64_t *begin)
{
    for (int s = 0; s <= c->n_seg; s++)
        begin[s] = c->n_head / c->n_seg * s;
}

void lb_segments_units(int64_t n, int n_seg, int64_t *begin)
{
    int64_t units = (n + UNIT - 1) / UNIT;
    for (int s = 0; s <= n_seg; s++) {
        int64_t at = UNIT * (s * units / n_seg);
        begin[s] = at < n ? at : n;
    }
}

static enum lb_status check_rope(const struct lb_rope *r, int64_t head_dim, const char *where, struct lb_err *err)
{
    if (r->n_rot < 2 || r->n_rot % 2 != 0 || r->n_rot > head_dim)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld rotary dimensions of a head of %lld: not an even number from 2 on",
                          where, (long long)r->n_rot, (long long)head_dim);
    if (r->type == LB_ROPE_DYNAMIC && r->n_rot == 2)
        return lb_err_set(err, LB_E_INPUT, "%s: rope type dynamic needs more than 2 rotary dimensions", where);
    if (r->type == LB_ROPE_LLAMA3 && !(r->low_freq < r->high_freq))
        return lb_err_set(err, LB_E_INPUT, "%s: low_freq_factor %g is not below high_freq_factor %g", where,
                          r->low_freq, r->high_freq);
    return LB_OK;
}

/* What attention over the cache sees of the heads, and the scale of scores. */
static enum lb_status finish_heads(struct lb_config *c, const char *where, struct lb_err *err)
{
    const struct lb_mla *mla = &c->mla;
    int64_t query = c->head_dim;
    c->v_dim = c->out_dim = c->head_dim;
    if (mla->kv_rank > 0) {
        query = mla->nope_dim + mla->rope_dim;
        c->n_kv_head = 1;
        c->head_dim = mla->rope_dim + mla->kv_rank;
        c->v_dim = mla->kv_rank;
        c->out_dim = mla->v_dim;
        if (c->rope.n_rot != mla->rope_dim)
            return lb_err_set(err, LB_E_INPUT, "%s: partial_rotary_factor is not supported where attention is latent",
                              where);
    }
    c->attn_scale = 1.0f / sqrtf((float)query);
    if (mla->kv_rank > 0)
        c->attn_scale *= lb_rope_score_scale(&c->rope);
    int64_t widest = query > c->head_dim ? query : c->head_dim;
    widest = widest > c->out_dim ? widest : c->out_dim;
    if (c->n_head > LB_MAX_DIM / widest)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld heads of %lld dimensions are more than %lld in all", where,
                          (long long)c->n_head, (long long)widest, (long long)LB_MAX_DIM);
    return LB_OK;
}

enum lb_status lb_config_finish(struct lb_config *c, const char *where, struct lb_err *err)
{
    if (c->n_head % c->n_kv_head != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: %lld attention heads are no multiple of %lld key/value heads", where,
                          (long long)c->n_head, (long long)c->n_kv_head);
    LB_TRY(finish_heads(c, where, err));
    LB_TRY(check_rope(&c->rope, c->head_dim, where, err));
    LB_TRY(lb_rope_fill(&c->rope, where, err));
    c->n_seg = lb_config_segments(c->n_head);
    return LB_OK;
}

static void log_rope(const struct lb_rope *r, const struct lb_log *log)
{
    struct lb_str s = {0};
    lb_str_putf(&s, "rope: %s, theta %g, %lld dimensions, %s", lb_rope_type_name(r->type), r->theta,
                (long long)r->n_rot, r->interleaved ? "interleaved" : "half-split");
    if (r->type != LB_ROPE_DEFAULT)
        lb_str_putf(&s, ", factor %g", r->factor);
    if (r->type == LB_ROPE_LLAMA3)
        lb_str_putf(&s, ", low %g, high %g", r->low_freq, r->high_freq);
    if (r->type == LB_ROPE_LLAMA3 || r->type == LB_ROPE_YARN)
        lb_str_putf(&s, ", original length %lld", (long long)r->original_max);
    if (r->type == LB_ROPE_YARN)
        lb_str_putf(&s, ", attention factor %g", (double)r->scale);
    if (r->divided)
        lb_str_puts(&s, ", rope_freqs.weight applied");
    lb_str_putf(&s, "; context %lld", (long long)r->max_position);
    if (!s.failed)
        lb_log_put(log, LB_LOG_INFO, "%s", s.data);
    lb_str_release(&s);
}

static void log_eos(const struct lb_config *c, const struct lb_log *log)
{
    struct lb_str s = {0};
    lb_str_puts(&s, "end tokens:");
    for (int i = 0; i < c->n_eos; i++)
        lb_str_putf(&s, "%s %d (%s)", i ? "," : "", c->eos[i].id, c->eos[i].origin);
    if (c->n_eos == 0)
        lb_str_puts(&s, " none");
    if (c->bos >= 0)
        lb_str_putf(&s, "; begin token %lld", (long long)c->bos);
    if (!s.failed)
        lb_log_put(log, LB_LOG_INFO, "%s", s.data);
    lb_str_release(&s);
}

/* Of layers whose windows differ the first is shown, and how many have one. */
static void log_window(const struct lb_config *c, const struct lb_log *log)
{
    int64_t n = 0, window = 0;
    for (int64_t il = c->n_layer - 1; il >= 0; il--) {
        if (c->layer[il].window > 0) {
            window = c->layer[il].window;
            n++;
        }
    }
    if (n > 0)
        lb_log_put(log, LB_LOG_INFO, "attention window: %lld positions in %lld of %lld layers", (long long)window,
                   (long long)n, (long long)c->n_layer);
}

static void log_moe(const struct lb_config *c, const struct lb_log *log)
{
    const struct lb_moe_shape *m = &c->moe;
    int64_t n = 0;
    for (int64_t il = 0; il < c->n_layer; il++)
        n += c->layer[il].moe;
    if (n > 0)
        lb_log_put(log, LB_LOG_INFO,
                   "experts: %lld of %lld, ffn %lld, in %lld of %lld layers; shared ffn %lld; groups: %lld of %lld; "
                   "weights %s, times %g",
                   (long long)m->n_used, (long long)m->n_expert, (long long)m->ffn_dim, (long long)n,
                   (long long)c->n_layer, (long long)m->shared_dim, (long long)m->n_group_used, (long long)m->n_group,
                   m->normalize ? "normalized" : "as they are", (double)m->scale);
}

static double attention_parameter(const struct lb_config *c)
{
    const struct lb_mla *m = &c->mla;
    double dim = (double)c->dim, n_head = (double)c->n_head, head = (double)(m->nope_dim + m->rope_dim);
    if (m->kv_rank == 0)
        return 2 * dim * (double)((c->n_head + c->n_kv_head) * c->head_dim);
    double from = m->q_rank > 0 ? (double)m->q_rank : dim;
    return dim * (double)(m->q_rank + m->kv_rank + m->rope_dim) + from * n_head * head +
           (double)m->kv_rank * n_head * (double)(m->nope_dim + m->v_dim) + n_head * (double)m->v_dim * dim;
}

/* Products, the layers' norms, embedding and head; biases are too few to show. */
static double n_parameter(const struct lb_config *c)
{
    double dim = (double)c->dim;
    double layer = attention_parameter(c) + 2 * dim, dense = 3 * dim * (double)c->ffn_dim;
    double experts = (double)c->moe.n_expert * (double)c->moe.ffn_dim + (double)c->moe.shared_dim;
    double sum = (double)c->n_layer * layer + dim * (double)c->n_vocab * (c->tied ? 1 : 2) + dim;
    for (int64_t il = 0; il < c->n_layer; il++)
        sum += c->layer[il].moe ? 3 * dim * experts + dim * (double)c->moe.n_expert : dense;
    return sum;
}

void lb_config_log(const struct lb_config *c, const struct lb_log *log)
{
    const char *bias = c->o_bias ? "; bias of Q, K, V and output" : c->attn_bias ? "; bias of Q, K, V" : "";
    lb_log_put(log, LB_LOG_INFO, "model: %s (%s), about %.4g million parameters", c->family->name, c->architecture,
               n_parameter(c) / 1e6);
    lb_log_put(log, LB_LOG_INFO, "sizes: %lld layers, dim %lld, ffn %lld, vocabulary %lld%s", (long long)c->n_layer,
               (long long)c->dim, (long long)c->ffn_dim, (long long)c->n_vocab, c->tied ? " (tied)" : "");
    lb_log_put(log, LB_LOG_INFO, "heads: %lld query, %lld key/value, of %lld; %d segments%s%s", (long long)c->n_head,
               (long long)c->n_kv_head, (long long)c->head_dim, c->n_seg, bias, c->mlp_bias ? "; MLP bias" : "");
    lb_log_put(log, LB_LOG_INFO, "norms: RMS, eps %g%s%s", (double)c->norm_eps, c->qk_norm ? "; heads of Q and K" : "",
               lb_family_is(c->family, LB_FAM_SANDWICH) ? "; outputs of attention and MLP" : "");
    if (c->mla.kv_rank > 0)
        lb_log_put(log, LB_LOG_INFO,
                   "latent attention: rank %lld, of queries %lld; heads of %lld and %lld turned; values of %lld",
                   (long long)c->mla.kv_rank, (long long)c->mla.q_rank, (long long)c->mla.nope_dim,
                   (long long)c->mla.rope_dim, (long long)c->mla.v_dim);
    log_moe(c, log);
    if (c->index.topk > 0)
        lb_log_put(log, LB_LOG_INFO, "sparse attention: to %lld positions, chosen by %lld index heads of %lld",
                   (long long)c->index.topk, (long long)c->index.n_head, (long long)c->index.head_dim);
    log_rope(&c->rope, log);
    log_window(c, log);
    log_eos(c, log);
}
