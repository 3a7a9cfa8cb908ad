#include "core/run/rowwire.h"

#include <string.h>

#include "core/base/mem.h"

/* ---- numbers ---- */

static void put_i64(struct lb_str *out, int64_t v)
{
    lb_str_put(out, &v, sizeof v);
}

static void put_f64(struct lb_str *out, double v)
{
    lb_str_put(out, &v, sizeof v);
}

/* What is left of a message; bad: it was too short, or held what it cannot hold. */
struct cursor {
    const uint8_t *at;
    size_t left;
    bool bad, no_memory;
};

static void take(struct cursor *c, void *out, size_t n)
{
    c->bad = c->bad || n > c->left;
    if (c->bad || n == 0)
        return;
    memcpy(out, c->at, n);
    c->at += n;
    c->left -= n;
}

static int64_t take_i64(struct cursor *c)
{
    int64_t v = 0;
    take(c, &v, sizeof v);
    return v;
}

static double take_f64(struct cursor *c)
{
    double v = 0;
    take(c, &v, sizeof v);
    return v;
}

static int64_t take_within(struct cursor *c, int64_t lo, int64_t hi)
{
    int64_t v = take_i64(c);
    if (c->bad || v < lo || v > hi) {
        c->bad = true;
        return lo;
    }
    return v;
}

/* An array in new memory, which as many bytes must be there for; n == 0: NULL. */
static void *take_array(struct cursor *c, size_t *n, size_t size)
{
    int64_t count = take_within(c, 0, (int64_t)(c->left / size));
    *n = 0;
    if (c->bad || count == 0)
        return NULL;
    void *list = lb_mem_new((size_t)count, size);
    if (!list) {
        c->bad = c->no_memory = true;
        return NULL;
    }
    take(c, list, (size_t)count * size);
    *n = (size_t)count;
    return list;
}

static void put_array(struct lb_str *out, const void *list, size_t n, size_t size)
{
    put_i64(out, (int64_t)n);
    if (n)
        lb_str_put(out, list, n * size);
}

static enum lb_status end_of(const struct cursor *c, const char *what, struct lb_err *err)
{
    if (c->no_memory)
        return lb_err_memory(err, what, c->left);
    if (c->bad || c->left)
        return lb_err_set(err, LB_E_DEVICE, "another rank sent bytes that are no %s", what);
    return LB_OK;
}

/* ---- rows ---- */

static void put_settings(struct lb_str *out, const struct lb_settings *s)
{
    const struct lb_penalty *p = &s->penalty;
    put_i64(out, s->sampling.greedy);
    put_f64(out, s->sampling.temperature);
    put_f64(out, s->sampling.top_p);
    put_f64(out, s->sampling.min_p);
    put_i64(out, s->sampling.top_k);
    put_f64(out, (double)p->repetition);
    put_f64(out, (double)p->presence);
    put_f64(out, (double)p->frequency);
    put_array(out, p->bias, p->n_bias, sizeof *p->bias);
    put_i64(out, s->max_tokens);
    put_i64(out, s->min_tokens);
    put_i64(out, s->max_given);
    put_i64(out, (int64_t)s->seed);
    put_i64(out, s->ignore_eos);
    put_i64(out, s->skip_special);
    put_i64(out, s->include_stop);
    put_i64(out, s->adapter);
    put_i64(out, s->logprobs);
    put_i64(out, s->prompt_logprobs);
    put_i64(out, s->prompt_from);
    put_i64(out, s->n);
    put_i64(out, (int64_t)s->n_stop);
    for (size_t i = 0; i < s->n_stop; i++)
        put_array(out, s->stop[i], strlen(s->stop[i]), 1);
    put_array(out, s->stop_ids, s->n_stop_ids, sizeof *s->stop_ids);
}

static void take_stops(struct cursor *c, struct lb_gen *own)
{
    size_t n = (size_t)take_within(c, 0, LB_MAX_STOP);
    if (n == 0)
        return;
    own->stop = lb_mem_new(n, sizeof *own->stop);
    if (!own->stop) {
        c->bad = c->no_memory = true;
        return;
    }
    for (own->n_stop = 0; own->n_stop < n && !c->bad;) {
        size_t len = (size_t)take_within(c, 1, (int64_t)c->left);
        char *text = c->bad || len > c->left ? NULL : lb_mem_strndup((const char *)c->at, len);
        if (!text) {
            c->no_memory = !c->bad && len <= c->left;
            c->bad = true;
            return;
        }
        own->stop[own->n_stop++] = text;
        c->at += len;
        c->left -= len;
    }
}

