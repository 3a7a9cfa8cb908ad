/* What a run of tile products reads, and what is fetched beside it. */
#ifndef KERNELS_CPU_AMX_AMX_RUN_H
#define KERNELS_CPU_AMX_AMX_RUN_H

#include "kernels/cpu/avx512/lk_avx512.h"

struct lk_amx_run {
    const char *a[2];      /* first block of each panel */
    int64_t a_row;         /* bytes from one row of a panel to the next */
    int64_t a_step[2];     /* bytes from one block to the next */
    const char *w[2];      /* columns: tiles at w[0] and w_next behind, of four then those at w[1] too */
    int64_t w_row, w_next; /* bytes from one row of a tile to the next, from the first tile to the second */
    int64_t w_step;        /* bytes from one block to the next */
    int64_t n_block;
    float *c[2];   /* sums: tiles at c[0] and 16 behind, then those of c[1], the second panel's or of w[1] */
    int64_t c_row; /* bytes from one row of sums to the next */
    bool begin;    /* from zero, not from what is there */
    /* What is fetched meanwhile: the columns themselves, LK_AMX_NEAR blocks before their products, and then[0] and, of
     * four tiles, then[1] behind the last of them; or, where then[0] is NULL, n_ahead lines a block of what will be
     * read later, into the second cache. */
    const char *then[2], *ahead, *ahead_end;
    int n_ahead;
};

/* So near that memory takes longer to answer: what counts is that the processor's own prefetching sees a stream and
 * runs on ahead of it. Fetched a panel ahead, the lines of few rows' weights came half as fast to two threads. */
#define LK_AMX_NEAR 2

/* Two weight panels that one panel of rows meets are fetched as they come. Behind the panels' last run, the ones that
 * are read next: they begin at `next` and at p->w[1] - p->w[0] behind. */
static inline void lk_amx_come_near(struct lk_amx_run *p, bool last, const char *next)
{
    for (int i = 0; i < 2; i++)
        p->then[i] = last ? next + (p->w[i] - p->w[0]) : p->w[i] + p->n_block * p->w_step;
}

/* The operand that comes once while the other one comes again: loaded past the first cache, it leaves that to the other
 * (TILELOADDT1 says that a line need not stay). */
enum lk_amx_once { LK_AMX_ROWS_ONCE, LK_AMX_COLS_ONCE };

struct lk_amx_kind {
    enum lk_amx_once once;
    bool int8;
    bool near; /* then[0] is given */
};

/* Where a run has come to: its tiles, and what is to be fetched, some lines behind each tile that is loaded. All lines
 * of a block at once would find no place to wait in. */
struct lk_amx_at {
    const char *a[2], *w[2], *near[2], *ahead;
    int lines; /* a tile */
};

/* Behind load i of a block. */
LK_INLINE void lk_amx_fetch(const int A, const int B, const int i, const struct lk_amx_kind kind,
                            const struct lk_amx_run *p, struct lk_amx_at *at)
{
    if (!kind.near) {
        for (int line = 0; line < at->lines && at->ahead < p->ahead_end; line++, at->ahead += 64)
            _mm_prefetch(at->ahead, _MM_HINT_T1);
        return;
    }
    const int n = (16 * B + A + B - 1) / (A + B), end = (i + 1) * n < 16 * B ? (i + 1) * n : 16 * B;
#pragma GCC unroll 16
    for (int line = i * n; line < end; line++)
        _mm_prefetch(at->near[line / 32] + line % 32 * 64, _MM_HINT_T0);
}

/* The columns of block `block`, or behind the last one of then[], are fetched next. */
LK_INLINE void lk_amx_go_on(const struct lk_amx_run *p, struct lk_amx_at *at, int64_t block)
{
    for (int i = 0; i < 2; i++)
        at->near[i] = block < p->n_block ? p->w[i] + block * p->w_step : p->then[i] + (block - p->n_block) * p->w_step;
}

LK_INLINE struct lk_amx_at lk_amx_start(const int A, const int B, const struct lk_amx_kind kind,
                                        const struct lk_amx_run *p)
{
    struct lk_amx_at at = {.a = {p->a[0], p->a[1]},
                           .w = {p->w[0], p->w[1]},
                           .ahead = p->ahead,
                           .lines = (p->n_ahead + A + B - 1) / (A + B)};
    if (kind.near)
        lk_amx_go_on(p, &at, LK_AMX_NEAR);
    return at;
}

/* From block i to the next. */
LK_INLINE void lk_amx_step(const struct lk_amx_kind kind, const struct lk_amx_run *p, struct lk_amx_at *at, int64_t i)
{
    for (int k = 0; k < 2; k++) {
        at->a[k] += p->a_step[k];
        at->w[k] += p->w_step;
        if (kind.near)
            at->near[k] += p->w_step;
    }
    if (kind.near && i + 1 + LK_AMX_NEAR == p->n_block)
        lk_amx_go_on(p, at, p->n_block);
}

#endif
