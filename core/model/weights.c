#include "core/model/weights.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/quant.h"
#include "core/model/weights_impl.h"

static void own_cols(struct lb_model_cols *cols, int64_t *begin, struct lk_cols *own, int64_t *first)
{
    struct lk_cols whole;
    lb_cols_init(&whole, cols->slice.n_seg, begin);
    lb_slice_cols(&cols->slice, &whole, own);
    *first = whole.begin[cols->slice.seg_begin];
}

enum lb_status lb_model_cols_init(struct lb_model_cols *cols, const struct lb_config *c, int rank, int tp,
                                  struct lb_err *err)
{
    const struct lb_shard_shape shape = {c->n_seg, c->n_head, c->n_kv_head, c->moe.n_expert};
    int64_t begin[LK_MAX_SEG + 1];
    *cols = (struct lb_model_cols){0};
    LB_TRY(lb_slice_init(&cols->slice, &shape, rank, tp, err));
    lb_cols_init(&cols->dim, 1, (int64_t[]){0, c->dim});
    lb_segments_heads(c, begin);
    for (int is = 0; is <= c->n_seg; is++)
        begin[is] *= c->out_dim;
    own_cols(cols, begin, &cols->heads, &cols->heads_col);
    lb_segments_units(c->ffn_dim, c->n_seg, begin);
    own_cols(cols, begin, &cols->ffn, &cols->ffn_col);
    lb_segments_units(c->moe.shared_dim, c->n_seg, begin);
    own_cols(cols, begin, &cols->shared, &cols->shared_col);
    lb_segments_units(c->n_vocab, c->n_seg, begin);
    lb_cols_init(&cols->vocab, c->n_seg, begin);
    cols->vocab_begin = begin[cols->slice.seg_begin];
    cols->n_vocab = begin[cols->slice.seg_end] - cols->vocab_begin;
    if (c->mla.kv_rank == 0)
        return LB_OK;
    lb_cols_init(&cols->q_rank, 1, (int64_t[]){0, c->mla.q_rank});
    lb_cols_init(&cols->kv_rank, 1, (int64_t[]){0, c->mla.kv_rank});
    lb_cols_init(&cols->nope, 1, (int64_t[]){0, c->mla.nope_dim});
    return LB_OK;
}

/* Whether the file has a role's tensors fused: then their parts are not looked for. */
static bool fused_in_file(const struct lb_loader *ld, int il, enum lb_role role)
{
    const struct lb_config *c = ld->s->config;
    struct lb_tensor_name name = lb_family_tensor(c->family, c->gguf, role, il, ".weight");
    bool only = !lb_family_tensor(c->family, c->gguf, role == LB_R_QKV ? LB_R_Q : LB_R_GATE, il, "").text[0];
    return only || (name.text[0] && lb_wfile_find(ld->s->file, name.text));
}

struct lb_source lb_source_qkv(const struct lb_loader *ld, int il, bool fused)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_slice *s = &ld->s->cols->slice;
    int64_t hd = c->head_dim, q_all = c->n_head * hd, kv_all = c->n_kv_head * hd, all = q_all + 2 * kv_all;
    int64_t q_row = s->head_begin * hd, n_q = s->n_head * hd, n_kv = s->n_kv_head * hd;
    int64_t paired = c->gguf && lb_family_is(c->family, LB_FAM_GGUF_PAIRED) ? hd : 0;
    const struct lb_source parts = {il,
                                    3,
                                    c->dim,
                                    0,
                                    {{LB_R_Q, {q_all, q_row, n_q, paired, 0}},
                                     {LB_R_K, {kv_all, 0, n_kv, paired, hd}},
                                     {LB_R_V, {kv_all, 0, n_kv, 0, hd}}}};
    const struct lb_source whole = {il,
                                    3,
                                    c->dim,
                                    0,
                                    {{LB_R_QKV, {all, q_row, n_q, 0, 0}},
                                     {LB_R_QKV, {all, q_all, n_kv, 0, hd}},
                                     {LB_R_QKV, {all, q_all + kv_all, n_kv, 0, hd}}}};
    return fused ? whole : parts;
}

