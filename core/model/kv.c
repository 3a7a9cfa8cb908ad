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
    size_t bytes = seqs * (sizeof *kv->seq + 3 * sizeof(int32_t)) + table * sizeof(int32_t) +
                   pages * (5 * sizeof(int32_t) + 2) + 13 * 64;
    LB_TRY(lb_arena_init(&kv->arena, bytes, err));
    kv->seq = lb_arena_take(&kv->arena, seqs * sizeof *kv->seq);
    kv->seq_free = lb_arena_take(&kv->arena, seqs * sizeof *kv->seq_free);
    kv->copy_from = lb_arena_take(&kv->arena, seqs * sizeof *kv->copy_from);
    kv->copy_to = lb_arena_take(&kv->arena, seqs * sizeof *kv->copy_to);
    kv->free_page = lb_arena_take(&kv->arena, pages * sizeof *kv->free_page);
    kv->refs = lb_arena_take(&kv->arena, pages * sizeof *kv->refs);
    kv->fresh = lb_arena_take(&kv->arena, pages * sizeof *kv->fresh);
    kv->is_fresh = lb_arena_take(&kv->arena, pages);
    kv->kept = lb_arena_take(&kv->arena, pages);
    kv->older = lb_arena_take(&kv->arena, pages * sizeof *kv->older);
    kv->newer = lb_arena_take(&kv->arena, pages * sizeof *kv->newer);
    int32_t *tables = lb_arena_take(&kv->arena, table * sizeof *tables);
    kv->n_page = kv->n_free = kv->max_idle = n_page;
    kv->oldest = kv->newest = -1;
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

static void idle_remove(struct lb_kv *kv, int32_t page)
{
    int32_t older = kv->older[page], newer = kv->newer[page];
    *(older < 0 ? &kv->oldest : &kv->newer[older]) = newer;
    *(newer < 0 ? &kv->newest : &kv->older[newer]) = older;
    kv->n_idle--;
}

/* The oldest idle page becomes a free one. */
static void give_up(struct lb_kv *kv)
{
    int32_t page = kv->oldest;
    idle_remove(kv, page);
    kv->kept[page] = 0;
    kv->forget(kv->forget_ctx, page);
    kv->free_page[kv->n_free - kv->n_idle - 1] = page;
}

static void idle_add(struct lb_kv *kv, int32_t page)
{
    kv->older[page] = kv->newest;
    kv->newer[page] = -1;
    *(kv->newest < 0 ? &kv->oldest : &kv->newer[kv->newest]) = page;
    kv->newest = page;
    kv->n_idle++;
    kv->n_free++;
    if (kv->n_idle > kv->max_idle)
        give_up(kv);
}

static void drop(struct lb_kv *kv, int32_t page)
{
    if (--kv->refs[page] > 0)
        return;
    if (kv->kept[page])
        idle_add(kv, page);
    else
        kv->free_page[kv->n_free++ - kv->n_idle] = page;
}

static void append(struct lb_kv *kv, struct lb_kv_seq *s, int32_t page)
{
    kv->refs[page]++;
    s->page[s->n_page++] = page;
    kv->n_entry++;
}

static void count_used(struct lb_kv *kv)
{
    if (kv->peak_used < lb_kv_used(kv))
        kv->peak_used = lb_kv_used(kv);
}

/* There is a page without references. */
static int32_t take_free(struct lb_kv *kv)
{
    if (kv->n_free == kv->n_idle)
        give_up(kv);
    return kv->free_page[--kv->n_free - kv->n_idle];
}

bool lb_kv_extend(struct lb_kv *kv, int32_t seq, int64_t n_tok)
{
    struct lb_kv_seq *s = &kv->seq[seq];
    int64_t want = lb_kv_pages_of(n_tok);
    if (want > kv->max_page || want - s->n_page > kv->n_free)
        return false;
    while (s->n_page < want) {
        int32_t page = take_free(kv);
        append(kv, s, page);
        if (!kv->is_fresh[page]) {
            kv->is_fresh[page] = 1;
            kv->fresh[kv->n_new++] = page;
        }
    }
    if (s->n_tok < n_tok)
        s->n_tok = n_tok;
    count_used(kv);
    return true;
}

bool lb_kv_share(struct lb_kv *kv, int32_t seq, int32_t page)
{
    struct lb_kv_seq *s = &kv->seq[seq];
    if (s->n_page == kv->max_page)
        return false;
    if (kv->refs[page] == 0) {
        idle_remove(kv, page);
        kv->n_free--;
    }
    append(kv, s, page);
    s->n_tok = (int64_t)s->n_page * LK_PAGE_TOKENS;
    count_used(kv);
    return true;
}

/* A page that is written over as a whole is not to be zeroed behind that. */
static void not_fresh(struct lb_kv *kv, int32_t page)
{
    if (!kv->is_fresh[page])
        return;
    kv->is_fresh[page] = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < kv->n_new; i++)
        if (kv->fresh[i] != page)
            kv->fresh[n++] = kv->fresh[i];
    kv->n_new = n;
}

int32_t lb_kv_fork(struct lb_kv *kv, int32_t seq)
{
    const struct lb_kv_seq *from = &kv->seq[seq];
    bool part = from->n_tok % LK_PAGE_TOKENS != 0;
    if (part && (kv->n_free == 0 || kv->n_copy == kv->max_seq))
        return -1;
    int32_t fork = lb_kv_open(kv);
    if (fork < 0)
        return -1;
    struct lb_kv_seq *to = &kv->seq[fork];
    for (int32_t i = 0; i < from->n_page - (part ? 1 : 0); i++)
        append(kv, to, from->page[i]);
    if (part) {
        int32_t page = take_free(kv);
        append(kv, to, page);
        not_fresh(kv, page);
        kv->copy_from[kv->n_copy] = from->page[from->n_page - 1];
        kv->copy_to[kv->n_copy++] = page;
    }
    to->n_tok = from->n_tok;
    count_used(kv);
    return fork;
}

int32_t lb_kv_take_copies(struct lb_kv *kv, int32_t *from, int32_t *to, int32_t cap)
{
    int32_t n = kv->n_copy < cap ? kv->n_copy : cap;
    for (int32_t i = 0; i < n; i++) {
        from[i] = kv->copy_from[i];
        to[i] = kv->copy_to[i];
    }
    kv->n_copy = 0;
    return n;
}

void lb_kv_keep(struct lb_kv *kv, int32_t page)
{
    kv->kept[page] = 1;
}

void lb_kv_close(struct lb_kv *kv, int32_t seq)
{
    struct lb_kv_seq *s = &kv->seq[seq];
    if (!s->open)
        return;
    /* the last page first: of a shared beginning the end is given up before what it follows */
    for (int32_t i = s->n_page; i-- > 0;)
        drop(kv, s->page[i]);
    kv->n_entry -= s->n_page;
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
