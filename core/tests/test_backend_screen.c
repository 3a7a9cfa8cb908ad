/* The LM head whose rows are screened by int8 (core/backend/backend_cpu_screen.c) says what the head that computes all
 * logits says, bit for bit: for every kernel set of this processor, in both types, with 1 and 3 threads; rows that are
 * like a word of the vocabulary, ties, near ties, outliers, numbers that are tiny, huge or none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/backend.h"

enum { MOST_WEIGHTS = 1800000, MOST_DIM = 1100, N_ROW = 37, N_HEAD = 2, HEAD_DIM = 16 };

static uint32_t random_state = 5;

static double uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (double)(random_state >> 8) / 8388608.0 - 1.0;
}

static float bf16(double x)
{
    return lb_bf16_widen(lb_bf16_round((float)x));
}

static float weight[MOST_WEIGHTS];
static uint16_t stored[MOST_WEIGHTS]; /* the same in bf16 */
static float x[N_ROW * MOST_DIM];
static int dim, n_vocab;

static void get_rows(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    memcpy(out, (const float *)r->ctx + row * dim, (size_t)(n * dim) * sizeof *out);
}

static const void *at_row(const struct lb_rows *r, int64_t row)
{
    return r->data_type == LB_F32 ? (const void *)(weight + row * dim) : (const void *)(stored + row * dim);
}

/* How the vocabulary's words are made. */
enum kind { PLAIN, TIES, NEAR_TIES, OUTLIERS, TINY, HUGE_ONE, NOT_A_NUMBER, ROUNDED, FLAT, AXES, N_KIND };

static void make_weights(enum kind kind)
{
    double size = kind == TINY ? 1e-20 : 0.1;
    for (int j = 0; j < n_vocab; j++)
        for (int k = 0; k < dim; k++) {
            double outlier = kind == OUTLIERS && k % 61 == 7 ? 300 : 1;
            float w = (float)(uniform() * uniform() * size * outlier);
            weight[j * dim + k] = kind == ROUNDED ? w : kind == FLAT ? 0.25f : bf16(w);
        }
    for (int j = 40; j < n_vocab && (kind == TIES || kind == NEAR_TIES); j += 31) {
        memcpy(weight + j * dim, weight + (j % 7) * dim, (size_t)dim * sizeof *weight);
        if (kind == NEAR_TIES)
            weight[j * dim + j % dim] = bf16(weight[j * dim + j % dim] * 1.01);
    }
    /* int8 has such words exactly, so that bounds are narrow: 1 and what bf16 rounds to it must still be a tie */
    for (int j = 0; j < n_vocab && kind == AXES; j++)
        for (int k = 0; k < dim; k++)
            weight[j * dim + k] = k > 0 ? 0 : j == 3 ? 1 : j == 900 ? 1.0039f : 0.5f;
    if (kind == HUGE_ONE)
        weight[700 * dim + 3] = 0x1.8p126f;
    if (kind == NOT_A_NUMBER)
        weight[1500 * dim + 5] = NAN;
    for (int i = 0; i < n_vocab * dim; i++)
        stored[i] = lb_bf16_round(weight[i]);
}

/* Row i is like a word, random, or nothing at all. */
static void make_rows(enum kind kind, bool odd)
{
    for (int i = 0; i < N_ROW; i++)
        for (int k = 0; k < dim; k++) {
            float like = weight[(i % 7) * dim + k];
            x[i * dim + k] = (float)uniform() + (i % 3 == 0 && isfinite(like) ? 300 * like : 0);
        }
    for (int i = 0; i < N_ROW * dim && kind == AXES; i++)
        x[i] = i % dim == 0;
    for (int k = 0; k < dim && odd; k++)
        x[5 * dim + k] = 0;
    if (odd)
        x[11 * dim + 2] = INFINITY;
}

struct engine {
    struct lb_backend *be;
    struct lb_rows rows;
    struct lb_matrix *head;
    struct lb_kv_mem *kv;
    struct lb_buf x;
    struct lb_actbuf h;
    struct lb_step step;
    float *norm;
    int32_t later; /* outputs that are to come */
};

struct way {
    const char *isa;
    enum lb_dtype dtype;
    int n_thread;
    bool at;
    enum lb_dtype at_type;
};

