/* rope_table, rope_kv and attend together: rows of Q, K, V in, attention out, against the formulas in double; each
 * token the same alone, and what a window hides without a trace. */
#include "kernels/tests/check.h"

void check_rope(const struct lk_cpu *t)
{
    enum { N_ROT = 20, N_TOK = 6 };
    static const int32_t pos[N_TOK] = {0, 1, 31, 513, 8000, 100000}, len[N_TOK] = {1, 2, 700, 514, 8001, 100001};
    float inv_freq[N_ROT / 2], c[N_TOK * N_ROT / 2], s[N_TOK * N_ROT / 2];
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        for (int i = 0; i < N_ROT / 2; i++)
            inv_freq[i] = (float)pow(10000, -2.0 * i / N_ROT);
        struct lk_rope_table args = {c, s, pos, inv_freq, dynamic ? len : NULL, 10000, 4, 512, N_TOK, N_ROT, 1.25f};
        CHECK_SPLIT(t->rope_table, &args, N_TOK);
        for (int i = 0; i < N_TOK * N_ROT / 2; i++) {
            int tok = i / (N_ROT / 2), at = i % (N_ROT / 2);
            double freq = (double)inv_freq[at], slack = 1e-6;
            if (dynamic) {
                double most = len[tok] > 512 ? len[tok] : 512;
                double base = 10000 * pow(4 * most / 512 - 3, N_ROT / (N_ROT - 2.0));
                freq = pow(base, -2.0 * at / N_ROT);
                slack += 2e-6 * freq * pos[tok]; /* of float32 frequencies */
            }
            double angle = dynamic ? freq * pos[tok] : (double)(inv_freq[at] * (float)pos[tok]);
            check_that(fabs((double)c[i] - 1.25 * cos(angle)) <= slack &&
                           fabs((double)s[i] - 1.25 * sin(angle)) <= slack,
                       t, "rope_table", "position %d, frequency %d: %g %g", pos[tok], at, (double)c[i], (double)s[i]);
        }
    }
}

enum { MAX_DIM = 600, MAX_GROUP = 16, MAX_SEQ = 8 }; /* MAX_GROUP: where positions are gathered */

struct shape {
    int64_t head_dim, group, n_kv, n_rot;
    bool interleaved, norm;
    int n_seq;
    int len[MAX_SEQ];
    int step; /* every step-th token is checked in double and alone */
    int64_t window;
    int64_t v_dim; /* 0: head_dim */
};

struct attn_case {
    const struct lk_cpu *t;
    struct shape s;
    struct lk_cols cols;
    int64_t n_tok, n_head, n_page;
    float *qkv, *cos, *sin, *q_norm, *k_norm;
    int32_t *pos, *tok_page, *page, page_start[MAX_SEQ];
    int64_t width, v_dim; /* width: of a row of qkv */
    const bool *hidden;   /* [n_tok] positions that are not chosen, or NULL */
    bool apart;           /* each head has activations of its own */
    struct lk_cols head_cols;
    int seq_of[MAX_SEQ + 1]; /* first token of each sequence */
    bool *run;               /* [n_tok] whether a step of all tokens computes this one */
    double *key;             /* [n_tok, n_kv, head_dim] behind norm and rotation; of those that were asked for */
    bool *has_key;           /* [n_tok, n_kv] */
    struct lk_kv kv;
};

/* Of long sequences a sanitizer, and of the slow reference any sample, sees every eighth page of queries, those around
 * ends of splits, and the last. */
static bool is_run(const struct attn_case *c, int is, int pos)
{
    const int at = pos % 512;
    const bool all = check_cases == 1 || (check_every == 1 && strcmp(c->t->name, "ref") != 0);
    return all || c->n_tok < 500 || pos / LK_PAGE_TOKENS % 8 == 0 || at < 32 || at >= 480 || pos == 1100 ||
           pos >= c->s.len[is] - LK_PAGE_TOKENS;
}

