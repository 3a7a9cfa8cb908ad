/* What a run of tile products reads, and what is fetched beside it. */
#ifndef KERNELS_CPU_AMX_AMX_RUN_H
#define KERNELS_CPU_AMX_AMX_RUN_H

#include "kernels/cpu/amx/amx_far.h"

struct lk_amx_run {
    const char *a[3];      /* first block of each panel */
    int64_t a_row;         /* bytes from one row of a panel to the next */
    int64_t a_step[3];     /* bytes from one block to the next */
    const char *w[2];      /* columns: tiles at w[0] and w_next behind, of four then those at w[1] too */
    int64_t w_row, w_next; /* bytes from one row of a tile to the next, from the first tile to the second */
    int64_t w_step;        /* bytes from one block to the next */
    int64_t n_block;
    float *c[3]; /* sums: tiles at c[0] and 16 behind, then those of c[1], the second panel's or of w[1], and of c[2] */
    int64_t c_row; /* bytes from one row of sums to the next */
    bool begin;    /* from zero, not from what is there */
    /* What is fetched meanwhile: unless then[0] is NULL the columns themselves, LK_AMX_NEAR blocks before their
     * products, and then[0] and, of four tiles, then[1] behind the last of them; and what will be read later. */
    const char *then[2];
    struct lk_amx_far *far; /* NULL: nothing; goes on with each run */
};

/* So near that memory takes longer to answer: what counts is that the processor's own prefetching sees a stream and
 * runs on ahead of it. It does not run on into the next page of 4 KB, whose first lines it would need to be on their
 * way by then: these are fetched far ahead. With all lines a panel ahead, those of few rows' weights came half as fast
 * to two threads; without the pages' first ones, a tenth slower. */
#define LK_AMX_NEAR 2

/* Columns are fetched as they come. Behind their last run, the ones that are read next: they begin at `next` and, of
 * two panels, at p->w[1] - p->w[0] behind. */
static inline void lk_amx_come_near(struct lk_amx_run *p, bool last, const char *next)
{
    for (int i = 0; i < 2; i++)
        p->then[i] = last ? next + (p->w[i] - p->w[0]) : p->w[i] + p->n_block * p->w_step;
}

/* The operand that comes once while the other one comes again: loaded past the first cache, it leaves that to the other
 * (TILELOADDT1 says that a line need not stay). LK_AMX_ROWS_NEAR: rows that come once are fetched into the first cache
 * a block before. Threads of one core take turns at loading tiles and multiplying them, and a tile that comes from the
 * second cache makes both wait: 1.05 to 1.2 times as fast there, 0.8 to 0.9 on a core of one's own. */
enum lk_amx_once { LK_AMX_ROWS_ONCE, LK_AMX_ROWS_NEAR, LK_AMX_COLS_ONCE };

struct lk_amx_kind {
    enum lk_amx_once once;
    bool int8;
    bool near;  /* then[0] is given */
    bool pages; /* runs of few blocks, with little between their loads */
};

/* Where a run has come to: its tiles, and what is to be fetched, some lines behind each tile that is loaded. All lines
 * of a block at once would find no place to wait in. */
struct lk_amx_at {
    const char *a[3], *w[2], *near[2], *far, *far_end;
    int lines; /* of what is far, a tile */
};

/* Where little lies between tile loads, one thread of a core fills with them and with the products that wait for them
 * what it shares with the other. Eight instructions that do nothing keep it from that: attention of prompts 1.07 times
 * as fast on one core, the same on a core of one's own. */
LK_INLINE void lk_amx_pause(void)
{
    __asm__ volatile(".rept 8\n\tnop\n\t.endr");
}

/* Far lines of a tile. They are counted here: a run that wrote them back one by one would wait for itself. */
LK_INLINE void lk_amx_fetch_far(const struct lk_amx_run *p, struct lk_amx_at *at)
{
    for (int line = 0; line < at->lines && at->far < at->far_end; line++) {
        _mm_prefetch(at->far, _MM_HINT_T1);
        at->far += 64;
        if ((uintptr_t)at->far % LK_AMX_PAGE != (uintptr_t)p->far->turn)
            continue;
        p->far->at = at->far;
        lk_amx_far_turn(p->far);
        at->far = p->far->at;
        at->far_end = p->far->end;
    }
}

/* Behind load i of a block. */
LK_INLINE void lk_amx_fetch(const int A, const int B, const int i, const struct lk_amx_kind kind,
                            const struct lk_amx_run *p, struct lk_amx_at *at)
{
    lk_amx_fetch_far(p, at);
    if (kind.pages)
        lk_amx_pause();
    if (kind.once == LK_AMX_ROWS_NEAR) /* two panels by two tiles: a panel's 16 lines in two halves */
#pragma GCC unroll 8
        for (int line = i % 2 * 8; line < i % 2 * 8 + 8; line++)
            _mm_prefetch(at->a[i / 2] + p->a_step[i / 2] + line * 64, _MM_HINT_T0);
    if (!kind.near)
        return;
    const int n = (16 * B + A + B - 1) / (A + B), end = (i + 1) * n < 16 * B ? (i + 1) * n : 16 * B;
#pragma GCC unroll 16
    for (int line = i * n; line < end; line++)
        /* next to two panels of rows they would not stay in the first cache */
        _mm_prefetch(at->near[line / 32] + line % 32 * 64, A > 1 ? _MM_HINT_T1 : _MM_HINT_T0);
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
    struct lk_amx_at at = {.a = {p->a[0], p->a[1], p->a[2]}, .w = {p->w[0], p->w[1]}};
    if (p->far) {
        lk_amx_far_go_on(p->far);
        at.far = p->far->at;
        at.far_end = p->far->end;
        at.lines = (p->far->n_line + A + B - 1) / (A + B);
    }
    if (kind.near)
        lk_amx_go_on(p, &at, LK_AMX_NEAR);
    return at;
}

/* From block i to the next. */
LK_INLINE void lk_amx_step(const struct lk_amx_kind kind, const struct lk_amx_run *p, struct lk_amx_at *at, int64_t i)
{
    at->a[2] += p->a_step[2];
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
