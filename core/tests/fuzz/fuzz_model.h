/* What a configuration must keep to whatever file it came from, and what follows from it before a weight is read. */
#ifndef CORE_TESTS_FUZZ_FUZZ_MODEL_H
#define CORE_TESTS_FUZZ_FUZZ_MODEL_H

#include <math.h>

#include "core/backend/backend.h"
#include "core/model/config.h"
#include "core/model/weights.h"
#include "core/run/plan.h"
#include "core/tests/fuzz/fuzz.h"
#include "kernels/args.h"

static inline void fuzz_count_line(void *ctx, enum lb_log_level level, const char *text)
{
    (void)level;
    FUZZ_REQUIRE(*text && !strchr(text, '\n'));
    ++*(int *)ctx;
}

/* Each role of the first and the last layer has a whole name. */
static inline void fuzz_names(const struct lb_config *c)
{
    const int layer[] = {0, (int)c->n_layer - 1};
    const size_t room = sizeof(struct lb_tensor_name) - 1;
    for (int i = 0; i < 2; i++) {
        for (int r = 0; r < LB_N_ROLE; r++) {
            enum lb_role role = (enum lb_role)r;
            struct lb_tensor_name a = lb_family_tensor(c->family, c->gguf, role, layer[i], ".weight");
            struct lb_tensor_name b = lb_family_expert_tensor(c->family, c->gguf, role, layer[i], LK_MAX_EXPERT);
            FUZZ_REQUIRE(strlen(a.text) < room && strlen(b.text) < room && !strchr(a.text, '%'));
        }
    }
}

static inline void fuzz_segments(const struct lb_config *c)
{
    struct lb_model_cols cols;
    FUZZ_REQUIRE(c->n_seg >= 1 && c->n_seg <= LK_MAX_SEG && c->n_head % c->n_seg == 0);
    struct lb_err err = LB_ERR_INIT;
    FUZZ_REQUIRE(lb_model_cols_init(&cols, c, 0, 1, &err) == LB_OK);
    const struct lk_cols *all[] = {&cols.dim, &cols.heads, &cols.ffn, &cols.shared};
    const int64_t n_col[] = {c->dim, c->n_head * c->out_dim, c->ffn_dim, c->moe.shared_dim};
    for (int i = 0; i < 4; i++) {
        FUZZ_REQUIRE(all[i]->n_col == n_col[i] && all[i]->begin[0] == 0);
        FUZZ_REQUIRE(all[i]->begin[all[i]->n_seg] == n_col[i]);
        for (int s = 0; s < all[i]->n_seg; s++)
            FUZZ_REQUIRE(all[i]->begin[s] <= all[i]->begin[s + 1]);
    }
}

static inline void fuzz_plan(const struct lb_config *c)
{
    static const struct lb_wfile none;
    for (int i = 0; i < 4; i++) {
        struct lb_plan p;
        struct lb_err err = LB_ERR_INIT;
        const struct lb_plan_spec spec = {.config = c,
                                          .weights = &none,
                                          .dtype = i % 2 ? LB_BF16 : LB_F32,
                                          .max_seqs = i < 2 ? 0 : 3,
                                          .free_bytes = (size_t)1 << (i < 2 ? 34 : 62)};
        size_t page = lb_plan_page_bytes(c, spec.dtype, 1);
        FUZZ_REQUIRE(page > 0 && page < (size_t)1 << 50);
        FUZZ_REQUIRE(isfinite(lb_plan_moe_bytes(c, 512)));
        enum lb_status status = lb_plan_make(&p, &spec, &err);
        FUZZ_REQUIRE(status == err.status && (status == LB_OK || err.text[0]));
        FUZZ_REQUIRE(status == LB_OK || status == LB_E_USAGE || status == LB_E_DEVICE);
        if (status != LB_OK)
            continue;
        FUZZ_REQUIRE(p.kv_pages >= 1 && p.kv_pages <= p.kv_memory / (int64_t)page);
        FUZZ_REQUIRE(p.max_model_len >= 1 && p.max_out >= 1);
    }
}

static inline void fuzz_config_check(const struct lb_config *c)
{
    int n_line = 0;
    const struct lb_log log = {.level = LB_LOG_DEBUG, .emit = fuzz_count_line, .ctx = &n_line};
    FUZZ_REQUIRE(c->family && c->n_layer >= 1 && c->n_layer <= LB_MAX_LAYER);
    FUZZ_REQUIRE(c->n_vocab >= 1 && c->dim >= 1 && c->ffn_dim >= 1 && c->head_dim >= 1 && c->v_dim >= 1);
    FUZZ_REQUIRE(c->n_head >= c->n_kv_head && c->n_kv_head >= 1 && c->n_head % c->n_kv_head == 0);
    FUZZ_REQUIRE(c->n_head * c->head_dim <= LB_MAX_DIM && c->n_head * c->out_dim <= LB_MAX_DIM);
    FUZZ_REQUIRE(c->attn_scale > 0 && isfinite(c->attn_scale) && c->norm_eps >= 0);
    FUZZ_REQUIRE(c->rope.n_rot >= 2 && c->rope.n_rot % 2 == 0 && c->rope.n_rot <= c->head_dim);
    for (int64_t i = 0; i < c->rope.n_rot / 2; i++)
        FUZZ_REQUIRE(isfinite(c->rope.inv_freq[i]) && c->rope.inv_freq[i] > 0);
    FUZZ_REQUIRE(isfinite(c->rope.scale) && c->rope.max_position >= 1);
    for (int64_t il = 0; il < c->n_layer; il++) {
        FUZZ_REQUIRE(c->layer[il].window >= 0);
        FUZZ_REQUIRE(!c->layer[il].moe || c->moe.n_expert > 0);
        FUZZ_REQUIRE(il > 0 || !c->layer[il].index_shared);
    }
    FUZZ_REQUIRE(c->moe.n_used <= c->moe.n_expert && c->moe.n_expert <= LK_MAX_EXPERT);
    FUZZ_REQUIRE(c->bos < c->n_vocab && c->pad < c->n_vocab && c->n_eos <= LB_MAX_EOS);
    for (int i = 0; i < c->n_eos; i++)
        FUZZ_REQUIRE(c->eos[i].id >= 0 && c->eos[i].id < c->n_vocab && *c->eos[i].origin);
    lb_config_log(c, &log);
    FUZZ_REQUIRE(n_line >= 6);
    fuzz_names(c);
    fuzz_segments(c);
    fuzz_plan(c);
}

