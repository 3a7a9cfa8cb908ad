/* Causal attention over the paged cache: the walk of avx512_softmax.h, products by tiles. An item's rows (query heads
 * of one KV head, of one or several tokens) go through a split together, up to 32 at once: first all scores, as two
 * panels of a tile's height, then each panel's sums of p . V, which stay in tiles over all pages while the vector units
 * turn the next page's scores into p. What happens to a row depends on that row alone. Rotation and the write into the
 * cache are AVX-512's. */
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/amx/amx_softmax.h"

#define PAGE LK_PAGE_TOKENS
#define ROWS LK_SCORE_ROWS
#define PAGES ((struct lk_amx_kind){.once = LK_AMX_COLS_ONCE, .pages = true})
#define PAGES_NEAR ((struct lk_amx_kind){.once = LK_AMX_COLS_ONCE, .near = true})
#define WIDE 128 /* dimensions of V above which two panels are summed together */

static int64_t attn_rows(int64_t v_dim)
{
    return lk_item_rows(v_dim, ROWS);
}

static size_t q_bytes(int64_t n_tok, int64_t n_head, int64_t head_dim)
{
    return (size_t)(n_tok * n_head * LK_AMX_DIMS(head_dim)) * sizeof(uint16_t);
}

static size_t k_page_bytes(int64_t head_dim)
{
    return (size_t)(LK_AMX_DIMS(head_dim) * PAGE) * sizeof(uint16_t);
}

static void rope_kv(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    lk_avx512_rope_words(a, LK_AMX_DIMS(a->kv.head_dim) / 2, begin, end);
}

/* Pages ip .. ip + n - 1 of a split, which rows first .. end - 1 see something of. */
struct span {
    struct lk_page_rows p;
    int64_t n;
};

/* Rows from `first` on are all in one span as a rule: a window or the end of a page cuts them, each page into one span
 * at most; tokens apart have one together, and one each. */
struct spans {
    int first, end, n;
    struct span at[1 + ROWS];
};

static void cut(const struct lk_rows *r, const struct lk_split_rows *s, struct spans *x)
{
    x->n = 0;
    for (struct lk_page_rows p = lk_page_start(&r->see, s); lk_page_next(&r->see, s, &p);) {
        const int first = p.first > x->first ? p.first : x->first, end = p.end < x->end ? p.end : x->end;
        struct span *last = &x->at[x->n - (x->n > 0)];
        if (first >= end)
            continue;
        if (x->n > 0 && last->p.first == first && last->p.end == end && last->p.it == p.it)
            last->n++;
        else
            x->at[x->n++] = (struct span){{p.ip, first, end, p.it}, 1};
    }
}

/* Page j of a span. */
static struct lk_page_rows page_of(const struct span *x, int64_t j)
{
    struct lk_page_rows p = x->p;
    p.ip += j;
    return p;
}

static void fetch(const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch(from + i, _MM_HINT_T1);
}

/* What is read soon, into the first cache. */
static void fetch_soon(const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch(from + i, _MM_HINT_T0);
}

static void configure(const struct lk_rows *r, int n)
{
    lk_amx_configure(r->own, n < LK_AMX_ROWS ? n : LK_AMX_ROWS, n > LK_AMX_ROWS ? n - LK_AMX_ROWS : 0);
}

/* One panel of rows is quicker than memory. It reads K of all pages of a span, then V of them, then K of what comes
 * behind: in this order the page two further on is fetched, through scores and sums alike. */
static bool is_quick(const struct span *x)
{
    return x->p.end - x->p.first <= LK_AMX_ROWS;
}

struct near {
    const char *at;
    int64_t bytes;
};

