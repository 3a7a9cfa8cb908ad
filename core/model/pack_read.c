#include "core/model/pack_read.h"

#include <math.h>
#include <string.h>

#include "core/model/pack.h"
#include "core/model/quant.h"
#include "core/model/quant_k.h"

#define CHUNK 64 /* columns: GPTQ and AWQ keep rows side by side, so that rows share the lines of a chunk */

static uint32_t load_word(const uint8_t *words, int64_t i)
{
    uint32_t x;
    memcpy(&x, words + 4 * i, sizeof x);
    return x;
}

const uint8_t *lb_pack_scale(const struct lb_wpack *p, int64_t row, int64_t group)
{
    int64_t i = row / p->scale_rows * p->scale_row_step + group * p->scale_col_step;
    return p->scales + (size_t)i * lb_quant_bytes(p->scale_type, 1);
}

static float load_scale(const struct lb_wpack *p, int64_t row, int64_t group)
{
    float x;
    lb_quant_read(p->scale_type, lb_pack_scale(p, row, group), 1, &x);
    return x;
}

/* The lane of a row in a word of 32 / bits rows. */
static int lane_of_row(const struct lb_wpack *p, int64_t row)
{
    static const int awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    int lane = (int)(row % (32 / p->bits));
    return p->paired_lanes ? awq[lane] : lane;
}

int lb_pack_zero(const struct lb_wpack *p, int64_t row, int64_t group)
{
    int mask = (1 << p->bits) - 1;
    if (!p->zeros)
        return p->zero;
    uint32_t word = load_word(p->zeros, row / (32 / p->bits) * p->zero_row_words + group * p->zero_group_words);
    return ((int)(word >> lane_of_row(p, row) * p->bits & (uint32_t)mask) + p->zero_add) & mask;
}

/* A word's eight numbers of 4 bits as bytes, the lowest one first. */
static uint64_t bytes_of(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

void lb_pack_codes(const struct lb_wpack *p, int64_t row, int64_t col, int64_t n, uint8_t *q)
{
    if (p->fp8) {
        memcpy(q, p->data + row * p->n_col + col, (size_t)n);
        return;
    }
    const uint32_t mask = (1u << p->bits) - 1;
    const int64_t base = (row >> p->row_log) * p->row_words, lanes = ((int64_t)1 << p->col_log) - 1;
    const int row_shift = p->row_log > 0 ? lane_of_row(p, row) * p->bits : 0;
    int64_t c = col;
    for (; p->bits == 4 && p->col_log == 3 && c % 8 == 0 && c + 8 <= col + n; c += 8) {
        const uint64_t eight = bytes_of(load_word(p->data, base + (c >> 3) * p->col_words));
        memcpy(q + (c - col), &eight, sizeof eight);
    }
    for (; c < col + n; c++) {
        uint32_t word = load_word(p->data, base + (c >> p->col_log) * p->col_words);
        q[c - col] = (uint8_t)(word >> (row_shift + (int)(c & lanes) * p->bits) & mask);
    }
}

static void read_ints(const struct lb_wpack *p, int64_t row, int64_t col, int64_t n, float *out)
{
    const uint32_t mask = (1u << p->bits) - 1;
    const int64_t base = (row >> p->row_log) * p->row_words, lanes = ((int64_t)1 << p->col_log) - 1;
    const int row_shift = p->row_log > 0 ? lane_of_row(p, row) * p->bits : 0;
    int64_t group = -1, end = col; /* where the run of one group ends */
    float scale = 0;
    int zero = 0;
    for (int64_t c = col; c < col + n; c++) {
        if (c >= end) {
            int64_t g = p->g_idx ? (int64_t)load_word(p->g_idx, c) : c / p->group;
            end = p->g_idx ? c + 1 : (g + 1) * p->group;
            if (g != group) {
                group = g;
                scale = load_scale(p, row, g);
                zero = lb_pack_zero(p, row, g);
            }
        }
        uint32_t word = load_word(p->data, base + (c >> p->col_log) * p->col_words);
        int shift = row_shift + (int)(c & lanes) * p->bits;
        out[c - col] = (float)((int)(word >> shift & mask) - zero) * scale;
    }
}

/* E4M3 without infinities: exponent and fraction in place, one exact product by 2^120 for the bias, of subnormals too.
 */
static float of_e4m3(uint8_t b)
{
    uint32_t bits;
    float magnitude = (b & 0x7f) == 0x7f ? NAN : lb_float_of_bits((uint32_t)(b & 0x7f) << 20) * 0x1p120f;
    memcpy(&bits, &magnitude, sizeof bits);
    return lb_float_of_bits(bits | (uint32_t)(b & 0x80) << 24);
}

static void read_fp8(const struct lb_wpack *p, int64_t row, int64_t col, int64_t n, float *out)
{
    const uint8_t *src = p->data + row * p->n_col;
    for (int64_t c = col; c < col + n;) {
        int64_t g = c / p->group, end = (g + 1) * p->group < col + n ? (g + 1) * p->group : col + n;
        float scale = load_scale(p, row, g);
        for (; c < end; c++)
            out[c - col] = of_e4m3(src[c]) * scale;
    }
}

void lb_pack_read(const struct lb_wpack *p, int64_t row, int64_t n_row, int64_t col, int64_t n_col, float *out)
{
    for (int64_t at = 0; at < n_col; at += CHUNK) {
        int64_t n = n_col - at < CHUNK ? n_col - at : CHUNK;
        for (int64_t i = 0; i < n_row; i++)
            (p->fp8 ? read_fp8 : read_ints)(p, row + i, col + at, n, out + i * n_col + at);
    }
}