/* own: the row's, which keeps the lists that the settings lend. */
static void take_settings(struct cursor *c, struct lb_settings *s, struct lb_gen *own)
{
    s->sampling.greedy = take_within(c, 0, 1);
    s->sampling.temperature = take_f64(c);
    s->sampling.top_p = take_f64(c);
    s->sampling.min_p = take_f64(c);
    s->sampling.top_k = take_i64(c);
    s->penalty.repetition = (float)take_f64(c);
    s->penalty.presence = (float)take_f64(c);
    s->penalty.frequency = (float)take_f64(c);
    own->bias = take_array(c, &own->n_bias, sizeof *own->bias);
    s->max_tokens = take_within(c, 0, INT32_MAX);
    s->min_tokens = take_within(c, 0, INT32_MAX);
    s->max_given = take_within(c, 0, 1);
    s->seed = (uint64_t)take_i64(c);
    s->ignore_eos = take_within(c, 0, 1);
    s->skip_special = take_within(c, 0, 1);
    s->include_stop = take_within(c, 0, 1);
    s->adapter = (int32_t)take_within(c, 0, INT32_MAX);
    s->logprobs = take_within(c, -1, LB_MAX_LOGPROBS);
    s->prompt_logprobs = take_within(c, -1, LB_MAX_LOGPROBS);
    s->prompt_from = take_within(c, 0, INT32_MAX);
    s->n = take_within(c, 1, LB_MAX_N);
    take_stops(c, own);
    own->stop_ids = take_array(c, &own->n_stop_ids, sizeof *own->stop_ids);
    s->penalty.bias = own->bias;
    s->penalty.n_bias = own->n_bias;
    s->stop = own->stop;
    s->n_stop = own->n_stop;
    s->stop_ids = own->stop_ids;
    s->n_stop_ids = own->n_stop_ids;
}

void lb_rowwire_put_row(struct lb_str *out, uint64_t ticket, const struct lb_work *lead)
{
    put_i64(out, (int64_t)ticket);
    put_i64(out, lead->row.index);
    put_i64(out, (int64_t)lead->row.key);
    put_settings(out, &lead->set);
    put_i64(out, lead->n_part);
    for (int32_t i = 0; i < lead->n_part; i++) {
        const struct lb_work *p = lead->part ? lead->part[i] : lead;
        put_i64(out, p->sample);
        put_i64(out, p->set.max_tokens);
        put_i64(out, p->n_shared);
        put_i64(out, p->prompt_lent);
        if (!p->prompt_lent)
            put_array(out, p->prompt, (size_t)p->n_prompt, sizeof *p->prompt);
    }
}

/* before: the sequence in front of it, NULL for the first. */
static void take_part(struct cursor *c, struct lb_work *p, const struct lb_work *before)
{
    p->sample = (uint32_t)take_within(c, 0, UINT32_MAX);
    p->set.max_tokens = take_within(c, 0, INT32_MAX);
    p->n_shared = take_within(c, 0, INT32_MAX);
    p->prompt_lent = take_within(c, 0, 1);
    if (p->prompt_lent && !before) {
        p->prompt_lent = false;
        c->bad = true;
    } else if (p->prompt_lent) {
        p->prompt = before->prompt;
        p->n_prompt = before->n_prompt;
    } else {
        size_t n;
        p->prompt = take_array(c, &n, sizeof *p->prompt);
        p->n_prompt = (int64_t)n;
        c->bad = c->bad || n == 0 || n > INT32_MAX;
    }
    c->bad = c->bad || p->n_shared > p->n_prompt;
}

static void take_parts(struct cursor *c, struct lb_work *w)
{
    int64_t n = take_within(c, 1, LB_MAX_CHOICES);
    take_part(c, w, NULL);
    if (c->bad || n == 1)
        return;
    w->part = lb_mem_new((size_t)n, sizeof(struct lb_work *));
    if (!w->part) {
        c->bad = c->no_memory = true;
        return;
    }
    w->part[0] = w;
    for (int64_t i = 1; i < n && !c->bad; i++) {
        struct lb_work *p = lb_work_new();
        if (!p) {
            c->bad = c->no_memory = true;
            return;
        }
        p->lead = w;
        p->set = w->set;
        w->part[w->n_part++] = p;
        take_part(c, p, w->part[i - 1]);
    }
    w->n_left = w->n_part;
}

enum lb_status lb_rowwire_take_row(const void *data, size_t n, uint64_t *ticket, struct lb_work **lead,
                                   struct lb_err *err)
{
    struct cursor c = {.at = data, .left = n};
    struct lb_work *w = lb_work_new();
    *lead = NULL;
    if (!w)
        return lb_err_memory(err, "a row", sizeof *w);
    *ticket = (uint64_t)take_i64(&c);
    w->row.index = take_i64(&c);
    w->row.key = (uint64_t)take_i64(&c);
    take_settings(&c, &w->set, &w->row.gen);
    take_parts(&c, w);
    enum lb_status status = end_of(&c, "row", err);
    if (status == LB_OK)
        *lead = w;
    else
        lb_work_free(w);
    return status;
}

