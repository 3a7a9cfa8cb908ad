/* y = tree over segments of (A W^T), with its epilogues. */
#include "kernels/cpu/amx/amx_epilogue.h"
#include "kernels/cpu/amx/amx_packed.h"
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/avx512/avx512_product.h"
#include "kernels/cpu/avx512/avx512_words.h"
#include "kernels/cpu/lk_lora.h"

#define ROWS LK_AMX_ROWS
#define PANEL LK_AVX512_PANEL
#define BLOCK_BYTES (2 * LK_AMX_BLOCK * PANEL) /* of weights */
#define HEAD_PAIRS 4                           /* of one item of the head: their best stay in the first cache */
#define CHUNK_PAIRS 8  /* of one item, more where the second cache holds them: fewer would wait for weights */
#define BAND 4         /* pairs of activation panels whose sums are open together */
#define RUN 18         /* blocks that a larger band takes at a time: 36 KB of weights stay in the first cache */
#define PACKED_BAND 16 /* pairs that meet packed weights: unpacking a block takes the time of some 40 rows */
#define BAND_NUMBERS (2 * PACKED_BAND * ROWS * PANEL) /* sums of a band */

static void pack(const struct lk_pack *a)
{
    const struct lk_cols *c = a->cols;
    uint32_t *w = (uint32_t *)a->w + a->panel * PANEL * (lk_cols_packed(c) / 2);
    for (int s = 0; s < c->n_seg; s++) {
        uint32_t *to = w + c->packed[s] / 2 * PANEL;
        for (int64_t k = c->begin[s]; k < c->begin[s + 1]; k += LK_AMX_BLOCK, to += BLOCK_BYTES / 4) {
            struct lk_source from = {a, 0, k, c->begin[s + 1] - k};
            for (; from.row < PANEL; from.row += 8)
                lk_pack_words8(&from, to + from.row / 16 * 256 + from.row % 16, 16, LK_BF16);
        }
    }
}

/* How the work is cut: items are chunks of pairs of activation panels by groups of weight panels, the groups running
 * fastest. */
struct plan {
    struct lk_panels rows;
    int64_t n_pair, n_panel, group, n_group, n_chunk;
};

