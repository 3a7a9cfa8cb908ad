/* y = tree over segments of (A W^T), with its epilogues. */
#include <math.h>

#include "kernels/cpu/lk_lora.h"
#include "kernels/cpu/lk_packed.h"
#include "kernels/cpu/ref/lk_ref.h"

#define PANEL LK_REF_PANEL
#define ROWS LK_REF_ROWS
#define CHUNK 64 /* columns of K at a time: widened, and in the first cache for both halves of a panel */

static size_t weight_elems(int64_t n_out, const struct lk_cols *cols)
{
    return (size_t)(lk_ceil_div(n_out, PANEL) * PANEL * lk_cols_packed(cols));
}

static size_t weight_bytes_f32(int64_t n_out, const struct lk_cols *cols)
{
    return weight_elems(n_out, cols) * sizeof(float);
}

static size_t weight_bytes_bf16(int64_t n_out, const struct lk_cols *cols)
{
    return weight_elems(n_out, cols) * sizeof(uint16_t);
}

#define BLOCK 32  /* columns of K that are packed at a time: whole lines of bf16, and segments end with them */
#define AHEAD 256 /* bytes */
#define EIGHT __attribute__((vector_size(16))) uint16_t

/* v[i][j] becomes v[j][i]. Interleaving row i with row i + 4 rotates the six bits of (row, column) by one; three times
 * swap the two. */