static void case_new(struct attn_case *c, const struct lk_cpu *t, const struct shape *s)
{
    double freq[MAX_DIM / 2];
    *c = (struct attn_case){.t = t, .s = *s, .n_head = s->group * s->n_kv};
    c->v_dim = s->v_dim > 0 ? s->v_dim : s->head_dim;
    c->width = (c->n_head + s->n_kv) * s->head_dim + s->n_kv * c->v_dim;
    for (int i = 0; i < s->n_seq; i++) {
        c->page_start[i] = (int32_t)c->n_page;
        c->seq_of[i] = (int)c->n_tok;
        c->n_page += lk_ceil_div(s->len[i], LK_PAGE_TOKENS);
        c->n_tok += s->len[i];
    }
    c->seq_of[s->n_seq] = (int)c->n_tok;
    c->qkv = check_new((size_t)(c->n_tok * c->width), sizeof *c->qkv);
    c->cos = check_new((size_t)(c->n_tok * s->n_rot / 2), sizeof *c->cos);
    c->sin = check_new((size_t)(c->n_tok * s->n_rot / 2), sizeof *c->sin);
    c->q_norm = check_new((size_t)s->head_dim, sizeof *c->q_norm);
    c->k_norm = check_new((size_t)s->head_dim, sizeof *c->k_norm);
    c->pos = check_new((size_t)c->n_tok, sizeof *c->pos);
    c->tok_page = check_new((size_t)c->n_tok, sizeof *c->tok_page);
    c->page = check_new((size_t)c->n_page, sizeof *c->page);
    c->run = check_new((size_t)c->n_tok, sizeof *c->run);
    c->key = check_new((size_t)(c->n_tok * s->n_kv * s->head_dim), sizeof *c->key);
    c->has_key = check_new((size_t)(c->n_tok * s->n_kv), sizeof *c->has_key);
    check_fill(c->qkv, c->n_tok * c->width, -2, 2);
    check_fill(c->q_norm, s->head_dim, 0.5f, 2);
    check_fill(c->k_norm, s->head_dim, 0.5f, 2);
    for (int64_t j = 0; j < s->n_rot / 2; j++)
        freq[j] = pow(10000, -2.0 * (double)j / (double)s->n_rot);
    for (int64_t i = 0; i < c->n_page; i++) /* scattered: page ids in descending order */
        c->page[i] = (int32_t)(c->n_page - 1 - i);
    for (int is = 0; is < s->n_seq; is++)
        for (int i = 0; i < s->len[is]; i++) {
            int tok = c->seq_of[is] + i;
            c->pos[tok] = i;
            c->run[tok] = is_run(c, is, i);
            c->tok_page[tok] = c->page[c->page_start[is] + i / LK_PAGE_TOKENS];
            for (int64_t j = 0; j < s->n_rot / 2; j++) {
                double angle = i * freq[j];
                c->cos[tok * s->n_rot / 2 + j] = (float)cos(angle);
                c->sin[tok * s->n_rot / 2 + j] = (float)sin(angle);
            }
        }
    check_even_cols(&c->cols, c->n_head * c->v_dim, (int)s->n_kv, s->group * c->v_dim);
    check_even_cols(&c->head_cols, c->v_dim, 1, c->v_dim);
    c->kv = (struct lk_kv){.k_page_bytes = (int64_t)t->k_page_bytes(s->head_dim),
                           .v_page_bytes = (int64_t)t->v_page_bytes(c->v_dim),
                           .n_kv_head = s->n_kv,
                           .head_dim = s->head_dim,
                           .v_dim = c->v_dim};
    c->kv.k = check_new((size_t)(c->n_page * s->n_kv), (size_t)c->kv.k_page_bytes);
    c->kv.v = check_new((size_t)(c->n_page * s->n_kv), (size_t)c->kv.v_page_bytes);
}

static void case_free(struct attn_case *c)
{
    free(c->qkv);
    free(c->cos);
    free(c->sin);
    free(c->q_norm);
    free(c->k_norm);
    free(c->pos);
    free(c->tok_page);
    free(c->page);
    free(c->run);
    free(c->key);
    free(c->has_key);
    free(c->kv.k);
    free(c->kv.v);
}

/* Items of all heads of tokens tok .. tok + n_tok - 1, from item[at] on; returns where the next one goes. A token of
 * its own has its heads cut into one part more than rows demand. */
static int64_t put_items(const struct attn_case *c, struct lk_attn_item *item, int64_t at, struct lk_attn_item of)
{
    int32_t group = (int32_t)c->s.group, n_part = (int32_t)lk_ceil_div(group, c->t->attn_rows(c->v_dim));
    if (of.n_tok == 1 && n_part < group)
        n_part++;
    for (int32_t i = 0; i < c->s.n_kv * n_part; i++) {
        int32_t from = i % n_part * group / n_part, to = (i % n_part + 1) * group / n_part;
        of.head = i / n_part * group + from;
        of.n_head = to - from;
        item[at++] = of;
    }
    return at;
}

/* Attention of tokens tok .. tok + n - 1 of one step, items of at most `most` tokens; K and V of these tokens are
 * written before. */
