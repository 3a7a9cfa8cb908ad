#include "core/run/deal.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/dist/chan.h"
#include "core/run/rowwire.h"

/* What messages are. From rank 0: ROW, END (no more rows come), HALT (end now). To rank 0: ASK (int64_t tokens), DONE
 * (a result), BYE (nothing comes any more; int32_t: how this rank ended), HALT (a signal came). */
enum { ASK = 1, ROW, DONE, END, HALT, BYE };
enum { IN_ORDER, FAILED, LEFT_OUT };

#define BUSY_WAIT_S 0.0005
#define IDLE_WAIT_S 0.005
#define WATCH_S 0.05

/* Tokens that a leader likes to have waiting. */
static int64_t wanted(const struct lb_run *r)
{
    return 2 * r->spec->plan->batch_tokens;
}

/* Prompt tokens of a row, not so few that rows without number are dealt ahead. */
static int64_t weight_of(const struct lb_run *r, struct lb_work *lead)
{
    int64_t n = 0, least = r->spec->plan->batch_tokens / 64 + 1;
    for (int32_t i = 0; i < lead->n_part; i++)
        n += lb_work_part(lead, i)->n_prompt;
    return n > least ? n : least;
}

static bool told_to_stop(const struct lb_run *r)
{
    return r->spec->stop && *r->spec->stop;
}

static void fail(struct lb_run *r, const struct lb_err *err)
{
    lb_run_fail(r, err, true);
}

/* ---- rank 0 ---- */

struct group {
    int rank;        /* of its leader */
    int64_t asked;   /* tokens that it wants and was not given; negative: a long row was more */
    int64_t n_given; /* sequences */
    int64_t n_ended;
    bool ready; /* it has asked once */
    bool gone;
};

struct dealer {
    struct lb_run *r;
    struct lb_chan *chan;
    struct group *group; /* [n_group], the first is rank 0's own */
    int n_group, n_gone;
    struct lb_work **home; /* [n_home] rows that are away, by ticket; NULL: free */
    size_t n_home, cap_home, n_away;
    struct lb_str bytes;
    bool dealt_all, halted;
};

static enum lb_status dealer_init(struct dealer *d, struct lb_run *r, struct lb_err *err)
{
    const struct lb_run_ranks *k = &r->spec->ranks;
    *d = (struct dealer){.r = r, .n_group = k->world->size / k->tp};
    d->group = lb_mem_new((size_t)d->n_group, sizeof *d->group);
    if (!d->group)
        return lb_err_memory(err, "the groups", (size_t)d->n_group * sizeof *d->group);
    for (int g = 0; g < d->n_group; g++)
        d->group[g].rank = g * k->tp;
    d->group[0].ready = d->group[0].gone = true;
    d->n_gone = 1;
    return lb_chan_open(&d->chan, k->world, err);
}

static void dealer_release(struct dealer *d)
{
    for (size_t i = 0; i < d->n_home; i++)
        lb_work_free(d->home[i]);
    lb_mem_free(d->home);
    lb_mem_free(d->group);
    lb_str_release(&d->bytes);
    lb_chan_close(d->chan);
}

static enum lb_status tell_leaders(struct dealer *d, int tag, struct lb_err *err)
{
    for (int g = 1; g < d->n_group; g++)
        if (!d->group[g].gone)
            LB_TRY(lb_chan_send(d->chan, d->group[g].rank, tag, NULL, 0, err));
    return LB_OK;
}

/* Keeps a row at home and gives it a ticket. */
static enum lb_status keep(struct dealer *d, struct lb_work *w, struct lb_err *err)
{
    size_t at = 0;
    while (at < d->n_home && d->home[at])
        at++;
    if (at == d->n_home) {
        void *list = d->home;
        LB_TRY(lb_mem_grow(&list, &d->cap_home, at + 1, sizeof(struct lb_work *), "rows of other ranks", err));
        d->home = list;
        d->n_home++;
    }
    d->home[at] = w;
    d->n_away++;
    w->ticket = at;
    return LB_OK;
}

static enum lb_status give(struct dealer *d, struct group *g, struct lb_work *w, struct lb_err *err)
{
    g->n_given += w->n_part;
    g->asked -= w->weight;
    if (g->rank == 0) {
        if (!lb_queue_push(&d->r->ready, w))
            lb_work_free(w);
        return LB_OK;
    }
    enum lb_status status = keep(d, w, err);
    if (status != LB_OK) {
        lb_work_free(w);
        return status;
    }
    for (int32_t i = 0; i < w->n_part; i++)
        lb_run_drop_helpers(lb_work_part(w, i));
    lb_str_clear(&d->bytes);
    lb_rowwire_put_row(&d->bytes, w->ticket, w);
    if (d->bytes.failed)
        return lb_err_memory(err, "a row", d->bytes.len);
    return lb_chan_send(d->chan, g->rank, ROW, d->bytes.data, d->bytes.len, err);
}