static enum lb_status load_qkv(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_source qkv = lb_source_qkv(ld, il, fused_in_file(ld, il, LB_R_QKV));
    LB_TRY(lb_load_matrix(ld, &qkv, &ld->s->cols->dim, &l->wqkv, err));
    LB_TRY(lb_load_bias(ld, &qkv, c->attn_bias, &l->bqkv, err));
    if (!c->qk_norm)
        return LB_OK;
    LB_TRY(lb_load_norm(ld, il, LB_R_Q_NORM, c->head_dim, &l->q_norm, err));
    return lb_load_norm(ld, il, LB_R_K_NORM, c->head_dim, &l->k_norm, err);
}

struct lb_source lb_source_o(const struct lb_loader *ld, int il)
{
    const struct lb_config *c = ld->s->config;
    struct lb_source o = lb_source_of(il, LB_R_O, c->dim, c->n_head * c->out_dim);
    o.col = ld->s->cols->heads_col;
    return o;
}

static enum lb_status load_attention(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_source o = lb_source_o(ld, il);
    LB_TRY(lb_load_norm(ld, il, LB_R_ATTN_NORM, c->dim, &l->attn_norm, err));
    if (c->mla.kv_rank > 0)
        LB_TRY(lb_load_latent(ld, il, &l->latent, err));
    else
        LB_TRY(load_qkv(ld, il, l, err));
    LB_TRY(lb_load_matrix(ld, &o, &ld->s->cols->heads, &l->wo, err));
    LB_TRY(lb_load_bias(ld, &o, c->o_bias, &l->bo, err));
    if (!lb_family_is(c->family, LB_FAM_SANDWICH))
        return LB_OK;
    return lb_load_norm(ld, il, LB_R_POST_ATTN_NORM, c->dim, &l->post_attn_norm, err);
}

struct lb_source lb_source_gate_up(const struct lb_loader *ld, int il, bool fused)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_model_cols *cols = ld->s->cols;
    int64_t all = c->ffn_dim, row = cols->ffn_col, n = cols->ffn.n_col;
    const struct lb_source parts = {
        il, 2, c->dim, 0, {{LB_R_GATE, {all, row, n, 0, 0}}, {LB_R_UP, {all, row, n, 0, 0}}}};
    const struct lb_source whole = {
        il, 2, c->dim, 0, {{LB_R_GATE_UP, {2 * all, row, n, 0, 0}}, {LB_R_GATE_UP, {2 * all, all + row, n, 0, 0}}}};
    return fused ? whole : parts;
}

struct lb_source lb_source_down(const struct lb_loader *ld, int il)
{
    const struct lb_config *c = ld->s->config;
    struct lb_source down = lb_source_of(il, LB_R_DOWN, c->dim, c->ffn_dim);
    down.col = ld->s->cols->ffn_col;
    return down;
}

static enum lb_status load_ffn(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_model_cols *cols = ld->s->cols;
    const struct lb_source gate_up = lb_source_gate_up(ld, il, fused_in_file(ld, il, LB_R_GATE_UP));
    const struct lb_source down = lb_source_down(ld, il);
    LB_TRY(lb_load_norm(ld, il, LB_R_FFN_NORM, c->dim, &l->ffn_norm, err));
    LB_TRY(lb_load_matrix(ld, &gate_up, &cols->dim, &l->w_gate_up, err));
    LB_TRY(lb_load_bias(ld, &gate_up, c->mlp_bias, &l->b_gate_up, err));
    LB_TRY(lb_load_matrix(ld, &down, &cols->ffn, &l->w_down, err));
    LB_TRY(lb_load_bias(ld, &down, c->mlp_bias, &l->b_down, err));
    if (!lb_family_is(c->family, LB_FAM_SANDWICH))
        return LB_OK;
    return lb_load_norm(ld, il, LB_R_POST_FFN_NORM, c->dim, &l->post_ffn_norm, err);
}

static enum lb_status load_layer(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    LB_TRY(load_attention(ld, il, l, err));
    return ld->s->config->layer[il].moe ? lb_load_moe(ld, il, l, err) : load_ffn(ld, il, l, err);
}

/* Which tensors serve as embedding and head (spec/models.md 1.1.6): both present means both are used, whatever the
 * configuration says of tying; one alone serves for both where tying is asked for, in GGUF always. */
