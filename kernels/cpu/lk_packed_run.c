#include "kernels/cpu/lk_packed_run.h"

#include "kernels/cpu/lk_lora.h"

/* Items are chunks of activation panels by groups of weight panels, the groups running fastest. */
struct work {
    const struct lk_packed_set *set;
    const struct lk_packed_memory *m;
    const struct lk_linear *a;
    struct lk_panels rows;
    int64_t n_panel, group, n_group, n_chunk;
    int64_t row_begin, row_end; /* activation panels of the item */
    struct lk_packed_panel packed;
    const char *ahead;   /* memory that will be read next, for two panels the first one's */
    int64_t ahead_lines; /* of it to fetch a block */
};

static void cut(struct work *t, const struct lk_packed_set *set, const struct lk_linear *a)
{
    *t = (struct work){.set = set,
                       .a = a,
                       .rows = lk_panels_of(a->a.n_row, set->rows),
                       .n_panel = lk_ceil_div(a->n_out, set->width),
                       .group = 1};
    if (t->rows.n == 0)
        return;
    if (a->epilogue == LK_EP_HEAD)
        t->group = LK_HEAD_BLOCK / set->width;
    else if (a->a.n_row <= set->pair_rows)
        t->group = 2;
    t->n_group = lk_ceil_div(t->n_panel, t->group);
    t->n_chunk = lk_ceil_div(t->rows.n, set->band);
}

int64_t lk_packed_items(const struct lk_packed_set *set, const struct lk_linear *a)
{
    struct work t;
    cut(&t, set, a);
    return t.n_group * t.n_chunk;
}

static const uint8_t *panel_at(const struct work *t, int64_t panel)
{
    return (const uint8_t *)t->a->w + panel * t->packed.bytes;
}

/* How a weight panel is taken. */
struct way {
    int64_t panel;
    bool two; /* and the one behind it */
    bool few; /* unpacked in registers */
};

static struct way way_of(const struct work *t, int64_t panel, bool two)
{
    const struct lk_packed_set *set = t->set;
    const int64_t n_row = t->a->a.n_row;
    bool odd = false;
    for (int i = 0; i <= two; i++)
        odd = odd || panel_at(t, panel + i)[t->packed.odd_at];
    return (struct way){panel, two, !odd && set->few && two == (n_row <= set->pair_rows)};
}

/* The piece at b against the item's activation panels. */
static void take_piece(struct work *t, const struct way *way, const struct lk_blocks *b, float *sums)
{
    const int64_t panel = way->panel;
    const bool two = way->two, few = way->few;
    const struct lk_packed_set *set = t->set;
    const int64_t width = set->width * (1 + two), n_col = lk_cols_packed(t->a->a.cols);
    const int64_t row = lk_panel_begin(&t->rows, t->row_begin);
    struct lk_blocks both[2] = {*b, *b};
    for (int i = 0; i <= two; i++) {
        both[i].at = panel_at(t, panel + i);
        both[i].ahead = t->ahead + i * t->packed.bytes;
    }
    t->ahead += b->n / LK_BLOCK * t->ahead_lines * 64;
    for (int i = 0; i <= two && !few; i++)
        set->unpack(&both[i], (char *)t->m->piece + (size_t)(i * b->n * set->width) * set->elem_bytes);
    for (int64_t ip = t->row_begin; ip < t->row_end; ip++) {
        int64_t begin = lk_panel_begin(&t->rows, ip);
        int r = lk_panel_rows(&t->rows, ip);
        struct lk_piece p = {.a = (const char *)t->a->a.data + (size_t)(begin * n_col + b->k * r) * set->act_bytes,
                             .w = t->m->piece,
                             .n = b->n,
                             .sums = sums + (begin - row) * width,
                             .r = r,
                             .two = two,
                             .begin = b->k == b->panel->cols->packed[b->s]};
        if (few)
            set->few(both, &p);
        else
            set->tile(&p);
    }
}