/* Who is next: of those who want rows the one with the fewest. */
static struct group *next_group(struct dealer *d)
{
    struct group *best = NULL;
    for (int i = 0; i < d->n_group; i++) {
        struct group *g = &d->group[i];
        if (i > 0 && g->gone)
            continue;
        if (!g->ready)
            return NULL;
        if (g->asked > 0 && (!best || g->n_given - g->n_ended < best->n_given - best->n_ended))
            best = g;
    }
    return best;
}

static enum lb_status deal(struct dealer *d, bool *any, struct lb_err *err)
{
    struct lb_run *r = d->r;
    d->group[0].asked = wanted(r) - lb_queue_weight(&r->ready);
    d->group[0].n_ended = atomic_load(&r->n_gone);
    struct group *g;
    while (!d->dealt_all && (g = next_group(d)) != NULL) {
        struct lb_work *w;
        enum lb_pop got = lb_queue_pop(&r->sorted, 0, &w);
        if (got == LB_POP_EMPTY)
            return LB_OK;
        if (got == LB_POP_END) {
            d->dealt_all = true;
            return tell_leaders(d, END, err);
        }
        *any = true;
        w->weight = weight_of(r, w);
        LB_TRY(give(d, g, w, err));
    }
    return LB_OK;
}

static struct group *group_of(struct dealer *d, int rank)
{
    int tp = d->r->spec->ranks.tp;
    return rank > 0 && rank % tp == 0 ? &d->group[rank / tp] : NULL;
}

/* For the progress. */
static void count_work(struct lb_run *r, struct lb_work *w)
{
    int64_t n = 0;
    for (int32_t i = 0; i < w->n_part; i++)
        n += lb_work_part(w, i)->n_prompt + lb_work_part(w, i)->n_out;
    atomic_fetch_add(&r->tokens_away, n);
    atomic_fetch_add(&r->work_away, lb_run_work_of(w));
}

static enum lb_status take_done(struct dealer *d, struct group *g, const struct lb_msg *m, struct lb_err *err)
{
    uint64_t ticket;
    LB_TRY(lb_rowwire_ticket(m->data, m->bytes, &ticket, err));
    if (ticket >= d->n_home || !d->home[ticket])
        return lb_err_set(err, LB_E_DEVICE, "rank %d sent the result of a row that it was not given", m->from);
    struct lb_work *w = d->home[ticket];
    LB_TRY(lb_rowwire_take_result(m->data, m->bytes, w, m->from, lb_now(), err));
    d->home[ticket] = NULL;
    d->n_away--;
    g->n_ended += w->n_part;
    count_work(d->r, w);
    if (!lb_queue_push(&d->r->done, w))
        lb_work_free(w);
    return LB_OK;
}

static enum lb_status take_message(struct dealer *d, const struct lb_msg *m, struct lb_err *err)
{
    struct group *g = group_of(d, m->from);
    if (m->tag == HALT) {
        atomic_store(&d->r->stop_told, true);
        return LB_OK;
    }
    if (!g || g->gone)
        return lb_err_set(err, LB_E_DEVICE, "rank %d leads no group and sent message %d", m->from, m->tag);
    if (m->tag == DONE)
        return take_done(d, g, m, err);
    if (m->tag == ASK && m->bytes == sizeof g->asked) {
        int64_t n;
        memcpy(&n, m->data, sizeof n);
        g->asked += n;
        g->ready = true;
        return LB_OK;
    }
    if (m->tag == BYE && m->bytes == sizeof(int32_t)) {
        int32_t how;
        memcpy(&how, m->data, sizeof how);
        g->gone = true;
        d->n_gone++;
        if (how == LEFT_OUT)
            atomic_store(&d->r->left_out, true);
        if (how == FAILED) {
            atomic_store(&d->r->peer_failed, true);
            atomic_store(&d->r->halt, true);
        }
        return LB_OK;
    }
    return lb_err_set(err, LB_E_DEVICE, "rank %d sent a message that is not understood (%d, %zu bytes)", m->from,
                      m->tag, m->bytes);
}

/* The other groups have said goodbye, and no row is left for the own one. */
static bool dealt_out(const struct dealer *d)
{
    return d->n_gone == d->n_group && (d->dealt_all || d->halted);
}

static enum lb_status serve(struct dealer *d, struct lb_err *err)
{
    struct lb_run *r = d->r;
    bool any = true;
    while (!dealt_out(d)) {
        struct lb_msg m;
        LB_TRY(lb_chan_recv(d->chan, &m, any ? BUSY_WAIT_S : IDLE_WAIT_S, err));
        any = m.from >= 0;
        while (m.from >= 0) {
            LB_TRY(take_message(d, &m, err));
            LB_TRY(lb_chan_recv(d->chan, &m, 0, err));
        }
        if (!d->halted && (atomic_load(&r->halt) || atomic_load(&r->leaving))) {
            d->halted = true;
            LB_TRY(tell_leaders(d, HALT, err));
        }
        if (!d->halted && r->deals)
            LB_TRY(deal(d, &any, err));
    }
    return LB_OK;
}

void *lb_deal_rank0(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct dealer d;
    enum lb_status status = dealer_init(&d, r, &err);
    if (status == LB_OK)
        status = serve(&d, &err);
    if (status != LB_OK)
        fail(r, &err);
    else if (r->deals)
        lb_queue_close(&r->ready);
    dealer_release(&d);
    return NULL;
}

