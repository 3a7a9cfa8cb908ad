/* bench_mla [THREADS [SET]]: the latent attention of a layer of GLM-4.7-Flash's shape through the CPU backend, bf16, as
 * the decoder runs it, from the norm to the residual: prompts, and rows that decode at position 512. Held against a
 * dense FFN at as many tokens (bench/roof.h). The matrix that absorbs the query counts two bytes a weight, although it
 * is kept in f32; a page counts K and V, although V is a part of K. */
#include "bench/roof.h"

enum {
    N_HEAD = 20,
    Q_RANK = 768,
    NOPE = 192,
    ROT = 64,
    KV_RANK = 512,
    V_DIM = 256,
    HEAD_DIM = ROT + KV_RANK,
    QK_DIM = NOPE + ROT,

    POS = 512, /* of rows that decode */
    MAX_SEQ = 64,
    SEQ_PAGES = POS / LK_PAGE_TOKENS + 1,
    N_PAGE = MAX_SEQ * SEQ_PAGES,
    MAX_ROUNDS = 8
};

struct layer {
    struct lb_matrix *q_a, *q_b, *kv_a, *uk, *uv, *o;
};

struct bench {
    struct roof r;
    struct lb_kv_mem *kv;
    struct lb_rope_args rope;
    struct lb_step step;
    const float *q_norm, *kv_norm;
    struct layer layer[N_COPY];
    struct lb_buf q_a, q, kv_a, qkv, o;
    struct lb_actbuf q_lat, q_head, lat, a;
};

static void load(struct bench *b)
{
    struct matrix_kind uk = {N_HEAD, false, true}, uv = {N_HEAD, false, false};
    for (int i = 0; i < N_COPY; i++)
        b->layer[i] = (struct layer){
            matrix(&b->r, Q_RANK, DIM, PLAIN, NULL),          matrix(&b->r, N_HEAD * QK_DIM, Q_RANK, PLAIN, NULL),
            matrix(&b->r, KV_RANK + ROT, DIM, PLAIN, NULL),   matrix(&b->r, N_HEAD * KV_RANK, NOPE, uk, NULL),
            matrix(&b->r, N_HEAD * V_DIM, KV_RANK, uv, NULL), matrix(&b->r, DIM, N_HEAD * V_DIM, PLAIN, NULL)};
    b->q_norm = ones(&b->r, Q_RANK);
    b->kv_norm = ones(&b->r, KV_RANK);
}

static void reserve(struct bench *b)
{
    static float inv_freq[ROT / 2];
    struct lb_kv_spec kv = {
        .n_layer = N_COPY, .n_kv_head = 1, .head_dim = HEAD_DIM, .v_dim = KV_RANK, .n_page = N_PAGE};
    struct lb_step_limits limit = {MAX_TOK, MAX_SEQ, N_PAGE};
    struct lb_backend *be = b->r.be;
    struct lk_cols vocab;
    for (int i = 0; i < ROT / 2; i++)
        inv_freq[i] = 1.0f / (float)(1 + i);
    lb_cols_init(&vocab, 1, (int64_t[]){0, 64});
    must(be->ops->reserve(be, limit, 1, &vocab, &err));
    roof_reserve(&b->r);
    must(be->ops->buf_new(be, Q_RANK, &b->q_a, &err));
    must(be->ops->buf_new(be, N_HEAD * QK_DIM, &b->q, &err));
    must(be->ops->buf_new(be, KV_RANK + ROT, &b->kv_a, &err));
    must(be->ops->buf_new(be, (N_HEAD + 1) * HEAD_DIM + KV_RANK, &b->qkv, &err));
    must(be->ops->buf_new(be, N_HEAD * V_DIM, &b->o, &err));
    act(&b->r, &b->q_lat, Q_RANK);
    act(&b->r, &b->a, N_HEAD * V_DIM);
    b->q_head = (struct lb_actbuf){.cols = *one_segment(NOPE), .n_head = N_HEAD, .f32 = true};
    b->lat = (struct lb_actbuf){.cols = *one_segment(KV_RANK), .n_head = N_HEAD};
    must(be->ops->head_acts_new(be, &b->q_head, &err));
    must(be->ops->head_acts_new(be, &b->lat, &err));
    must(be->ops->kv_new(be, &kv, &b->kv, &err));
    must(lb_step_init(&b->step, limit, &err));
    b->rope = (struct lb_rope_args){.inv_freq = inv_freq, .n_rot = ROT, .scale = 1, .interleaved = true};
}

/* A prompt of n_tok tokens, or n_tok rows that decode. */
static void begin_step(struct bench *b, int32_t n_tok, bool prompt)
{
    struct lb_step *s = &b->step;
    lb_step_clear(s);
    s->n_tok = n_tok;
    s->n_seq = prompt ? 1 : n_tok;
    int32_t n_page = prompt ? n_tok / LK_PAGE_TOKENS : SEQ_PAGES;
    s->n_page = s->n_seq * n_page;
    for (int32_t i = 0; i < s->n_page; i++)
        s->page[i] = i;
    for (int32_t is = 0; is <= s->n_seq; is++) {
        s->seq_start[is] = prompt ? is * n_tok : is;
        s->page_start[is] = is * n_page;
    }
    for (int32_t t = 0; t < n_tok; t++) {
        s->tok[t] = 0;
        s->pos[t] = prompt ? t : POS;
        s->tok_page[t] = prompt ? t / LK_PAGE_TOKENS : (t + 1) * n_page - 1;
    }
    fill(&b->r, n_tok);
    b->r.be->ops->step_begin(b->r.be, s, b->kv, &b->rope, N_HEAD);
}