/* sums[0] = the item's activation panels times weight panel `panel`, and with `two` the one behind it. */
static void take_panel(struct work *t, int64_t panel, bool two)
{
    const struct lk_cols *c = t->a->a.cols;
    const struct way way = way_of(t, panel, two);
    const int64_t most = way.few ? lk_cols_packed(c) : t->set->piece / (1 + two);
    const int64_t row = lk_panel_begin(&t->rows, t->row_begin), level = t->set->band * t->set->rows * t->set->width;
    const int64_t width = t->set->width * (1 + two), n_sum = (lk_panel_begin(&t->rows, t->row_end) - row) * width;
    int wait = 0;
    for (int s = 0; s < c->n_seg; s++) {
        float *sums = t->m->sums + wait * level;
        if (c->packed[s] == c->packed[s + 1])
            memset(sums, 0, (size_t)n_sum * sizeof *sums);
        for (int64_t k = c->packed[s]; k < c->packed[s + 1]; k += most) {
            struct lk_blocks b = {.panel = &t->packed,
                                  .s = s,
                                  .k = k,
                                  .n = lk_min(most, c->packed[s + 1] - k),
                                  .n_ahead = t->ahead_lines};
            take_piece(t, &way, &b, sums);
        }
        const struct lk_lora_tile tile = {sums, row, panel * (t->set->width / LK_LORA_STRIP), (int)(n_sum / width),
                                          (int)width / LK_LORA_STRIP};
        if (t->a->lora)
            lk_lora_leaf(t->a->lora, s, &tile, t->set->type);
        wait = lk_climb(t->m->sums, level, c, s, wait, n_sum);
    }
}

static void finish(const struct work *t, int64_t panel, bool two)
{
    const int width = t->set->width * (1 + two);
    float *v = t->m->sums;
    char *best = t->m->best;
    for (int64_t ip = t->row_begin; ip < t->row_end; ip++) {
        struct lk_packed_sums s = {v, width, lk_panel_rows(&t->rows, ip), lk_panel_begin(&t->rows, ip), panel};
        v += s.r * width;
        for (int i = 0; i <= two; i++, s.v += t->set->width, s.panel++)
            t->set->finish(t->a, &s, best);
        best += (size_t)s.r * t->set->best_bytes;
    }
}

static void take_item(struct work *t, int64_t group, int64_t after)
{
    const struct lk_packed_set *set = t->set;
    const struct lk_linear *a = t->a;
    int64_t last = lk_min((group + 1) * t->group, t->n_panel), row = lk_panel_begin(&t->rows, t->row_begin);
    int64_t n_best = a->epilogue == LK_EP_HEAD ? lk_panel_begin(&t->rows, t->row_end) - row : 0;
    for (int64_t i = 0; i < n_best; i++)
        set->best_init(t->m->best + (size_t)i * set->best_bytes);
    for (int64_t panel = group * t->group; panel < last;) {
        bool two = a->a.n_row <= set->pair_rows && panel + 1 < last;
        t->ahead = (const char *)panel_at(t, panel + 1 + two < last ? panel + 1 + two : after);
        take_panel(t, panel, two);
        finish(t, panel, two);
        panel += 1 + two;
    }
    for (int64_t i = 0; i < n_best; i++)
        a->best[(row + i) * t->n_group + group] = set->best_finish(t->m->best + (size_t)i * set->best_bytes);
}

void lk_packed_linear(const struct lk_packed_set *set, const struct lk_packed_memory *m, const struct lk_linear *a,
                      int64_t begin, int64_t end)
{
    struct work t;
    cut(&t, set, a);
    t.m = m;
    t.packed = lk_packed_panel_of(a->q, a->a.cols, set->width);
    t.packed.order = set->order;
    int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK;
    t.ahead_lines = n_block > 0 ? lk_ceil_div(t.packed.bytes / 64, n_block) : 0;
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / t.n_group;
        int64_t after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % t.n_group * t.group;
        t.row_begin = t.rows.n * chunk / t.n_chunk;
        t.row_end = t.rows.n * (chunk + 1) / t.n_chunk;
        take_item(&t, item % t.n_group, after);
    }
}
