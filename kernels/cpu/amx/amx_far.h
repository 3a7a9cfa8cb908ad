/* What is fetched long before it is read: lines of the columns that come next, beside products. */
#ifndef KERNELS_CPU_AMX_AMX_FAR_H
#define KERNELS_CPU_AMX_AMX_FAR_H

#include "kernels/cpu/avx512/lk_avx512.h"

#define LK_AMX_PAGE 4096
#define LK_AMX_PAGE_LINES 64
#define LK_AMX_SMALL_PANEL (64 * 1024)

/* Lines from `at` to `end`, and then from `then` to `then_end`: of each page of 4 KB the first ones. Of two panels that
 * are read at once, the second one `hop` bytes behind the first, pages come in turn, and the ends are the second
 * one's. */
struct lk_amx_far {
    const char *at, *end, *then, *then_end; /* then: NULL behind the first stretch */
    int64_t hop;                            /* 0: one panel */
    int first, turn;                        /* lines of a page; where in it they end, 0: at its end */
    int n_line;                             /* a block of the product */
    bool near;                              /* all lines are fetched a second time, near */
};

/* To the second stretch, where the first is done. */
static inline void lk_amx_far_go_on(struct lk_amx_far *f)
{
    if (f->at < f->end || !f->then)
        return;
    f->at = f->then;
    f->end = f->then_end;
    f->then = NULL;
}

/* From behind the first lines of a page to the next one. */
static inline void lk_amx_far_turn(struct lk_amx_far *f)
{
    const char *page = f->at - f->first * 64, *first_end = f->end - f->hop;
    if (f->hop > 0 && page < first_end) {
        f->at = page + f->hop;
        return;
    }
    f->at = page + LK_AMX_PAGE - f->hop;
    if (f->at >= first_end) {
        f->at = f->end;
        lk_amx_far_go_on(f);
    }
}

/* The lines of so many, a block of a product that meets n_block of them n_pass times. */
static inline int lk_amx_lines(int64_t n, int64_t n_pass, int64_t n_block)
{
    return n_block > 0 ? (int)lk_ceil_div(n, n_pass * n_block) : 0;
}

/* All of the panel that comes next. */
static inline struct lk_amx_far lk_amx_far_whole(const char *next, int64_t bytes, int64_t n_pass, int64_t n_block)
{
    return (struct lk_amx_far){.at = next,
                               .end = next + bytes,
                               .first = LK_AMX_PAGE_LINES,
                               .n_line = lk_amx_lines(bytes / 64, n_pass, n_block)};
}

/* How many bytes of a panel ahead: some pages, for as long as memory takes to answer; where a panel is met by several
 * runs, the first of which reads it, more. What is fetched a whole panel of some hundred KB ahead is not in the second
 * cache any more when its turn comes. Of a small panel the next one's beginning counts most. */
static inline int64_t lk_amx_distance(int64_t n_pass, bool two, int64_t bytes)
{
    const int64_t far = n_pass > 1 ? 128 * 1024 : two ? 2 * LK_AMX_PAGE : 4 * LK_AMX_PAGE;
    return bytes > LK_AMX_SMALL_PANEL ? lk_min(bytes, far) : bytes;
}

/* Rows meet the panel at `panel`, or that and the one behind it, in n_pass runs; the panels at `next` come then. With
 * few runs only the first lines of each page, of which the processor's own prefetching then goes on: the first run
 * fetches all of them near, and in a second one memory would have nothing else to do. */
static inline struct lk_amx_far lk_amx_far_of(const char *panel, const char *next, int64_t bytes, bool two,
                                              int64_t n_pass, int64_t n_block)
{
    const int64_t hop = two ? bytes / LK_AMX_PAGE * LK_AMX_PAGE : 0, d = lk_amx_distance(n_pass, two, bytes);
    const int first = n_pass > 2 ? LK_AMX_PAGE_LINES : n_pass == 2 ? 32 : two ? 24 : 16;
    struct lk_amx_far f = {.at = panel + d,
                           .end = panel + bytes + hop,
                           .then = next,
                           .then_end = next + d + hop,
                           .hop = hop,
                           .first = first,
                           .turn = first * 64 % LK_AMX_PAGE,
                           .n_line = lk_amx_lines((bytes + hop) / LK_AMX_PAGE * first, n_pass, n_block),
                           .near = n_pass == 1 || (n_pass == 2 && bytes > LK_AMX_SMALL_PANEL)};
    if (d == bytes)
        f.at = f.end;
    lk_amx_far_go_on(&f);
    return f;
}

#endif