static void engine_open(struct engine *e, const struct way *way, int screens)
{
    struct lb_err err = LB_ERR_INIT;
    e->later = 0;
    struct lb_backend_spec spec = {
        .device = "cpu", .dtype = way->dtype, .isa = way->isa, .n_thread = way->n_thread, .screens = screens};
    assert_int_equal(lb_backend_open(&e->be, &spec, &err), LB_OK);
    const struct lb_backend_ops *op = e->be->ops;
    struct lk_cols cols, vocab;
    lb_cols_init(&cols, 1, (int64_t[]){0, dim});
    lb_cols_init(&vocab, 2, (int64_t[]){0, 800, n_vocab});
    e->rows = (struct lb_rows){.get = get_rows,
                               .ctx = weight,
                               .n_row = n_vocab,
                               .n_col = dim,
                               .data_type = way->at_type,
                               .at = way->at ? at_row : NULL};
    const struct lb_matrix_spec of = {.rows = &e->rows, .cols = &cols, .name = "head", .head = true};
    const struct lb_step_limits limit = {N_ROW, N_ROW, N_ROW};
    const struct lb_kv_spec kv = {1, 1, HEAD_DIM, HEAD_DIM, N_ROW, {0}};
    assert_int_equal(op->matrix_new(e->be, &of, &e->head, &err), LB_OK);
    assert_int_equal(op->reserve(e->be, limit, N_ROW, &vocab, &err), LB_OK);
    assert_int_equal(op->buf_new(e->be, dim, &e->x, &err), LB_OK);
    assert_int_equal(op->act_new(e->be, &cols, &e->h, &err), LB_OK);
    assert_int_equal(op->kv_new(e->be, &kv, &e->kv, &err), LB_OK);
    assert_int_equal(lb_step_init(&e->step, limit, &err), LB_OK);
    e->norm = malloc((size_t)dim * sizeof *e->norm);
    for (int k = 0; k < dim; k++)
        e->norm[k] = 1;
}

static void engine_close(struct engine *e)
{
    free(e->norm);
    lb_step_release(&e->step);
    e->be->ops->close(e->be);
}

/* Rows first .. first + n - 1 of x as a step of as many sequences; what is said of them. */
static const struct lb_cand *run(struct engine *e, int first, int n, int32_t flags)
{
    static float inv_freq[HEAD_DIM / 2];
    const struct lb_backend_ops *op = e->be->ops;
    const struct lb_rope_args rope = {.inv_freq = inv_freq, .n_rot = HEAD_DIM, .scale = 1};
    const struct lb_cand *cand;
    struct lb_err err = LB_ERR_INIT;
    struct lb_step *s = &e->step;
    lb_step_clear(s);
    for (int i = 0; i < n; i++) {
        s->tok_page[i] = s->page[i] = s->new_page[i] = s->out_tok[i] = i;
        s->rope_len[i] = 1;
        s->seq_start[i + 1] = s->page_start[i + 1] = i + 1;
        s->out_flags[i] = i == n - 1 ? flags : 0;
    }
    s->n_tok = s->n_seq = s->n_page = s->n_new = s->n_out = n;
    s->n_later = e->later;
    op->step_begin(e->be, s, e->kv, &rope, N_HEAD);
    memcpy(e->x.data, x + first * dim, (size_t)(n * dim) * sizeof *x);
    op->norm(e->be, &e->h, &e->x, e->norm, 1e-5f, true);
    op->head(e->be, &e->h, e->head);
    assert_int_equal(op->step_end(e->be, &cand, &err), LB_OK);
    return cand;
}

static void check_same(const struct lb_cand *a, const struct lb_cand *b, int n)
{
    for (int i = 0; i < n; i++) {
        assert_int_equal(a[i].best, b[i].best);
        assert_memory_equal(&a[i].best_logit, &b[i].best_logit, sizeof a[i].best_logit);
        assert_int_equal(a[i].finite, b[i].finite);
        if (a[i].top_id || b[i].top_id)
            assert_memory_equal(a[i].top_id, b[i].top_id, LK_TOP * sizeof *a[i].top_id);
    }
}