/* The i-th page in that order. */
static struct near near_page(const struct lk_rows *r, const struct span *x, int64_t i)
{
    const struct lk_kv *kv = &r->a->kv;
    const int64_t n_own = r->dim == 0 ? 2 * x->n : x->n; /* V of later passes is here */
    const struct lk_page_rows p = page_of(x, i < n_own ? i % x->n : x->n - 1);
    if (i < n_own && i >= x->n)
        return (struct near){(const char *)kv->v + lk_rows_page(r, &p) * kv->v_page_bytes, kv->v_page_bytes};
    const int64_t at = i < n_own ? lk_rows_page(r, &p) : lk_rows_page_behind(r, &p, 1 + (int)lk_min(1, i - n_own));
    return (struct near){(const char *)kv->k + at * kv->k_page_bytes, kv->k_page_bytes};
}

static void fetch_near(const struct lk_rows *r, const struct span *x, int64_t i)
{
    const struct near page = near_page(r, x, i);
    fetch_soon(page.at, page.bytes);
}

/* Scores of page j, of one panel alone those of `pages` pages. */
static void score_pages(const struct lk_rows *r, const struct span *x, int64_t j, int pages, struct lk_scores *b)
{
    const int n = x->p.end - x->p.first;
    const struct lk_kv *kv = &r->a->kv;
    const char *k = (const char *)kv->k;
    const struct lk_page_rows p = page_of(x, j), last = page_of(x, j + pages - 1);
    float *to = lk_scores_at(b, x->p.first, p.ip);
    const int64_t at = lk_rows_page(r, &p), at_last = lk_rows_page(r, &last);
    const uint32_t *q = r->q + x->p.first * r->n_word;
    struct lk_amx_run run = {
        .a = {(const char *)q, (const char *)(q + LK_AMX_ROWS * r->n_word)},
        .a_row = r->n_word * 4,
        .a_step = {64, 64},
        .w = {k + at * kv->k_page_bytes, k + at_last * kv->k_page_bytes},
        .w_row = PAGE * 4,
        .w_next = 64,
        .w_step = 16 * PAGE * 4,
        .n_block = r->n_word / 16,
        .c = {to, n > LK_AMX_ROWS ? to + LK_AMX_ROWS * LK_SCORE_LD : to + PAGE},
        .c_row = LK_SCORE_LD * 4,
        .begin = true,
    };
    const char *behind = k + lk_rows_page_behind(r, &last, 1) * kv->k_page_bytes;
    struct lk_amx_far far = {.at = behind, .end = behind + kv->k_page_bytes, .first = LK_AMX_PAGE_LINES, .n_line = 32};
    run.far = is_quick(x) ? NULL : &far;
    if (n > LK_AMX_ROWS) {
        lk_amx_run_tiles(2, 2, PAGES, &run);
    } else if (pages > 1) {
        for (int i = 0; i < 2; i++)
            run.then[i] = near_page(r, x, j + 2 + i).at;
        lk_amx_run_tiles(1, 4, PAGES_NEAR, &run);
    } else {
        fetch_near(r, x, j + 1);
        fetch_near(r, x, j + 2);
        lk_amx_run_tiles(1, 2, PAGES, &run);
    }
}

/* The largest scores of pages begin .. end - 1 of a span. */
static void find_most(const struct lk_rows *r, const struct span *x, struct lk_scores *b, int64_t begin, int64_t end)
{
    for (int64_t j = begin; j < end; j++) {
        struct lk_page_rows p = page_of(x, j);
        lk_scores_most(r, b, &p);
    }
}

/* Scores of a span, and the largest of each row: of a page while the products of the next one run. */
static void score_span(const struct lk_rows *r, const struct span *x, struct lk_scores *b)
{
    const int n = x->p.end - x->p.first, step = n > LK_AMX_ROWS ? 1 : 2;
    configure(r, n);
    for (int64_t j = 0; j < x->n; j += step) {
        score_pages(r, x, j, (int)lk_min(step, x->n - j), b);
        if (j > 0)
            find_most(r, x, b, j - step, j);
    }
    find_most(r, x, b, (x->n - 1) / step * step, x->n);
}