static enum lb_status choose_ends(struct lb_loader *ld, const struct lb_wtensor **embed, const struct lb_wtensor **head,
                                  struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    *embed = lb_load_find(ld, LB_R_EMBED, 0);
    *head = lb_load_find(ld, LB_R_HEAD, 0);
    bool may_tie = c->tied || c->gguf;
    if (!*head && may_tie)
        *head = *embed;
    if (!*embed && may_tie)
        *embed = *head;
    if (!*embed) {
        lb_load_need(ld, LB_R_EMBED, 0, ".weight", err);
        return err->status;
    }
    if (!*head) {
        lb_load_need(ld, LB_R_HEAD, 0, ".weight", err);
        return lb_err_where(err, "untied embeddings (tie_word_embeddings is false)");
    }
    LB_TRY(lb_load_check(ld, *embed, c->n_vocab, c->dim, err));
    LB_TRY(lb_load_check(ld, *head, c->n_vocab, c->dim, err));
    if (c->tied && *embed != *head && ld->s->log &&
        ((*embed)->n_bytes != (*head)->n_bytes || memcmp((*embed)->data, (*head)->data, (*head)->n_bytes) != 0))
        lb_log_put(ld->s->log, LB_LOG_WARN,
                   "the configuration ties '%s' to '%s', but the file has both and they differ: not tied",
                   (*head)->name, (*embed)->name);
    return LB_OK;
}

static enum lb_status load_ends(struct lb_loader *ld, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    struct lb_backend *be = ld->s->backend;
    const struct lb_wtensor *embed, *head;
    LB_TRY(choose_ends(ld, &embed, &head, err));
    LB_TRY(lb_load_norm(ld, 0, LB_R_NORM, c->dim, &ld->w->norm, err));

    struct lb_fused *table = lb_mem_new(1, sizeof *table), *rows_of_head = lb_mem_new(1, sizeof *rows_of_head);
    ld->w->embed_rows = table;
    ld->w->head_rows = rows_of_head;
    if (!table || !rows_of_head)
        return lb_err_memory(err, "the embedding table", sizeof *table);
    const struct lb_model_cols *cols = ld->s->cols;
    const struct lb_span rows = {.row = cols->vocab_begin, .n_take = cols->n_vocab};
    lb_fused_init(table, c->dim);
    lb_fused_add(ld, table, embed, &rows, c->dim, 0);
    lb_fused_lend_whole(table);
    table->file = ld->s->file;
    table->rows.forget = lb_fused_forget;
    LB_TRY(be->ops->table_new(be, &table->rows, cols->vocab_begin, &ld->w->embed, err));

    lb_fused_init(rows_of_head, c->dim);
    lb_fused_add(ld, rows_of_head, head, &rows, c->dim, 0);
    struct lb_matrix_spec spec = {.cols = &cols->dim, .head = true};
    LB_TRY(lb_fused_pack(ld, rows_of_head, spec, &ld->w->head, err));
    ld->w->n_head_product = c->n_vocab * c->dim;
    ld->w->n_param += ld->w->n_head_product * (embed == head ? 1 : 2);
    return LB_OK;
}

static const char *type_name(const struct lb_loader *ld, int type)
{
    return type == LB_W_PACKED ? lb_pack_name(&ld->s->config->pack) : lb_quant_name((enum lb_wtype)type);
}

/* Which matrices are in memory as the file packs them, which are not and why. */
static void say_packed(const struct lb_loader *ld)
{
    char list[512] = "";
    size_t at = 0;
    for (int type = LB_W_Q8_0; type < LB_W_OTHER && at < sizeof list; type++)
        if (ld->n_kept[type] > 0)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%lld of %s", at ? ", " : "",
                                   (long long)ld->n_kept[type], type_name(ld, type));
    if (at > 0)
        lb_log_put(ld->s->log, LB_LOG_INFO, "matrices kept packed%s: %s",
                   ld->s->backend->w4a8 ? ", those of layers for activations of 8 bits" : "", list);
    for (int type = LB_W_Q8_0; type < LB_W_OTHER; type++)
        if (ld->n_unpacked[type] > 0)
            lb_log_put(ld->s->log, LB_LOG_INFO, "matrices unpacked at load: %lld of %s (%s)",
                       (long long)ld->n_unpacked[type], type_name(ld, type), ld->why[type]);
}

