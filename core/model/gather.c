#include "core/model/gather.h"

#include <string.h>

/* What stands before the part of the vocabulary. */
struct message {
    _Alignas(8) int32_t status; /* enum lb_status */
    uint32_t flags;
    bool heard; /* of a rank that may say more */
    char text[LB_ERR_TEXT_BYTES];
};

static size_t message_bytes(const struct lb_gather *g, int rank, const struct lb_out_counts *count)
{
    size_t part = lb_head_part_bytes(count, g->vocab[rank + 1] - g->vocab[rank]);
    return (sizeof(struct message) + part + 63) / 64 * 64;
}

enum lb_status lb_gather_init(struct lb_gather *g, struct lb_comm *comm, struct lb_backend *be, const int64_t *vocab,
                              int32_t max_out, struct lb_err *err)
{
    *g = (struct lb_gather){.comm = comm, .be = be, .vocab = vocab};
    /* more than any mixture of both kinds can take */
    const struct lb_out_counts most = {max_out, max_out, max_out};
    size_t bytes = 0;
    for (int i = 0; i < comm->size; i++)
        if (comm->rank == 0 || comm->rank == i)
            bytes += message_bytes(g, i, &most);
    return lb_arena_init(&g->arena, bytes, err);
}

void lb_gather_release(struct lb_gather *g)
{
    lb_arena_release(&g->arena);
    *g = (struct lb_gather){0};
}

void *lb_gather_part(struct lb_gather *g)
{
    return g->arena.base + sizeof(struct message);
}

/* The leader's reading of the messages. */
static enum lb_status read_messages(struct lb_gather *g, const struct lb_step *step, const size_t *bytes, bool wanted,
                                    const struct lb_cand **cand, struct lb_err *err)
{
    struct lb_head_part part[LB_COMM_MAX_RANKS];
    const uint8_t *at = g->arena.base;
    const struct message *worst = NULL;
    int rank = 0;
    g->flags_of_all = 0;
    for (int i = 0; i < g->comm->size; i++) {
        const struct message *m = (const struct message *)(const void *)at;
        g->flags_of_all |= m->flags;
        if (m->status != LB_OK && (!worst || (worst->heard && !m->heard))) {
            worst = m;
            rank = i;
        }
        part[i] = (struct lb_head_part){m + 1, g->vocab[i], g->vocab[i + 1] - g->vocab[i]};
        at += bytes[i];
    }
    if (worst && rank > 0) {
        *err = (struct lb_err)LB_ERR_INIT;
        lb_err_set(err, (enum lb_status)worst->status, "rank %d of the group: %s", rank, worst->text);
    }
    if (!worst && wanted)
        *cand = g->be->ops->head_merge(g->be, step, part, g->comm->size);
    return worst ? (enum lb_status)worst->status : LB_OK;
}

enum lb_status lb_gather_step(struct lb_gather *g, const struct lb_step *step, bool fits, const struct lb_cand **cand,
                              struct lb_err *err)
{
    size_t bytes[LB_COMM_MAX_RANKS];
    struct lb_out_counts count = {0};
    if (fits && step->n_tok > 0)
        count = lb_step_outputs(step);
    for (int i = 0; i < g->comm->size; i++)
        bytes[i] = message_bytes(g, i, &count);
    struct message *mine = (struct message *)(void *)g->arena.base;
    bool leader = g->comm->rank == 0;
    mine->status = (int32_t)err->status;
    mine->flags = g->flags;
    mine->heard = g->comm->heard;
    memcpy(mine->text, err->text, sizeof mine->text);
    *cand = NULL;
    g->comm->ops->gather(g->comm, mine, leader ? mine : NULL, bytes);
    LB_TRY(g->comm->ops->status(g->comm, err));
    return leader ? read_messages(g, step, bytes, count.n_out > 0, cand, err) : err->status;
}
