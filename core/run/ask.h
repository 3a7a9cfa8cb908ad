/* Questions about rows whose logits lie with the ranks of a group, a part of the vocabulary each (LB_OUT_TOP).
 *
 * At the end of a step the leader has each row's largest logit, its LK_TOP candidates and its log-sum-exp, which
 * answers most of what sampling asks. For the rest it sends questions, and every rank answers for its part:
 *
 *     values   the logits of some ids: those that penalties change, ids that wait to be chosen
 *     mass     sums of e^((x - best) / temperature) over LB_ASK_PIECES pieces of the part
 *     find     the id at which a running sum passes a target, in the piece where it does
 *     count    how many logits are at least x
 *     bins     how many ids, and how much mass, lie how far below the best: says how far down a filter goes that the
 *              candidates do not cover (top_k above LK_TOP, top_p)
 *     list     the ids down to there, with their logits
 *     row      all logits, where that would be most of them
 *
 * Masses are whole numbers (mass.h), so that the sum over pieces and ranks has the bits that one rank finds alone.
 * Changed logits go along with a question; the parts themselves stay as they are. A draw says what it lacks
 * (lb_asked_…), is given the answer and begins anew, knowing more: the same code runs whether rows are whole or not.
 *
 * The questions of all rows of a step travel together; ranks that do not lead wait for steps and questions alike
 * (follow.c). Forward thread; no memory is taken after lb_asker_init. */
#ifndef CORE_RUN_ASK_H
#define CORE_RUN_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/model/decoder.h"
#include "kernels/mass.h"

#define LB_ASK_PIECES 16
#define LB_ASK_BINS 256

enum lb_ask_kind {
    LB_ASK_NOTHING,
    LB_ASK_VALUES,
    LB_ASK_MASS,
    LB_ASK_FIND,
    LB_ASK_COUNT,
    LB_ASK_DEPTH, /* bins */
    LB_ASK_LIST,
    LB_ASK_ROW
};

struct lb_question {
    int32_t kind;   /* enum lb_ask_kind */
    int32_t output; /* of the step */
    int32_t n_id;   /* values: whose; else whose logits are others */
    int32_t piece;  /* find: counted over all ranks' */
    struct lk_mass_scale scale;
    struct lk_mass before; /* find: of all ids before the piece */
    double target;
    double per_logit; /* depth, list: bins */
    float x;
    int32_t last;                      /* list: bin */
    int32_t n_list[LB_COMM_MAX_RANKS]; /* list: ids that each rank has down to it */
};

/* A question with its lists, lent: ids in any order, each once. */
struct lb_ask {
    struct lb_question q;
    const int32_t *id; /* [n_id] */
    float *value;      /* [n_id] values: the answer; else the other logits */
};

/* Whether logits may be others. */
static inline bool lb_ask_changes(const struct lb_question *q)
{
    return q->kind == LB_ASK_MASS || q->kind == LB_ASK_FIND || q->kind == LB_ASK_DEPTH || q->kind == LB_ASK_LIST;
}

/* What is known of a row beyond its candidates, and what is asked next. */
struct lb_asked {
    struct lb_ask next; /* q.kind LB_ASK_NOTHING: nothing */
    double u;           /* of the draw */
    bool has_values, has_mass, has_found, has_count;
    uint64_t total; /* mass: of all ids, in units of 2^-40; and where u falls */
    double target;
    int32_t piece;
    struct lk_mass before;
    int32_t id; /* found, with its logit */
    float logit;
    int64_t count;
    float *row; /* [n_vocab], NULL: not asked for */
    /* depth: what the filter wants, as a mass or a number of ids; how far down that is */
    double want, per_logit;
    bool by_mass, has_depth, has_list;
    int32_t last, n_part_list[LB_COMM_MAX_RANKS];
    int64_t n_list;
    /* [n_list] ascending ids with their logits; given before the answer is taken */
    int32_t *list_id;
    float *list_logit;
};

/* Ask for what is not known yet. */
void lb_asked_values(struct lb_asked *a, const int32_t *id, float *value, int64_t n);
void lb_asked_mass(struct lb_asked *a, const struct lk_mass_scale *scale);
void lb_asked_find(struct lb_asked *a, const struct lk_mass_scale *scale); /* the mass is known */
void lb_asked_count(struct lb_asked *a, float x);
void lb_asked_depth(struct lb_asked *a, const struct lk_mass_scale *scale, double per_logit, bool by_mass, double want);
void lb_asked_list(struct lb_asked *a, const struct lk_mass_scale *scale); /* the depth is known */
void lb_asked_row(struct lb_asked *a);

/* Logits of ids begin .. begin + n - 1 of a row. */
struct lb_logit_part {
    float *logits;
    int64_t begin, n;
};

/* Bytes of a rank's answer for its part, and the answer. Other logits are exchanged with the part's and back while it
 * answers. */
size_t lb_ask_bytes(const struct lb_ask *a, int rank, int64_t begin, int64_t n);
void lb_ask_answer(const struct lb_ask *a, int rank, const struct lb_logit_part *part, void *out);

/* What the answers [n_part] of all parts, which begin at ids begin[n_part + 1], make known. */
void lb_asked_take(struct lb_asked *a, const int64_t *begin, int n_part, const uint8_t *const *answer);

struct lb_asker {
    struct lb_comm *comm; /* lent, as the others */
    struct lb_backend *be;
    struct lb_model *model;
    const int64_t *begin; /* [comm->size + 1] */
    struct lb_arena questions, answers;
    int64_t max_out;
    /* a round, [max_out] each, n of them */
    struct lb_ask *ask;
    struct lb_asked **asked; /* the leader's */
    size_t *at;              /* where the own answer to each lies among the answers */
    int64_t n;
    int64_t n_put[LB_ASK_ROW + 1]; /* the leader's, by kind, since the beginning */
    uint64_t put_bytes;            /* questions, and answers of the other ranks */
};

/* For a group with several ranks. The model has reserved its memory. */
enum lb_status lb_asker_init(struct lb_asker *k, struct lb_comm *comm, struct lb_backend *be, struct lb_model *model,
                             int64_t max_out, struct lb_err *err);
void lb_asker_release(struct lb_asker *k);

/* The leader's: puts the next question of each of asked[n] that has one, as many rounds as their size takes, and takes
 * the answers. */
enum lb_status lb_asker_put(struct lb_asker *k, struct lb_asked *asked, int64_t n, struct lb_err *err);

/* Another rank's, after a head that has n_ask questions. */
enum lb_status lb_asker_answer(struct lb_asker *k, const struct lb_step_head *head, struct lb_err *err);

#endif
