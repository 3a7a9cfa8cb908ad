/* Rows of Q that go through the pages together see different positions: which of them a split or a page concerns. A
 * row that sees nothing of a split or page takes no part in it, so that its numbers do not depend on its company. */
#ifndef KERNELS_CPU_LK_SPANS_H
#define KERNELS_CPU_LK_SPANS_H

#include "kernels/args.h"
#include "kernels/cpu/lk_panels.h"

#define LK_SPAN_ROWS 64
#define LK_WIDE_DIMS 256

/* Row i sees positions from[i] .. pos[i]; both ascend with the row, pos by at most one. Where the tokens are of
 * sequences of their own (`apart`) that holds for the `group` rows of each: they go through what all have in common
 * together, and through the rest one after the other. */
struct lk_spans {
    int n, group;
    bool apart;
    int64_t n_shared; /* pages; 0: a row does not see all of them */
    int32_t pos[LK_SPAN_ROWS], from[LK_SPAN_ROWS];
};

/* Rows first .. end - 1 see something of a split; it is the first one of those from `begun` on. */
struct lk_split_rows {
    int64_t begin; /* position */
    int first, begun, end;
    int it; /* of tokens apart: whose split it is, -1: all tokens' */
};

/* Rows first .. end - 1 see something of page number ip. */
struct lk_page_rows {
    int64_t ip;
    int first, end;
    int it; /* of tokens apart: whose page it is, -1: all tokens' */
};

/* Positions of a page that a row sees: from .. to - 1. */
struct lk_seen {
    int64_t from, to;
};

/* Rows of an item: as many as products take at once, unless V is wide. Then pages leave the first cache as they are
 * read, and come from the second one to more rows. */
static inline int64_t lk_item_rows(int64_t v_dim, int64_t at_once)
{
    return v_dim > LK_WIDE_DIMS ? LK_SPAN_ROWS : at_once;
}

/* Part i of the rows of a page, which products take at once. */
static inline struct lk_page_rows lk_page_part(const struct lk_page_rows *p, const struct lk_panels *parts, int64_t i)
{
    int first = p->first + (int)lk_panel_begin(parts, i);
    return (struct lk_page_rows){p->ip, first, first + lk_panel_rows(parts, i), p->it};
}

static inline void lk_spans_init(struct lk_spans *s, const struct lk_attend *a, const struct lk_attn_item *item)
{
    s->group = item->n_head;
    s->n = item->n_tok * s->group;
    s->apart = item->n_shared > 0 && item->n_tok > 1;
    s->n_shared = s->apart ? item->n_shared : 0;
    for (int it = 0; it < item->n_tok; it++) {
        const int32_t pos = a->pos[item->tok + it], from = (int32_t)lk_window_begin(a->window, pos);
        if (from > 0)
            s->n_shared = 0;
        for (int i = it * s->group; i < (it + 1) * s->group; i++) {
            s->pos[i] = pos;
            s->from[i] = from;
        }
    }
}

/* for (struct lk_split_rows s = lk_split_start(r); lk_split_next(r, &s);) */
static inline struct lk_split_rows lk_split_start(const struct lk_spans *r)
{
    int64_t first = r->apart ? 0 : r->from[0] / LK_SPLIT_TOKENS;
    return (struct lk_split_rows){.begin = (first - 1) * LK_SPLIT_TOKENS, .it = -1};
}

/* Splits that begin within what tokens have in common are everybody's; then come those of one token after the other. */
static inline bool lk_split_next_apart(const struct lk_spans *r, struct lk_split_rows *s)
{
    const int64_t n_own = lk_ceil_div(r->n_shared * LK_PAGE_TOKENS, LK_SPLIT_TOKENS);
    s->begin += LK_SPLIT_TOKENS;
    if (s->it < 0 && s->begin < n_own * LK_SPLIT_TOKENS) {
        s->end = r->n;
        s->begun = s->begin == 0 ? 0 : r->n;
        return true;
    }
    while (s->it < 0 || s->begin > r->pos[s->it * r->group]) {
        if (++s->it * r->group == r->n)
            return false;
        int64_t first = r->from[s->it * r->group] / LK_SPLIT_TOKENS;
        s->begin = (first > n_own ? first : n_own) * LK_SPLIT_TOKENS;
    }
    s->first = s->it * r->group;
    s->end = s->first + r->group;
    s->begun = s->begin <= r->from[s->first] ? s->first : s->end;
    return true;
}

static inline bool lk_split_next(const struct lk_spans *r, struct lk_split_rows *s)
{
    if (r->apart)
        return lk_split_next_apart(r, s);
    s->begin += LK_SPLIT_TOKENS;
    if (s->begin > r->pos[r->n - 1])
        return false;
    while (r->pos[s->first] < s->begin)
        s->first++;
    s->begun = s->end > s->first ? s->end : s->first;
    while (s->end < r->n && r->from[s->end] < s->begin + LK_SPLIT_TOKENS)
        s->end++;
    return true;
}

