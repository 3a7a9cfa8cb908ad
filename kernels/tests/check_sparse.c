/* index_key and index_select: the choice against scores in double; ties, what is no number, and each token alone. */
#include "kernels/tests/check.h"

enum { N_TOK = 77, N_HEAD = 3, DIM = 22, N_ROT = 8, TOPK = 11, LD = DIM + N_HEAD, N_PAGE = 3 };

struct sparse {
    const struct lk_cpu *t;
    bool interleaved;
    float q[N_TOK * N_HEAD * DIM], kw[N_TOK * LD], norm[DIM], bias[DIM];
    float cos[N_TOK * N_ROT / 2], sin[N_TOK * N_ROT / 2];
    int32_t pos[N_TOK], tok_page[N_TOK], page[N_PAGE], page_start[1];
    struct lk_index_plane plane;
    int32_t chosen[N_TOK * TOPK];
    float score[N_TOK * TOPK];
};

static void sparse_init(struct sparse *s, const struct lk_cpu *t, bool interleaved)
{
    *s = (struct sparse){.t = t, .interleaved = interleaved, .page = {2, 0, 1}};
    check_fill(s->q, N_TOK * N_HEAD * DIM, -1, 1);
    check_fill(s->kw, N_TOK * LD, -2, 2);
    check_fill(s->norm, DIM, 0.5f, 2);
    check_fill(s->bias, DIM, -0.5f, 0.5f);
    for (int i = 0; i < N_TOK; i++) {
        s->pos[i] = i;
        s->tok_page[i] = s->page[i / LK_PAGE_TOKENS];
        for (int j = 0; j < N_ROT / 2; j++) {
            s->cos[i * N_ROT / 2 + j] = (float)cos(i * pow(100, -2.0 * j / N_ROT));
            s->sin[i * N_ROT / 2 + j] = (float)sin(i * pow(100, -2.0 * j / N_ROT));
        }
    }
    s->plane = (struct lk_index_plane){NULL, DIM * LK_PAGE_TOKENS * (t->type == LK_F32 ? 4 : 2), DIM};
    s->plane.key = check_new(N_PAGE, (size_t)s->plane.page_bytes);
}

/* Keys of tokens tok .. tok + n - 1 and the choice of those that see enough. q is written over: the caller's copy. */
static void choose(struct sparse *s, float *q, int tok, int n)
{
    struct lk_index_key key = {.q = q,
                               .k = s->kw + tok * LD,
                               .k_ld = LD,
                               .norm = s->norm,
                               .norm_bias = s->bias,
                               .cos = s->cos + tok * N_ROT / 2,
                               .sin = s->sin + tok * N_ROT / 2,
                               .plane = s->plane,
                               .pos = s->pos + tok,
                               .page = s->tok_page + tok,
                               .n_tok = n,
                               .n_head = N_HEAD,
                               .n_rot = N_ROT,
                               .interleaved = s->interleaved,
                               .eps = 1e-4f};
    CHECK_SPLIT(s->t->index_key, &key, n);
    struct lk_attn_item item[N_TOK];
    int n_item = 0;
    for (int i = 0; i < n; i++)
        if (s->pos[tok + i] >= TOPK)
            item[n_item++] = (struct lk_attn_item){0, i, 1, 0, 1, 0};
    struct lk_index_select select = {.q = q,
                                     .w = s->kw + tok * LD + DIM,
                                     .w_ld = LD,
                                     .plane = s->plane,
                                     .item = item,
                                     .pos = s->pos + tok,
                                     .page_start = s->page_start,
                                     .page = s->page,
                                     .n_head = N_HEAD,
                                     .topk = TOPK,
                                     .scale = 0.25f,
                                     .chosen = s->chosen + tok * TOPK,
                                     .score = s->score + tok * TOPK};
    CHECK_SPLIT(s->t->index_select, &select, n_item);
}

static void turned(const struct sparse *s, int tok, const double *x, double *out)
{
    for (int i = 0; i < DIM; i++)
        out[i] = x[i];
    for (int j = 0; j < N_ROT / 2; j++) {
        int a = s->interleaved ? 2 * j : j, b = s->interleaved ? 2 * j + 1 : j + N_ROT / 2;
        double c = (double)s->cos[tok * N_ROT / 2 + j], n = (double)s->sin[tok * N_ROT / 2 + j];
        out[a] = x[a] * c - x[b] * n;
        out[b] = x[b] * c + x[a] * n;
    }
    for (int i = 0; i < DIM; i++)
        out[i] = (double)check_stored(s->t, (float)out[i]);
}

static void exact_key(const struct sparse *s, int tok, double *out)
{
    const float *k = s->kw + tok * LD;
    double mean = 0, var = 0, x[DIM];
    for (int i = 0; i < DIM; i++)
        mean += (double)k[i] / DIM;
    for (int i = 0; i < DIM; i++)
        var += ((double)k[i] - mean) * ((double)k[i] - mean) / DIM;
    for (int i = 0; i < DIM; i++)
        x[i] = ((double)k[i] - mean) / sqrt(var + 1e-4) * (double)s->norm[i] + (double)s->bias[i];
    turned(s, tok, x, out);
}

