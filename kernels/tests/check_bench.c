/* checkkernels --bench [OP [SET]]: ops on the shapes of SmolLM2-135M, one thread, weights cold, against the peak of the
 * same run. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <time.h>

#include "kernels/tests/check.h"

enum {
    DIM = 576,
    FFN = 1536,
    N_HEAD = 9,
    N_KV = 3,
    HEAD_DIM = 64,
    N_VOCAB = 49152,
    QKV = (N_HEAD + 2 * N_KV) * HEAD_DIM
};

static const int rows_of[] = {1, 4, 16, 32, 64, 256, 512};
enum { N_ROWS = sizeof rows_of / sizeof rows_of[0] };

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double peak;

/* The best of a few runs, in GFLOP/s. */
static double measure_peak(const struct lk_cpu *t, bool from_l1)
{
    double best = 0;
    for (int i = 0; i < 20; i++) {
        double begin = now(), flop = t->peak(from_l1, 100000), rate = flop / (now() - begin) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

static void show(const char *what, int64_t n_row, double flop, double seconds)
{
    double rate = flop / seconds * 1e-9;
    printf("%-16s M %4lld  %9.1f us  %8.1f GFLOP/s", what, (long long)n_row, seconds * 1e6, rate);
    if (peak > 0)
        printf("  %5.1f %%", 100 * rate / peak);
    printf("\n");
}

struct product {
    const char *name;
    int64_t n_col, n_out;
    int n_seg;
    enum lk_epilogue epilogue;
};

static const struct product products[] = {
    {"qkv", DIM, QKV, 1, LK_EP_STORE},          {"out", DIM, DIM, 3, LK_EP_ADD},
    {"gate-up", DIM, 2 * FFN, 1, LK_EP_SWIGLU}, {"down", FFN, DIM, 3, LK_EP_ADD},
    {"head", DIM, N_VOCAB, 1, LK_EP_HEAD},
};

/* Copies of a matrix in turn, so that it comes from memory. */
static void bench_product(const struct lk_cpu *t, const struct product *p)
{
    struct lk_cols cols, out_cols;
    check_even_cols(&cols, p->n_col, p->n_seg, 32);
    check_even_cols(&out_cols, FFN, 3, 32);
    size_t bytes = t->weight_bytes(p->n_out, &cols);
    int64_t n_copy = lk_ceil_div((int64_t)96 << 20, (int64_t)bytes);
    uint8_t *w = mmap(NULL, (size_t)n_copy * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w == MAP_FAILED) {
        printf("no memory for %s\n", p->name);
        return;
    }
    madvise(w, (size_t)n_copy * bytes, MADV_HUGEPAGE); /* as the engine holds its weights */
    float *values = check_new(512 * (size_t)p->n_col, sizeof *values);
    uint16_t *half = (uint16_t *)(void *)w;
    float *whole = (float *)(void *)w;
    for (size_t i = 0; i < bytes / (t->type == LK_F32 ? 4 : 2); i++) {
        float x = check_uniform(-0.1f, 0.1f);
        if (t->type == LK_F32)
            whole[i] = x;
        else
            half[i] = lk_round(x);
    }
    for (int64_t i = 1; i < n_copy; i++)
        memcpy(w + (size_t)i * bytes, w, bytes);
    float *y = check_new(512 * (size_t)(p->epilogue == LK_EP_HEAD ? 1 : p->n_out), sizeof *y);
    struct lk_best *best = check_new(512 * (size_t)lk_ceil_div(p->n_out, LK_HEAD_BLOCK), sizeof *best);
    for (int m = 0; m < N_ROWS; m++) {
        int64_t n_row = rows_of[m], n_run = 0;
        struct lk_act a = check_random_act(t, n_row, &cols, values), out = check_act(t, n_row, &out_cols);
        struct lk_linear args = {.a = a,
                                 .n_out = p->n_out,
                                 .epilogue = p->epilogue,
                                 .y = y,
                                 .y_ld = p->n_out,
                                 .out = out,
                                 .best = best,
                                 .l2_bytes = lk_cpu_l2_bytes()};
        double fastest = 1e9, stop = now() + 0.15;
        do {
            args.w = w + (size_t)(n_run % n_copy) * bytes;
            double begin = now();
            t->linear(&args, 0, t->linear_items(&args));
            double took = now() - begin;
            fastest = took < fastest ? took : fastest;
            n_run++;
        } while (now() < stop);
        show(p->name, n_row, 2.0 * (double)(n_row * p->n_col * p->n_out), fastest);
        free(a.data);
        free(out.data);
    }
    munmap(w, (size_t)n_copy * bytes);
    free(y);
    free(best);
    free(values);
}

static void bench_norm(const struct lk_cpu *t)
{
    struct lk_cols cols;
    check_even_cols(&cols, DIM, 1, 32);
    float *x = check_new(512 * DIM, sizeof *x), *w = check_new(DIM, sizeof *w);
    check_fill(x, 512 * DIM, -1, 1);
    for (int m = 0; m < N_ROWS; m++) {
        struct lk_norm args = {.y = check_act(t, rows_of[m], &cols), .x = x, .w = w, .eps = 1e-5f};
        double fastest = 1e9;
        for (double stop = now() + 0.1; now() < stop;) {
            double begin = now();
            t->norm(&args, 0, t->norm_items(&args));
            fastest = fmin(fastest, now() - begin);
        }
        printf("%-16s M %4d  %9.1f us  %8.1f ns a row\n", "norm", rows_of[m], fastest * 1e6,
               fastest * 1e9 / rows_of[m]);
        free(args.y.data);
    }
    free(x);
    free(w);
}

/* A cache of n_page pages a head, zeros, k and v to be freed. */
static struct lk_kv new_kv(const struct lk_cpu *t, size_t n_page)
{
    struct lk_kv kv = {.k_page_bytes = (int64_t)t->k_page_bytes(HEAD_DIM),
                       .v_page_bytes = (int64_t)t->v_page_bytes(HEAD_DIM),
                       .n_kv_head = N_KV,
                       .head_dim = HEAD_DIM,
                       .v_dim = HEAD_DIM};
    kv.k = check_new(n_page * N_KV, (size_t)kv.k_page_bytes);
    kv.v = check_new(n_page * N_KV, (size_t)kv.v_page_bytes);
    return kv;
}

/* One prompt of n tokens in one step. */
static void bench_attend(const struct lk_cpu *t, int n)
{
    enum { MAX = 1024, N_PAGE = MAX / LK_PAGE_TOKENS };
    static int32_t pos[MAX], page_of[MAX], page[N_PAGE], page_start[2];
    static struct lk_attn_item item[MAX * N_KV];
    struct lk_cols cols;
    check_even_cols(&cols, N_HEAD * HEAD_DIM, 3, 192);
    float *qkv = check_new(MAX * QKV, sizeof *qkv), *angle = check_new(MAX * HEAD_DIM, sizeof *angle);
    check_fill(qkv, MAX * QKV, -1, 1);
    check_fill(angle, MAX * HEAD_DIM, -1, 1);
    struct lk_kv kv = new_kv(t, N_PAGE);
    for (int i = 0; i < MAX; i++) {
        pos[i] = i;
        page_of[i] = page[i / LK_PAGE_TOKENS] = i / LK_PAGE_TOKENS;
    }
    struct lk_rope_kv rope = {qkv,    angle,    angle,   check_new(t->q_bytes(MAX, N_HEAD, HEAD_DIM), 1),
                              kv,     pos,      page_of, n,
                              N_HEAD, HEAD_DIM, false,   NULL,
                              NULL,   0};
    double rope_s = 1e9, fastest = 1e9;
    struct lk_attend args = {.out = check_act(t, n, &cols),
                             .q = rope.q,
                             .kv = kv,
                             .item = item,
                             .n_tok = n,
                             .n_head = N_HEAD,
                             .pos = pos,
                             .page_start = page_start,
                             .page = page,
                             .scale = 0.125f};
    int step = (int)t->attn_rows(HEAD_DIM) / (N_HEAD / N_KV);
    for (int tok = 0; tok < n; tok += step)
        for (int h = 0; h < N_KV; h++)
            item[args.n_item++] =
                (struct lk_attn_item){0, tok, (int32_t)lk_min(step, n - tok), h * (N_HEAD / N_KV), N_HEAD / N_KV, 0};
    for (double stop = now() + 0.3; now() < stop;) {
        double begin = now();
        t->rope_kv(&rope, 0, n);
        rope_s = fmin(rope_s, now() - begin);
        begin = now();
        t->attend(&args, 0, args.n_item);
        fastest = fmin(fastest, now() - begin);
    }
    printf("%-16s M %4d  %9.1f us  %8.1f ns a row\n", "rope and cache", n, rope_s * 1e6, rope_s * 1e9 / n);
    show("attend, prompt", n, 4.0 * N_HEAD * HEAD_DIM * n * (n + 1) / 2, fastest);
    free(qkv);
    free(angle);
    free(kv.k);
    free(kv.v);
    free(rope.q);
    free(args.out.data);
}

/* A token of each of 16 sequences behind n positions, `group` query heads for a KV head: a row is a KV head of a token.
 * The sequences have pages of their own, or all the same ones, which the second cache holds. */
static void bench_decode(const struct lk_cpu *t, int group, int n, bool own)
{
    enum { N_SEQ = 16, MAX = 1024, SEQ_PAGES = MAX / LK_PAGE_TOKENS, N_PAGE = N_SEQ * SEQ_PAGES };
    static int32_t pos[N_SEQ], page[N_PAGE], page_start[N_SEQ];
    static struct lk_attn_item item[N_SEQ * N_KV];
    struct lk_cols cols;
    const int64_t n_head = group * N_KV;
    check_even_cols(&cols, n_head * HEAD_DIM, N_KV, group * HEAD_DIM);
    struct lk_kv kv = new_kv(t, N_PAGE);
    memset(kv.k, 0x3c, (size_t)(N_PAGE * N_KV * kv.k_page_bytes)); /* else all of it is one page of zeros in memory */
    memset(kv.v, 0x3c, (size_t)(N_PAGE * N_KV * kv.v_page_bytes));
    struct lk_attend args = {.out = check_act(t, N_SEQ, &cols),
                             .q = check_new(t->q_bytes(N_SEQ, n_head, HEAD_DIM), 1),
                             .kv = kv,
                             .item = item,
                             .n_tok = N_SEQ,
                             .n_head = n_head,
                             .pos = pos,
                             .page_start = page_start,
                             .page = page,
                             .scale = 0.125f};
    for (int i = 0; i < N_PAGE; i++)
        page[i] = own ? i : i % SEQ_PAGES;
    for (int is = 0; is < N_SEQ; is++) {
        pos[is] = n - 1;
        page_start[is] = is * SEQ_PAGES;
        for (int h = 0; h < N_KV; h++)
            item[args.n_item++] = (struct lk_attn_item){is, is, 1, h * group, group, 0};
    }
    double fastest = 1e9;
    for (double stop = now() + 0.1; now() < stop;) {
        double begin = now();
        t->attend(&args, 0, args.n_item);
        fastest = fmin(fastest, now() - begin);
    }
    double bytes = (double)(args.n_item * lk_ceil_div(n, LK_PAGE_TOKENS) * (kv.k_page_bytes + kv.v_page_bytes));
    printf("attend, %d heads, position %4d, %s pages  %8.1f ns a row  %6.2f GB/s\n", group, n, own ? "own " : "same",
           fastest * 1e9 / (double)args.n_item, bytes / fastest * 1e-9);
    free(kv.k);
    free(kv.v);
    free((void *)(uintptr_t)args.q);
    free(args.out.data);
}

static void bench_attention(const struct lk_cpu *t)
{
    static const int prompts[] = {100, 200, 600, 1000}, positions[] = {100, 300, 1000};
    for (int i = 0; i < 4; i++)
        bench_attend(t, prompts[i]);
    for (int group = 3; group <= 4; group++)
        for (int i = 0; i < 6; i++)
            bench_decode(t, group, positions[i % 3], i < 3);
}

/* The choice of one token of GLM-5 at some position: 2,048 of those before it by 32 heads of 128. */
static void bench_index(const struct lk_cpu *t, int pos)
{
    enum { INDEX_HEADS = 32, INDEX_DIM = 128, TOPK = 2048, MAX = 8192 };
    static float q[INDEX_HEADS * INDEX_DIM], w[INDEX_HEADS], score[TOPK];
    static int32_t page[MAX / LK_PAGE_TOKENS], chosen[TOPK];
    int32_t at = pos - 1, start = 0;
    struct lk_attn_item item = {.n_tok = 1, .n_head = 1};
    struct lk_index_select args = {.q = q,
                                   .w = w,
                                   .plane = {NULL, (t->type == LK_F32 ? 4 : 2) * INDEX_DIM * LK_PAGE_TOKENS, INDEX_DIM},
                                   .item = &item,
                                   .pos = &at,
                                   .page_start = &start,
                                   .page = page,
                                   .n_head = INDEX_HEADS,
                                   .topk = TOPK,
                                   .scale = 0.09f,
                                   .chosen = chosen,
                                   .score = score};
    int64_t n_key = (int64_t)pos * INDEX_DIM;
    args.plane.key = check_new((size_t)n_key, sizeof(float));
    check_fill(q, INDEX_HEADS * INDEX_DIM, -1, 1);
    check_fill(w, INDEX_HEADS, -1, 1);
    for (int i = 0; i < MAX / LK_PAGE_TOKENS; i++)
        page[i] = i;
    for (int64_t i = 0; i < n_key; i++) {
        float x = check_uniform(-1, 1);
        if (t->type == LK_F32)
            ((float *)(void *)args.plane.key)[i] = x;
        else
            ((uint16_t *)(void *)args.plane.key)[i] = lk_round(x);
    }
    double fastest = 1e9;
    for (double stop = now() + 0.3; now() < stop;) {
        double begin = now();
        t->index_select(&args, 0, 1);
        fastest = fmin(fastest, now() - begin);
    }
    show("index, position", pos, 2.0 * INDEX_HEADS * INDEX_DIM * pos, fastest);
    free(args.plane.key);
}

static void bench_set(const struct lk_cpu *t, const char *only)
{
    printf("-- %s %s\n", t->name, t->type == LK_F32 ? "f32" : "bf16");
    if (only && strcmp(only, "packed") == 0) {
        check_bench_packed(t);
        return;
    }
    if (only && strcmp(only, "int8") == 0) {
        check_bench_int8(t);
        return;
    }
    peak = t->peak ? measure_peak(t, false) : 0;
    if (t->peak)
        printf("peak, one thread: %.1f GFLOP/s in registers, %.1f from the first cache\n", peak, measure_peak(t, true));
    for (size_t p = 0; p < sizeof products / sizeof products[0]; p++)
        if (!only || strcmp(only, products[p].name) == 0)
            bench_product(t, &products[p]);
    if (!only || strcmp(only, "norm") == 0)
        bench_norm(t);
    if (!only || strcmp(only, "attend") == 0)
        bench_attention(t);
    for (int pos = !only || strcmp(only, "index") == 0 ? 2560 : 9999; pos <= 8192; pos += pos == 2560 ? 1536 : 4096)
        bench_index(t, pos);
}

void check_bench(const char *only, const char *set)
{
    struct lk_cpu t[CHECK_MAX_SETS];
    int n = check_sets(t);
    for (int i = 0; i < n; i++)
        if (set ? strcmp(set, t[i].name) == 0 : strcmp(t[i].name, t[n - 1].name) == 0)
            bench_set(&t[i], only);
}
