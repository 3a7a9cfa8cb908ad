/* Products of packed weights, the same for every set with register tiles: a piece of a weight panel is unpacked to the
 * first cache, then all activation panels of the item meet it, their sums kept between pieces. So the additions have
 * the order that they have with plain weights. */
#ifndef KERNELS_CPU_LK_PACKED_RUN_H
#define KERNELS_CPU_LK_PACKED_RUN_H

#include "kernels/cpu/lk_packed.h"
#include "kernels/cpu/lk_panels.h"
#include "kernels/cpu/lk_set.h"

/* One activation panel against a piece, or with `two` against a piece of each of two weight panels. */
struct lk_piece {
    const void *a; /* the activation panel at the piece */
    const void *w; /* unpacked: [n, width]; the second panel's follows */
    int64_t n;     /* packed columns, a multiple of LK_BLOCK */
    float *sums;   /* [r, width], or twice as wide */
    int r;
    bool two, begin; /* begin: from zero, not from what is there */
};

/* A finished tile. */
struct lk_packed_sums {
    float *v; /* row i at v + i * ld */
    int ld, r;
    int64_t row, panel;
};

/* What a set gives. */
struct lk_packed_set {
    int rows, width;   /* of a panel of activations at most, of weights */
    int pair_rows;     /* up to so many rows two weight panels at a time, to hide the instruction's latency */
    int64_t band;      /* activation panels of an item at most */
    int64_t piece;     /* packed columns that are unpacked at a time; half of that for two panels */
    size_t elem_bytes; /* of an unpacked number */
    size_t act_bytes;  /* of an activation */
    size_t best_bytes; /* of a row's running best */
    enum lk_type type; /* of what adapters are stored in */
    enum lk_code_order order;
    void (*unpack)(const struct lk_blocks *b, void *out);
    void (*tile)(const struct lk_piece *p);
    /* Unpacks in registers, where rows are that few: two weight panels up to pair_rows, else one. NULL: not that few.
     */
    void (*few)(const struct lk_blocks b[2], const struct lk_piece *p);
    void (*finish)(const struct lk_linear *a, const struct lk_packed_sums *s, void *best);
    void (*best_init)(void *best);
    struct lk_best (*best_finish)(const void *best);
};

/* Memory of a call, on the caller's stack. */
struct lk_packed_memory {
    void *piece; /* piece * width numbers */
    float *sums; /* [LK_TREE_DEPTH, band * rows * width] */
    char *best;  /* band * rows of best_bytes */
};

int64_t lk_packed_items(const struct lk_packed_set *set, const struct lk_linear *a);
void lk_packed_linear(const struct lk_packed_set *set, const struct lk_packed_memory *m, const struct lk_linear *a,
                      int64_t begin, int64_t end);

#endif