/* Sums over heads of w max(0, q . key / 4) for each position up to tok. */
static void exact_scores(const struct sparse *s, int tok, double *out)
{
    double q[N_HEAD][DIM];
    for (int h = 0; h < N_HEAD; h++) {
        double x[DIM];
        for (int i = 0; i < DIM; i++)
            x[i] = (double)s->q[(tok * N_HEAD + h) * DIM + i];
        turned(s, tok, x, q[h]);
    }
    for (int j = 0; j <= tok; j++) {
        double key[DIM];
        exact_key(s, j, key);
        out[j] = 0;
        for (int h = 0; h < N_HEAD; h++) {
            double dot = 0;
            for (int i = 0; i < DIM; i++)
                dot += q[h][i] * key[i];
            out[j] += (double)s->kw[tok * LD + DIM + h] * fmax(0, dot / 4);
        }
    }
}

static void check_choice(const struct sparse *s, int tok)
{
    double score[N_TOK], worst = INFINITY, best = -INFINITY, slack = s->t->type == LK_F32 ? 1e-5 : 0.02;
    const int32_t *chosen = s->chosen + tok * TOPK;
    exact_scores(s, tok, score);
    for (int i = 0, at = 0; i <= tok; i++) {
        if (at < TOPK && chosen[at] == i) {
            worst = fmin(worst, score[i]);
            at++;
        } else {
            best = fmax(best, score[i]);
        }
        check_that(i < tok || at == TOPK, s->t, "index_select", "position %d: its choice is not ascending", tok);
    }
    check_that(worst >= best - slack, s->t, "index_select", "position %d: chose one of %g, not %g", tok, worst, best);
}

/* The choice and its scores, to the bit, are the reference's: for numbers of heads and dimensions that fill register
 * tiles and that do not. */
static void check_same(const struct lk_cpu *t, int64_t n_head, int64_t dim)
{
    enum { MAX_HEAD = 33, MAX_KEY = 128, LAST = 150, N_BEST = 40, PAGES = LAST / LK_PAGE_TOKENS + 1 };
    struct lk_cpu ref;
    lk_cpu_init(&ref, t->type, LK_ISA_REF);
    int64_t n_key = PAGES * dim * LK_PAGE_TOKENS;
    float q[MAX_HEAD * MAX_KEY], w[MAX_HEAD], *key = check_new((size_t)n_key, sizeof *key);
    int32_t page[PAGES] = {3, 0, 4, 1, 2}, start = 0, pos = LAST, chosen[2][N_BEST];
    float score[2][N_BEST];
    check_fill(q, n_head * dim, -1, 1);
    check_fill(w, n_head, -0.5f, 1);
    check_fill(key, n_key, -1, 1);
    key[7] = NAN;
    if (t->type == LK_BF16)
        for (int64_t i = 0; i < n_key; i++)
            ((uint16_t *)(void *)key)[i] = lk_round(key[i]);
    struct lk_attn_item item = {0, 0, 1, 0, 1, 0};
    struct lk_index_select a = {.q = q,
                                .w = w,
                                .plane = {(uint8_t *)key, dim * LK_PAGE_TOKENS * (t->type == LK_F32 ? 4 : 2), dim},
                                .item = &item,
                                .pos = &pos,
                                .page_start = &start,
                                .page = page,
                                .n_head = n_head,
                                .topk = N_BEST,
                                .scale = 0.25f};
    for (int i = 0; i < 2; i++) {
        a.chosen = chosen[i];
        a.score = score[i];
        (i ? t : &ref)->index_select(&a, 0, 1);
    }
    check_that(memcmp(chosen[0], chosen[1], sizeof chosen[0]) == 0 && memcmp(score[0], score[1], sizeof score[0]) == 0,
               t, "index_select", "%lld heads of %lld: other bits than the reference", (long long)n_head,
               (long long)dim);
    free(key);
}

void check_sparse(const struct lk_cpu *t)
{
    const bool ref = strcmp(t->name, "ref") == 0;
    for (int64_t n_head = 1; n_head <= 33 && !ref; n_head += n_head < 14 ? 1 : 9)
        for (int64_t dim = 5 + 41 * (n_head % lk_min(check_cases, 4)); dim <= 128; dim += 41 * lk_min(check_cases, 4))
            check_same(t, n_head, dim);
    static struct sparse s;
    static float q[N_TOK * N_HEAD * DIM];
    int32_t all[N_TOK * TOPK];
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        sparse_init(&s, t, interleaved == 1);
        memcpy(q, s.q, sizeof q);
        choose(&s, q, 0, N_TOK);
        for (int tok = TOPK; tok < N_TOK; tok++)
            check_choice(&s, tok);
        memcpy(all, s.chosen, sizeof all);
        memcpy(q, s.q, sizeof q);
        for (int tok = 0, n = 1; tok < N_TOK; tok += n, n = n % 5 + 1)
            choose(&s, q + tok * N_HEAD * DIM, tok, (int)lk_min(n, N_TOK - tok));
        check_that(memcmp(all + TOPK * TOPK, s.chosen + TOPK * TOPK, sizeof all - TOPK * TOPK * sizeof *all) == 0, t,
                   "index_select", "chunks choose otherwise");
        free(s.plane.key);
    }
    /* equal scores: the first positions; but not the one whose score is no number */
    sparse_init(&s, t, true);
    for (int i = 0; i < N_TOK * N_HEAD; i++)
        s.kw[i / N_HEAD * LD + DIM + i % N_HEAD] = 0;
    s.kw[3 * LD] = NAN;
    choose(&s, s.q, 0, N_TOK);
    for (int tok = TOPK; tok < N_TOK; tok++)
        for (int i = 0; i < TOPK; i++)
            check_that(s.chosen[tok * TOPK + i] == i + (i >= 3), t, "index_select", "position %d: choice %d is %d", tok,
                       i, s.chosen[tok * TOPK + i]);
    free(s.plane.key);
}
