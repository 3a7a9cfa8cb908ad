/* How likely ids are, in whole numbers: their sums have no order, so that it does not matter who sums what (the row at
 * once, ranks their parts of the vocabulary, candidates alone, a device's threads). Valid as C, C++ and CUDA, and to
 * the last bit the same in all of them: products and sums in f64, none of them contracted, and no function of a
 * library. */
#ifndef KERNELS_MASS_H
#define KERNELS_MASS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define LK_MASS_FN static __host__ __device__ __forceinline__
#else
#define LK_MASS_FN static inline
#endif

#define LK_MASS_ONE 1099511627776.0 /* 2^40: the best id's; 2^23 of them sum below 2^63 */
#define LK_MASS_LEAST (-56.0)       /* what is scaled to less has no mass: e^-56 < 2^-80 */

/* Logits as they count: relative to the best, times 1 / temperature; what is below the floor does not. */
struct lk_mass_scale {
    double best, inverse, floor;
};

/* A sum of e^scaled in units of 2^-40, and what that leaves in units of 2^-80. */
struct lk_mass {
    uint64_t hi, lo;
};

/* How a row's id is drawn, as core/run/sample.h tells it. */
struct lk_draw {
    double inverse; /* 1 / temperature; 0: nothing is drawn */
    double floor;   /* the lowest scaled logit that min_p keeps; -infinity: all */
    double top_p;   /* 1: off */
    double u;       /* in (0, 1) */
    int64_t top_k;  /* 0: off */
};

/* e^x for LK_MASS_LEAST <= x <= 0, at most an ulp off; of another x a number that means nothing. 2^k e^r with |r| <=
 * ln(2) / 2, where (e^r - 1 - r) / r^2 is the polynomial through its values at the ten Chebyshev nodes. */
LK_MASS_FN double lk_mass_exp_above(double x)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: the sum's last bits are a whole number */
    double sum = x * 0x1.71547652b82fep+0 + shift, k = sum - shift;
    double r = (x - k * 0x1.62e42fefap-1) - k * 0x1.cf79abc9e3b3ap-40; /* the first product is exact */
    double r2 = r * r, r4 = r2 * r2;
    double a = 0x1.0000000000001p-1 + 0x1.5555555555556p-3 * r, b = 0x1.5555555553d63p-5 + 0x1.11111111109b3p-7 * r,
           c = 0x1.6c16c1788bd90p-10 + 0x1.a01a01a7c41d5p-13 * r, d = 0x1.a019b90d2ae7ap-16 + 0x1.71de0dae63bb3p-19 * r,
           e = 0x1.289185613a3d6p-22 + 0x1.af38a9b0ec855p-26 * r;
    double y = 1 + (r + r2 * ((a + b * r2) + ((c + d * r2) + e * r4) * r4));
    uint64_t bits, power;
    memcpy(&power, &sum, sizeof power);
    memcpy(&bits, &y, sizeof bits);
    bits += power << 52;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* The same of any x <= 0: 0 below LK_MASS_LEAST. */
LK_MASS_FN double lk_mass_exp(double x)
{
    return x >= LK_MASS_LEAST ? lk_mass_exp_above(x) : 0;
}

/* Bits that order finite logits as numbers: -0 equals 0. */
LK_MASS_FN uint32_t lk_logit_key(float logit)
{
    const float x = logit + 0.0f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* 0 for the best, falling with the logit. */
LK_MASS_FN double lk_scaled(const struct lk_mass_scale *s, float logit)
{
    return ((double)logit - s->best) * s->inverse;
}

LK_MASS_FN bool lk_above_floor(const struct lk_mass_scale *s, float logit)
{
    return lk_scaled(s, logit) >= s->floor;
}

/* An id's, without the rest. */
LK_MASS_FN uint64_t lk_mass_whole(const struct lk_mass_scale *s, float logit)
{
    return (uint64_t)(int64_t)(lk_mass_exp(lk_scaled(s, logit)) * LK_MASS_ONE); /* signed: one instruction */
}

/* w in units of 2^-40. */
LK_MASS_FN void lk_mass_add_units(struct lk_mass *m, double w)
{
    int64_t hi = (int64_t)w;
    m->hi += (uint64_t)hi;
    m->lo += (uint64_t)(int64_t)((w - (double)hi) * LK_MASS_ONE);
}

LK_MASS_FN void lk_mass_add_id(struct lk_mass *m, const struct lk_mass_scale *s, float logit)
{
    lk_mass_add_units(m, lk_mass_exp(lk_scaled(s, logit)) * LK_MASS_ONE);
}

LK_MASS_FN void lk_mass_add(struct lk_mass *m, const struct lk_mass *more)
{
    m->hi += more->hi;
    m->lo += more->lo;
}

/* In units of 2^-40; never falls as the sum grows. */
LK_MASS_FN double lk_mass_value(const struct lk_mass *m)
{
    uint64_t carry = m->lo >> 40;
    return (double)(m->hi + carry) + (double)(m->lo - (carry << 40)) / LK_MASS_ONE;
}

/* Mass that top_p asks for; the best id always stays. */
LK_MASS_FN double lk_mass_share(double top_p, uint64_t total)
{
    double want = top_p * (double)total;
    return want > 1 ? want : 1;
}

#endif