/* Sums of p . V of one panel of a span by 64 dimensions of V, or of both by 32, from dimension dim on. */
struct values {
    const struct lk_rows *r;
    const struct span *x;
    struct lk_scores *b;
    struct lk_sums *o;
    int first, n; /* rows */
    int64_t dim;
    bool begin; /* from zero */
    bool weigh; /* p is not there yet */
};

/* While a page is weighed for the first rows that see it, V of it is fetched. */
static void fetch_beside(const struct values *v, const struct lk_page_rows *p)
{
    const struct lk_kv *kv = &v->r->a->kv;
    if (v->first == v->x->p.first && v->r->dim == 0 && !is_quick(v->x))
        fetch((const char *)kv->v + lk_rows_page(v->r, p) * kv->v_page_bytes, kv->v_page_bytes);
}

static void weigh(const struct values *v, int64_t j)
{
    const struct lk_page_rows p = page_of(v->x, j);
    fetch_beside(v, &p);
    lk_scores_weigh(v->b, p.ip, v->first, v->n, v->o->soft + v->first, v->r->scale);
}

#define NEAR_BYTES 4096 /* that four tiles fetch of a page; the rest at once */

static void near_values(const struct values *v, int64_t j, struct lk_amx_at *of)
{
    const struct near page = near_page(v->r, v->x, v->x->n + j + 2);
    of->near[0] = page.at;
    of->near[1] = page.at + NEAR_BYTES / 2;
    fetch_soon(page.at + NEAR_BYTES, page.bytes - NEAR_BYTES);
}

/* A panels by B tiles. A page is weighed in front of the products of the one before it, so that they find theirs in the
 * first cache. Behind a token's position its probability is 0 and V is a number. */
LK_INLINE void sum_pages(const int A, const int B, const struct values *v)
{
    const struct lk_rows *r = v->r;
    const struct lk_kv *kv = &r->a->kv;
    float *out = v->o->out + v->first * r->n_dim + v->dim;
    const struct lk_amx_run run = {
        .a_row = LK_SCORE_LD * 4,
        .w_row = LK_V_DIMS(kv->v_dim) * 4,
        .w_next = 64,
        .c = {out, A > 1 ? out + LK_AMX_ROWS * r->n_dim : out + 32},
        .c_row = r->n_dim * 4,
        .begin = v->begin,
    };
    __asm__ volatile("" : : : "memory"); /* tile loads do not tell the compiler that they read memory */
    lk_amx_take_sums(A, B, &run);
    const bool near = v->weigh && is_quick(v->x);
    for (int64_t j = v->weigh ? -1 : 0; j < v->x->n; j++) {
        if (v->weigh && j + 1 < v->x->n)
            weigh(v, j + 1);
        if (j < 0)
            continue;
        const struct lk_page_rows page = page_of(v->x, j);
        const float *p = lk_scores_at(v->b, v->first, page.ip);
        const char *at = (const char *)kv->v + lk_rows_page(r, &page) * kv->v_page_bytes + (r->dim + v->dim) * 4;
        struct lk_amx_at of = {.a = {(const char *)p, (const char *)(p + LK_AMX_ROWS * LK_SCORE_LD)},
                               .w = {at, at + 128}};
        __asm__ volatile("" : : : "memory");
        if (near && A == 1 && B == 4) {
            near_values(v, j, &of);
            lk_amx_block(A, B, PAGES_NEAR, &run, &of);
            continue;
        }
        if (near)
            fetch_near(r, v->x, v->x->n + j + 2);
        lk_amx_block(A, B, PAGES, &run, &of);
    }
    lk_amx_put_sums(A, B, &run);
}

/* Returns how many dimensions it took. */
static int64_t sum_pass(const struct values *v)
{
    const int pair = v->n > LK_AMX_ROWS;
    const int64_t n = lk_min(pair ? 32 : 64, v->r->n_dim - v->dim);
    if (pair && n == 32)
        sum_pages(2, 2, v);
    else if (pair)
        sum_pages(2, 1, v);
    else if (n == 64)
        sum_pages(1, 4, v);
    else if (n == 48)
        sum_pages(1, 3, v);
    else if (n == 32)
        sum_pages(1, 2, v);
    else
        sum_pages(1, 1, v);
    return n;
}

