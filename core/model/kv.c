#include "core/model/kv.h"

int64_t lb_kv_pages_of(int64_t n_tok)
{
    return (n_tok + LK_PAGE_TOKENS - 1) / LK_PAGE_TOKENS;
}

enum lb_status lb_kv_init(struct lb_kv *kv, int64_t n_page, int32_t max_seq, int64_t max_len, struct lb_err *err)
{
    *kv = (struct lb_kv){0};
    int64_t max_page = max_len < 1 || max_len > INT32_MAX ? 0 : lb_kv_pages_of(max_len);
    if (n_page < 1 || n_page > INT32_MAX || max_seq < 1 || max_page < 1)
        return lb_err_set(err, LB_E_USAGE, "a cache of %lld pages for %d sequences of %lld positions cannot be made",
                          (long long)n_page, max_seq, (long long)max_len);
    if (max_page > n_page)
        max_page = n_page;
    size_t pages = (size_t)n_page, seqs = (size_t)max_seq, table = seqs * (size_t)max_page;
    size_t bytes = seqs * (sizeof *kv->seq + sizeof *kv->seq_free) + table * sizeof(int32_t) +
                   pages * (3 * sizeof(int32_t) + 1) + 8 * 64;
    LB_TRY(lb_arena_init(&kv->arena, bytes, err));
    kv->seq = lb_arena_take(&kv->arena, seqs * sizeof *kv->seq);
    kv->seq_free = lb_arena_take(&kv->arena, seqs * sizeof *kv->seq_free);
    kv->free_page = lb_arena_take(&kv->arena, pages * sizeof *kv->free_page);
    kv->refs = lb_arena_take(&kv->arena, pages * sizeof *kv->refs);
    kv->fresh = lb_arena_take(&kv->arena, pages * sizeof *kv->fresh);
    kv->is_fresh = lb_arena_take(&kv->arena, pages);
    int32_t *tables = lb_arena_take(&kv->arena, table * sizeof *tables);
    kv->n_page = kv->n_free = n_page;
    kv->max_seq = kv->n_seq_free = max_seq;
    kv->max_page = (int32_t)max_page;
    for (int32_t i = 0; i < max_seq; i++) {
        kv->seq[i].page = tables + (size_t)i * (size_t)max_page;
        kv->seq_free[i] = max_seq - 1 - i;
    }
    for (int32_t i = 0; i < (int32_t)n_page; i++)
        kv->free_page[i] = (int32_t)n_page - 1 - i;
    return LB_OK;
}

void lb_kv_release(struct lb_kv *kv)
{
    lb_arena_release(&kv->arena);
    *kv = (struct lb_kv){0};
}

int32_t lb_kv_open(struct lb_kv *kv)
{
    if (kv->n_seq_free == 0)
        return -1;
    int32_t seq = kv->seq_free[--kv->n_seq_free];
    kv->seq[seq].open = true;
    return seq;
}

bool lb_kv_extend(struct lb_kv *kv, int32_t seq, int64_t n_tok)
{
    struct lb_kv_seq *s = &kv->seq[seq];
    int64_t want = lb_kv_pages_of(n_tok);
    if (want > kv->max_page || want - s->n_page > kv->n_free)
        return false;
    while (s->n_page < want) {
        int32_t page = kv->free_page[--kv->n_free];
        kv->refs[page] = 1;
        if (!kv->is_fresh[page]) {
            kv->is_fresh[page] = 1;
            kv->fresh[kv->n_new++] = page;
        }
        s->page[s->n_page++] = page;
    }
    if (s->n_tok < n_tok)
        s->n_tok = n_tok;
    if (kv->peak_used < lb_kv_used(kv))
        kv->peak_used = lb_kv_used(kv);
    return true;
}

void lb_kv_close(struct lb_kv *kv, int32_t seq)
{
    struct lb_kv_seq *s = &kv->seq[seq];
    if (!s->open)
        return;
    for (int32_t i = s->n_page; i-- > 0;)
        if (--kv->refs[s->page[i]] == 0)
            kv->free_page[kv->n_free++] = s->page[i];
    s->n_page = 0;
    s->n_tok = 0;
    s->open = false;
    kv->seq_free[kv->n_seq_free++] = seq;
}

int32_t lb_kv_take_new(struct lb_kv *kv, int32_t *out, int32_t cap)
{
    int32_t n = 0, kept = 0;
    for (int32_t i = 0; i < kv->n_new; i++) {
        int32_t page = kv->fresh[i];
        if (kv->refs[page] > 0 && n == cap) {
            kv->fresh[kept++] = page;
            continue;
        }
        kv->is_fresh[page] = 0;
        if (kv->refs[page] > 0)
            out[n++] = page;
    }
    kv->n_new = kept;
    return n;
}