/* ---- leaders of other groups ---- */

struct leader {
    struct lb_run *r;
    struct lb_chan *chan;
    struct lb_str bytes;
    int64_t coming; /* tokens that were asked for and have not come; negative: a long row brought more */
    bool ended, told;
};

static enum lb_status ask(struct leader *l, struct lb_err *err)
{
    int64_t have = lb_queue_weight(&l->r->ready), want = wanted(l->r), more = want - have - l->coming;
    if (l->ended || 2 * (have + (l->coming > 0 ? l->coming : 0)) > want)
        return LB_OK;
    l->coming += more;
    return lb_chan_send(l->chan, 0, ASK, &more, sizeof more, err);
}

static enum lb_status take_row(struct leader *l, const struct lb_msg *m, struct lb_err *err)
{
    struct lb_run *r = l->r;
    struct lb_work *w;
    uint64_t ticket;
    LB_TRY(lb_rowwire_take_row(m->data, m->bytes, &ticket, &w, err));
    w->ticket = ticket;
    w->weight = weight_of(r, w);
    w->time.read = lb_now();
    enum lb_status status = LB_OK;
    for (int32_t i = 0; i < w->n_part && status == LB_OK; i++)
        status = lb_run_make_room(r, lb_work_part(w, i), err);
    l->coming -= w->weight;
    if (status != LB_OK || !lb_queue_push(&r->ready, w))
        lb_work_free(w);
    return status;
}

static enum lb_status take_order(struct leader *l, const struct lb_msg *m, struct lb_err *err)
{
    struct lb_run *r = l->r;
    if (m->from == 0 && m->tag == ROW)
        return take_row(l, m, err);
    if (m->from != 0 || (m->tag != END && m->tag != HALT))
        return lb_err_set(err, LB_E_DEVICE, "rank %d sent a message that is not understood (%d, %zu bytes)", m->from,
                          m->tag, m->bytes);
    l->ended = true;
    if (m->tag == END) {
        lb_queue_close(&r->ready);
        return LB_OK;
    }
    atomic_store(&r->halt, true);
    lb_queue_abort(&r->ready);
    return LB_OK;
}

/* Rows that have ended go home. */
static enum lb_status send_done(struct leader *l, bool *any, struct lb_err *err)
{
    struct lb_work *w;
    while (lb_queue_pop(&l->r->done, 0, &w) == LB_POP_ROW) {
        *any = true;
        lb_str_clear(&l->bytes);
        lb_rowwire_put_result(&l->bytes, w->ticket, w, lb_now());
        lb_work_free(w);
        if (l->bytes.failed)
            return lb_err_memory(err, "a result", l->bytes.len);
        LB_TRY(lb_chan_send(l->chan, 0, DONE, l->bytes.data, l->bytes.len, err));
    }
    return LB_OK;
}

static enum lb_status lead(struct leader *l, struct lb_err *err)
{
    struct lb_run *r = l->r;
    bool any = true, last = false;
    while (!last) {
        struct lb_msg m;
        last = atomic_load(&r->leaving); /* what ended before that is in the queue now */
        LB_TRY(lb_chan_recv(l->chan, &m, any ? BUSY_WAIT_S : IDLE_WAIT_S, err));
        any = m.from >= 0;
        while (m.from >= 0) {
            LB_TRY(take_order(l, &m, err));
            LB_TRY(lb_chan_recv(l->chan, &m, 0, err));
        }
        LB_TRY(send_done(l, &any, err));
        if (!last)
            LB_TRY(ask(l, err));
        if (!l->told && told_to_stop(r)) {
            l->told = true;
            LB_TRY(lb_chan_send(l->chan, 0, HALT, NULL, 0, err));
        }
    }
    return LB_OK;
}

void *lb_deal_leader(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct leader l = {.r = r};
    enum lb_status status = lb_chan_open(&l.chan, r->spec->ranks.world, &err);
    if (status == LB_OK)
        status = lead(&l, &err);
    if (status != LB_OK) {
        fail(r, &err);
        lb_run_abort(r, true);
    }
    int32_t how = lb_run_failed(r) ? FAILED : r->timed_out ? LEFT_OUT : IN_ORDER;
    if (l.chan && lb_chan_send(l.chan, 0, BYE, &how, sizeof how, &err) != LB_OK)
        fail(r, &err);
    lb_str_release(&l.bytes);
    lb_chan_close(l.chan);
    return NULL;
}

/* ---- other ranks ---- */

void *lb_deal_follower(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct lb_chan *chan = NULL;
    bool told = false;
    enum lb_status status = lb_chan_open(&chan, r->spec->ranks.world, &err);
    while (status == LB_OK && !atomic_load(&r->leaving)) {
        struct lb_msg m;
        if (!told && told_to_stop(r)) {
            told = true;
            status = lb_chan_send(chan, 0, HALT, NULL, 0, &err);
        }
        if (status == LB_OK)
            status = lb_chan_recv(chan, &m, WATCH_S, &err);
    }
    if (status != LB_OK)
        fail(r, &err);
    lb_chan_close(chan);
    return NULL;
}
