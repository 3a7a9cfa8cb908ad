/* What the checks of kernels share: random numbers, memory, sets, operands, failures. */
#ifndef KERNELS_TESTS_CHECK_H
#define KERNELS_TESTS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"

/* The most that SwiGLU may be off, relative: in bf16 half a unit of the rounding, and 2^-13 in front of it, what a
 * set's own e^x costs (amx_epilogue.h). */
#define CHECK_SWIGLU_BF16 (0x1p-8 + 0x1p-13)

/* Counts a check; a failed one is printed (the first few of an op) and makes the program end with 1. */
void check_that(int ok, const struct lk_cpu *t, const char *op, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
int check_failures(void);

/* Zeroed, 64-byte aligned, exactly as long as asked for so that a sanitizer sees an access behind it. */
void *check_new(size_t n, size_t size);

/* Of the comparisons that cost most, and of a long list of alike cases, every so many are made. A sanitizer asks what
 * is read and written: there fewer will do, and fewer cases where instructions are modeled. LB_TEST_FULL=1 has all. */
extern int check_every, check_cases;
void check_sample(int modeled);

uint32_t check_random(void);
float check_uniform(float low, float high);
void check_fill(float *x, int64_t n, float low, float high);
/* The same bits, NaN all alike. */
bool check_same_bits(float x, float y);
/* The segments' sums part[0 .. n_seg - 1] in struct lk_linear's order; part is used up. */
float check_tree(const struct lk_cols *c, float *part);
/* As the set stores it: rounded to bf16 where that is its type. */
float check_stored(const struct lk_cpu *t, float x);

/* Segments that begin at begin[0 .. n_seg]. */
void check_cols(struct lk_cols *c, int n_seg, const int64_t *begin);
/* K = n_col in n_seg segments of whole multiples of `unit`, the last ones shorter or empty. */
void check_even_cols(struct lk_cols *c, int64_t n_col, int n_seg, int64_t unit);

struct lk_act check_act(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols);
/* Activations made by the set's norm from random rows; values[n_row, n_col] gets what is in them. */
struct lk_act check_random_act(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols, float *values);

/* Packs w[n_out, n_col]; gate_up: gate rows, then up rows. */
void *check_pack(const struct lk_cpu *t, const float *w, int64_t n_out, const struct lk_cols *cols, int gate_up);

/* The sets of this machine, in f32 and bf16. */
#define CHECK_MAX_SETS 8
int check_sets(struct lk_cpu t[CHECK_MAX_SETS]);

/* Runs fn on [0, n) cut into random ranges, in random order of two halves. */
#define CHECK_SPLIT(fn, args, n)                             \
    do {                                                     \
        int64_t half_ = (n) / 2;                             \
        for (int64_t b_ = half_, e_; b_ < (n); b_ = e_) {    \
            e_ = lk_min(n, b_ + 1 + check_random() % 3);     \
            (fn)(args, b_, e_);                              \
        }                                                    \
        for (int64_t b_ = 0, e_; b_ < half_; b_ = e_) {      \
            e_ = lk_min(half_, b_ + 1 + check_random() % 3); \
            (fn)(args, b_, e_);                              \
        }                                                    \
    } while (0)

void check_linear(const struct lk_cpu *t);
void check_packed(const struct lk_cpu *t);
void check_int8(const struct lk_cpu *t);
void check_w4a8(const struct lk_cpu *t);
void check_screen(const struct lk_cpu *t);
void check_lora(const struct lk_cpu *t);
void check_head(const struct lk_cpu *t);
void check_norm(const struct lk_cpu *t);
void check_round(const struct lk_cpu *t);
void check_gather(const struct lk_cpu *t);
void check_sparse(const struct lk_cpu *t);
void check_latent(const struct lk_cpu *t);
void check_embed(const struct lk_cpu *t);
void check_rope(const struct lk_cpu *t);
void check_attend(const struct lk_cpu *t);
void check_top(const struct lk_cpu *t);
void check_moe(const struct lk_cpu *t);
/* Tries every `every`-th float. */
void check_exp(const struct lk_cpu *t, int every);
void check_bench_packed(const struct lk_cpu *t);
void check_bench_int8(const struct lk_cpu *t);
/* only: "packed", "int8", "qkv", "out", "gate-up", "down", "head", "norm", "attend", or NULL for all; set: its name, or
 * NULL for the last one of this processor. */
void check_bench(const char *only, const char *set);

#endif
