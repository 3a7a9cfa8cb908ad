/* bench_moe [THREADS [SET]]: one mixture of experts of GLM-4.7-Flash's shape through the CPU backend, bf16, against a
 * dense FFN as wide as the experts that a token takes; bench/roof.h says how they are compared. All weights are read in
 * each round: 1.2 GB of experts are colder than any cache. */
#include <math.h>

#include "bench/roof.h"

enum { FFN = 1536, N_EXPERT = 64, N_USED = 4, N_SEG = 4, ROUNDS = 8 };

struct bench {
    struct roof r; /* its norm is the layer's */
    struct lb_kv_mem *kv;
    struct lb_rope_args rope;
    struct lb_step step;
    struct lb_moe_weights w;
    int64_t router_seed;
    struct lb_matrix *gate_up[N_EXPERT], *down[N_EXPERT], *shared_gate_up[N_SEG], *shared_down[N_SEG];
};

static void load(struct bench *b)
{
    for (int e = 0; e < N_EXPERT; e++) {
        b->gate_up[e] = matrix(&b->r, 2 * FFN, DIM, GATE_UP, NULL);
        b->down[e] = matrix(&b->r, DIM, FFN, PLAIN, NULL);
    }
    for (int s = 0; s < N_SEG; s++) {
        b->shared_gate_up[s] = matrix(&b->r, 2 * FFN / N_SEG, DIM, GATE_UP, NULL);
        b->shared_down[s] = matrix(&b->r, DIM, FFN / N_SEG, PLAIN, NULL);
    }
    struct matrix_kind router = {1, false, true};
    b->w = (struct lb_moe_weights){.router = matrix(&b->r, N_EXPERT, DIM, router, &b->router_seed),
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
    int64_t begin[N_SEG + 1];
    struct lk_cols cols, vocab;
    struct lb_backend *be = b->r.be;
    for (int s = 0; s <= N_SEG; s++)
        begin[s] = FFN / N_SEG * s;
    lb_cols_init(&vocab, 1, (int64_t[]){0, 64});
    must(be->ops->reserve(be, limit, 1, &vocab, &err));
    roof_reserve(&b->r);
    lb_cols_init(&cols, N_SEG, begin);
    must(be->ops->moe_reserve(be, &shape, &(struct lb_moe_leaves){&cols, 0, N_SEG}, DIM, &err));
    must(be->ops->kv_new(be, &kv, &b->kv, &err));
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
    fill(&b->r, n_tok);
    b->r.be->ops->step_begin(b->r.be, s, b->kv, &b->rope, 1);
}

/* Experts that the step's tokens choose between them: norm and sigmoid keep the order of x . row. */
static int experts_met(struct bench *b, int32_t n_tok)
{
    bool met[N_EXPERT] = {false};
    int n = 0;
    fill(&b->r, n_tok);
    for (int32_t t = 0; t < n_tok; t++) {
        double logit[N_EXPERT] = {0};
        for (int e = 0; e < N_EXPERT; e++)
            for (int i = 0; i < DIM; i++)
                logit[e] += (double)b->r.x.data[(int64_t)t * DIM + i] * lb_bf16_widen(pool_row(b->router_seed, e)[i]);
        for (int used = 0; used < N_USED; used++) {
            int best = 0;
            for (int e = 1; e < N_EXPERT; e++)
                best = logit[e] > logit[best] ? e : best;
            logit[best] = -INFINITY;
            n += !met[best];
            met[best] = true;
        }
    }
    return n;
}

/* One layer's FFN and its norm, mixture or dense: seconds. */
static double round_of(struct bench *b, int32_t n_tok, bool moe, int copy)
{
    const struct lb_backend_ops *op = b->r.be->ops;
    const struct lb_cand *cand;
    begin_step(b, n_tok);
    double begin = now(&b->r);
    if (moe) {
        op->norm(b->r.be, &b->r.h, &b->r.x, b->r.ones, 1e-5f, false);
        op->moe(b->r.be, &(struct lb_moe_args){&b->r.x, NULL, &b->r.h, b->r.ones, 1e-5f, &b->w});
    } else {
        dense(&b->r, copy);
    }
    double took = now(&b->r) - begin;
    must(op->step_end(b->r.be, &cand, &err));
    return took;
}

int main(int argc, char **argv)
{
    static struct bench b;
    static const int32_t n_tok[] = {8, 64, 256, 1024};
    enum { N = sizeof n_tok / sizeof *n_tok };
    struct figure of[N][2];
    int met[N];
    roof_open(&b.r, argc, argv);
    load(&b);
    reserve(&b);
    for (int i = 0; i < N; i++) {
        met[i] = experts_met(&b, n_tok[i]);
        of[i][0] = (struct figure){6.0 * DIM * WIDE * n_tok[i], 6.0 * DIM * WIDE, 1e9};
        of[i][1] = of[i][0];
        of[i][1].flop += 2.0 * DIM * N_EXPERT * n_tok[i];
        of[i][1].bytes = 6.0 * DIM * FFN * (met[i] + 1) + 4.0 * DIM * N_EXPERT;
    }
    for (int round = 0; round < ROUNDS; round++) { /* in turn, so that other work on the machine meets all */
        roof_measure(&b.r);
        for (int i = 0; i < N; i++) {
            for (int moe = 0; moe < 2; moe++) {
                double took = round_of(&b, n_tok[i], moe, round % N_COPY);
                of[i][moe].took = took < of[i][moe].took ? took : of[i][moe].took;
            }
        }
    }
    printf("%s bf16, %d threads: at most %.1f GFLOP/s, %.1f GB/s\n", b.r.be->isa, b.r.be->n_thread, b.r.flops * 1e-9,
           b.r.bytes * 1e-9);
    for (int i = 0; i < N; i++) {
        printf("%d tokens, %d of %d experts\n", n_tok[i], met[i], N_EXPERT);
        tell(&b.r, "dense", &of[i][0], &of[i][0]);
        tell(&b.r, "experts", &of[i][1], &of[i][0]);
    }
    lb_step_release(&b.step);
    roof_close(&b.r);
    return 0;
}