static struct lk_act run(const struct attn_case *c, int64_t tok, int64_t n, int64_t most, float *probs)
{
    const struct shape *s = &c->s;
    int64_t n_item = 0;
    int64_t rows = c->t->attn_rows(c->v_dim);
    most = s->group < rows ? lk_min(most, rows / s->group) : 1;
    void *q = check_new(c->t->q_bytes(n, c->n_head, s->head_dim), 1);
    struct lk_rope_kv rope = {
        .qkv = c->qkv + tok * c->width,
        .cos = c->cos + tok * s->n_rot / 2,
        .sin = c->sin + tok * s->n_rot / 2,
        .q = q,
        .kv = c->kv,
        .pos = c->pos + tok,
        .page = c->tok_page + tok,
        .n_tok = n,
        .n_head = c->n_head,
        .n_rot = s->n_rot,
        .interleaved = s->interleaved,
        .q_norm = s->norm ? c->q_norm : NULL,
        .k_norm = s->norm ? c->k_norm : NULL,
        .eps = 1e-5f,
    };
    CHECK_SPLIT(c->t->rope_kv, &rope, n);
    struct lk_attn_item *item = check_new((size_t)(n * c->n_head), sizeof *item);
    for (int is = 0; is < s->n_seq; is++)
        for (int64_t from = c->seq_of[is]; from < c->seq_of[is + 1]; from++) {
            if (from < tok || from >= tok + n)
                continue;
            int64_t some = lk_min(most, lk_min(c->seq_of[is + 1], tok + n) - from);
            struct lk_attn_item of = {.seq = is, .tok = (int32_t)(from - tok), .n_tok = (int32_t)some};
            if (n < c->n_tok || memchr(c->run + from, true, (size_t)some))
                n_item = put_items(c, item, n_item, of);
            from += some - 1;
        }
    struct lk_attend args = {
        .out = check_act(c->t, n, &c->cols),
        .q = q,
        .kv = c->kv,
        .item = item,
        .n_item = n_item,
        .n_tok = n,
        .n_head = c->n_head,
        .pos = c->pos + tok,
        .page_start = c->page_start,
        .page = c->page,
        .window = s->window,
        .scale = 1.0f / sqrtf((float)s->head_dim),
        .probs = probs,
        .probs_ld = 40,
    };
    if (c->apart) {
        free(args.out.data);
        args.out = check_act(c->t, n * c->n_head, &c->head_cols);
        args.out.n_row = n;
        args.out_head_bytes = n * lk_cols_packed(&c->head_cols) * (int64_t)c->t->act_bytes;
    }
    CHECK_SPLIT(c->t->attend, &args, n_item);
    free(q);
    free(item);
    return args.out;
}

/* One head behind norm and rotation, as the set stores it. */
static void rotate(const struct attn_case *c, int64_t tok, const float *x, const float *norm, double *out)
{
    int64_t n = c->s.head_dim, half = c->s.n_rot / 2;
    double sum = 0, v[MAX_DIM];
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (int64_t i = 0; i < n; i++)
        v[i] = (double)x[i] * (c->s.norm ? (double)norm[i] / sqrt(sum / (double)n + 1e-5) : 1);
    for (int64_t j = 0; j < half; j++) {
        int64_t a = c->s.interleaved ? 2 * j : j, b = c->s.interleaved ? 2 * j + 1 : j + half;
        double x0 = v[a], x1 = v[b], co = (double)c->cos[tok * half + j], si = (double)c->sin[tok * half + j];
        v[a] = x0 * co - x1 * si;
        v[b] = x1 * co + x0 * si;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)check_stored(c->t, (float)v[i]);
}

/* A position's key, rotated once for all queries that see it. */
static const double *key_of(const struct attn_case *c, int64_t tok, int64_t kv_head)
{
    int64_t n = c->s.head_dim, at = tok * c->s.n_kv + kv_head;
    if (!c->has_key[at])
        rotate(c, tok, c->qkv + tok * c->width + (c->n_head + kv_head) * n, c->k_norm, c->key + at * n);
    c->has_key[at] = true;
    return c->key + at * n;
}

/* One head's attention: out, size = sum of p |v|, both [v_dim], and the probabilities [pos + 1]. */
struct truth {
    double out[MAX_DIM], size[MAX_DIM], prob[1200];
};

