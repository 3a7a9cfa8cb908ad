/* Questions on their way to the ranks of a group, and the answers. */
#include <string.h>

#include "core/backend/backend.h"
#include "core/dist/comm.h"
#include "core/run/ask.h"

#define ROUND_BYTES ((size_t)1 << 20) /* questions, and answers, that a round takes beside the largest single one */

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

/* A question, its ids, and the other logits. */
static size_t wire_bytes(const struct lb_question *q)
{
    size_t list = padded((size_t)q->n_id * sizeof(int32_t));
    return sizeof *q + list + (lb_ask_changes(q) ? list : 0);
}

static size_t answer_bytes(const struct lb_asker *k, const struct lb_ask *a, int rank)
{
    return lb_ask_bytes(a, rank, k->begin[rank], k->begin[rank + 1] - k->begin[rank]);
}

enum lb_status lb_asker_init(struct lb_asker *k, struct lb_comm *comm, struct lb_backend *be, struct lb_model *model,
                             int64_t max_out, struct lb_err *err)
{
    *k = (struct lb_asker){.comm = comm, .be = be, .model = model, .begin = lb_model_parts(model), .max_out = max_out};
    size_t n_vocab = (size_t)k->begin[comm->size], n_out = (size_t)max_out;
    LB_TRY(lb_arena_init(&k->questions, ROUND_BYTES + sizeof(struct lb_question) + 2 * padded(4 * n_vocab), err));
    LB_TRY(lb_arena_init(&k->answers, ROUND_BYTES + 8 * (size_t)comm->size + 4 * n_vocab, err));
    k->ask = lb_mem_new(n_out, sizeof *k->ask);
    k->asked = lb_mem_new(n_out, sizeof *k->asked);
    k->at = lb_mem_new(n_out, sizeof *k->at);
    return k->ask && k->asked && k->at ? LB_OK : lb_err_memory(err, "questions", n_out * sizeof *k->ask);
}

void lb_asker_release(struct lb_asker *k)
{
    lb_arena_release(&k->questions);
    lb_arena_release(&k->answers);
    lb_mem_free(k->ask);
    lb_mem_free(k->asked);
    lb_mem_free(k->at);
    *k = (struct lb_asker){0};
}

static void answer_range(void *ctx, int64_t begin, int64_t end)
{
    struct lb_asker *k = ctx;
    int rank = k->comm->rank;
    for (int64_t i = begin; i < end; i++) {
        const struct lb_logit_part part = {lb_model_logits(k->model, k->ask[i].q.output), k->begin[rank],
                                           k->begin[rank + 1] - k->begin[rank]};
        lb_ask_answer(&k->ask[i], rank, &part, k->answers.base + k->at[i]);
    }
}

/* All ranks answer the questions of a round; the leader gets the answers. */
static enum lb_status answer_round(struct lb_asker *k, size_t counts[static LB_COMM_MAX_RANKS], struct lb_err *err)
{
    for (int p = 0; p < k->comm->size; p++) {
        counts[p] = 0;
        for (int64_t i = 0; i < k->n; i++) {
            if (p == k->comm->rank)
                k->at[i] = counts[p];
            counts[p] += answer_bytes(k, &k->ask[i], p);
        }
    }
    k->be->ops->parallel(k->be, answer_range, k, k->n);
    k->comm->ops->gather(k->comm, k->answers.base, k->comm->rank == 0 ? k->answers.base : NULL, counts);
    return k->comm->ops->status(k->comm, err);
}

/* ---- the leader ---- */

static uint8_t *pack(uint8_t *to, const struct lb_ask *a)
{
    size_t list = (size_t)a->q.n_id * sizeof(int32_t);
    memcpy(to, &a->q, sizeof a->q);
    to += sizeof a->q;
    if (list == 0)
        return to;
    memcpy(to, a->id, list);
    to += padded(list);
    if (!lb_ask_changes(&a->q))
        return to;
    memcpy(to, a->value, list);
    return to + padded(list);
}

/* The questions of asked[n] that fit a round; returns how many rows were looked at. */
static int64_t pack_round(struct lb_asker *k, struct lb_asked *asked, int64_t n, size_t *bytes)
{
    size_t n_answer = 0;
    int64_t j = 0;
    *bytes = 0;
    k->n = 0;
    for (; j < n && k->n < k->max_out; j++) {
        struct lb_ask *a = &asked[j].next;
        if (a->q.kind == LB_ASK_NOTHING)
            continue;
        size_t size = wire_bytes(&a->q), answers = 0;
        for (int p = 0; p < k->comm->size; p++)
            answers += answer_bytes(k, a, p);
        if (*bytes + size > k->questions.cap_bytes || n_answer + answers > k->answers.cap_bytes)
            break;
        pack(k->questions.base + *bytes, a);
        *bytes += size;
        n_answer += answers;
        k->asked[k->n] = &asked[j];
        k->ask[k->n++] = *a;
    }
    return j;
}

