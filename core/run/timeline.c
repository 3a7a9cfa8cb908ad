#include "core/run/timeline.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

#define CLOSE_S 0.0005 /* pieces of work with less between them are told as one */
#define LONG_S 0.05    /* ... unless it comes to more than this */
#define CHUNK 512      /* steps that a rank hands over at a time */

enum lb_status lb_timeline_init(struct lb_timeline *t, struct lb_trace *trace, int rank, double origin,
                                struct lb_err *err)
{
    *t = (struct lb_timeline){.trace = trace, .rank = rank, .origin = origin, .begin = origin, .pages = -1};
    if (trace)
        return LB_OK;
    t->note = lb_mem_new(LB_TIMELINE_STEPS, sizeof *t->note);
    return t->note ? LB_OK : lb_err_memory(err, "a trace", LB_TIMELINE_STEPS * sizeof *t->note);
}

void lb_timeline_release(struct lb_timeline *t)
{
    lb_mem_free(t->note);
    *t = (struct lb_timeline){0};
}

static void put_names(struct lb_trace *trace, int rank, const char *host)
{
    static const char *const names[] = {[LB_TL_FORWARD] = "forward",
                                        [LB_TL_READER] = "reader",
                                        [LB_TL_TOKENIZER] = "tokenizer",
                                        [LB_TL_WINDOW] = "window",
                                        [LB_TL_WRITER] = "writer"};
    char text[128];
    snprintf(text, sizeof text, "rank %d on %.80s", rank, host);
    lb_trace_process(trace, rank, text);
    for (int i = LB_TL_FORWARD; i < (rank == 0 ? LB_TL_N_THREAD : LB_TL_FORWARD + 1); i++)
        lb_trace_thread(trace, rank, i, names[i]);
}

void lb_timeline_begin(struct lb_timeline *t, const char *host, int64_t batch_tokens, double load_s)
{
    if (!t)
        return;
    t->begin = lb_now();
    t->batch_tokens = batch_tokens;
    if (!t->trace)
        return;
    put_names(t->trace, t->rank, host);
    double now = t->begin - t->origin;
    lb_trace_span(t->trace, (struct lb_trace_at){t->rank, LB_TL_FORWARD, now - load_s, now}, "load", "%s", "");
}

static double share(int64_t part, int64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

/* The parts of a step, without those that it does not have. offset: from the note's clock to the trace's. */
static void put_step(struct lb_timeline *t, int rank, const struct lb_step_note *s, double offset)
{
    static const char *const names[] = {"pack", "forward", "sample", "stops"};
    const double at[] = {s->begin, s->packed, s->computed, s->sampled, s->end};
    struct lb_trace_at place = {rank, LB_TL_FORWARD, s->begin - offset, s->end - offset};
    lb_trace_span(t->trace, place, "step",
                  "\"step\":%lld,\"n_tok\":%d,\"n_prompt\":%d,\"n_out\":%d,\"n_seq\":%d,\"fill\":%.4g",
                  (long long)s->number, s->n_tok, s->n_prompt, s->n_out, s->n_seq, share(s->n_tok, t->batch_tokens));
    for (int i = 0; i < 4; i++) {
        place.begin = at[i] - offset;
        place.end = at[i + 1] - offset;
        if (at[i + 1] > at[i])
            lb_trace_span(t->trace, place, names[i], "%s", "");
    }
}

void lb_timeline_step(struct lb_timeline *t, const struct lb_step_note *note)
{
    if (!t)
        return;
    if (!t->trace) {
        t->note[t->n_note++ % LB_TIMELINE_STEPS] = *note;
        return;
    }
    put_step(t, t->rank, note, t->origin);
    if (note->pages != t->pages)
        lb_trace_value(t->trace, (struct lb_trace_at){.rank = t->rank, .begin = note->packed - t->origin}, "KV pages",
                       note->pages);
    t->pages = note->pages;
}

static void put_work(struct lb_timeline *t, int thread)
{
    static const char *const names[] = {
        [LB_TL_READER] = "read", [LB_TL_TOKENIZER] = "tokenize", [LB_TL_WINDOW] = "order", [LB_TL_WRITER] = "write"};
    struct lb_timeline_work *w = &t->work[thread];
    struct lb_trace_at at = {t->rank, thread, w->begin - t->origin, w->end - t->origin};
    if (w->n_row)
        lb_trace_span(t->trace, at, names[thread], "\"rows\":%lld", (long long)w->n_row);
    w->n_row = 0;
}

void lb_timeline_work(struct lb_timeline *t, enum lb_timeline_thread thread, double begin, double end, size_t n_row)
{
    if (!t || !t->trace || !n_row)
        return;
    struct lb_timeline_work *w = &t->work[thread];
    if (w->n_row && (begin - w->end > CLOSE_S || end - w->begin > LONG_S))
        put_work(t, (int)thread);
    if (!w->n_row)
        w->begin = begin;
    w->end = end;
    w->n_row += (int64_t)n_row;
}

void lb_timeline_row(struct lb_timeline *t, struct lb_work *w)
{
    static const char *const names[] = {"waits", "prompt", "new tokens"};
    if (!t || !t->trace || w->row.code != LB_ROW_OK)
        return;
    struct lb_times s = lb_work_times(w);
    const double at[] = {s.read, s.admitted, s.first, s.last};
    long long n_prompt = 0, n_out = 0;
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        n_prompt += p->prompt_lent ? 0 : p->n_prompt;
        n_out += p->n_out;
    }
    for (int i = 0; i < 3; i++)
        lb_trace_life(t->trace, (struct lb_trace_at){0, LB_TL_WRITER, at[i] - t->origin, at[i + 1] - t->origin},
                      w->row.index, names[i], "\"row\":%lld,\"prompt\":%lld,\"new\":%lld,\"rank\":%d",
                      (long long)w->row.index, n_prompt, n_out, w->rank);
}