static void exact(const struct attn_case *c, int is, int64_t tok, int64_t head, struct truth *r)
{
    double *out = r->out, *size = r->size, *prob = r->prob;
    const struct shape *s = &c->s;
    int64_t width = c->width, n = s->head_dim, n_v = c->v_dim, last = c->pos[tok];
    int64_t first = s->window == 0 || s->window > last ? 0 : last - s->window + 1;
    double q[MAX_DIM], max = -INFINITY, sum = 0;
    rotate(c, tok, c->qkv + tok * width + head * n, c->q_norm, q);
    for (int64_t j = 0; j <= last; j++)
        prob[j] = -INFINITY;
    for (int64_t j = first; j <= last; j++) {
        if (c->hidden && c->hidden[j])
            continue;
        const double *k = key_of(c, c->seq_of[is] + j, head / s->group);
        prob[j] = 0;
        for (int64_t i = 0; i < n; i++)
            prob[j] += q[i] * k[i];
        prob[j] /= sqrt((double)n);
        max = fmax(max, prob[j]);
    }
    for (int64_t j = 0; j <= last; j++)
        sum += exp(prob[j] - max);
    for (int64_t i = 0; i < n_v; i++)
        out[i] = size[i] = 0;
    for (int64_t j = 0; j <= last; j++) {
        const float *v = c->qkv + (c->seq_of[is] + j) * width + (c->n_head + s->n_kv) * n + head / s->group * n_v;
        prob[j] = exp(prob[j] - max) / sum;
        for (int64_t i = 0; i < n_v; i++) {
            double x = prob[j] * (double)check_stored(c->t, v[i]);
            out[i] += x;
            size[i] += fabs(x);
        }
    }
}

static void check_token(const struct attn_case *c, int is, int64_t tok, const float *got, const float *probs)
{
    static struct truth r;
    int64_t n = c->v_dim;
    for (int64_t ih = 0; ih < c->n_head; ih++) {
        exact(c, is, tok, ih, &r);
        for (int64_t i = 0; i < n; i++) {
            double bound = (c->t->type == LK_F32 ? 2e-5 : 0x1p-7) * r.size[i] + 1e-7, x = (double)got[ih * n + i];
            check_that(fabs(x - r.out[i]) <= bound, c->t, "attend",
                       "v_dim %lld group %lld window %lld position %d head %lld dim %lld: %g, not %g", (long long)n,
                       (long long)c->s.group, (long long)c->s.window, c->pos[tok], (long long)ih, (long long)i, x,
                       r.out[i]);
        }
        for (int j = 0; probs && j < 40; j++) {
            double want = j <= c->pos[tok] ? r.prob[j] : 0, x = (double)probs[(tok * c->n_head + ih) * 40 + j];
            check_that(fabs(x - want) <= (c->t->type == LK_F32 ? 4e-6 : 1e-2), c->t, "attend", "probability %g, not %g",
                       x, want);
        }
    }
}

/* No column of the packed row was left as it was: zeros times NaN would show. */
static void check_zero_columns(const struct attn_case *c, const struct lk_act *out)
{
    int64_t n = c->cols.n_col;
    float *w = check_new((size_t)n, sizeof *w), *y = check_new((size_t)out->n_row, sizeof *y);
    check_fill(w, n, 1, 1);
    void *packed = check_pack(c->t, w, 1, &c->cols, 0);
    struct lk_linear sum = {.a = *out, .w = packed, .n_out = 1, .y = y, .y_ld = 1};
    c->t->linear(&sum, 0, c->t->linear_items(&sum));
    for (int64_t i = 0; i < out->n_row; i++)
        check_that(y[i] == y[i] || !c->run[i], c->t, "attend", "row %lld has unwritten columns", (long long)i);
    free(w);
    free(y);
    free(packed);
}

/* K and V of the first n_page pages of the first sequence set to NaN. */
static void spoil(const struct attn_case *c, int64_t n_page)
{
    int64_t n_kv = c->s.n_kv;
    for (int64_t ip = 0; ip < n_page; ip++) {
        memset(c->kv.k + c->page[ip] * n_kv * c->kv.k_page_bytes, 0xff, (size_t)(n_kv * c->kv.k_page_bytes));
        memset(c->kv.v + c->page[ip] * n_kv * c->kv.v_page_bytes, 0xff, (size_t)(n_kv * c->kv.v_page_bytes));
    }
}

/* The last n tokens of the first sequence once more, without the pages that lie behind the window of the last one:
 * those that do not see them either have the same bits, though their neighbors of the same item do. */
