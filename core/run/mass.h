/* How likely ids are, in whole numbers: their sums have no order, so that it does not matter who sums what (the row at
 * once, ranks their parts of the vocabulary, candidates alone). */
#ifndef CORE_RUN_MASS_H
#define CORE_RUN_MASS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#define LB_MASS_ONE 1099511627776.0 /* 2^40: the best id's; 2^23 of them sum below 2^63 */

/* Logits as they count: relative to the best, over the temperature; what is below the floor does not. */
struct lb_scale {
    double best, temperature, floor;
};

/* A sum of e^scaled in units of 2^-40, and what that leaves in units of 2^-80. */
struct lb_mass {
    uint64_t hi, lo;
};

/* 0 for the best, falling with the logit. */
static inline double lb_scaled(const struct lb_scale *s, float logit)
{
    return ((double)logit - s->best) / s->temperature;
}

static inline bool lb_above_floor(const struct lb_scale *s, float logit)
{
    return lb_scaled(s, logit) >= s->floor;
}

/* An id's, without the rest. */
static inline uint64_t lb_mass_whole(const struct lb_scale *s, float logit)
{
    return (uint64_t)(int64_t)(exp(lb_scaled(s, logit)) * LB_MASS_ONE); /* signed: one instruction */
}

static inline void lb_mass_add_id(struct lb_mass *m, const struct lb_scale *s, float logit)
{
    double w = exp(lb_scaled(s, logit)) * LB_MASS_ONE;
    int64_t hi = (int64_t)w;
    m->hi += (uint64_t)hi;
    m->lo += (uint64_t)(int64_t)((w - (double)hi) * LB_MASS_ONE);
}

static inline void lb_mass_add(struct lb_mass *m, const struct lb_mass *more)
{
    m->hi += more->hi;
    m->lo += more->lo;
}

/* In units of 2^-40; never falls as the sum grows. */
static inline double lb_mass_value(const struct lb_mass *m)
{
    uint64_t carry = m->lo >> 40;
    return (double)(m->hi + carry) + (double)(m->lo - (carry << 40)) / LB_MASS_ONE;
}

#endif
