/* Which blocks of threads do a step's attention. */
#include "kernels/cuda/lk_cuda_attend.h"

#define SPLIT_PAGES (LK_SPLIT_TOKENS / LK_PAGE_TOKENS)
#define WIDE_SHARED (128 * 1024) /* that a tile of 32 rows of 576 and 512 dimensions fits into */
#define MIN_SHARED 4             /* pages that sequences share before reading them once is worth a launch's item */

struct plan {
    const struct lk_attn_seq *seq;
    const struct lk_attn_shape *shape;
    struct lk_attn_work *many, *few; /* `few` grows downward from its end */
    struct lk_attn_row *row, *merge; /* so does `merge` */
    int64_t n_many, n_few, n_row, n_merge, n_slot;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t splits_of(int64_t pos)
{
    return pos / LK_SPLIT_TOKENS + 1;
}

/* At most an eighth more, or four: few counts for many. 0 stays 0: nothing is launched. */
static int64_t rounded(int64_t n)
{
    int64_t step = 4;
    while (step * 16 <= n)
        step *= 2;
    return (n + step - 1) / step * step;
}

int64_t lk_attn_plan_items(const struct lk_attn_seq *seq, int64_t n_seq)
{
    int64_t n = 8;
    for (int64_t i = 0; i < n_seq; i++)
        n += seq[i].n_tok > 1 ? seq[i].n_tok : 2 * splits_of(seq[i].pos);
    return rounded(n + n / 8);
}

int64_t lk_attn_plan_rows(const struct lk_attn_seq *seq, int64_t n_seq)
{
    int64_t n = 4;
    for (int64_t i = 0; i < n_seq; i++)
        n += seq[i].n_tok > 1 ? seq[i].n_tok : 2;
    return n + n / 8;
}

size_t lk_attn_state_bytes(int64_t n_slot, int64_t n_head, int64_t v_dim)
{
    return (size_t)(n_slot * n_head * (v_dim + 4)) * sizeof(float);
}

int lk_cuda_attn_rows(int64_t v_dim, size_t shared_bytes)
{
    return v_dim <= 256 ? 64 : shared_bytes >= WIDE_SHARED ? 32 : 16;
}

static int64_t window_begin(const struct plan *p, int64_t pos)
{
    return p->shape->window > 0 && pos >= p->shape->window ? pos - p->shape->window + 1 : 0;
}

static int32_t add_row(struct plan *p, int64_t tok, int64_t slot)
{
    p->row[p->n_row] = (struct lk_attn_row){(int32_t)tok, (int32_t)slot};
    return (int32_t)p->n_row++;
}

/* Tokens of a prompt, as many an item as a tile takes. */
static void add_prompt(struct plan *p, int64_t is, int64_t per)
{
    const struct lk_attn_seq *s = &p->seq[is];
    for (int64_t i = 0; i < s->n_tok; i += per) {
        int64_t n = least(per, s->n_tok - i);
        int32_t row = (int32_t)p->n_row;
        for (int64_t j = 0; j < n; j++)
            add_row(p, s->tok + i + j, 0);
        p->many[p->n_many++] = (struct lk_attn_work){row,
                                                     (int32_t)n,
                                                     (int32_t)is,
                                                     (int32_t)(window_begin(p, s->pos + i) / LK_PAGE_TOKENS),
                                                     (int32_t)((s->pos + i + n - 1) / LK_PAGE_TOKENS + 1),
                                                     LK_ATTN_WHOLE};
    }
}

static void add_few(struct plan *p, struct lk_attn_work w)
{
    p->n_few++;
    *(p->few - p->n_few) = w;
}

/* One token from page `begin` on, whose states up to there are kept: an item a split, unless one does it all. */
static void add_token(struct plan *p, int64_t is, int32_t row, int64_t begin)
{
    const struct lk_attn_seq *s = &p->seq[is];
    int64_t end = s->pos / LK_PAGE_TOKENS + 1, from = window_begin(p, s->pos) / LK_PAGE_TOKENS;
    bool fresh = begin == 0;
    begin = begin > from ? begin : from;
    if (fresh && (end - 1) / SPLIT_PAGES == begin / SPLIT_PAGES) {
        add_few(p, (struct lk_attn_work){row, 1, (int32_t)is, (int32_t)begin, (int32_t)end, LK_ATTN_WHOLE});
        return;
    }
    for (int64_t page = begin; page < end;) {
        int64_t next = least(end, (page / SPLIT_PAGES + 1) * SPLIT_PAGES);
        bool resumes = !fresh && page == begin && page % SPLIT_PAGES != 0;
        add_few(p, (struct lk_attn_work){row, 1, (int32_t)is, (int32_t)page, (int32_t)next,
                                         resumes ? LK_ATTN_RESUME : LK_ATTN_STATE});
        page = next;
    }
    p->n_merge++;
    *(p->merge - p->n_merge) = p->row[row];
}

/* Full pages with which two sequences begin alike. */
static int64_t shared_pages(const struct lk_attn_seq *a, const struct lk_attn_seq *b)
{
    int64_t most = least(a->pos, b->pos) / LK_PAGE_TOKENS, n = 0;
    while (n < most && a->page[n] == b->page[n])
        n++;
    return n;
}

/* Sequences is .. of one token: takes those that share pages, up to `per`; returns how many. */
static int64_t add_tokens(struct plan *p, int64_t is, int64_t n_seq, int64_t per)
{
    int64_t n = 1, shared = 0;
    while (p->shape->window == 0 && n < per && is + n < n_seq && p->seq[is + n].n_tok == 1) {
        int64_t common = shared_pages(&p->seq[is], &p->seq[is + n]);
        if (common < MIN_SHARED || (n > 1 && common < shared / 2))
            break;
        shared = n == 1 ? common : least(shared, common);
        n++;
    }
    int32_t row = (int32_t)p->n_row;
    for (int64_t i = 0; i < n; i++) {
        add_row(p, p->seq[is + i].tok, p->n_slot);
        p->n_slot += splits_of(p->seq[is + i].pos);
    }
    if (n == 1)
        shared = 0;
    for (int64_t page = 0; page < shared;) {
        int64_t next = least(shared, (page / SPLIT_PAGES + 1) * SPLIT_PAGES);
        p->many[p->n_many++] =
            (struct lk_attn_work){row, (int32_t)n, (int32_t)is, (int32_t)page, (int32_t)next, LK_ATTN_STATE};
        page = next;
    }
    for (int64_t i = 0; i < n; i++)
        add_token(p, is + i, row + (int32_t)i, shared);
    return n;
}

void lk_attn_plan_step(const struct lk_attn_seq *seq, int64_t n_seq, const struct lk_attn_shape *shape,
                       struct lk_attn_work *item, struct lk_attn_row *row, struct lk_attn_plan *plan)
{
    int64_t group = shape->n_head / shape->n_kv_head, rows = lk_cuda_attn_rows(shape->v_dim, shape->shared_bytes);
    int64_t per = rows / group > 0 ? rows / group : 1;
    int64_t most_items = lk_attn_plan_items(seq, n_seq), most_rows = lk_attn_plan_rows(seq, n_seq);
    struct plan p = {
        .seq = seq, .shape = shape, .many = item, .few = item + most_items, .row = row, .merge = row + most_rows};
    for (int64_t is = 0; is < n_seq;) {
        if (seq[is].n_tok != 1) {
            add_prompt(&p, is, per);
            is++;
        } else {
            is += add_tokens(&p, is, n_seq, per);
        }
    }
    const struct lk_attn_work idle = {0, 0, 0, 0, 0, LK_ATTN_WHOLE};
    int64_t n_many = shape->rounds ? rounded(p.n_many) : p.n_many, n_few = shape->rounds ? rounded(p.n_few) : p.n_few;
    int64_t n_merge = shape->rounds ? rounded(p.n_merge) : p.n_merge;
    for (int64_t i = p.n_many; i < n_many; i++)
        item[i] = idle;
    for (int64_t i = 0; i < p.n_few; i++) /* down to where the others end: a copy never meets what it still needs */
        item[n_many + i] = *(p.few - p.n_few + i);
    for (int64_t i = p.n_few; i < n_few; i++)
        item[n_many + i] = idle;
    for (int64_t i = 0; i < p.n_merge; i++)
        row[p.n_row + i] = *(p.merge - p.n_merge + i);
    for (int64_t i = p.n_merge; i < n_merge; i++)
        row[p.n_row + i] = (struct lk_attn_row){-1, 0};
    plan->shared_bytes = shape->shared_bytes;
    plan->item = item;
    plan->row = row;
    plan->n_many = n_many;
    plan->n_few = n_few;
    plan->merge_row = p.n_row;
    plan->n_merge = n_merge;
    plan->n_row = p.n_row + n_merge;
    plan->n_slot = p.n_slot;
}
