/* Rows of Q that go through the pages together see different positions: which of them a split or a page concerns. A
 * row that sees nothing of a split or page takes no part in it, so that its numbers do not depend on its company. */
#ifndef KERNELS_CPU_LK_SPANS_H
#define KERNELS_CPU_LK_SPANS_H

#include "kernels/args.h"
#include "kernels/cpu/lk_panels.h"

#define LK_SPAN_ROWS 64
#define LK_WIDE_DIMS 256

/* Row i sees positions from[i] .. pos[i]; both ascend with the row, pos by at most one. */
struct lk_spans {
    int n;
    int32_t pos[LK_SPAN_ROWS], from[LK_SPAN_ROWS];
};

/* Rows first .. end - 1 see something of a split; it is the first one of those from `begun` on. */
struct lk_split_rows {
    int64_t begin; /* position */
    int first, begun, end;
};

/* Rows first .. end - 1 see something of page number ip. */
struct lk_page_rows {
    int64_t ip;
    int first, end;
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
    return (struct lk_page_rows){p->ip, first, first + lk_panel_rows(parts, i)};
}

/* `group` rows for each of n_tok tokens. */
static inline void lk_spans_init(struct lk_spans *s, const struct lk_attend *a, int64_t tok, int64_t n_tok,
                                 int64_t group)
{
    s->n = (int)(n_tok * group);
    for (int i = 0; i < s->n; i++) {
        s->pos[i] = a->pos[tok + i / group];
        s->from[i] = (int32_t)lk_window_begin(a->window, s->pos[i]);
    }
}

/* for (struct lk_split_rows s = lk_split_start(r); lk_split_next(r, &s);) */
static inline struct lk_split_rows lk_split_start(const struct lk_spans *r)
{
    int64_t first = r->from[0] / LK_SPLIT_TOKENS;
    return (struct lk_split_rows){.begin = (first - 1) * LK_SPLIT_TOKENS};
}

static inline bool lk_split_next(const struct lk_spans *r, struct lk_split_rows *s)
{
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
    return (struct lk_page_rows){from / LK_PAGE_TOKENS - 1, s->first, s->first};
}

static inline bool lk_page_next(const struct lk_spans *r, const struct lk_split_rows *s, struct lk_page_rows *p)
{
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

/* The first page that an item reads. */
static inline int64_t lk_first_page(const struct lk_attend *a, const struct lk_attn_item *item)
{
    return a->page[a->page_start[item->seq] + lk_window_begin(a->window, a->pos[item->tok]) / LK_PAGE_TOKENS];
}

#endif
