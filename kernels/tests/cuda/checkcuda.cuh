/* Checks of CUDA kernels against the reference set, on the model or on a device: the same sources for both. */
#ifndef KERNELS_TESTS_CHECKCUDA_H
#define KERNELS_TESTS_CHECKCUDA_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

extern "C" {
#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"
}

#include "kernels/cuda/lk_cuda_attend.h"

/* ---- the device's memory: dev_simt.cu or dev_cuda.cu ---- */

void *dev_alloc(size_t bytes, bool writable);
void dev_free(void *p);
void dev_write(void *to, const void *from, size_t bytes);
void dev_read(void *to, const void *from, size_t bytes);
/* Waits for the device; what its last error was, or NULL. */
const char *dev_error(int code);
/* The model alone: what a block of the next launches may have; else a device that has less refuses the launch. */
void dev_limit_shared(size_t bytes);
/* The model alone: a line "kernel THREADS SHARED NAME" for each that was launched. */
void dev_print_kernels(void);

template <typename T> using host = std::vector<T>;

/* An array on the device. Made from values it can only be read by kernels; made by length it begins as all ones, which
 * is NaN: a number that nobody writes shows. */
template <typename T> struct dev {
    T *p;
    size_t n;
    explicit dev(const host<T> &v) : p((T *)dev_alloc(v.size() * sizeof(T), false)), n(v.size())
    {
        dev_write(p, v.data(), n * sizeof(T));
    }
    explicit dev(int64_t count) : p((T *)dev_alloc((size_t)count * sizeof(T), true)), n((size_t)count)
    {
        host<T> ones(n);
        if (n > 0)
            memset((void *)ones.data(), 0xff, n * sizeof(T));
        dev_write(p, ones.data(), n * sizeof(T));
    }
    dev(const dev &) = delete;
    ~dev()
    {
        dev_free(p);
    }
    void put(const host<T> &v)
    {
        dev_write(p, v.data(), n * sizeof(T));
    }
    host<T> get() const
    {
        host<T> v(n);
        dev_read((void *)v.data(), p, n * sizeof(T));
        return v;
    }
};

/* ---- what all checks use ---- */

/* Counts; a failed one is printed and makes the program end with 1. */
void check(bool ok, const char *op, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A launch that has to go well. */
void check_launch(int code, const char *op);
/* Whether the longer form of a check is wanted (LB_TEST_FULL=1, or a device). */
bool check_full(void);
/* Whether few and short cases will do, as a sanitizer asks (--brief). */
bool check_brief(void);

uint32_t random_bits(void);
float random_in(float low, float high);
host<float> random_row(int64_t n, float low, float high);

/* A spread of sums in double: |a - b| within rel * size + abs. */
bool is_near(double a, double b, double size, double rel);
/* Two numbers that were rounded to `type`: equal, or neighbors, or within the f32 tolerance. */
bool is_close(float a, float b, enum lk_type type);

/* K = n_col in n_seg segments of whole multiples of `unit`. */
struct lk_cols even_cols(int64_t n_col, int n_seg, int64_t unit);

/* The reference set of a type. */
const struct lk_cpu *ref_set(enum lk_type type);

/* A number as it is stored. */
static inline float stored(const uint16_t *x, int64_t i)
{
    return lk_widen(x[i]);
}

static inline float stored(const float *x, int64_t i)
{
    return x[i];
}

static inline float rounded(float x)
{
    return lk_widen(lk_round(x));
}

template <typename T> enum lk_type type_of(void)
{
    return sizeof(T) == sizeof(float) ? LK_F32 : LK_BF16;
}

/* Activations that the reference wrote, as the CUDA set lays them out; and whether got[n_row, packed] equals them. */
void compare_act(const char *op, const struct lk_act *want, const host<uint16_t> &got);
void compare_act(const char *op, const struct lk_act *want, const host<float> &got);

void check_rows(void);
void check_rope(void);
void check_linear(void);
void check_adapters(void);
void check_attention(void);
void check_index(void);
void check_experts(void);
void check_candidates(void);

#endif
