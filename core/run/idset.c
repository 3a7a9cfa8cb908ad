#include "core/run/idset.h"

#include "core/base/mem.h"

#define FIRST_CAP ((size_t)1 << 10)

/* The slot of a key, or the free one where it would stand. */
static struct lb_id_slot *find(const struct lb_id_set *s, uint64_t key)
{
    size_t i = (size_t)key & (s->cap - 1);
    while (s->slot[i].key && s->slot[i].key != key)
        i = (i + 1) & (s->cap - 1);
    return &s->slot[i];
}

static enum lb_status grow(struct lb_id_set *s, struct lb_err *err)
{
    struct lb_id_set more = {.n = s->n, .cap = s->cap ? 2 * s->cap : FIRST_CAP};
    more.slot = lb_mem_new(more.cap, sizeof *more.slot);
    if (!more.slot)
        return lb_err_memory(err, "the ids of rows", more.cap * sizeof *more.slot);
    for (size_t i = 0; i < s->cap; i++)
        if (s->slot[i].key)
            *find(&more, s->slot[i].key) = s->slot[i];
    lb_mem_free(s->slot);
    *s = more;
    return LB_OK;
}

enum lb_status lb_id_set_add(struct lb_id_set *s, uint64_t key, struct lb_id_place at, bool *again,
                             struct lb_id_place *first, struct lb_err *err)
{
    *again = false;
    key += key == 0; /* 0 marks a free slot */
    bool full = s->n >= LB_ID_SET_MAX;
    if (!full && s->n >= s->cap - s->cap / 8)
        LB_TRY(grow(s, err));
    struct lb_id_slot *slot = find(s, key);
    if (slot->key) {
        *again = true;
        *first = slot->at;
    } else if (!full) {
        *slot = (struct lb_id_slot){key, at};
        s->n++;
    }
    return LB_OK;
}

void lb_id_set_release(struct lb_id_set *s)
{
    lb_mem_free(s->slot);
    *s = (struct lb_id_set){0};
}