static void check_hidden(const struct attn_case *c, const struct lk_act *all, int64_t n)
{
    const struct lk_cpu *t = c->t;
    int64_t len = c->s.len[0], tok = len - n, n_col = c->cols.n_col, n_page = (len - c->s.window) / LK_PAGE_TOKENS;
    if (c->s.window == 0 || tok < 0 || n_page <= 0)
        return;
    float *want = check_new((size_t)n_col, sizeof *want), *got = check_new((size_t)n_col, sizeof *got);
    spoil(c, lk_min(n_page, tok / LK_PAGE_TOKENS)); /* the pages of the tokens themselves are written anew */
    struct lk_act some = run(c, tok, n, 32, NULL);
    for (int64_t i = tok; i < len; i++) {
        if (i - c->s.window + 1 < n_page * LK_PAGE_TOKENS)
            continue;
        t->act_row(all, i, want);
        t->act_row(&some, i - tok, got);
        check_that(memcmp(want, got, (size_t)n_col * sizeof *got) == 0, t, "attend",
                   "window %lld: position %lld depends on what is behind its window", (long long)c->s.window,
                   (long long)i);
    }
    free(some.data);
    free(want);
    free(got);
}

/* Heads that have activations of their own hold the same bits. */
static void check_apart(struct attn_case *c, const struct lk_act *all)
{
    const struct lk_cpu *t = c->t;
    int64_t n_col = c->cols.n_col, n = c->v_dim;
    float *want = check_new((size_t)n_col, sizeof *want), *got = check_new((size_t)n, sizeof *got);
    c->apart = true;
    struct lk_act heads = run(c, 0, c->n_tok, 32, NULL), one = heads;
    c->apart = false;
    for (int64_t ih = 0; ih < c->n_head; ih++) {
        for (int64_t i = 0; i < c->n_tok; i++) {
            t->act_row(all, i, want);
            t->act_row(&one, i, got);
            check_that(memcmp(want + ih * n, got, (size_t)n * sizeof *got) == 0, t, "attend",
                       "head %lld of token %lld differs apart", (long long)ih, (long long)i);
        }
        one.data = (char *)one.data + c->n_tok * lk_cols_packed(&c->head_cols) * (int64_t)t->act_bytes;
    }
    free(heads.data);
    free(want);
    free(got);
}

static void attn_case(const struct lk_cpu *t, const struct shape *s)
{
    struct attn_case c;
    case_new(&c, t, s);
    int64_t n_col = c.cols.n_col;
    bool ref = strcmp(t->name, "ref") == 0;
    float *probs = ref ? check_new((size_t)(c.n_tok * c.n_head * 40), sizeof *probs) : NULL;
    float *got = check_new((size_t)n_col, sizeof *got), *alone = check_new((size_t)n_col, sizeof *alone);
    struct lk_act all = run(&c, 0, c.n_tok, 32, probs);
    check_zero_columns(&c, &all);
    for (int is = 0; is < s->n_seq; is++) {
        for (int64_t tok = c.seq_of[is]; tok < c.seq_of[is + 1]; tok++) {
            int32_t pos = c.pos[tok];
            if (!c.run[tok])
                continue;
            if (tok % (s->step * check_every) &&
                !(s->len[is] > 512 && (pos == 511 || pos == 512 || pos == 513 || pos == 1100)))
                continue;
            t->act_row(&all, tok, got);
            check_token(&c, is, tok, got, probs);
        }
    }
    /* each token alone, K and V being written anew; then in steps of 5 tokens and items of 2 */
    for (int64_t tok = 0, n = 1; tok < c.n_tok; tok += n) {
        n = tok % 3 ? lk_min(5, c.n_tok - tok) : 1;
        if ((s->step > 1 && tok % s->step > 8 && c.pos[tok] % 256 < 250) || tok / 9 % check_every != 0)
            continue;
        struct lk_act some = run(&c, tok, n, n == 1 ? 1 : 2, NULL);
        for (int64_t i = 0; i < n; i++) {
            if (!c.run[tok + i])
                continue;
            t->act_row(&all, tok + i, got);
            t->act_row(&some, i, alone);
            check_that(memcmp(got, alone, (size_t)n_col * sizeof *got) == 0, t, "attend",
                       "head_dim %lld group %lld window %lld: position %d has other bits alone", (long long)s->head_dim,
                       (long long)s->group, (long long)s->window, c.pos[tok + i]);
        }
        free(some.data);
    }
    if (s->v_dim > 0 && (check_every == 1 || c.n_tok < 500))
        check_apart(&c, &all);
    for (int64_t n = 7; n < 13; n++)
        check_hidden(&c, &all, n);
    free(all.data);
    free(got);
    free(alone);
    free(probs);
    case_free(&c);
}