void lb_timeline_end(struct lb_timeline *t)
{
    for (int i = LB_TL_READER; t && t->trace && i < LB_TL_N_THREAD; i++)
        put_work(t, i);
}

/* What a rank hands over, in pieces of one size. */
struct piece {
    double begin;
    int64_t n_left; /* with those of this piece */
    struct lb_step_note note[CHUNK];
};

static void fill_piece(const struct lb_timeline *t, int64_t *next, struct piece *p)
{
    p->begin = t->begin;
    p->n_left = t->trace ? 0 : t->n_note - *next;
    for (int i = 0; i < CHUNK && i < p->n_left; i++)
        p->note[i] = t->note[(*next)++ % LB_TIMELINE_STEPS];
}

/* One piece of every rank into the trace; *left: the most that some rank has, with these. */
static enum lb_status gather_pieces(struct lb_timeline *t, struct lb_world *world, const struct piece *mine,
                                    struct piece *all, int64_t *left, struct lb_err *err)
{
    *left = 0;
    LB_TRY(lb_world_gather(world, mine, sizeof *mine, all, err));
    for (int r = 1; all && r < world->size; r++) {
        *left = all[r].n_left > *left ? all[r].n_left : *left;
        bool here = strcmp(lb_world_host(world, r), world->host) == 0; /* its clock is this one */
        double offset = here ? t->origin : all[r].begin - (t->begin - t->origin);
        for (int i = 0; i < CHUNK && i < all[r].n_left; i++)
            put_step(t, r, &all[r].note[i], offset);
    }
    return lb_world_bcast(world, left, sizeof *left, err);
}

enum lb_status lb_timeline_gather(struct lb_timeline *t, struct lb_world *world, struct lb_err *err)
{
    if (!t || world->size == 1)
        return LB_OK;
    struct piece *mine = lb_mem_new(1, sizeof *mine);
    struct piece *all = t->trace ? lb_mem_new((size_t)world->size, sizeof *all) : NULL;
    bool ok = mine && (all || !t->trace);
    enum lb_status status = ok ? LB_OK : lb_err_memory(err, "the steps of other ranks", sizeof *mine);
    status = lb_world_agree(world, status, err);
    for (int r = 1; status == LB_OK && t->trace && r < world->size; r++)
        put_names(t->trace, r, lb_world_host(world, r));
    int64_t next = t->n_note > LB_TIMELINE_STEPS ? t->n_note - LB_TIMELINE_STEPS : 0;
    for (int64_t left = CHUNK + 1; status == LB_OK && left > CHUNK;) {
        fill_piece(t, &next, mine);
        status = gather_pieces(t, world, mine, all, &left, err);
    }
    lb_mem_free(mine);
    lb_mem_free(all);
    return status;
}
