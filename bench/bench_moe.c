/* bench_moe [THREADS [SET]]: one mixture of experts of GLM-4.7-Flash's shape through the CPU backend, bf16, against a
 * dense FFN as wide as the experts that a token takes. All weights are read in each round: 1.2 GB of experts are colder
 * than any cache; the dense FFN has four copies in turn. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/backend/backend.h"

enum {
    DIM = 2048,
    FFN = 1536,
    N_EXPERT = 64,
    N_USED = 4,
    N_SEG = 4,
    WIDE = (N_USED + 1) * FFN,
    MAX_TOK = 256,
    N_COPY = 4
};
#define POOL (1 << 20) /* random numbers that all matrices are cut from */

static uint16_t pool[POOL + WIDE];
static struct lb_err err = LB_ERR_INIT;

static void must(enum lb_status status)
{
    if (status == LB_OK)
        return;
    fprintf(stderr, "bench_moe: %s\n", err.text);
    exit(4);
}

static const void *row_at(const struct lb_rows *r, int64_t row)
{
    const int64_t *seed = r->ctx;
    return pool + (uint64_t)(*seed * 7919 + row * 104729) % POOL;
}

static struct lb_matrix *matrix(struct lb_backend *be, int64_t n_row, int64_t n_col, bool gate_up, bool f32)
{
    static int64_t seed;
    const int64_t begin[2] = {0, n_col};
    struct lk_cols cols;
    struct lb_matrix *m;
    seed++;
    lb_cols_init(&cols, 1, begin);
    struct lb_rows rows = {.ctx = &seed, .n_row = n_row, .n_col = n_col, .data_type = LB_BF16, .at = row_at};
    struct lb_matrix_spec spec = {&rows, &cols, gate_up, "a matrix", f32};
    must(be->ops->matrix_new(be, &spec, &m, &err));
    return m;
}

struct bench {
    struct lb_backend *be;
    struct lb_kv_mem *kv;
    struct lb_rope_args rope;
    struct lb_step step;
    struct lb_buf x;
    struct lb_actbuf h, f;
    const float *norm;
    struct lb_moe_weights w;
    struct lb_matrix *gate_up[N_EXPERT], *down[N_EXPERT], *shared_gate_up[N_SEG], *shared_down[N_SEG];
    struct lb_matrix *dense_gate_up[N_COPY], *dense_down[N_COPY];
};

