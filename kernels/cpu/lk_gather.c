#include "kernels/cpu/lk_gather.h"

#include "kernels/cpu/lk_cols.h"

#define PAGE LK_PAGE_TOKENS

/* Where slot j of a page of `to` comes from; NULL pages: it is behind the last chosen position. */
struct source {
    const uint8_t *k, *v;
    int64_t slot;
};

static struct source source_of(const struct lk_gather *a, const struct lk_attn_item *item, int64_t i)
{
    if (i >= a->topk)
        return (struct source){0};
    int32_t pos = a->chosen[item->tok * a->topk + i];
    int64_t page = a->page[a->page_start[item->seq] + pos / PAGE];
    return (struct source){a->from.k + page * a->from.k_page_bytes, a->from.v + page * a->from.v_page_bytes,
                           pos % PAGE};
}

/* Slot j of [n, 32 positions], numbers of 4 or 2 bytes. */
static void copy_column(uint8_t *to, int64_t j, const uint8_t *from, int64_t slot, int64_t page_bytes, size_t size)
{
    int64_t row = PAGE * (int64_t)size;
    for (int64_t at = 0; at < page_bytes; at += row) {
        uint8_t *x = to + at + j * (int64_t)size;
        if (!from)
            memset(x, 0, size);
        else if (size == 4)
            memcpy(x, from + at + slot * 4, 4);
        else
            memcpy(x, from + at + slot * 2, 2);
    }
}

/* Slot j of [32 positions, n]. */
static void copy_row(uint8_t *to, int64_t j, const uint8_t *from, int64_t slot, int64_t page_bytes)
{
    int64_t row = page_bytes / PAGE;
    if (from)
        memcpy(to + j * row, from + slot * row, (size_t)row);
    else
        memset(to + j * row, 0, (size_t)row);
}

/* Slot j of [32 / 2 positions, n, 2] numbers of 2 bytes. */
static void copy_half_row(uint8_t *to, int64_t j, const uint8_t *from, int64_t slot, int64_t page_bytes)
{
    int64_t row = page_bytes / (PAGE / 2);
    uint8_t *x = to + j / 2 * row + j % 2 * 2;
    const uint8_t *y = from ? from + slot / 2 * row + slot % 2 * 2 : NULL;
    for (int64_t at = 0; at < row; at += 4) {
        if (y)
            memcpy(x + at, y + at, 2);
        else
            memset(x + at, 0, 2);
    }
}

static inline void gather(const struct lk_gather *a, int64_t begin, int64_t end, size_t size, bool pairs)
{
    for (int64_t x = begin; x < end; x++) {
        const struct lk_attn_item *item = &a->item[x / a->n_page];
        uint8_t *k = a->to.k + x * a->to.k_page_bytes, *v = a->to.v + x * a->to.v_page_bytes;
        for (int64_t j = 0; j < PAGE; j++) {
            struct source s = source_of(a, item, x % a->n_page * PAGE + j);
            copy_column(k, j, s.k, s.slot, a->to.k_page_bytes, size);
            if (pairs)
                copy_half_row(v, j, s.v, s.slot, a->to.v_page_bytes);
            else
                copy_row(v, j, s.v, s.slot, a->to.v_page_bytes);
        }
    }
}

void lk_gather_f32(const struct lk_gather *a, int64_t begin, int64_t end)
{
    gather(a, begin, end, 4, false);
}

void lk_gather_bf16(const struct lk_gather *a, int64_t begin, int64_t end)
{
    gather(a, begin, end, 2, false);
}

void lk_gather_pairs(const struct lk_gather *a, int64_t begin, int64_t end)
{
    gather(a, begin, end, 4, true);
}