static void linear(struct bench *b, struct lb_buf *y, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    b->r.be->ops->linear(b->r.be, &(struct lb_linear_args){y, NULL, a, w, NULL, LB_STORE});
}

static void attention(struct bench *b, int il)
{
    struct lb_backend *be = b->r.be;
    const struct lb_backend_ops *op = be->ops;
    const struct layer *l = &b->layer[il];
    op->norm(be, &b->r.h, &b->r.x, b->r.ones, 1e-5f, false);
    linear(b, &b->q_a, &b->r.h, l->q_a);
    op->norm(be, &b->q_lat, &b->q_a, b->q_norm, 1e-6f, false);
    linear(b, &b->q, &b->q_lat, l->q_b);
    linear(b, &b->kv_a, &b->r.h, l->kv_a);
    op->latent(be, &(struct lb_latent_args){&b->qkv, &b->q, &b->kv_a, b->kv_norm, N_HEAD, NOPE, ROT, KV_RANK, 1e-6f});
    op->round(be, &b->q_head, &b->q, 0, QK_DIM);
    op->linear_heads(be, &(struct lb_heads_args){&b->qkv, ROT, HEAD_DIM, &b->q_head, l->uk});
    struct lb_attend_args args = {.out = &b->lat,
                                  .qkv = &b->qkv,
                                  .kv = b->kv,
                                  .layer = il,
                                  .n_head = N_HEAD,
                                  .n_kv_head = 1,
                                  .head_dim = HEAD_DIM,
                                  .scale = 0.0625f,
                                  .rope = &b->rope,
                                  .eps = 1e-6f};
    op->attend(be, &args);
    op->linear_heads(be, &(struct lb_heads_args){&b->o, 0, V_DIM, &b->lat, l->uv});
    op->round(be, &b->a, &b->o, 0, 0);
    op->linear(be, &(struct lb_linear_args){&b->r.x, NULL, &b->a, l->o, NULL, LB_ADD});
}

/* Seconds. */
static double round_of(struct bench *b, int32_t n_tok, bool prompt, bool mla, int copy)
{
    const struct lb_cand *cand;
    begin_step(b, n_tok, prompt);
    double begin = now(&b->r);
    if (mla)
        attention(b, copy);
    else
        dense(&b->r, copy);
    double took = now(&b->r) - begin;
    must(b->r.be->ops->step_end(b->r.be, &cand, &err));
    return took;
}

struct shape {
    int32_t n_tok;
    bool prompt;
    struct figure dense, mla;
};

static void bound(struct shape *s)
{
    double n = s->n_tok, weights = (double)DIM * (Q_RANK + KV_RANK + ROT + N_HEAD * V_DIM) +
                                   (double)N_HEAD * QK_DIM * Q_RANK + (double)N_HEAD * KV_RANK * (NOPE + V_DIM);
    double seen = s->prompt ? n * (n + 1) / 2 : n * (POS + 1), kept = s->prompt ? n : seen; /* positions */
    s->dense = (struct figure){6.0 * DIM * WIDE * n, 6.0 * DIM * WIDE, 1e9};
    s->mla = (struct figure){2 * weights * n + 2.0 * N_HEAD * (HEAD_DIM + KV_RANK) * seen,
                             2 * weights + 2.0 * (HEAD_DIM + KV_RANK) * kept, 1e9};
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct shape shape[] = {
        {.n_tok = 512, .prompt = true}, {.n_tok = 1024, .prompt = true}, {.n_tok = 1}, {.n_tok = 8}, {.n_tok = 64}};
    enum { N = sizeof shape / sizeof *shape };
    roof_open(&b.r, argc, argv);
    load(&b);
    reserve(&b);
    for (int i = 0; i < N; i++)
        bound(&shape[i]);
    for (int round = 0; round < MAX_ROUNDS; round++) { /* in turn, so that other work on the machine meets all */
        roof_measure(&b.r);
        for (int i = 0; i < N; i++) {
            struct shape *s = &shape[i];
            double dense_took = round_of(&b, s->n_tok, s->prompt, false, round % N_COPY);
            double mla_took = round_of(&b, s->n_tok, s->prompt, true, round % N_COPY);
            s->dense.took = dense_took < s->dense.took ? dense_took : s->dense.took;
            s->mla.took = mla_took < s->mla.took ? mla_took : s->mla.took;
        }
    }
    printf("%s bf16, %d threads: at most %.1f GFLOP/s, %.1f GB/s\n", b.r.be->isa, b.r.be->n_thread, b.r.flops * 1e-9,
           b.r.bytes * 1e-9);
    for (int i = 0; i < N; i++) {
        if (shape[i].prompt)
            printf("a prompt of %d tokens\n", shape[i].n_tok);
        else
            printf("%d rows at position %d\n", shape[i].n_tok, POS);
        tell(&b.r, "dense", &shape[i].dense, &shape[i].dense);
        tell(&b.r, "attention", &shape[i].mla, &shape[i].dense);
    }
    lb_step_release(&b.step);
    roof_close(&b.r);
    return 0;
}