/* out[n, n_dim] += p[n, 32] . V over the pages of a span, from zero if `begin`. A panel at a time has most products
 * beside the first pass, which weighs; over a wide V the other passes count, and two panels share what they load. */
static void sum_span(const struct lk_rows *r, const struct span *x, struct lk_scores *b, struct lk_sums *o, bool begin)
{
    const int at_once = r->n_dim > WIDE ? ROWS : LK_AMX_ROWS;
    for (int first = x->p.first; first < x->p.end; first += at_once) {
        struct values v = {r, x, b, o, first, (int)lk_min(at_once, x->p.end - first), 0, begin, true};
        configure(r, v.n);
        for (; v.dim < r->n_dim; v.weigh = false)
            v.dim += sum_pass(&v);
    }
}

static void take_split(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *o)
{
    struct lk_scores b;
    struct spans x;
    const struct lk_panels parts = lk_panels_of(s->end - s->first, ROWS);
    b.begin = s->begin;
    for (int64_t i = 0; i < parts.n; i++) {
        b.first = x.first = s->first + (int)lk_panel_begin(&parts, i);
        x.end = x.first + lk_panel_rows(&parts, i);
        cut(r, s, &x);
        lk_scores_start(&b, x.end - x.first);
        for (int j = 0; j < x.n; j++)
            score_span(r, &x.at[j], &b);
        lk_scores_begin(r, &b, x.end, o);
        if (x.n > 1)
            memset(o->out + x.first * r->n_dim, 0, (size_t)((x.end - x.first) * r->n_dim) * sizeof(float));
        for (int j = 0; j < x.n; j++)
            sum_span(r, &x.at[j], &b, o, x.n == 1);
    }
    for (int i = s->first; i < s->end; i++)
        o->soft[i].sum = _mm512_reduce_add_ps(_mm512_loadu_ps(o->soft[i].lane_sum));
}

/* A head's rows of one panel of the output at a time. */
static void put_rows(const struct lk_rows *r, const struct lk_sums *o)
{
    const struct lk_attn_item *item = r->item;
    const struct lk_panels panels = lk_panels_of(r->a->out.n_row, LK_AMX_ROWS);
    const int64_t n = lk_min(LK_ATTN_DIMS, r->a->kv.v_dim - r->dim);
    for (int64_t it = 0, some; it < item->n_tok; it += some) {
        const int64_t row = item->tok + it, next = lk_panel_begin(&panels, lk_panel_of(&panels, row) + 1);
        some = lk_min(item->n_tok - it, next - row);
        for (int ih = 0; ih < item->n_head; ih++) {
            const float *v = o->out + (it * item->n_head + ih) * r->n_dim;
            const struct lk_amx_rows from = {v, item->n_head * r->n_dim, row, (int)some};
            int64_t col;
            const struct lk_act out = lk_head_out(r->a, item->head + ih, &col);
            lk_amx_put(&out, &from, col + r->dim, n);
        }
    }
}

static void attend(const struct lk_attend *a, int64_t begin, int64_t end)
{
    struct lk_amx_shape shape = {0, 0};
    struct lk_attend_set set = {LK_AMX_DIMS(a->kv.head_dim) / 2, take_split, put_rows, &shape};
    lk_attend_items(&set, a, begin, end);
    _tile_release(); /* else each context switch of the thread would carry eight tiles */
}

void lk_amx_attend_init(struct lk_cpu *t)
{
    t->q_bytes = q_bytes;
    t->k_page_bytes = k_page_bytes;
    t->rope_kv = rope_kv;
    t->attn_rows = attn_rows;
    t->attend = attend;
}