/* With one thread its own time, which other work on the machine does not lengthen. */
static double now(const struct bench *b)
{
    struct timespec ts;
    clock_gettime(b->be->n_thread == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void load(struct bench *b)
{
    static float vector[DIM];
    struct lb_backend *be = b->be;
    for (int e = 0; e < N_EXPERT; e++) {
        b->gate_up[e] = matrix(be, 2 * FFN, DIM, true, false);
        b->down[e] = matrix(be, DIM, FFN, false, false);
    }
    for (int r = 0; r < N_SEG; r++) {
        b->shared_gate_up[r] = matrix(be, 2 * FFN / N_SEG, DIM, true, false);
        b->shared_down[r] = matrix(be, DIM, FFN / N_SEG, false, false);
    }
    for (int i = 0; i < N_COPY; i++) {
        b->dense_gate_up[i] = matrix(be, 2 * WIDE, DIM, true, false);
        b->dense_down[i] = matrix(be, DIM, WIDE, false, false);
    }
    for (int i = 0; i < DIM; i++)
        vector[i] = 1;
    must(be->ops->vector_new(be, vector, DIM, &b->norm, &err));
    b->w = (struct lb_moe_weights){.router = matrix(be, N_EXPERT, DIM, false, true),
                                   .gate_up = b->gate_up,
                                   .down = b->down,
                                   .shared_gate_up = b->shared_gate_up,
                                   .shared_down = b->shared_down};
}

static void reserve(struct bench *b)
{
    static const float inv_freq[16];
    struct lb_moe_shape shape = {N_EXPERT, N_USED, 1, 1, FFN, FFN, 1.8f, true};
    struct lb_kv_spec kv = {
        .n_layer = 1, .n_kv_head = 1, .head_dim = 32, .v_dim = 32, .n_page = MAX_TOK / LK_PAGE_TOKENS};
    struct lb_step_limits limit = {MAX_TOK, 1, MAX_TOK / LK_PAGE_TOKENS};
    int64_t begin[N_SEG + 1], one[2] = {0, DIM}, wide[2] = {0, WIDE};
    struct lk_cols cols;
    const struct lb_backend_ops *op = b->be->ops;
    for (int r = 0; r <= N_SEG; r++)
        begin[r] = FFN / N_SEG * r;
    must(op->reserve(b->be, limit, 1, 64, &err));
    must(op->buf_new(b->be, DIM, &b->x, &err));
    lb_cols_init(&cols, 1, one);
    must(op->act_new(b->be, &cols, &b->h, &err));
    lb_cols_init(&cols, 1, wide);
    must(op->act_new(b->be, &cols, &b->f, &err));
    lb_cols_init(&cols, N_SEG, begin);
    must(op->moe_reserve(b->be, &shape, &(struct lb_moe_leaves){&cols, 0, N_SEG}, DIM, &err));
    must(op->kv_new(b->be, &kv, &b->kv, &err));
    must(lb_step_init(&b->step, limit, &err));
    b->rope = (struct lb_rope_args){.inv_freq = inv_freq, .n_rot = 32, .scale = 1};
}

static void begin_step(struct bench *b, int32_t n_tok)
{
    struct lb_step *s = &b->step;
    lb_step_clear(s);
    s->n_tok = n_tok;
    s->n_seq = 1;
    s->n_page = (n_tok + LK_PAGE_TOKENS - 1) / LK_PAGE_TOKENS;
    s->seq_start[1] = n_tok;
    s->page_start[1] = s->n_page;
    for (int32_t i = 0; i < s->n_page; i++)
        s->page[i] = i;
    for (int32_t t = 0; t < n_tok; t++) {
        s->tok[t] = 0;
        s->pos[t] = t;
        s->tok_page[t] = t / LK_PAGE_TOKENS;
    }
    uint32_t state = 1;
    for (int64_t i = 0; i < (int64_t)n_tok * DIM; i++) {
        state = state * 1664525u + 1013904223u;
        b->x.data[i] = (float)(state >> 8) / 16777216.0f - 0.5f;
    }
    b->be->ops->step_begin(b->be, s, b->kv, &b->rope, 1);
}

/* One layer's FFN and its norm, mixture or dense: seconds. */
static double round_of(struct bench *b, int32_t n_tok, bool moe, int copy)
{
    const struct lb_backend_ops *op = b->be->ops;
    const struct lb_cand *cand;
    begin_step(b, n_tok);
    double begin = now(b);
    op->norm(b->be, &b->h, &b->x, b->norm, 1e-5f, false);
    if (moe) {
        op->moe(b->be, &(struct lb_moe_args){&b->x, NULL, &b->h, b->norm, 1e-5f, &b->w});
    } else {
        op->linear(b->be, &(struct lb_linear_args){NULL, &b->f, &b->h, b->dense_gate_up[copy], NULL, LB_SWIGLU});
        op->linear(b->be, &(struct lb_linear_args){&b->x, NULL, &b->f, b->dense_down[copy], NULL, LB_ADD});
    }
    double took = now(b) - begin;
    must(op->step_end(b->be, &cand, &err));
    return took;
}

int main(int argc, char **argv)
{
    static struct bench b;
    static const int32_t n_tok[] = {256, 64, 8};
    struct lb_backend_spec spec = {"cpu", LB_BF16, argc > 2 ? argv[2] : NULL, argc > 1 ? atoi(argv[1]) : 0, NULL};
    must(lb_backend_open(&b.be, &spec, &err));
    uint32_t state = 7;
    for (size_t i = 0; i < sizeof pool / sizeof *pool; i++) {
        state = state * 1664525u + 1013904223u;
        pool[i] = lb_bf16_round(((float)(state >> 8) / 16777216.0f - 0.5f) * 0.05f);
    }
    load(&b);
    reserve(&b);
    printf("%s bf16, %d threads\n", b.be->isa, b.be->n_thread);
    for (size_t i = 0; i < sizeof n_tok / sizeof *n_tok; i++) {
        double best[2] = {1e9, 1e9}, flop = 6.0 * DIM * WIDE * n_tok[i];
        for (int round = 0; round < 8; round++) { /* in turn, so that other work on the machine meets both */
            for (int moe = 0; moe < 2; moe++) {
                double took = round_of(&b, n_tok[i], moe, round % N_COPY);
                best[moe] = took < best[moe] ? took : best[moe];
            }
        }
        printf("%3d tokens: experts %8.2f ms %6.1f GFLOP/s, dense %8.2f ms %6.1f GFLOP/s: %5.1f %%\n", n_tok[i],
               best[1] * 1e3, flop / best[1] * 1e-9, best[0] * 1e3, flop / best[0] * 1e-9, 100 * best[0] / best[1]);
    }
    lb_step_release(&b.step);
    b.be->ops->close(b.be);
    return 0;
}
