/* The CPU backend: life cycle and memory. */
#include <stdio.h>
#include <string.h>

#include "core/backend/backend_cpu_int8.h"

#define CHUNK_BYTES ((size_t)64 << 20)
#define LEAST_ROWS 64

int64_t lb_cpu_grain(const struct lb_cpu *c, int64_t n_item, int64_t per_thread)
{
    int64_t grain = n_item / (c->base.n_thread * per_thread);
    return grain > 0 ? grain : 1;
}

/* The chunk that memory is taken from next. */
static bool chunk_new(struct lb_cpu *c, size_t bytes, bool plain)
{
    struct lb_cpu_chunk *chunk = lb_mem_new(1, sizeof *chunk);
    struct lb_err unnamed = LB_ERR_INIT;
    if (!chunk || (plain ? lb_arena_init_plain : lb_arena_init)(&chunk->arena, bytes, &unnamed) != LB_OK) {
        lb_mem_free(chunk);
        return false;
    }
    if (c->chunk) /* nothing is taken from it any more */
        lb_arena_trim(&c->chunk->arena);
    chunk->next = c->chunk;
    c->chunk = chunk;
    return true;
}

void *lb_cpu_take(struct lb_cpu *c, size_t n, size_t size, const char *what, struct lb_err *err)
{
    if (size != 0 && n > SIZE_MAX / 2 / size) {
        lb_err_memory(err, what, SIZE_MAX);
        return NULL;
    }
    size_t bytes = n * size;
    void *p = c->chunk ? lb_arena_take(&c->chunk->arena, bytes) : NULL;
    if (p)
        return p;
    if (!chunk_new(c, bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES, bytes <= CHUNK_BYTES && c->reserving)) {
        lb_err_memory(err, what, bytes);
        return NULL;
    }
    return lb_arena_take(&c->chunk->arena, bytes);
}

static void cpu_close(struct lb_backend *be)
{
    struct lb_cpu *c = lb_cpu_of(be);
    lb_team_free(c->team);
    while (c->chunk) {
        struct lb_cpu_chunk *next = c->chunk->next;
        lb_arena_release(&c->chunk->arena);
        lb_mem_free(c->chunk);
        c->chunk = next;
    }
    while (c->kv_list) {
        struct lb_kv_mem *next = c->kv_list->next;
        lb_arena_release(&c->kv_list->arena);
        lb_mem_free(c->kv_list);
        c->kv_list = next;
    }
    lb_head_release(&c->head);
    lb_mem_free(c);
}

static void cpu_weight_mem(struct lb_backend *be, struct lb_weight_mem *mem)
{
    lb_cpu_of(be)->weight_mem = mem;
}

static enum lb_status cpu_reserve(struct lb_backend *be, struct lb_step_limits limit, int32_t max_out,
                                  const struct lk_cols *vocab, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    int64_t n_vocab = vocab->n_col;
    if (limit.n_tok < 1 || limit.n_seq < 1 || limit.n_page < 1 || max_out < 1 || n_vocab < 1 || n_vocab > INT32_MAX)
        return lb_err_set(err, LB_E_USAGE, "a step of %d tokens, %d sequences, %d outputs cannot be reserved",
                          limit.n_tok, limit.n_seq, max_out);
    c->limit = limit;
    c->max_out = max_out;
    size_t n_tok = (size_t)limit.n_tok, n_out = (size_t)max_out;
    c->reserving = true;
    if (!chunk_new(c, CHUNK_BYTES, true))
        return lb_err_memory(err, "a step", CHUNK_BYTES);
    if ((c->id = lb_cpu_take(c, n_tok, sizeof *c->id, "token ids", err)) == NULL ||
        (c->slot = lb_cpu_take(c, n_out, sizeof *c->slot, "sample slots", err)) == NULL ||
        (c->piece = lb_cpu_take(c, n_tok, sizeof *c->piece, "attention pieces", err)) == NULL)
        return LB_E_DEVICE;
    LB_TRY(lb_cpu_int8_reserve(c, err));
    lb_cpu_screen_reserve(c);
    LB_TRY(lb_head_reserve(&c->head, max_out, vocab, err));
    LB_TRY(lb_cpu_lora_reserve(c, err));
    LB_TRY(lb_cpu_wanted_reserve(c, err));
    c->reserved = true;
    return LB_OK;
}

