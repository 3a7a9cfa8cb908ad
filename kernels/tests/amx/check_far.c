/* What a product of the set amx fetches far ahead: walks panels as products do and looks at the lines. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/amx/amx_run.h"

enum { UNITS = 5, PARTS = 8 };

struct walk {
    int64_t bytes, n_block; /* of a panel */
    bool two;
    int64_t n_pass;
    unsigned char *n_fetched; /* [lines of all panels] */
    int late;
};

static const char *base; /* no memory is there: it is fetched, never read */

static int64_t unit_bytes(const struct walk *w)
{
    return (1 + w->two) * w->bytes;
}

static void note(struct walk *w, const char *line, int64_t unit, int64_t block)
{
    const int64_t at = line - base, in = at - unit * unit_bytes(w), read = block * (w->bytes / w->n_block);
    if (at < (UNITS + 1) * unit_bytes(w))
        w->n_fetched[at / 64]++;
    if (in < unit_bytes(w) && in % w->bytes < read)
        w->late++;
}

/* A part's blocks, all passes, as lk_amx_run_tiles goes over them. */
static void walk_part(struct walk *w, struct lk_amx_far *far, int64_t unit, int64_t begin, int64_t end)
{
    const struct lk_amx_kind kind = {.once = LK_AMX_COLS_ONCE};
    const struct lk_amx_run p = {.far = far, .n_block = end - begin};
    for (int64_t pass = 0; pass < w->n_pass; pass++) {
        struct lk_amx_at at = lk_amx_start(1, 1, kind, &p);
        at.lines = 1;
        for (int64_t i = begin; i < end; i++)
            for (int line = 0; line < far->n_line; line++) {
                if (at.far < at.far_end)
                    note(w, at.far, unit, i);
                lk_amx_fetch_far(&p, &at);
            }
        far->at = at.far;
    }
}

/* Lines of unit `unit` that were not fetched once, where they are among a page's first ones, or were at all. */
static int64_t wrong_lines(const struct walk *w, int64_t unit, int first)
{
    int64_t n = 0;
    for (int64_t at = unit * unit_bytes(w); at < (unit + 1) * unit_bytes(w); at += 64)
        n += w->n_fetched[at / 64] != (at % LK_AMX_PAGE < first * 64);
    return n;
}

/* A panel of whole pages has each line once; of others only that none is late is asked. */
static int check(int64_t n_col, bool two, int64_t n_pass)
{
    struct walk w = {.bytes = n_col * 64, .n_block = n_col / 32, .two = two, .n_pass = n_pass};
    int64_t wrong = 0;
    int first = 0;
    w.n_fetched = calloc((size_t)((UNITS + 1) * unit_bytes(&w) / 64), 1);
    if (!w.n_fetched)
        return 1;
    for (int64_t unit = 0; unit < UNITS; unit++) {
        const char *panel = base + unit * unit_bytes(&w);
        struct lk_amx_far far = lk_amx_far_of(panel, panel + unit_bytes(&w), w.bytes, two, n_pass, w.n_block);
        first = far.first;
        for (int64_t i = 0; i < PARTS; i++)
            walk_part(&w, &far, unit, w.n_block * i / PARTS, w.n_block * (i + 1) / PARTS);
    }
    for (int64_t unit = 1; unit < UNITS && w.bytes % LK_AMX_PAGE == 0; unit++)
        wrong += wrong_lines(&w, unit, first);
    free(w.n_fetched);
    if (wrong > 0 || w.late > 0)
        printf("%lld columns, %d panels, %lld passes: %lld lines not once, %d late\n", (long long)n_col, 1 + two,
               (long long)n_pass, (long long)wrong, w.late);
    return wrong > 0 || w.late > 0;
}

int main(void)
{
    static const int64_t cols[] = {64, 576, 1536, 2048, 4096, 8192, 14336, 96, 608, 2080};
    int failed = 0, n = 0;
    base = (const char *)(uintptr_t)(1u << 30);
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (int64_t n_pass = 1; n_pass <= 4; n_pass++, n++)
            failed += check(cols[i], false, n_pass);
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++, n++)
        failed += check(cols[i], true, 1);
    printf("far fetches: %d kinds, %d failed\n", n, failed);
    return failed > 0;
}