/* ---- results ---- */

static int64_t stop_number(const struct lb_work *w)
{
    for (size_t i = 0; w->stop_string && i < w->set.n_stop; i++)
        if (w->set.stop[i] == w->stop_string)
            return (int64_t)i;
    return -1;
}

static void put_logprobs(struct lb_str *out, const struct lb_logprob *list, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const struct lb_logprob *l = &list[i];
        put_i64(out, l->id);
        lb_str_put(out, &l->logprob, sizeof l->logprob);
        put_i64(out, l->rank);
        put_array(out, l->top, l->n_top, sizeof *l->top);
    }
}

static void put_part(struct lb_str *out, const struct lb_work *w, double now)
{
    const struct lb_times *t = &w->time;
    put_i64(out, w->fail);
    put_i64(out, w->finish);
    put_i64(out, w->ended_by_id);
    put_i64(out, stop_number(w));
    put_i64(out, (int64_t)w->text_bytes);
    put_i64(out, w->steps);
    put_f64(out, now - t->admitted);
    put_f64(out, t->first > 0 ? now - t->first : 0);
    put_f64(out, now - t->last);
    put_array(out, w->out, (size_t)w->n_out, sizeof *w->out);
    if (w->logprob)
        put_logprobs(out, w->logprob, w->n_out);
    if (w->scored && w->fail == LB_ROW_OK)
        put_logprobs(out, w->scored, lb_work_n_scored(w));
}

void lb_rowwire_put_result(struct lb_str *out, uint64_t ticket, const struct lb_work *lead, double now)
{
    put_i64(out, (int64_t)ticket);
    put_i64(out, lead->n_part);
    for (int32_t i = 0; i < lead->n_part; i++)
        put_part(out, lead->part ? lead->part[i] : lead, now);
}

enum lb_status lb_rowwire_ticket(const void *data, size_t n, uint64_t *ticket, struct lb_err *err)
{
    struct cursor c = {.at = data, .left = n};
    *ticket = (uint64_t)take_i64(&c);
    return c.bad ? end_of(&c, "result", err) : LB_OK;
}

/* n of them with k best each at most, which go to `top` [n, k]. */
static void take_logprobs(struct cursor *c, struct lb_logprob *list, int64_t n, struct lb_logprob_top *top, int64_t k)
{
    for (int64_t i = 0; i < n && !c->bad; i++) {
        struct lb_logprob *l = &list[i];
        *l = (struct lb_logprob){.id = (int32_t)take_within(c, 0, INT32_MAX)};
        take(c, &l->logprob, sizeof l->logprob);
        l->rank = take_i64(c);
        l->n_top = (size_t)take_within(c, 0, top ? k : 0);
        if (l->n_top == 0)
            continue;
        l->top = top + i * k;
        take(c, top + i * k, l->n_top * sizeof *l->top);
    }
}

/* An age in seconds as a time of this host's clock, not before the row was read. */
static double take_time(struct cursor *c, double read, double now)
{
    double t = now - take_f64(c);
    return t > read ? t : read;
}

static void take_result(struct cursor *c, struct lb_work *w, double read, double now)
{
    w->fail = (enum lb_row_code)take_within(c, 0, LB_N_ROW_CODE - 1);
    w->finish = (enum lb_finish)take_within(c, 0, LB_FINISH_ERROR);
    w->ended_by_id = take_within(c, 0, 1);
    int64_t stop = take_within(c, -1, (int64_t)w->set.n_stop - 1);
    w->stop_string = c->bad || stop < 0 ? NULL : w->set.stop[stop];
    w->text_bytes = (size_t)take_within(c, 0, INT64_MAX);
    w->steps = take_i64(c);
    w->time.admitted = take_time(c, read, now);
    w->time.first = take_time(c, read, now);
    w->time.last = take_time(c, read, now);
    w->n_out = take_within(c, 0, w->set.max_tokens);
    take(c, w->out, (size_t)w->n_out * sizeof *w->out);
    if (w->logprob)
        take_logprobs(c, w->logprob, w->n_out, w->top, w->set.logprobs);
    if (w->scored && w->fail == LB_ROW_OK)
        take_logprobs(c, w->scored, lb_work_n_scored(w), w->scored_top, w->set.prompt_logprobs);
    c->bad = c->bad || (w->ended_by_id && w->n_out == 0);
}

enum lb_status lb_rowwire_take_result(const void *data, size_t n, struct lb_work *lead, int rank, double now,
                                      struct lb_err *err)
{
    struct cursor c = {.at = data, .left = n};
    take_i64(&c);
    take_within(&c, lead->n_part, lead->n_part);
    lead->rank = rank;
    for (int32_t i = 0; i < lead->n_part && !c.bad; i++)
        take_result(&c, lb_work_part(lead, i), lead->time.read, now);
    return end_of(&c, "result", err);
}
