/* The host's part of an LM head, whatever the device: where logits lie, and candidates from what kernels said of blocks
 * of the vocabulary, whole or in parts. All go by the same blocks and ties, so that a token's candidates do not tell
 * which it was. Rows are independent: any number of threads may take some of them. */
#include "core/backend/head.h"

#include <math.h>
#include <string.h>

enum lb_status lb_head_reserve(struct lb_head *h, int64_t max_out, const struct lk_cols *vocab, struct lb_err *err)
{
    int64_t n_vocab = vocab->n_col;
    size_t n_out = (size_t)max_out, n_top = n_out * LK_TOP, n_lse = n_out * (size_t)vocab->n_seg;
    h->max_out = max_out;
    h->n_vocab = n_vocab;
    h->vocab = *vocab;
    h->ld_logits = (n_vocab + 15) / 16 * 16;
    size_t n_best = n_out * (size_t)lb_head_blocks(n_vocab), n_logit = n_out * (size_t)h->ld_logits;
    size_t bytes = n_best * sizeof *h->best + n_out * (sizeof *h->logits_of + sizeof *h->top_of + sizeof *h->cand) +
                   n_lse * sizeof *h->lse + n_top * (sizeof *h->top_id + sizeof *h->top_value) +
                   n_logit * sizeof *h->logits + (size_t)8 * 64;
    LB_TRY(lb_arena_init_plain(&h->arena, bytes, err)); /* few rows need logits */
    h->best = lb_arena_take(&h->arena, n_best * sizeof *h->best);
    h->logits_of = lb_arena_take(&h->arena, n_out * sizeof *h->logits_of);
    h->top_of = lb_arena_take(&h->arena, n_out * sizeof *h->top_of);
    h->lse = lb_arena_take(&h->arena, n_lse * sizeof *h->lse);
    h->top_id = lb_arena_take(&h->arena, n_top * sizeof *h->top_id);
    h->top_value = lb_arena_take(&h->arena, n_top * sizeof *h->top_value);
    h->cand = lb_arena_take(&h->arena, n_out * sizeof *h->cand);
    h->logits = lb_arena_take(&h->arena, n_logit * sizeof *h->logits);
    return LB_OK;
}

void lb_head_release(struct lb_head *h)
{
    lb_arena_release(&h->arena);
}

int32_t lb_head_kind(const struct lb_step *s, int64_t j)
{
    return s->out_flags[j] & LB_OUT_LOGITS ? LB_OUT_LOGITS : s->out_flags[j] & LB_OUT_TOP;
}

void lb_head_place(struct lb_head *h, const struct lb_step *s)
{
    for (int64_t j = 0, i = 0; j < s->n_out; j++)
        h->logits_of[j] = lb_head_kind(s, j) ? h->logits + i++ * h->ld_logits : NULL;
}

int64_t lb_head_list(struct lb_head *h, const struct lb_step *s, int32_t kinds)
{
    int64_t n = 0;
    for (int64_t j = 0; j < s->n_out; j++) {
        h->top_of[j] = lb_head_kind(s, j) & kinds ? h->logits_of[j] : NULL;
        n += h->top_of[j] != NULL;
    }
    return n;
}

/* The log of the sum of exponentials of all segments from those of each; it goes by the segments, not by who had them.
 */
static double join_lse(const double *lse, int n, double max)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        if (lse[i] != -INFINITY)
            sum += exp(lse[i] - max);
    return max + log(sum);
}

/* A later candidate wins where it is larger: ids ascend, so that ties stay with the lower one. */
static void take_best(struct lb_cand *cand, float value, int32_t id, bool finite)
{
    cand->finite = cand->finite && finite;
    if (id >= 0 && (cand->best < 0 || value > cand->best_logit)) {
        cand->best = id;
        cand->best_logit = value;
    }
}

static void cand_init(const struct lb_head *h, int64_t j, struct lb_cand *cand)
{
    *cand = (struct lb_cand){.best = -1, .best_logit = -INFINITY, .finite = true};
    if (h->logits_of[j]) {
        cand->top_id = h->top_id + j * LK_TOP;
        cand->top_logit = h->top_value + j * LK_TOP;
    }
}

void lb_head_whole(struct lb_head *h, int64_t j)
{
    struct lb_cand *cand = &h->cand[j];
    cand->logits = h->logits_of[j];
    cand->lse = join_lse(h->lse + j * h->vocab.n_seg, h->vocab.n_seg, (double)cand->best_logit);
}

void lb_head_reduce_rows(void *ctx, int64_t begin, int64_t end)
{
    struct lb_head *h = ctx;
    int64_t n_block = lb_head_blocks(h->n_vocab);
    for (int64_t j = begin; j < end; j++) {
        const struct lk_best *best = h->best + j * n_block;
        cand_init(h, j, &h->cand[j]);
        for (int64_t b = 0; b < n_block; b++)
            take_best(&h->cand[j], best[b].value, best[b].id, best[b].finite);
        if (h->logits_of[j])
            lb_head_whole(h, j);
    }
}