/* The first n_page pages of all sequences are those of the first one, and hold what it has there. */
static void share_pages(struct attn_case *c, int n_page)
{
    for (int is = 1; is < c->s.n_seq; is++) {
        memcpy(c->page + c->page_start[is], c->page, (size_t)n_page * sizeof *c->page);
        memcpy(c->tok_page + c->seq_of[is], c->tok_page, (size_t)(n_page * LK_PAGE_TOKENS) * sizeof *c->tok_page);
        memcpy(c->qkv + c->seq_of[is] * c->width, c->qkv,
               (size_t)(n_page * LK_PAGE_TOKENS * c->width) * sizeof *c->qkv);
    }
}

/* A step of the last token of each sequence, `together` of them an item, whose first n_shared pages are the same. */
static struct lk_act run_last(const struct attn_case *c, int together, int n_shared)
{
    const struct shape *s = &c->s;
    int64_t half = s->n_rot / 2, n = s->n_seq, n_item = 0;
    float *qkv = check_new((size_t)(n * c->width), sizeof *qkv);
    float *co = check_new((size_t)(n * half), sizeof *co), *si = check_new((size_t)(n * half), sizeof *si);
    int32_t pos[MAX_SEQ], page[MAX_SEQ];
    struct lk_attn_item item[MAX_SEQ * 4];
    for (int is = 0; is < n; is++) {
        int tok = c->seq_of[is + 1] - 1;
        pos[is] = c->pos[tok];
        page[is] = c->tok_page[tok];
        memcpy(qkv + is * c->width, c->qkv + tok * c->width, (size_t)c->width * sizeof *qkv);
        memcpy(co + is * half, c->cos + tok * half, (size_t)half * sizeof *co);
        memcpy(si + is * half, c->sin + tok * half, (size_t)half * sizeof *si);
    }
    void *q = check_new(c->t->q_bytes(n, c->n_head, s->head_dim), 1);
    struct lk_rope_kv rope = {qkv, co, si, q, c->kv, pos, page, n, c->n_head, s->n_rot, s->interleaved, NULL, NULL, 0};
    c->t->rope_kv(&rope, 0, n);
    for (int is = 0; is < n; is += together)
        for (int32_t h = 0; h < s->n_kv; h++) {
            int32_t n_tok = (int32_t)lk_min(together, n - is), group = (int32_t)s->group;
            item[n_item++] = (struct lk_attn_item){is, is, n_tok, h * group, group, n_shared};
        }
    struct lk_attend args = {.out = check_act(c->t, n, &c->cols),
                             .q = q,
                             .kv = c->kv,
                             .item = item,
                             .n_item = n_item,
                             .n_tok = n,
                             .n_head = c->n_head,
                             .pos = pos,
                             .page_start = c->page_start,
                             .page = c->page,
                             .window = s->window,
                             .scale = 1.0f / sqrtf((float)s->head_dim)};
    CHECK_SPLIT(c->t->attend, &args, n_item);
    free(qkv);
    free(co);
    free(si);
    free(q);
    return args.out;
}

/* Sequences that go through shared pages together have the bits that each has in a step without the others. */
static void shared_case(const struct lk_cpu *t, const struct shape *s, int n_shared)
{
    struct attn_case c;
    case_new(&c, t, s);
    share_pages(&c, n_shared);
    memset(c.run, 0, (size_t)c.n_tok * sizeof *c.run);
    for (int is = 0; is < s->n_seq; is++)
        c.run[c.seq_of[is + 1] - 1] = true; /* what the others' attention is, attn_case asks */
    int64_t n_col = c.cols.n_col;
    float *got = check_new((size_t)n_col, sizeof *got), *alone = check_new((size_t)n_col, sizeof *alone);
    struct lk_act all = run(&c, 0, c.n_tok, 32, NULL);
    for (int together = 1; together <= s->n_seq && together * s->group <= LK_SHARED_ROWS; together++) {
        struct lk_act some = run_last(&c, together, n_shared);
        for (int is = 0; is < s->n_seq; is++) {
            t->act_row(&all, c.seq_of[is + 1] - 1, alone);
            t->act_row(&some, is, got);
            check_that(memcmp(got, alone, (size_t)n_col * sizeof *got) == 0, t, "attend",
                       "group %lld window %lld: %d sequences at %d shared pages: position %d has other bits alone",
                       (long long)s->group, (long long)s->window, together, n_shared, s->len[is] - 1);
        }
        free(some.data);
    }
    free(all.data);
    free(got);
    free(alone);
    case_free(&c);
}