/* for (struct lk_page_rows p = lk_page_start(r, s); lk_page_next(r, s, &p);) */
static inline struct lk_page_rows lk_page_start(const struct lk_spans *r, const struct lk_split_rows *s)
{
    int64_t from = r->from[s->first] > s->begin ? r->from[s->first] : s->begin;
    return (struct lk_page_rows){from / LK_PAGE_TOKENS - 1, s->first, s->first, s->it};
}

/* Of everybody's splits first the pages that are everybody's too. */
static inline bool lk_page_next_apart(const struct lk_spans *r, const struct lk_split_rows *s, struct lk_page_rows *p)
{
    const int64_t end = s->begin + LK_SPLIT_TOKENS;
    ++p->ip;
    if (p->it < 0 && p->ip < r->n_shared && p->ip * LK_PAGE_TOKENS < end) {
        p->end = s->end;
        return true;
    }
    for (;; p->it++) {
        if (p->it >= 0 && p->ip * LK_PAGE_TOKENS < lk_min(end, r->pos[p->it * r->group] + 1)) {
            p->first = p->it * r->group;
            p->end = p->first + r->group;
            return true;
        }
        if ((p->it + 1) * r->group >= s->end)
            return false;
        p->ip = r->n_shared;
    }
}

static inline bool lk_page_next(const struct lk_spans *r, const struct lk_split_rows *s, struct lk_page_rows *p)
{
    if (r->apart)
        return lk_page_next_apart(r, s, p);
    int64_t end = lk_min(s->begin + LK_SPLIT_TOKENS, r->pos[s->end - 1] + 1), begin = ++p->ip * LK_PAGE_TOKENS;
    if (begin >= end)
        return false;
    while (r->pos[p->first] < begin)
        p->first++;
    while (p->end < s->end && r->from[p->end] < begin + LK_PAGE_TOKENS)
        p->end++;
    return true;
}

/* Positions of a page up to the last one that any of its rows sees. */
static inline int64_t lk_page_most(const struct lk_spans *r, const struct lk_page_rows *p)
{
    return lk_min(LK_PAGE_TOKENS, r->pos[p->end - 1] + 1 - p->ip * LK_PAGE_TOKENS);
}

/* Whether each row of a page sees all of it. */
static inline bool lk_page_whole(const struct lk_spans *r, const struct lk_page_rows *p)
{
    int64_t begin = p->ip * LK_PAGE_TOKENS;
    return r->pos[p->first] + 1 >= begin + LK_PAGE_TOKENS && r->from[p->end - 1] <= begin;
}

static inline struct lk_seen lk_seen_of(const struct lk_spans *r, int64_t ip, int row)
{
    int64_t begin = ip * LK_PAGE_TOKENS;
    return (struct lk_seen){r->from[row] - begin, r->pos[row] + 1 - begin};
}

/* Where a page of an item is, counted in pages of the layer. */
static inline int64_t lk_page_at(const struct lk_attend *a, const struct lk_attn_item *item, int64_t kv_head,
                                 const struct lk_page_rows *p)
{
    const int32_t *page = a->page + a->page_start[item->seq + (p->it > 0 ? p->it : 0)];
    return page[p->ip] * a->kv.n_kv_head + kv_head;
}

/* What a thread reads behind an item: the first two pages of the next one, as lk_page_at counts. */
struct lk_pages_after {
    int64_t page[2];
};

/* The same of the k-th page that is read behind it, 1 or 2: of the sequence, or else of those after it. */
static inline int64_t lk_page_behind(const struct lk_attend *a, const struct lk_attn_item *item, int64_t kv_head,
                                     const struct lk_page_rows *p, int k, const struct lk_pages_after *after)
{
    const int64_t last = a->pos[item->tok + (p->it < 0 ? item->n_tok - 1 : p->it)] / LK_PAGE_TOKENS;
    const struct lk_page_rows behind = {p->ip + k, p->first, p->end, p->it};
    return behind.ip <= last ? lk_page_at(a, item, kv_head, &behind) : after->page[p->ip + k - 1 > last];
}

/* Behind item i, for the thread that has the items up to end - 1: between its ranges lie skip_items of other threads.
 * Of the same item again where there is no other. */
static inline struct lk_pages_after lk_pages_after(const struct lk_attend *a, int64_t i, int64_t end)
{
    const int64_t next = i + 1 < end ? i + 1 : end + a->skip_items;
    const struct lk_attn_item *item = &a->item[next < a->n_item ? next : i];
    const int64_t pos = a->pos[item->tok]; /* of its first token, whose sequence item->seq is in any case */
    const int64_t first = lk_window_begin(a->window, (int32_t)pos) / LK_PAGE_TOKENS, last = pos / LK_PAGE_TOKENS;
    struct lk_pages_after after;
    for (int k = 0; k < 2; k++) {
        const struct lk_page_rows p = {lk_min(first + k, last), 0, 0, -1};
        after.page[k] = lk_page_at(a, item, item->head / (a->n_head / a->kv.n_kv_head), &p);
    }
    return after;
}

#endif