static struct plan plan_of(const struct lk_linear *a)
{
    struct plan p = {
        .rows = lk_panels_of(a->a.n_row, LK_AMX_ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (p.rows.n == 0)
        return p;
    int64_t most = lk_chunk_panels(a->l2_bytes, 2 * ROWS * 2 * lk_cols_packed(a->a.cols), CHUNK_PAIRS);
    most = a->q ? lk_min(most, PACKED_BAND) : most;
    if (a->epilogue == LK_EP_HEAD) {
        p.group = LK_HEAD_BLOCK / PANEL;
        most = lk_min(most, HEAD_PAIRS);
    } else if (p.rows.n == 1 || a->epilogue == LK_EP_SWIGLU) {
        p.group = 2; /* SwiGLU: half a line each, and no two threads write to one */
    }
    p.n_pair = lk_ceil_div(p.rows.n, 2);
    p.n_group = lk_ceil_div(p.n_panel, p.group);
    p.n_chunk = lk_ceil_div(p.n_pair, most);
    return p;
}

static bool is_few(const struct lk_linear *a)
{
    return a->q && a->a.n_row <= LK_AMX_ROWS && a->a.n_row > 0;
}

static int64_t linear_items(const struct lk_linear *a)
{
    if (is_few(a))
        return lk_amx_few_items(a);
    struct plan p = plan_of(a);
    return p.n_group * p.n_chunk;
}

/* What one thread works with: a chunk's activation panels against one weight panel after another. */
struct work {
    const struct lk_linear *a;
    struct plan plan;
    struct lk_amx_shape shape;
    int64_t row_begin, row_end;    /* the chunk's activation panels */
    int64_t panel_end, after;      /* of the item's weight panels; the one that is likely to be read after them */
    int64_t panel;                 /* the weight panel, */
    bool two;                      /* and the one behind it: when there is a single activation panel */
    const char *next;              /* the weights that come next */
    struct lk_amx_far far;         /* what is not fetched yet */
    float (*sums)[BAND_NUMBERS];   /* [LK_TREE_DEPTH] on the way up the tree; the result is sums[0] */
    struct lk_packed_panel packed; /* of packed weights, */
    struct lk_amx_codes codes;     /* the block that is unpacked next, */
    uint32_t (*unpacked)[RUN * LK_AMX_PAIR_WORDS]; /* and [2]: parts in turn */
};

/* Part i of the n that segment s is cut into: blocks block .. block + n_block - 1. */
struct part {
    int s;
    int64_t i, n, block, n_block;
    uint32_t *unpacked; /* of packed weights */
};

static struct part part_of(const struct work *t, int s, int64_t i, bool cut)
{
    const struct lk_cols *c = t->a->a.cols;
    int64_t first = c->packed[s] / LK_AMX_BLOCK, n_block = c->packed[s + 1] / LK_AMX_BLOCK - first;
    int64_t n = cut ? lk_ceil_div(n_block, RUN) : lk_min(1, n_block), from = n > 0 ? n_block * i / n : 0;
    return (struct part){s, i, n, first + from, n > 0 ? n_block * (i + 1) / n - from : 0, NULL};
}

/* What comes behind a part, or behind s = -1; its n is 0 where there is nothing. */
static struct part part_after(const struct work *t, const struct part *part, bool cut)
{
    struct part p = *part;
    if (p.i + 1 < p.n)
        return part_of(t, p.s, p.i + 1, cut);
    for (p.n = 0; p.n == 0 && p.s + 1 < t->a->a.cols->n_seg;)
        p = part_of(t, p.s + 1, 0, cut);
    return p;
}

/* Where a part will be unpacked to. */
static void unpack_begin(struct work *t, struct part *part, int buffer)
{
    const uint8_t *w = (const uint8_t *)t->a->w + t->panel * t->packed.bytes;
    if (t->a->q && part->n > 0) {
        part->unpacked = t->unpacked[buffer];
        lk_amx_codes_begin(&t->codes, &t->packed, w, part->s, part->block);
    }
}

/* Unpacks the part's first n blocks, but for those that are. */
static void unpack_until(struct work *t, const struct part *part, int64_t n)
{
    for (int64_t i; part->unpacked && (i = t->codes.block - part->block) < lk_min(n, part->n_block);)
        lk_amx_unpack_right(&t->codes, part->unpacked + i * LK_AMX_PAIR_WORDS);
}

/* Three panels of rows go together where there are no others. */
static bool is_three(const struct work *t)
{
    return t->row_end - t->row_begin == 3 && !t->a->q;
}

/* Panel ip + i of a run: it begins as many rows sooner as it has fewer than the first one. */
static void set_panel(const struct work *t, const struct part *part, int64_t ip, int i, struct lk_amx_run *p)
{
    const struct lk_panels *rows = &t->plan.rows;
    const int r = lk_panel_rows(rows, ip + i), fewer = lk_panel_rows(rows, ip) - r;
    const int64_t row = lk_panel_begin(rows, ip + i), n_block = lk_cols_packed(t->a->a.cols) / LK_AMX_BLOCK;
    p->a[i] = (const char *)t->a->a.data + (row * n_block + part->block * r - fewer) * 64;
    p->a_step[i] = r * 64;
    p->c[i] = p->c[0] + (row - lk_panel_begin(rows, ip) - fewer) * PANEL;
}

/* Adds a part's products to the sums of activation panels ip and, where there is one, ip + 1, or of three. */
static void take_part(struct work *t, const struct part *part, int64_t ip, float *sums)
{
    const struct lk_linear *a = t->a;
    const struct lk_panels *rows = &t->plan.rows;
    int64_t n_block = lk_cols_packed(a->a.cols) / LK_AMX_BLOCK, row = lk_panel_begin(rows, ip);
    int r0 = lk_panel_rows(rows, ip), r1 = ip + 1 < t->row_end ? lk_panel_rows(rows, ip + 1) : 0;
    const bool three = is_three(t);
    const char *a0 = (const char *)a->a.data + row * n_block * 64;
    const char *w = (const char *)a->w + (t->panel * n_block + part->block) * BLOCK_BYTES,
               *w2 = w + n_block * BLOCK_BYTES;
    if (a->q)
        w = (const char *)part->unpacked;
    struct lk_amx_run p = {
        .a = {a0 + part->block * r0 * 64, a0 + (n_block * r0 + part->block * r1) * 64},
        .a_row = 64,
        .a_step = {r0 * 64, r1 * 64},
        .w = {w, w2},
        .w_row = 64,
        .w_next = BLOCK_BYTES / 2,
        .w_step = BLOCK_BYTES,
        .n_block = part->n_block,
        .c = {sums, sums + (t->two ? PANEL : r0 * PANEL)},
        .c_row = (t->two ? 2 : 1) * PANEL * 4,
        .begin = part->i == 0,
        .far = &t->far,
    };
    if (ip == t->row_begin && t->far.near)
        lk_amx_come_near(&p, part->block + part->n_block == n_block, t->next);
    const int64_t n_row = three ? lk_panel_begin(rows, ip + 3) - row : r0 + r1;
    lk_amx_fetch_y(a, &(struct lk_amx_share){part->block, part->n_block, n_block, row, n_row, t->panel});
    for (int i = 1; three && i < 3; i++)
        set_panel(t, part, ip, i, &p);
    lk_amx_configure(&t->shape, r0, three ? LK_AMX_THREE : r1);
    const enum lk_amx_once once = lk_amx_once_of(a, t->row_end - t->row_begin);
    if (three)
        lk_amx_run_three(&p);
    else
        lk_amx_run_pair(&t->shape, t->two, once, false, &p);
}

/* sums[0] = the products of activation panels begin .. end - 1, one behind the other. With more than two pairs, a part
 * of the weight panel (16 KB) stays in the first cache while the pairs come from the second: two tiles a block instead
 * of four, which the second cache delivers in the time of four products. Packed weights: the next part is unpacked
 * between a part's products, whose tiles leave the vector units idle. */
static void take_band(struct work *t, int64_t begin, int64_t end)
{
    const struct lk_cols *c = t->a->a.cols;
    const bool cut = end - begin > 4 || t->a->q;
    int64_t row = lk_panel_begin(&t->plan.rows, begin), width = t->two ? 2 * PANEL : PANEL;
    int64_t n = (lk_panel_begin(&t->plan.rows, end) - row) * width;
    int wait = 0, buffer = 0;
    struct part next, part = part_after(t, &(struct part){.s = -1}, cut);
    unpack_begin(t, &part, buffer);
    unpack_until(t, &part, part.n_block);
    for (int s = 0; s < c->n_seg; s++) {
        float *sums = t->sums[wait];
        if (c->packed[s] == c->packed[s + 1])
            memset(sums, 0, (size_t)n * sizeof *sums);
        for (; part.n > 0 && part.s == s; part = next) {
            next = part_after(t, &part, cut);
            unpack_begin(t, &next, buffer ^= 1);
            for (int64_t ip = begin; ip < end; ip += is_three(t) ? 3 : 2) {
                take_part(t, &part, ip, sums + (lk_panel_begin(&t->plan.rows, ip) - row) * width);
                unpack_until(t, &next, lk_ceil_div(next.n_block * (ip + 2 - begin), end - begin));
            }
        }
        struct lk_lora_tile tile = {sums, row, t->panel * (PANEL / LK_LORA_STRIP), (int)(n / width),
                                    (int)width / LK_LORA_STRIP};
        if (t->a->lora)
            lk_lora_leaf(t->a->lora, s, &tile, LK_BF16);
        wait = lk_climb(t->sums[0], BAND_NUMBERS, c, s, wait, n);
    }
}

/* The chunk against its weight panel. Fetching the next weights is spread over all of it, so that memory works beside
 * the products from beginning to end. */
static void take_panel(struct work *t, struct lk_lane_best *best)
{
    int64_t n_pair = is_three(t) ? 1 : lk_ceil_div(t->row_end - t->row_begin, 2), next = t->panel + 1 + t->two;
    next = next < t->panel_end ? next : t->after;
    int64_t n_block = lk_cols_packed(t->a->a.cols) / LK_AMX_BLOCK, width = t->two ? 2 * PANEL : PANEL;
    int64_t bytes = t->a->q ? t->packed.bytes : n_block * BLOCK_BYTES, band = t->a->q ? PACKED_BAND : BAND;
    t->next = (const char *)t->a->w + next * bytes;
    t->far = t->a->q ? lk_amx_far_whole(t->next, bytes, n_pair, n_block)
                     : lk_amx_far_of((const char *)t->a->w + t->panel * bytes, t->next, bytes, t->two, n_pair, n_block);
    for (int64_t begin = t->row_begin, end; begin < t->row_end; begin = end) {
        end = lk_min(begin + 2 * band, t->row_end);
        take_band(t, begin, end);
        float *v = t->sums[0];
        for (int64_t ip = begin; ip < end; ip++) {
            struct lk_tile tile = {v, (int)width, lk_panel_rows(&t->plan.rows, ip), lk_panel_begin(&t->plan.rows, ip),
                                   t->panel};
            v += tile.r * width;
            lk_amx_epilogue(t->a, &tile, best);
            if (t->two) {
                tile.v += PANEL;
                tile.panel++;
                lk_amx_epilogue(t->a, &tile, best);
            }
            best += t->a->epilogue == LK_EP_HEAD ? tile.r : 0;
        }
    }
}

static void many(const struct lk_linear *a, int64_t begin, int64_t end)
{
    _Alignas(64) float sums[LK_TREE_DEPTH][BAND_NUMBERS];
    _Alignas(64) uint32_t unpacked[2][RUN * LK_AMX_PAIR_WORDS];
    struct work t = {.a = a, .plan = plan_of(a), .sums = sums, .unpacked = unpacked};
    struct lk_lane_best best[2 * HEAD_PAIRS * ROWS];
    if (a->q)
        t.packed = lk_amx_packed_panel_of(a->q, a->a.cols);
    t.codes.ahead = (const char *)&t.codes; /* the products fetch */
    const struct plan *plan = &t.plan;
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / plan->n_group, group = item % plan->n_group;
        t.row_begin = 2 * (plan->n_pair * chunk / plan->n_chunk);
        t.row_end = lk_min(2 * (plan->n_pair * (chunk + 1) / plan->n_chunk), plan->rows.n);
        int64_t row = lk_panel_begin(&plan->rows, t.row_begin);
        int64_t n_row = lk_panel_begin(&plan->rows, t.row_end) - row;
        t.panel_end = lk_min((group + 1) * plan->group, plan->n_panel);
        t.after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % plan->n_group * plan->group;
        for (int64_t i = 0; a->epilogue == LK_EP_HEAD && i < n_row; i++)
            lk_best_init(&best[i]);
        for (t.panel = group * plan->group; t.panel < t.panel_end; t.panel += 1 + t.two) {
            t.two = plan->rows.n == 1 && t.panel + 1 < t.panel_end;
            take_panel(&t, best);
        }
        for (int64_t i = 0; a->epilogue == LK_EP_HEAD && i < n_row; i++)
            a->best[(row + i) * plan->n_group + group] = lk_best_finish(&best[i]);
    }
    _tile_release(); /* else each context switch of the thread would carry eight tiles */
}

static void linear(const struct lk_linear *a, int64_t begin, int64_t end)
{
    if (is_few(a))
        lk_amx_few_linear(a, begin, end);
    else
        many(a, begin, end);
}

static struct lk_lora_row lora_row_of(const struct lk_act *a, int64_t row)
{
    struct lk_amx_row r = lk_amx_row_of(a, row);
    return (struct lk_lora_row){r.at, r.step};
}

static void lora_read(const struct lk_lora_row *r, int64_t k, float x[32])
{
    const uint16_t *at = (const uint16_t *)r->at + k / LK_AMX_BLOCK * r->step;
    for (int i = 0; i < LK_AMX_BLOCK; i++)
        x[i] = lk_widen(at[i]);
}

static void lora_down(const struct lk_lora_down *a, int64_t begin, int64_t end)
{
    lk_lora_down_rows(a, begin, end, lora_row_of, lora_read, LK_BF16);
}

void lk_amx_linear_init(struct lk_cpu *t)
{
    t->pack = pack;
    t->linear_items = linear_items;
    t->linear = linear;
    t->lora_down = lora_down;
}