static void check_shared(const struct lk_cpu *t)
{
    static const int n_shared[] = {1, 2, 5}, n_wide[] = {15, 16, 17};
    static const int64_t windows[] = {0, 1, 40, 100, 170, 1000}, groups[] = {1, 3, 4, 7, 16, 30};
    for (int i = 0; i < 18; i += check_cases + (check_cases > 1)) {
        struct shape s = {i % 2 ? 64 : 40,
                          groups[i % 6],
                          1 + i % 2,
                          24,
                          i % 3 == 1,
                          false,
                          8,
                          {161 + i, 170, 192, 163, 161, 199, 240, 193},
                          1,
                          windows[(i / 3 + i) % 6],
                          i % 4 == 3 ? 24 : 0};
        shared_case(t, &s, n_shared[i % 3]);
    }
    /* what is in common ends before a split does, with it, behind it; some go on for two more */
    for (int i = 0; i < 3; i += check_cases) {
        struct shape s = {32, 3, 1, 32, false, false, 5, {545, 1090, 560, 1025, 546}, 1, i == 1 ? 1100 : 0, 0};
        shared_case(t, &s, n_wide[i]);
    }
    struct shape latent = {576, 20, 1, 64, true, false, 4, {70, 95, 65, 66}, 1, 0, 512};
    struct shape narrow = {40, 20, 1, 8, true, false, 4, {70, 95, 65, 66}, 1, 0, 32};
    shared_case(t, check_every > 1 ? &narrow : &latent, 2);
}

/* Attention of the last token over gathered K and V of `topk` random positions. */
static void gather_case(const struct lk_cpu *t, const struct shape *s, int64_t topk)
{
    struct attn_case c;
    case_new(&c, t, s);
    int64_t tok = c.n_tok - 1, n_page = lk_ceil_div(topk, LK_PAGE_TOKENS), n_chosen = 0;
    bool *hidden = check_new((size_t)c.n_tok, sizeof *hidden);
    int32_t *chosen = check_new((size_t)topk, sizeof *chosen), page[8], start = 0, last = (int32_t)(topk - 1);
    memset(c.run, 0, (size_t)c.n_tok * sizeof *c.run);
    free(run(&c, 0, c.n_tok, 32, NULL).data); /* fills the cache */
    for (int64_t j = 0; j <= tok; j++) {
        hidden[j] = (int64_t)(check_random() % (uint32_t)(tok + 1 - j)) >= topk - n_chosen;
        if (!hidden[j])
            chosen[n_chosen++] = (int32_t)j;
    }
    struct lk_attn_item item[MAX_GROUP];
    int64_t n_item = put_items(&c, item, 0, (struct lk_attn_item){.n_tok = 1});
    struct lk_kv to = c.kv;
    to.k = check_new((size_t)n_page, (size_t)to.k_page_bytes);
    to.v = check_new((size_t)n_page, (size_t)to.v_page_bytes);
    memset(to.k, 0xff, (size_t)(n_page * to.k_page_bytes));
    memset(to.v, 0xff, (size_t)(n_page * to.v_page_bytes));
    struct lk_gather gather = {c.kv, to, item, chosen, c.page_start, c.page, topk, n_page};
    CHECK_SPLIT(t->gather, &gather, n_page);
    for (int i = 0; i < 8; i++)
        page[i] = i;
    struct lk_rope_kv rope = {.qkv = c.qkv + tok * c.width,
                              .cos = c.cos + tok * s->n_rot / 2,
                              .sin = c.sin + tok * s->n_rot / 2,
                              .q = check_new(t->q_bytes(1, c.n_head, s->head_dim), 1),
                              .kv = c.kv,
                              .pos = c.pos + tok,
                              .page = c.tok_page + tok,
                              .n_tok = 1,
                              .n_head = c.n_head,
                              .n_rot = s->n_rot,
                              .interleaved = s->interleaved};
    t->rope_kv(&rope, 0, 1);
    struct lk_attend args = {.out = check_act(t, 1, &c.cols),
                             .q = rope.q,
                             .kv = to,
                             .item = item,
                             .n_item = n_item,
                             .n_tok = 1,
                             .n_head = c.n_head,
                             .pos = &last,
                             .page_start = &start,
                             .page = page,
                             .scale = 1.0f / sqrtf((float)s->head_dim)};
    t->attend(&args, 0, n_item);
    float *got = check_new((size_t)c.cols.n_col, sizeof *got);
    t->act_row(&args.out, 0, got);
    c.hidden = hidden;
    check_token(&c, 0, tok, got, NULL);
    free(to.k);
    free(to.v);
    free(rope.q);
    free(args.out.data);
    free(got);
    free(hidden);
    free(chosen);
    case_free(&c);
}