void lb_head_own(const struct lb_head *h, int64_t first, int64_t n, struct lk_cols *own)
{
    *own = (struct lk_cols){.n_col = n};
    for (int is = 0; is < h->vocab.n_seg; is++)
        if (h->vocab.begin[is] >= first && h->vocab.begin[is + 1] <= first + n) {
            own->begin[own->n_seg++] = h->vocab.begin[is] - first;
            own->begin[own->n_seg] = h->vocab.begin[is + 1] - first;
        }
}

static void put_top(const struct lb_head *h, int64_t j, int64_t first, int n_seg, struct lb_head_top *top)
{
    for (int is = 0; is < LK_MAX_SEG; is++)
        top->lse[is] = is < n_seg ? h->lse[j * n_seg + is] : -INFINITY;
    for (int64_t i = j * LK_TOP, k = 0; k < LK_TOP; i++, k++) {
        top->id[k] = h->top_id[i] < 0 ? -1 : (int32_t)(first + h->top_id[i]);
        top->value[k] = h->top_value[i];
    }
}

void lb_head_put_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct lb_head_put *job = ctx;
    const struct lb_head *h = job->head;
    struct lb_head_best *best = (struct lb_head_best *)(void *)job->out;
    struct lb_head_top *top = (struct lb_head_top *)(void *)(job->out + lb_head_top_at(job->count.n_out));
    float *row = (float *)(void *)(job->out + lb_head_row_at(&job->count));
    for (int64_t j = 0; j < end; j++) {
        int32_t kind = lb_head_kind(job->step, j);
        if (j >= begin) {
            struct lb_cand cand;
            cand_init(h, j, &cand);
            for (const struct lk_best *b = h->best + j * job->n_block, *last = b + job->n_block; b < last; b++)
                take_best(&cand, b->value, b->id, b->finite);
            int32_t id = cand.best < 0 ? -1 : (int32_t)(job->first + cand.best);
            best[j] = (struct lb_head_best){cand.best_logit, id, cand.finite};
            if (kind == LB_OUT_TOP)
                put_top(h, j, job->first, job->own.n_seg, top);
            if (kind == LB_OUT_LOGITS)
                memcpy(row, h->logits_of[j], (size_t)job->n * sizeof *row);
        }
        top += kind == LB_OUT_TOP;
        row += kind == LB_OUT_LOGITS ? job->n : 0;
    }
}

/* The candidates of a row from those of its parts, whose ids ascend from part to part. */
static void merge_top(const struct lb_head_join *job, int64_t j, size_t at)
{
    const struct lb_head_top *top[LK_MAX_SEG];
    double lse[LK_MAX_SEG * LK_MAX_SEG];
    int next[LK_MAX_SEG] = {0}, n_lse = 0;
    for (int p = 0; p < job->n_part; p++) {
        top[p] = (const struct lb_head_top *)(const void *)((const uint8_t *)job->part[p].data + at);
        for (int is = 0; is < LK_MAX_SEG; is++)
            lse[n_lse++] = top[p]->lse[is];
    }
    struct lb_cand *cand = &job->head->cand[j];
    cand->lse = join_lse(lse, n_lse, (double)cand->best_logit);
    int32_t *id = job->head->top_id + j * LK_TOP;
    float *value = job->head->top_value + j * LK_TOP;
    for (int k = 0; k < LK_TOP; k++) {
        int from = -1;
        for (int p = 0; p < job->n_part; p++)
            if (next[p] < LK_TOP && top[p]->id[next[p]] >= 0 &&
                (from < 0 || top[p]->value[next[p]] > top[from]->value[next[from]]))
                from = p;
        id[k] = from < 0 ? -1 : top[from]->id[next[from]];
        value[k] = from < 0 ? -INFINITY : top[from]->value[next[from]++];
    }
}

/* Rows begin .. end from what the parts say of them; whole rows get their logits alone. */
void lb_head_join_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct lb_head_join *job = ctx;
    struct lb_head *h = job->head;
    size_t top_at = lb_head_top_at(job->count.n_out), row_at = lb_head_row_at(&job->count);
    for (int64_t j = 0, i_top = 0, i_row = 0; j < end; j++) {
        int32_t kind = lb_head_kind(job->step, j);
        if (j >= begin) {
            struct lb_cand *cand = &h->cand[j];
            cand_init(h, j, cand);
            for (int p = 0; p < job->n_part; p++) {
                const struct lb_head_best *best = (const struct lb_head_best *)job->part[p].data + j;
                take_best(cand, best->value, best->id, best->finite != 0);
            }
            if (kind == LB_OUT_TOP)
                merge_top(job, j, top_at + (size_t)i_top * sizeof(struct lb_head_top));
            for (int p = 0; p < job->n_part && kind == LB_OUT_LOGITS; p++) {
                const struct lb_head_part *part = &job->part[p];
                const float *from = (const float *)(const void *)((const uint8_t *)part->data + row_at);
                memcpy(h->logits_of[j] + part->begin, from + i_row * part->n, (size_t)part->n * sizeof *from);
            }
        }
        i_top += kind == LB_OUT_TOP;
        i_row += kind == LB_OUT_LOGITS;
    }
}