static inline void transpose8(EIGHT v[8])
{
    for (int round = 0; round < 3; round++) {
        EIGHT t[8];
        for (int i = 0; i < 4; i++) {
            t[2 * i] = __builtin_shufflevector(v[i], v[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            t[2 * i + 1] = __builtin_shufflevector(v[i], v[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        memcpy(v, t, sizeof t);
    }
}

/* Columns k .. k + n - 1 of row j, 0 <= n <= BLOCK, and zeros behind them, as f32 or as bf16. */
static inline void block_f32(const struct lk_pack *a, int j, int64_t k, int64_t n, float to[BLOCK])
{
    const char *row = a->row[j];
    memset(to, 0, BLOCK * sizeof *to);
    if (!row || n == 0)
        return;
    if (a->type == LK_F32) {
        memcpy(to, row + k * 4, (size_t)n * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + (k + i) * 2, sizeof half);
        to[i] = lk_widen(half);
    }
}

static inline void block_bf16(const struct lk_pack *a, int j, int64_t k, int64_t n, uint16_t to[BLOCK])
{
    if (a->type == LK_BF16 && a->row[j] && n == BLOCK) {
        memcpy(to, (const char *)a->row[j] + k * 2, BLOCK * sizeof *to);
        return;
    }
    float x[BLOCK];
    block_f32(a, j, k, n, x);
    for (int i = 0; i < BLOCK; i++)
        to[i] = lk_round(x[i]);
}

/* A block of the panel from all its rows. Rows are often 4096 bytes apart, where one set of the first cache has to hold
 * them all: each line is read at once, once, and asked for ahead. */
static inline void pack_block_bf16(const struct lk_pack *a, int64_t k, int64_t n, uint16_t *to)
{
    uint16_t x[PANEL][BLOCK];
    for (int j = 0; j < PANEL; j++) {
        if (a->row[j])
            __builtin_prefetch((const char *)a->row[j] + k * 2 + AHEAD);
        block_bf16(a, j, k, n, x[j]);
    }
    for (int at = 0; at < BLOCK; at += 8) {
        for (int half = 0; half < PANEL; half += 8) {
            EIGHT v[8];
            for (int j = 0; j < 8; j++)
                memcpy(&v[j], &x[half + j][at], sizeof v[j]);
            transpose8(v);
            for (int i = 0; i < 8; i++)
                memcpy(to + (at + i) * PANEL + half, &v[i], sizeof v[i]);
        }
    }
}

static inline void pack_block_f32(const struct lk_pack *a, int64_t k, int64_t n, float *to)
{
    for (int j = 0; j < PANEL; j++) {
        float x[BLOCK];
        block_f32(a, j, k, n, x);
        for (int i = 0; i < BLOCK; i++)
            to[i * PANEL + j] = x[i];
    }
}

static inline void pack(const struct lk_pack *a, enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    int64_t at = a->panel * PANEL * lk_cols_packed(c);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t kp = c->packed[s]; kp < c->packed[s + 1]; kp += BLOCK) {
            int64_t k = c->begin[s] + (kp - c->packed[s]), n = lk_min(c->begin[s + 1] - k, BLOCK);
            if (n < 0)
                n = 0;
            if (type == LK_F32)
                pack_block_f32(a, k, n, (float *)a->w + at + kp * PANEL);
            else
                pack_block_bf16(a, k, n, (uint16_t *)a->w + at + kp * PANEL);
        }
    }
}

static void pack_f32(const struct lk_pack *a)
{
    pack(a, LK_F32);
}

static void pack_bf16(const struct lk_pack *a)
{
    pack(a, LK_BF16);
}

/* Four sums side by side: left to itself the compiler may vectorize along k, where the additions have an order. */
#define FOUR __attribute__((vector_size(16))) float

/* acc[i][0..7] += sum over k of a[i * lda + k] * w[k * PANEL + 0..7], in order of k. */
static inline __attribute__((always_inline)) void tile8(int r, float acc[][PANEL], const float *a, int64_t lda,
                                                        const float *w, int64_t n_k)
{
    FOUR v[ROWS][2];
#pragma GCC unroll 4
    for (int i = 0; i < r; i++) {
        memcpy(&v[i][0], acc[i], sizeof v[i][0]);
        memcpy(&v[i][1], acc[i] + 4, sizeof v[i][1]);
    }
    for (int64_t k = 0; k < n_k; k++) {
        FOUR b0, b1;
        memcpy(&b0, w + k * PANEL, sizeof b0);
        memcpy(&b1, w + k * PANEL + 4, sizeof b1);
#pragma GCC unroll 4
        for (int i = 0; i < r; i++) {
            float ai = a[i * lda + k];
            FOUR x = {ai, ai, ai, ai};
            v[i][0] += x * b0;
            v[i][1] += x * b1;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < r; i++) {
        memcpy(acc[i], &v[i][0], sizeof v[i][0]);
        memcpy(acc[i] + 4, &v[i][1], sizeof v[i][1]);
    }
}

struct operand {
    const void *a; /* first element of the tile's first row in this segment */
    const void *w; /* the panel at the segment; of packed weights, the panel */
    int64_t lda, n_k;
    const struct lk_packed_panel *packed; /* NULL: plain */
    int s;                                /* the segment */
};

static inline __attribute__((always_inline)) void tile(int r, float acc[][PANEL], const float *a, int64_t lda,
                                                       const float *w, int64_t n_k)
{
    for (int j = 0; j < PANEL; j += 8)
        tile8(r, (float(*)[PANEL])(acc[0] + j), a, lda, w + j, n_k);
}

static void tile_rows(int r, float acc[][PANEL], const float *a, int64_t lda, const float *w, int64_t n_k)
{
    switch (r) {
    case 1:
        tile(1, acc, a, lda, w, n_k);
        break;
    case 2:
        tile(2, acc, a, lda, w, n_k);
        break;
    case 3:
        tile(3, acc, a, lda, w, n_k);
        break;
    default:
        tile(4, acc, a, lda, w, n_k);
        break;
    }
}

static void packed_segment(int r, float acc[][PANEL], const struct operand *o, enum lk_type type)
{
    float a[ROWS * LK_BLOCK], w[LK_BLOCK * PANEL];
    for (int64_t k = 0; k < o->n_k; k += LK_BLOCK) {
        for (int i = 0; i < r; i++)
            for (int64_t j = 0; j < LK_BLOCK; j++)
                a[i * LK_BLOCK + j] = lk_ref_get(o->a, i * o->lda + k + j, type);
        lk_packed_numbers(o->packed, o->w, o->s, o->packed->cols->packed[o->s] + k, w);
        for (int i = 0; i < LK_BLOCK * PANEL; i++)
            w[i] = lk_ref_rounded(w[i], type);
        tile_rows(r, acc, a, LK_BLOCK, w, LK_BLOCK);
    }
}

static void multiply(int r, float acc[][PANEL], const struct operand *o, enum lk_type type)
{
    if (o->packed) {
        packed_segment(r, acc, o, type);
        return;
    }
    if (type == LK_F32) {
        for (int64_t k = 0; k < o->n_k; k += CHUNK)
            tile_rows(r, acc, (const float *)o->a + k, o->lda, (const float *)o->w + k * PANEL,
                      lk_min(CHUNK, o->n_k - k));
        return;
    }
    const uint16_t *a16 = o->a, *w16 = o->w;
    float a[ROWS * CHUNK], w[CHUNK * PANEL];
    for (int64_t k = 0; k < o->n_k; k += CHUNK) {
        int64_t n = lk_min(CHUNK, o->n_k - k);
        for (int i = 0; i < r; i++)
            for (int64_t j = 0; j < n; j++)
                a[i * CHUNK + j] = lk_widen(a16[i * o->lda + k + j]);
        for (int64_t j = 0; j < n * PANEL; j++)
            w[j] = lk_widen(w16[k * PANEL + j]);
        tile_rows(r, acc, a, CHUNK, w, n);
    }
}

static void add_tile(float to[ROWS][PANEL], float from[ROWS][PANEL])
{
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANEL; j++)
            to[i][j] += from[i][j];
}

static void segment(const struct lk_linear *a, const struct lk_ref_place *p, int s, float acc[][PANEL],
                    enum lk_type type)
{
    struct lk_packed_panel packed;
    if (a->q)
        packed = lk_packed_panel_of(a->q, a->a.cols, PANEL);
    const struct lk_cols *c = a->a.cols;
    size_t elem = lk_ref_elem_bytes(type);
    int64_t n_k = lk_cols_packed(c);
    struct operand o = {
        .a = (const char *)a->a.data + (size_t)(p->row * n_k + c->packed[s]) * elem,
        .w = (const char *)a->w + (size_t)((p->panel * n_k + c->packed[s]) * PANEL) * elem,
        .lda = n_k,
        .n_k = c->packed[s + 1] - c->packed[s],
        .packed = a->q ? &packed : NULL,
        .s = s,
    };
    if (a->q)
        o.w = (const uint8_t *)a->w + p->panel * packed.bytes;
    multiply(p->r, acc, &o, type);
}

/* v = tree over segments. */
static void product(const struct lk_linear *a, const struct lk_ref_place *p, float v[ROWS][PANEL], enum lk_type type,
                    LK_REF_SUMS)
{
    const struct lk_cols *c = a->a.cols;
    float part[LK_MAX_SEG][ROWS][PANEL];
    memset(part, 0, sizeof part[0] * (size_t)c->n_seg);
    for (int s = 0; s < c->n_seg; s++) {
        sums(a, p, s, part[s], type);
        struct lk_lora_tile tile = {part[s][0], p->row, p->panel * (PANEL / LK_LORA_STRIP), p->r,
                                    PANEL / LK_LORA_STRIP};
        if (a->lora)
            lk_lora_leaf(a->lora, s, &tile, type);
    }
    if (lk_cols_balanced(c)) {
        for (int step = 1; step < c->n_seg; step *= 2)
            for (int s = 0; s < c->n_seg; s += 2 * step)
                add_tile(part[s], part[s + step]);
    } else {
        for (int s = 1; s < c->n_seg; s++)
            add_tile(part[0], part[s]);
    }
    memcpy(v, part[0], sizeof part[0]);
}

static void store(const struct lk_linear *a, const struct lk_ref_place *p, float v[ROWS][PANEL])
{
    int64_t n = lk_min(PANEL, a->n_out - p->panel * PANEL);
    for (int i = 0; i < p->r; i++) {
        float *y = a->y + (p->row + i) * a->y_ld + p->panel * PANEL;
        for (int64_t j = 0; j < n; j++) {
            float x = a->bias ? v[i][j] + a->bias[p->panel * PANEL + j] : v[i][j];
            y[j] = a->epilogue == LK_EP_ADD ? y[j] + x : x;
        }
    }
}

static float silu(float x)
{
    return x / (1.0f + expf(-x));
}

static void swiglu(const struct lk_linear *a, const struct lk_ref_place *p, float v[ROWS][PANEL], enum lk_type type)
{
    enum { HALF = PANEL / 2 };
    int64_t ffn = a->n_out / 2, col = p->panel * HALF, n = lk_min(HALF, ffn - col);
    for (int i = 0; i < p->r; i++) {
        float out[HALF];
        for (int64_t j = 0; j < n; j++) {
            float g = v[i][j], u = v[i][HALF + j];
            if (a->bias) {
                g += a->bias[col + j];
                u += a->bias[ffn + col + j];
            }
            out[j] = silu(g) * u;
        }
        lk_ref_put_cols(&a->out, p->row + i, col, out, n, type);
    }
}

static void head(const struct lk_linear *a, const struct lk_ref_place *p, float v[ROWS][PANEL])
{
    int64_t n_block = lk_ceil_div(a->n_out, LK_HEAD_BLOCK), col = p->panel * PANEL;
    int64_t n = lk_min(PANEL, a->n_out - col);
    for (int i = 0; i < p->r; i++) {
        struct lk_best *best = a->best + (p->row + i) * n_block + col / LK_HEAD_BLOCK;
        if (col % LK_HEAD_BLOCK == 0)
            *best = (struct lk_best){-INFINITY, -1, true};
        for (int64_t j = 0; j < n; j++) {
            float x = a->bias ? v[i][j] + a->bias[col + j] : v[i][j];
            if (x > best->value || (best->id < 0 && x == x)) {
                best->value = x;
                best->id = (int32_t)(col + j);
            }
            best->finite = best->finite && isfinite(x);
            if (a->logits && a->logits[p->row + i])
                a->logits[p->row + i][col + j] = x;
        }
    }
}

/* An item is a panel, for the head the panels of a block. */
static int64_t item_panels(const struct lk_linear *a)
{
    return a->epilogue == LK_EP_HEAD ? LK_HEAD_BLOCK / PANEL : 1;
}

int64_t lk_ref_linear_items(const struct lk_linear *a)
{
    return lk_ceil_div(a->n_out, item_panels(a) * PANEL);
}

void lk_ref_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type, LK_REF_SUMS)
{
    int64_t last = lk_min(end * item_panels(a), lk_ceil_div(a->n_out, PANEL));
    for (int64_t panel = begin * item_panels(a); panel < last; panel++) {
        for (int64_t row = 0; row < a->a.n_row; row += ROWS) {
            struct lk_ref_place p = {panel, row, (int)lk_min(ROWS, a->a.n_row - row)};
            float v[ROWS][PANEL];
            product(a, &p, v, type, sums);
            if (a->epilogue == LK_EP_SWIGLU)
                swiglu(a, &p, v, type);
            else if (a->epilogue == LK_EP_HEAD)
                head(a, &p, v);
            else
                store(a, &p, v);
        }
    }
}

static void linear_f32(const struct lk_linear *a, int64_t begin, int64_t end)
{
    lk_ref_linear(a, begin, end, LK_F32, segment);
}

static void linear_bf16(const struct lk_linear *a, int64_t begin, int64_t end)
{
    lk_ref_linear(a, begin, end, LK_BF16, segment);
}

static size_t packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols)
{
    return lk_packed_matrix_bytes(q, n_out, cols, PANEL);
}

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_WORD);
}

