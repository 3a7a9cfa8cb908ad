/* Rows of activations in panels of balanced height, as the sets with register tiles have them. */
#ifndef KERNELS_CPU_LK_PANELS_H
#define KERNELS_CPU_LK_PANELS_H

#include "kernels/cpu/lk_cols.h"

/* `tall` panels of r + 1 rows, then panels of r rows. */
struct lk_panels {
    int64_t n, r, tall;
};

/* Panels of at most `most` rows. */
static inline struct lk_panels lk_panels_of(int64_t n_row, int64_t most)
{
    int64_t n = lk_ceil_div(n_row, most);
    return n == 0 ? (struct lk_panels){0, 0, 0} : (struct lk_panels){n, n_row / n, n_row % n};
}

static inline int64_t lk_panel_begin(const struct lk_panels *p, int64_t i)
{
    return i * p->r + lk_min(i, p->tall);
}

static inline int lk_panel_rows(const struct lk_panels *p, int64_t i)
{
    return (int)(p->r + (i < p->tall));
}

/* The panel that holds a row. */
static inline int64_t lk_panel_of(const struct lk_panels *p, int64_t row)
{
    int64_t high = p->tall * (p->r + 1);
    return row < high ? row / (p->r + 1) : p->tall + (row - high) / p->r;
}

#endif