static void say(const struct lb_loader *ld)
{
    const struct lb_wfile *file = ld->s->file;
    if (!ld->s->log)
        return;
    bool bf16 = ld->s->backend->dtype == LB_BF16;
    char list[256] = "";
    size_t at = 0;
    for (int type = 0; type < LB_W_OTHER; type++)
        if (ld->seen[type] && type != (bf16 ? LB_W_BF16 : LB_W_F32) && (bf16 || type >= LB_W_Q8_0))
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", type_name(ld, type));
    if (at > 0)
        lb_log_put(ld->s->log, LB_LOG_INFO, "weights of type %s are %s once, at load", list,
                   bf16 ? "rounded to bf16" : "turned into f32");
    if (ld->s->backend->int8)
        lb_log_put(ld->s->log, LB_LOG_INFO, "the layers' matrices are quantized to int8 instead, as --quantize asks%s",
                   ld->s->backend->w4a8 ? ", but for those of 4 bits" : "");
    say_packed(ld);
    size_t n_unused = 0, first = 0;
    for (size_t i = file->n_tensor; i-- > 0;) {
        if (ld->used[i] || strstr(file->tensor[i].name, "rotary_emb.inv_freq") ||
            strcmp(file->tensor[i].name, "rope_freqs.weight") == 0)
            continue;
        n_unused++;
        first = i;
    }
    if (n_unused > 0)
        lb_log_put(ld->s->log, LB_LOG_INFO, "%zu tensors of the file are not part of the model and stay unread: '%s'%s",
                   n_unused, file->tensor[first].name, n_unused > 1 ? " ..." : "");
}

enum lb_status lb_weights_load(struct lb_weights *w, const struct lb_weights_spec *spec, struct lb_err *err)
{
    const struct lb_config *c = spec->config;
    *w = (struct lb_weights){0};
    int64_t widest = c->dim;
    if (widest < 2 * c->ffn_dim)
        widest = 2 * c->ffn_dim;
    if (widest < (c->n_head + 2 * c->n_kv_head) * c->head_dim) /* latents are no wider: one KV head is made of one */
        widest = (c->n_head + 2 * c->n_kv_head) * c->head_dim;
    const struct lb_slice *slice = &spec->cols->slice; /* may hold a KV head more than once */
    if (widest < (slice->n_head + 2 * slice->n_kv_head) * c->head_dim)
        widest = (slice->n_head + 2 * slice->n_kv_head) * c->head_dim;
    if (widest < c->mla.q_rank)
        widest = c->mla.q_rank;
    if (widest < c->index.head_dim)
        widest = c->index.head_dim;
    if (widest < c->moe.n_expert)
        widest = c->moe.n_expert;
    struct lb_loader ld = {.s = spec, .w = w};
    ld.used = lb_mem_new(spec->file->n_tensor, sizeof *ld.used);
    ld.vector = lb_mem_new((size_t)widest, sizeof *ld.vector);
    w->layer = lb_mem_new((size_t)c->n_layer, sizeof *w->layer);
    w->n_layer = w->layer ? c->n_layer : 0;
    enum lb_status status = LB_OK;
    if (!ld.used || !ld.vector || !w->layer)
        status = lb_err_memory(err, "the weights' directory", (size_t)c->n_layer * sizeof *w->layer);
    spec->backend->ops->weight_mem(spec->backend, spec->mem);
    if (status == LB_OK)
        status = load_ends(&ld, err);
    for (int il = 0; il < c->n_layer && status == LB_OK; il++)
        status = load_layer(&ld, il, &w->layer[il], err);
    spec->backend->ops->weight_mem(spec->backend, NULL);
    if (status == LB_OK)
        say(&ld);
    lb_mem_free(ld.used);
    lb_mem_free(ld.vector);
    if (status != LB_OK)
        lb_weights_release(w);
    return status;
}

void lb_weights_release(struct lb_weights *w)
{
    for (int64_t il = 0; il < w->n_layer; il++)
        lb_mem_free(w->layer[il].expert);
    lb_mem_free(w->embed_rows);
    lb_mem_free(w->head_rows);
    lb_mem_free(w->layer);
    *w = (struct lb_weights){0};
}
