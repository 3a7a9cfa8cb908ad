#include "core/model/prefix.h"

#include <string.h>

#include "core/base/hash.h"

#define PAGE LK_PAGE_TOKENS

struct lb_prefix_node {
    uint64_t serial, parent, variant; /* serial: never given twice, so that a page's next life is another parent */
    uint64_t hash;
    int32_t next; /* page in the same bucket, -1: none */
};

static uint64_t key_hash(uint64_t parent, uint64_t variant, const int32_t *tok)
{
    return lb_hash64(tok, PAGE * sizeof *tok, parent * 0x9e3779b97f4a7c15u ^ variant);
}

/* The page with this key, or -1. */
static int32_t find(const struct lb_prefix *p, uint64_t parent, uint64_t variant, const int32_t *tok)
{
    uint64_t hash = key_hash(parent, variant, tok);
    int32_t page = p->bucket[hash & p->mask];
    for (; page >= 0; page = p->node[page].next) {
        const struct lb_prefix_node *n = &p->node[page];
        if (n->hash == hash && n->parent == parent && n->variant == variant &&
            memcmp(p->tok + (size_t)page * PAGE, tok, PAGE * sizeof *tok) == 0)
            return page;
    }
    return -1;
}

static void forget(void *ctx, int32_t page)
{
    struct lb_prefix *p = ctx;
    struct lb_prefix_node *n = &p->node[page];
    int32_t *at = &p->bucket[n->hash & p->mask];
    while (*at != page)
        at = &p->node[*at].next;
    *at = n->next;
}

enum lb_status lb_prefix_init(struct lb_prefix *p, struct lb_kv *kv, struct lb_err *err)
{
    *p = (struct lb_prefix){.kv = kv};
    size_t n_page = (size_t)kv->n_page, n_bucket = 1;
    while (n_bucket < n_page)
        n_bucket *= 2;
    size_t bytes = n_page * (sizeof *p->node + PAGE * sizeof *p->tok) + n_bucket * sizeof *p->bucket + (size_t)3 * 64;
    LB_TRY(lb_arena_init(&p->arena, bytes, err));
    p->node = lb_arena_take(&p->arena, n_page * sizeof *p->node);
    p->tok = lb_arena_take(&p->arena, n_page * PAGE * sizeof *p->tok);
    p->bucket = lb_arena_take(&p->arena, n_bucket * sizeof *p->bucket);
    memset(p->bucket, -1, n_bucket * sizeof *p->bucket);
    p->mask = n_bucket - 1;
    kv->forget = forget;
    kv->forget_ctx = p;
    return LB_OK;
}

void lb_prefix_release(struct lb_prefix *p)
{
    if (p->kv)
        p->kv->forget = NULL;
    lb_arena_release(&p->arena);
    *p = (struct lb_prefix){0};
}

int32_t lb_prefix_look(const struct lb_prefix *p, const struct lb_prefix_text *text, int32_t *n_idle)
{
    uint64_t parent = 0;
    int32_t n = 0;
    *n_idle = 0;
    for (; (int64_t)(n + 1) * PAGE <= text->n_tok; n++) {
        int32_t page = find(p, parent, text->variant, text->tok + (size_t)n * PAGE);
        if (page < 0)
            break;
        parent = p->node[page].serial;
        *n_idle += p->kv->refs[page] == 0;
    }
    return n;
}

int32_t lb_prefix_match(struct lb_prefix *p, struct lb_prefix_place *at, int32_t seq, const struct lb_prefix_text *text)
{
    *at = (struct lb_prefix_place){0};
    while ((int64_t)(at->n_page + 1) * PAGE <= text->n_tok) {
        int32_t page = find(p, at->parent, text->variant, text->tok + (size_t)at->n_page * PAGE);
        if (page < 0 || !lb_kv_share(p->kv, seq, page))
            break;
        at->parent = p->node[page].serial;
        at->n_page++;
    }
    return at->n_page;
}

void lb_prefix_add(struct lb_prefix *p, struct lb_prefix_place *at, int32_t seq, const struct lb_prefix_text *text,
                   int64_t n_fed)
{
    int64_t full = (n_fed < text->n_tok ? n_fed : text->n_tok) / PAGE;
    for (; at->n_page < full; at->n_page++) {
        const int32_t *tok = text->tok + (size_t)at->n_page * PAGE;
        int32_t page = find(p, at->parent, text->variant, tok); /* two rows may have computed the same at one time */
        if (page < 0) {
            page = p->kv->seq[seq].page[at->n_page];
            struct lb_prefix_node *n = &p->node[page];
            uint64_t hash = key_hash(at->parent, text->variant, tok);
            int32_t *first = &p->bucket[hash & p->mask];
            *n = (struct lb_prefix_node){++p->serial, at->parent, text->variant, hash, *first};
            memcpy(p->tok + (size_t)page * PAGE, tok, PAGE * sizeof *tok);
            *first = page;
            lb_kv_keep(p->kv, page);
        }
        at->parent = p->node[page].serial;
    }
}