static enum lb_status cpu_buf_new(struct lb_backend *be, int64_t width, struct lb_buf *out, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    *out = (struct lb_buf){.width = width};
    out->data = lb_cpu_take(c, (size_t)c->limit.n_tok * (size_t)width, sizeof(float), "rows of a step", err);
    return out->data ? LB_OK : LB_E_DEVICE;
}

static enum lb_status cpu_head_acts_new(struct lb_backend *be, struct lb_actbuf *out, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    size_t n_head = out->n_head > 0 ? (size_t)out->n_head : 1;
    size_t n = (size_t)c->limit.n_tok * (size_t)out->cols.packed[out->cols.n_seg] * n_head;
    out->data = lb_cpu_take(c, n, lb_cpu_table_of(c, out)->act_bytes, "activations of a step", err);
    return out->data ? LB_OK : LB_E_DEVICE;
}

static enum lb_status cpu_act_new(struct lb_backend *be, const struct lk_cols *cols, struct lb_actbuf *out,
                                  struct lb_err *err)
{
    *out = (struct lb_actbuf){.cols = *cols};
    return cpu_head_acts_new(be, out, err);
}

static size_t cpu_kv_page_bytes(const struct lb_backend *be, const struct lb_kv_spec *spec)
{
    const struct lb_cpu *c = (const struct lb_cpu *)be;
    return (size_t)spec->n_layer * (size_t)spec->n_kv_head *
               (c->lk.k_page_bytes(spec->head_dim) + c->lk.v_page_bytes(spec->v_dim)) +
           lb_cpu_index_page_bytes(c, spec);
}

static enum lb_status cpu_kv_new(struct lb_backend *be, const struct lb_kv_spec *spec, struct lb_kv_mem **out,
                                 struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    *out = NULL;
    size_t page_bytes = cpu_kv_page_bytes(be, spec);
    if (spec->n_page < 1 || spec->n_page > INT32_MAX || (size_t)spec->n_page > SIZE_MAX / 2 / page_bytes)
        return lb_err_memory(err, "the KV cache", SIZE_MAX);
    struct lb_kv_mem *kv = lb_mem_new(1, sizeof *kv);
    if (!kv)
        return lb_err_memory(err, "the KV cache", sizeof *kv);
    kv->spec = *spec;
    kv->k_page_bytes = (int64_t)c->lk.k_page_bytes(spec->head_dim);
    kv->v_page_bytes = (int64_t)c->lk.v_page_bytes(spec->v_dim);
    enum lb_status status = lb_arena_init(&kv->arena, (size_t)spec->n_page * page_bytes + 3 * 64, err);
    if (status != LB_OK) {
        lb_mem_free(kv);
        return status;
    }
    size_t planes = (size_t)(spec->n_layer * spec->n_page * spec->n_kv_head);
    kv->k = lb_arena_take(&kv->arena, planes * (size_t)kv->k_page_bytes);
    kv->v = lb_arena_take(&kv->arena, planes * (size_t)kv->v_page_bytes);
    kv->next = c->kv_list;
    c->kv_list = kv;
    *out = kv;
    return spec->index.n_plane > 0 ? lb_cpu_index_new(c, kv, err) : LB_OK;
}

static enum lb_status cpu_step_end(struct lb_backend *be, const struct lb_cand **cand, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    c->step = NULL;
    *cand = c->head.cand;
    if (c->err.status == LB_OK)
        return LB_OK;
    return lb_err_set(err, c->err.status, "%s", c->err.text);
}

static int32_t *cpu_slots(struct lb_backend *be)
{
    return lb_cpu_of(be)->slot;
}

static void cpu_read_rows(struct lb_backend *be, const struct lb_buf *x, int64_t n_row, float *host)
{
    if (lb_cpu_of(be)->err.status != LB_OK)
        return;
    memcpy(host, x->data, (size_t)(n_row * x->width) * sizeof *host);
}

static void cpu_read_act(struct lb_backend *be, const struct lb_actbuf *a, int64_t n_row, float *host)
{
    struct lb_cpu *c = lb_cpu_of(be);
    struct lk_act act = {a->data, n_row, &a->cols};
    if (c->err.status != LB_OK)
        return;
    for (int64_t i = 0; i < n_row; i++)
        c->lk.act_row(&act, i, host + i * a->cols.n_col);
}

static void cpu_parallel(struct lb_backend *be, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                         int64_t n_item)
{
    struct lb_cpu *c = lb_cpu_of(be);
    lb_team_run(c->team, fn, ctx, n_item, lb_cpu_grain(c, n_item, 16));
}