/* All rows, one, some, and some of which one asks for more than its best. */
static void check_ways(const struct way *way, enum kind kind, bool odd)
{
    static const struct {
        int first, n;
        int32_t flags;
    } step[] = {{0, N_ROW, 0}, {3, 1, 0}, {12, 20, 0}, {0, 2, LB_OUT_TOP}};
    struct engine some, all;
    make_weights(kind);
    make_rows(kind, odd);
    engine_open(&some, way, 1);
    engine_open(&all, way, -1);
    int64_t n_row = 0;
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        check_same(run(&some, step[i].first, step[i].n, step[i].flags),
                   run(&all, step[i].first, step[i].n, step[i].flags), step[i].n);
        n_row += step[i].flags == 0 ? step[i].n : 0;
    }
    const struct lb_backend_counts *c = &some.be->counts;
    bool nothing = kind == FLAT || kind == NOT_A_NUMBER || kind == HUGE_ONE || strcmp(some.be->isa, "ref") == 0;
    if (nothing)
        assert_int_equal(c->screened_rows, 0);
    else if (!odd)
        assert_int_equal(c->screened_rows, n_row);
    if (kind == PLAIN && !odd && !nothing) /* a sixth of the vocabulary at most, or screening would be of no use */
        assert_true(c->exact_logits > 0 && c->exact_logits < n_row * n_vocab / 6);
    assert_int_equal(all.be->counts.screened_rows, 0);
    engine_close(&some);
    engine_close(&all);
}

static void test_same(void **state)
{
    (void)state;
    static const int dims[] = {200, MOST_DIM, 64};
    char list[128], *rest = list;
    snprintf(list, sizeof list, "%s", lb_backend_isa_list());
    for (char *isa = strtok_r(list, " ", &rest); isa; isa = strtok_r(NULL, " ", &rest))
        for (int type = LB_F32; type <= LB_BF16; type++)
            for (int kind = 0; kind < N_KIND; kind++) {
                dim = dims[kind % 3];
                n_vocab = dim == 64 ? 9000 : 1571;
                const struct way ways[] = {{isa, (enum lb_dtype)type, 1, true, LB_F32},
                                           {isa, (enum lb_dtype)type, 3, true, LB_BF16},
                                           {isa, (enum lb_dtype)type, 2, false, LB_F32}};
                check_ways(&ways[kind % 3], (enum kind)kind, false);
                check_ways(&ways[(kind + 1) % 3], (enum kind)kind, kind % 2 == 1);
            }
}

/* Columns that are far larger than others make bounds wide, which leave a hundred words of 18,000 a row: the likeliest
 * one, computed first, rules out most of these. */
static void test_few_are_computed(void **state)
{
    (void)state;
    struct engine e;
    const struct way way = {NULL, LB_BF16, 2, true, LB_BF16};
    dim = 100;
    n_vocab = MOST_WEIGHTS / dim;
    make_weights(OUTLIERS);
    for (int i = 0; i < N_ROW * dim; i++)
        x[i] = (float)uniform();
    engine_open(&e, &way, 1);
    run(&e, 0, N_ROW, 0);
    const struct lb_backend_counts *c = &e.be->counts;
    assert_int_equal(c->screened_rows, strcmp(e.be->isa, "ref") == 0 ? 0 : N_ROW);
    assert_in_range(c->exact_logits, 0, 40 * N_ROW);
    engine_close(&e);
}

/* Where much is to come, the head is there in int8 from the second step on, whatever the first one took. */
static void test_made_in_time(void **state)
{
    (void)state;
    struct engine e;
    const struct way way = {NULL, LB_BF16, 1, true, LB_BF16};
    dim = 200;
    n_vocab = 1571;
    make_weights(PLAIN);
    make_rows(PLAIN, false);
    engine_open(&e, &way, 0);
    e.later = INT32_MAX;
    if (strcmp(e.be->isa, "ref") != 0)
        for (int i = 0; i < 3; i++) {
            run(&e, 0, N_ROW, 0);
            assert_int_equal(e.be->counts.screened_rows, i * N_ROW);
        }
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same), cmocka_unit_test(test_few_are_computed),
                                       cmocka_unit_test(test_made_in_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