static void take_round(struct lb_asker *k, const size_t counts[static LB_COMM_MAX_RANKS])
{
    const uint8_t *answer[LB_COMM_MAX_RANKS], *at = k->answers.base;
    for (int p = 0; p < k->comm->size; p++) {
        answer[p] = at;
        at += counts[p];
    }
    k->put_bytes += (uint64_t)(at - answer[1]);
    for (int64_t i = 0; i < k->n; i++) {
        const struct lb_ask a = k->ask[i];
        k->n_put[a.q.kind]++;
        float *row = lb_model_logits(k->model, a.q.output);
        if (a.q.kind == LB_ASK_ROW)
            k->asked[i]->row = row;
        if (a.q.kind == LB_ASK_LIST) { /* behind the leader's own part */
            k->asked[i]->list_id = (int32_t *)(void *)(row + k->begin[1]);
            k->asked[i]->list_logit = row + k->begin[1] + k->asked[i]->n_list;
        }
        lb_asked_take(k->asked[i], k->begin, k->comm->size, answer);
        for (int p = 0; p < k->comm->size; p++)
            answer[p] += answer_bytes(k, &a, p);
    }
}

enum lb_status lb_asker_put(struct lb_asker *k, struct lb_asked *asked, int64_t n, struct lb_err *err)
{
    while (n > 0) {
        size_t bytes, counts[LB_COMM_MAX_RANKS];
        int64_t done = pack_round(k, asked, n, &bytes);
        if (done == 0)
            return lb_err_set(err, LB_E_DEVICE, "a question about %d ids does not fit", asked->next.q.n_id);
        if (k->n > 0) {
            struct lb_step_head head = {.n_ask = (int32_t)k->n, .n_int = (int64_t)(bytes / sizeof(int32_t))};
            k->comm->ops->bcast(k->comm, &head, sizeof head);
            k->comm->ops->bcast(k->comm, k->questions.base, bytes);
            LB_TRY(answer_round(k, counts, err));
            k->put_bytes += sizeof head + bytes;
            take_round(k, counts);
        }
        asked += done;
        n -= done;
    }
    return LB_OK;
}

/* ---- the others ---- */

/* What came, as questions; false where it is not what a leader packs. */
static bool unpack(struct lb_asker *k, int64_t n, size_t bytes)
{
    uint8_t *at = k->questions.base, *end = at + bytes;
    k->n = 0;
    while (k->n < n && (size_t)(end - at) >= sizeof(struct lb_question)) {
        struct lb_ask *a = &k->ask[k->n++];
        memcpy(&a->q, at, sizeof a->q);
        for (int p = 0; p < k->comm->size; p++)
            if (a->q.n_list[p] < 0 || a->q.n_list[p] > k->begin[p + 1] - k->begin[p])
                return false;
        if (a->q.n_id < 0 || (size_t)a->q.n_id > bytes || wire_bytes(&a->q) > (size_t)(end - at) || a->q.output < 0 ||
            a->q.output >= k->max_out || !lb_model_logits(k->model, a->q.output))
            return false;
        a->id = (const int32_t *)(const void *)(at + sizeof a->q);
        a->value = (float *)(void *)(at + sizeof a->q + padded((size_t)a->q.n_id * sizeof(int32_t)));
        at += wire_bytes(&a->q);
    }
    return k->n == n && at == end;
}

enum lb_status lb_asker_answer(struct lb_asker *k, const struct lb_step_head *head, struct lb_err *err)
{
    size_t counts[LB_COMM_MAX_RANKS], bytes = (size_t)head->n_int * sizeof(int32_t);
    if (head->n_ask > k->max_out || head->n_int < 0 || bytes > k->questions.cap_bytes)
        return lb_err_set(err, LB_E_DEVICE, "%d questions of the group's first rank do not fit this rank's memory",
                          head->n_ask);
    k->comm->ops->bcast(k->comm, k->questions.base, bytes);
    LB_TRY(k->comm->ops->status(k->comm, err));
    if (!unpack(k, head->n_ask, bytes))
        return lb_err_set(err, LB_E_DEVICE, "questions of the group's first rank make no sense here");
    return answer_round(k, counts, err);
}
