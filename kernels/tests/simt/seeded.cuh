/* Small kernels with a bug each, or without, for seeing what the model finds. */
#ifndef KERNELS_TESTS_SEEDED_H
#define KERNELS_TESTS_SEEDED_H

#include <stdint.h>

enum seeded_bug {
    SOUND,
    NO_BARRIER,         /* numbers are read before a barrier after their store */
    ONE_PLACE,          /* two threads store at one place */
    READ_THEN_WRITTEN,  /* the next round's store comes while others may still read */
    NO_WARP_BARRIER,    /* the same inside a warp */
    OFF_BY_ONE_LANE,    /* a shuffle takes the neighbor of the lane that is meant */
    WRONG_FRAGMENT_ROW, /* rows of a fragment of A are swapped */
    NOT_TRANSPOSED,     /* ldmatrix without .trans for a row-major B */
    UNALIGNED,          /* a vector load one element too far */
    PAGE_TOO_FAR,       /* a page behind the last one */
    BEHIND_SHARED,      /* behind the block's shared memory */
    STORE_TO_INPUT,
    OTHER_BARRIER,   /* halves of the block wait at different barriers */
    THREAD_LEFT,     /* a thread leaves before the barrier */
    LANE_LEFT,       /* a lane leaves before the shuffle */
    OTHER_SHUFFLE,   /* lanes meet in different shuffles */
    NEVER_WRITTEN,   /* shared memory as it was found */
    NO_WAIT,         /* cp.async is not waited for */
    WAIT_TOO_LITTLE, /* one group more than allowed is left open */
    WAIT_NO_BARRIER, /* cp.async is waited for by the thread that began it alone */
    ODD_WARP,        /* a launch of 48 threads */
    ONE_HALF,        /* two threads store at one half of a word, others at halves of their own */
    HALF_MISSING,    /* a word is read before another thread has written half of it */
    ALL_READ,        /* a place that all threads read is written without a barrier */
    ADDED_UNSEEN,    /* a thread reads a sum that others still add to */
    ADDED_EARLY,     /* a thread adds to a sum that another one may set to zero later */
    HALF_OF_SUM,     /* a thread stores at half of a word that another one writes */
    HALF_SEEN,       /* a thread writes half of a word and reads the word, which another one reads too */
    WORD_BEHIND,     /* a thread writes a word of which another one reads half */
    READ_AGAIN,      /* lanes read what one has read before a barrier of their warp; that one writes there */
    LAST_LANE,       /* a lane writes behind a barrier of its warp what another one reads */
    COPY_TO_OUTPUT,  /* cp.async to no shared memory */
};

struct seeded {
    const float *x; /* [256] */
    float *y;       /* [256] */
    const int32_t *page;
    enum seeded_bug bug;
};

/* y[i] = x[255 - i] through shared memory, twice. */
int seeded_reverse(const seeded &a);
/* y[i] = the sum of x over the warp of i. */
int seeded_sum(const seeded &a);
/* y[i] = x[16 * page[i / 16] + i % 16], 8 vectors of 4 a warp and round; page has 16 entries. */
int seeded_pages(const seeded &a);
/* y = A B, A the first [16, 16] of x rounded to bf16, B the next [16, 8], row-major; y [16, 8]. */
int seeded_product(const seeded &a);
/* y[i] = x[i], four rounds through two buffers filled by cp.async; two blocks, which leave copies under way. */
int seeded_copies(const seeded &a);
/* y[i] = x[i] through shared memory, half a word a store, counted by atomic additions. */
int seeded_halves(const seeded &a);
/* y[i] = x[i] through shared memory. */
int seeded_words(const seeded &a);

#endif