static const struct lb_backend_ops cpu_ops = {
    .close = cpu_close,
    .weight_mem = cpu_weight_mem,
    .keeps = lb_cpu_keeps,
    .matrix_new = lb_cpu_matrix_new,
    .heads_new = lb_cpu_heads_new,
    .table_new = lb_cpu_table_new,
    .vector_new = lb_cpu_vector_new,
    .lora_new = lb_cpu_lora_new,
    .reserve = cpu_reserve,
    .buf_new = cpu_buf_new,
    .act_new = cpu_act_new,
    .head_acts_new = cpu_head_acts_new,
    .kv_page_bytes = cpu_kv_page_bytes,
    .kv_new = cpu_kv_new,
    .moe_reserve = lb_cpu_moe_reserve,
    .step_begin = lb_cpu_step_begin,
    .embed = lb_cpu_embed,
    .keep_wanted = lb_cpu_keep_wanted,
    .norm = lb_cpu_norm,
    .norm_add = lb_cpu_norm_add,
    .linear = lb_cpu_linear,
    .finish = lb_cpu_finish,
    .linear_heads = lb_cpu_linear_heads,
    .round = lb_cpu_round,
    .latent = lb_cpu_latent,
    .index = lb_cpu_index,
    .attend = lb_cpu_attend,
    .moe = lb_cpu_moe,
    .head = lb_cpu_head,
    .head_part = lb_cpu_head_part,
    .step_end = cpu_step_end,
    .head_merge = lb_cpu_head_merge,
    .part_logits = lb_cpu_part_logits,
    .slots = cpu_slots,
    .read_rows = cpu_read_rows,
    .read_act = cpu_read_act,
    .parallel = cpu_parallel,
};

/* "ref,avx512bf16" -> bits that may be used; every name must be known and present. ref always may. */
static enum lb_status parse_isa(const char *list, unsigned *allowed, struct lb_err *err)
{
    unsigned have = lk_cpu_detect();
    const char *sets = lb_backend_isa_list();
    *allowed = LK_ISA_REF;
    for (const char *at = list;;) {
        size_t n = strcspn(at, ",");
        char name[32] = "";
        if (n < sizeof name)
            memcpy(name, at, n);
        unsigned bit = n == 0 || n >= sizeof name ? 0 : lk_cpu_parse(name);
        if (bit == 0)
            return lb_err_set(err, LB_E_USAGE, "unknown kernel set '%.*s': this processor has %s", n < 64 ? (int)n : 64,
                              at, sets);
        if ((bit & have) == 0)
            return lb_err_set(err, LB_E_USAGE, "this processor lacks the kernel set '%s': it has %s", name, sets);
        *allowed |= bit;
        if (at[n] == '\0')
            return LB_OK;
        at += n + 1;
    }
}

static int64_t rows_enough(const struct lb_cpu *c)
{
    const int64_t rows = c->lk.thread_rows * c->base.n_thread;
    return rows > 0 && rows < LEAST_ROWS ? LEAST_ROWS : rows;
}

enum lb_status lb_cpu_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    unsigned allowed = lk_cpu_detect();
    if (spec->isa)
        LB_TRY(parse_isa(spec->isa, &allowed, err));
    struct lb_cpu *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "the CPU backend", sizeof *c);
    enum lb_status status = lb_team_new(&c->team, spec->n_thread, err);
    if (status != LB_OK) {
        lb_mem_free(c);
        return status;
    }
    lk_cpu_init(&c->lk, (enum lk_type)spec->dtype, allowed);
    lk_cpu_init(&c->lk_f32, LK_F32, allowed);
    c->l2_bytes = lk_cpu_l2_bytes();
    c->base.ops = &cpu_ops;
    c->base.dtype = spec->dtype;
    c->base.int8 = spec->int8;
    c->base.w4a8 = spec->w4a8 && !spec->unpack && c->lk.w4a8.linear;
    c->base.device = "cpu";
    c->base.isa = c->lk.name;
    c->base.unpack = spec->unpack;
    c->screens = spec->screens;
    c->base.n_thread = lb_team_size(c->team);
    c->base.rows_enough = rows_enough(c);
    if (spec->log)
        lb_log_put(spec->log, LB_LOG_DEBUG, "cpu: kernel set %s, %d threads", c->lk.name, c->base.n_thread);
    *out = &c->base;
    return LB_OK;
}