/* ---- a backend that reads what it is given and keeps nothing ---- */

static inline void fuzz_rows(const struct lb_rows *r)
{
    float *row = malloc((size_t)r->n_col * sizeof *row);
    volatile uint8_t sum = 0;
    FUZZ_REQUIRE(row && r->n_row >= 0 && r->n_col > 0);
    for (int64_t i = 0; i < r->n_row; i++) {
        r->get(r, i, 1, row);
        const uint8_t *at = r->at ? r->at(r, i) : NULL;
        for (size_t k = 0; at && k < (size_t)r->n_col * (r->data_type == LB_F32 ? 4 : 2); k++)
            sum = (uint8_t)(sum + at[k]);
    }
    free(row);
}

static inline bool fuzz_keeps(const struct lb_backend *be, const struct lk_packed *how, const struct lk_cols *cols,
                              bool int8)
{
    (void)be;
    (void)int8;
    FUZZ_REQUIRE(how->group > 0 && how->first >= 0 && cols->n_col > 0);
    return true;
}

/* Every code, scale and zero point of the rows that are to stay packed. */
static inline void fuzz_codes(const struct lb_rows *r)
{
    uint8_t *mem = malloc(r->codes_bytes + 1);
    volatile uint8_t sum = 0;
    int64_t row = 0;
    FUZZ_REQUIRE(mem && r->n_run >= 1 && r->n_run <= LB_MAX_RUN);
    for (int i = 0; i < r->n_run; i++) {
        const struct lk_packed *how = &r->run[i].how;
        for (int64_t end = row + r->run[i].n_row; row < end; row++) {
            struct lk_codes c;
            if (!r->run[i].packed)
                continue;
            r->codes(r, row, mem, &c);
            int64_t n_group = (how->first + r->n_col - 1) / how->group - how->first / how->group + 1;
            for (int64_t k = 0; k < r->n_col; k++)
                sum = (uint8_t)(sum + c.q[k]);
            for (int64_t g = 0; g < n_group * (how->scale == LK_SC_F32 ? 4 : 2); g++)
                sum = (uint8_t)(sum + ((const uint8_t *)c.d)[g]);
            for (int64_t g = 0; g < n_group; g++)
                sum = (uint8_t)(sum + c.z[g]);
        }
    }
    FUZZ_REQUIRE(row == r->n_row);
    free(mem);
}

static inline enum lb_status fuzz_matrix(struct lb_backend *be, const struct lb_matrix_spec *spec,
                                         struct lb_matrix **out, struct lb_err *err)
{
    (void)err;
    FUZZ_REQUIRE(spec->rows->n_col == spec->cols->n_col);
    fuzz_rows(spec->rows);
    if (spec->rows->n_run > 0)
        fuzz_codes(spec->rows);
    *out = (struct lb_matrix *)be; /* not looked into */
    return LB_OK;
}

static inline enum lb_status fuzz_heads(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                        struct lb_matrix **out, struct lb_err *err)
{
    FUZZ_REQUIRE(n_head > 0 && spec->rows->n_row % n_head == 0);
    return fuzz_matrix(be, spec, out, err);
}

static inline enum lb_status fuzz_table(struct lb_backend *be, const struct lb_rows *rows, int64_t first,
                                        struct lb_table **out, struct lb_err *err)
{
    FUZZ_REQUIRE(first == 0);
    (void)err;
    fuzz_rows(rows);
    *out = (struct lb_table *)be;
    return LB_OK;
}

static inline enum lb_status fuzz_vector(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                         struct lb_err *err)
{
    static const float none;
    volatile float sum = 0;
    (void)be, (void)err;
    for (int64_t i = 0; i < n; i++)
        sum = sum + host[i];
    *out = &none;
    return LB_OK;
}

static inline void fuzz_weight_mem(struct lb_backend *be, struct lb_weight_mem *mem)
{
    (void)be;
    FUZZ_REQUIRE(!mem);
}

/* Reads the weights; a file that does not fit the configuration says which tensor. */
static inline void fuzz_weights(const struct lb_config *c, const struct lb_wfile *w)
{
    static const struct lb_backend_ops ops = {.keeps = fuzz_keeps,
                                              .matrix_new = fuzz_matrix,
                                              .heads_new = fuzz_heads,
                                              .table_new = fuzz_table,
                                              .vector_new = fuzz_vector,
                                              .weight_mem = fuzz_weight_mem};
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend be = {.ops = &ops, .dtype = LB_BF16};
    struct lb_weights weights;
    struct lb_model_cols cols;
    FUZZ_REQUIRE(lb_model_cols_init(&cols, c, 0, 1, &err) == LB_OK);
    const struct lb_weights_spec spec = {c, w, &be, &cols, NULL, NULL};
    if (fuzz_ok(lb_weights_load(&weights, &spec, &err), &err))
        FUZZ_REQUIRE(weights.n_param > 0 && weights.embed && weights.head);
    lb_weights_release(&weights);
}

#endif
