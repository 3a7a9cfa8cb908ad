/* Merges for vocabularies that list none: SentencePiece scores and tiktoken ranks say what two neighbors become by the
 * text they make together, so every way to cut a token into two others is a merge (models.md 3.7). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

struct splits {
    struct lb_merge *item;
    size_t n, cap;
};

static int32_t find_part(const struct lb_tok *t, const char *text, size_t n)
{
    int32_t id = lb_tok_find(t, text, n, false);
    return id >= 0 && (t->token[id].flags & LB_TOKEN_JOINS) ? id : -1;
}

static enum lb_status add_splits(const struct lb_tok *t, struct splits *all, int32_t id, uint32_t rank, bool chars,
                                 struct lb_err *err)
{
    const char *text = t->pool.data + t->token[id].at;
    size_t n = t->token[id].len;
    for (size_t i = 1; i < n; i++) {
        if (chars && ((unsigned char)text[i] & 0xC0) == 0x80)
            continue;
        int32_t left = find_part(t, text, i), right = left < 0 ? -1 : find_part(t, text + i, n - i);
        if (right < 0)
            continue;
        if (all->n == all->cap)
            LB_TRY(lb_mem_grow((void **)&all->item, &all->cap, all->n + 1, sizeof *all->item, "merges", err));
        all->item[all->n++] = (struct lb_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
    }
    return LB_OK;
}

enum lb_status lb_tok_merges_from_splits(struct lb_tok *t, const uint32_t *rank, bool chars, struct lb_err *err)
{
    struct splits all = {0};
    enum lb_status status = LB_OK;
    for (int64_t id = 0; id < t->n_id; id++) {
        if (!(t->token[id].flags & LB_TOKEN_JOINS) || t->token[id].len < 2)
            continue;
        if (t->token[id].len > LB_TOK_MAX_PIECE)
            status = lb_err_set(err, LB_E_INPUT, "token %lld has %u bytes: more than %d", (long long)id,
                                (unsigned)t->token[id].len, LB_TOK_MAX_PIECE);
        if (status == LB_OK)
            status = add_splits(t, &all, (int32_t)id, rank[id], chars, err);
        if (status != LB_OK)
            goto out;
    }
    LB_TRY_OUT(status, lb_tok_reserve_merges(t, all.n, err));
    for (size_t i = 0; i < all.n; i++)
        lb_tok_put_merge(t, &all.item[i]);
out:
    lb_mem_free(all.item);
    return status;
}