static struct lk_lora_row row_of_f32(const struct lk_act *a, int64_t row)
{
    return (struct lk_lora_row){(const float *)a->data + row * lk_cols_packed(a->cols), 0};
}

static struct lk_lora_row row_of_bf16(const struct lk_act *a, int64_t row)
{
    return (struct lk_lora_row){(const uint16_t *)a->data + row * lk_cols_packed(a->cols), 0};
}

static void read_f32(const struct lk_lora_row *r, int64_t k, float x[32])
{
    memcpy(x, (const float *)r->at + k, 32 * sizeof *x);
}

static void read_bf16(const struct lk_lora_row *r, int64_t k, float x[32])
{
    for (int i = 0; i < 32; i++)
        x[i] = lk_widen(((const uint16_t *)r->at)[k + i]);
}

static void lora_down_f32(const struct lk_lora_down *a, int64_t begin, int64_t end)
{
    lk_lora_down_rows(a, begin, end, row_of_f32, read_f32, LK_F32);
}

static void lora_down_bf16(const struct lk_lora_down *a, int64_t begin, int64_t end)
{
    lk_lora_down_rows(a, begin, end, row_of_bf16, read_bf16, LK_BF16);
}

void lk_ref_linear_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->panel_cols = PANEL;
    t->weight_bytes = f32 ? weight_bytes_f32 : weight_bytes_bf16;
    t->pack = f32 ? pack_f32 : pack_bf16;
    t->packed_bytes = packed_bytes;
    t->pack_codes = pack_codes;
    t->linear_items = lk_ref_linear_items;
    t->linear = f32 ? linear_f32 : linear_bf16;
    t->lora_down = f32 ? lora_down_f32 : lora_down_bf16;
}