void check_gather(const struct lk_cpu *t)
{
    static const int64_t topk[] = {1, 24, 31, 32, 33, 64, 77};
    for (int i = 0; i < 7; i++) {
        struct shape s = {32, 4, 1, 8, true, false, 1, {90 + 7 * i}, 1, 0, 24};
        gather_case(t, &s, topk[i]);
        struct shape odd = {47, 14, 1, 12, false, false, 1, {90 + 7 * i}, 1, 0, 35};
        gather_case(t, &odd, topk[i]);
    }
}

static void check_windows(const struct lk_cpu *t)
{
    static const int64_t windows[] = {1, 2, 5, 17, 31, 32, 33, 47, 64, 65, 99, 150}, dims[] = {24, 40, 64, 7};
    for (int w = 0; w < 12; w += check_cases) {
        struct shape s = {dims[w % 4], 1 + w % 5,    1 + w % 2, dims[w % 4] / 2 * 2, w % 2 == 1, w % 3 == 1,
                          3,           {149, 33, 5}, 1,         windows[w],          0};
        attn_case(t, &s);
    }
    /* windows that begin in an earlier split, at its end, or two before */
    static const int64_t wide[] = {3, 200, 511, 512, 513, 700, 1029, 2000};
    for (int w = 0; w < 8; w += check_cases) {
        struct shape s = {32, 1 + w % 4, 1, 32, w % 2 == 1, false, 1, {1160}, w % 2 ? 61 : 67, wide[w], 0};
        attn_case(t, &s);
    }
}

void check_attend(const struct lk_cpu *t)
{
    static const int64_t dims[] = {24, 48, 64, 80, 128, 7}, groups[] = {1, 2, 3, 4, 7, 8, 16};
    for (int d = 0; d < 6; d++) {
        for (int g = d % check_cases; g < 7; g += check_cases) {
            struct shape s = {
                dims[d], groups[g], 1 + (d + g) % 3, dims[d] / 2 * 2, g % 2 == 1, d % 2 == 1, 2, {37 + g, 5 + d}, 3,
                0,       0};
            attn_case(t, &s);
        }
    }
    struct shape partial = {64, 3, 2, 20, false, true, 3, {70, 1, 40}, 1, 0, 0};
    attn_case(t, &partial);
    /* GLM's rotation: pairs, in a part of the head; and with norms, at odd sizes */
    struct shape pairs = {128, 4, 1, 64, true, false, 2, {41, 9}, 2, 0, 0};
    attn_case(t, &pairs);
    struct shape odd_pairs = {36, 5, 2, 10, true, true, 2, {33, 4}, 1, 0, 0};
    attn_case(t, &odd_pairs);
    struct shape few_pairs = {24, 2, 2, 12, true, true, 2, {33, 4}, 1, 7, 0};
    attn_case(t, &few_pairs);
    struct shape large = {534, 2, 1, 64, false, false, 1, {40}, 7, 0, 0}; /* several passes over V */
    attn_case(t, &large);
    struct shape split = {64, 3, 1, 64, false, false, 1, {1113}, 97, 0, 0};
    attn_case(t, &split);
    const bool brief = check_every > 1 && strcmp(t->name, "ref") == 0; /* the sanitized reference takes minutes */
    struct shape split_wide = {24, 16, 1, 24, true, false, 1, {530}, 83, 0, 0};
    if (!brief)
        attn_case(t, &split_wide);
    /* a value narrower than its key, of many query heads: latent attention */
    struct shape latent = {32, 4, 1, 8, true, false, 2, {70, 9}, 1, 0, 24};
    attn_case(t, &latent);
    struct shape latent_odd = {47, 14, 1, 12, false, false, 1, {45}, 5, 0, 35};
    attn_case(t, &latent_odd);
    struct shape latent_wide = {576, 20, 1, 64, true, false, 1, {40}, 13, 0, 512};
    if (!brief)
        attn_case(t, &latent_wide);
    struct shape latent_split = {40, 40, 1, 8, true, false, 1, {530}, 173, 0, 32};
    if (!brief)
        attn_case(t, &latent_split);
    check_windows(t);
    check_shared(t);
}
