/* Which of two ways to do the same work is the faster one: found out by doing it. What a processor is good at may
 * depend on what nobody tells a program, as on whether its threads share a core, and change while it runs. Both ways
 * have the same results.
 *
 * Of every LB_TUNE_CYCLE calls the first LB_TUNE_TRIAL are pairs, one call each way, which take turns in coming first;
 * the way that wins more pairs is taken from there on. Counting pairs, a call during which a thread did not run is
 * worth no more than any other. */
#ifndef CORE_BACKEND_TUNE_H
#define CORE_BACKEND_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#define LB_TUNE_TRIAL 16
#define LB_TUNE_CYCLE 256

struct lb_tune {
    int64_t kind[4]; /* of work, any numbers that say so */
    int n;           /* calls of this cycle */
    int wins;        /* pairs of its trial that true has won, less those that false has */
    double first;    /* what the pair's first call took */
    bool better;
};

/* Those of the kinds of work that came last. All zero: none yet. */
struct lb_tunes {
    struct lb_tune of[32];
    int n, next;
};

/* For kinds: the same for numbers from 1 on that differ by less than twice, with a power of two at one end. */
int64_t lb_tune_size(int64_t n);

/* The one of this kind; a new one may take the place of the oldest. Valid until the next call. */
struct lb_tune *lb_tune_of(struct lb_tunes *t, const int64_t kind[4]);

/* The same; a new one takes `way` first and has its trial later, as it is likely to be better. */
struct lb_tune *lb_tune_likely(struct lb_tunes *t, const int64_t kind[4], bool way);

/* The way that the next call is to take. */
bool lb_tune_way(const struct lb_tune *t);

/* That call took so long for each unit of work. */
void lb_tune_took(struct lb_tune *t, double seconds);

#endif
