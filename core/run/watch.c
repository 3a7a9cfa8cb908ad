#include "core/run/watch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/str.h"
#include "core/run/flow.h"
#include "core/run/timeline.h"

#define FIRST_WIDTH_S 0.005

void lb_watch_init(struct lb_watch *w)
{
    *w = (struct lb_watch){.series.width_s = FIRST_WIDTH_S, .prompt.width = 1, .answer.width = 1};
    lb_watch_begin(w);
}

void lb_watch_begin(struct lb_watch *w)
{
    if (w)
        w->series.begin = lb_now();
}

static void add_span(struct lb_span *to, const struct lb_span *from, double share)
{
    to->n_prompt += share * from->n_prompt;
    to->n_new += share * from->n_new;
    to->n_tok += share * from->n_tok;
    to->room += share * from->room;
    to->seq_s += share * from->seq_s;
    to->busy_s += share * from->busy_s;
}

/* Spans of twice the length. */
static void widen(struct lb_series *s)
{
    for (int64_t i = 0; i < LB_WATCH_SPANS; i++) {
        struct lb_span span = s->span[i];
        s->span[i] = (struct lb_span){0};
        struct lb_span *to = &s->span[i / 2];
        add_span(to, &span, 1);
        to->pages = fmax(to->pages, span.pages);
    }
    s->n = (s->n + 1) / 2;
    s->width_s *= 2;
}

void lb_watch_step(struct lb_watch *w, const struct lb_step_note *note, int64_t batch_tokens)
{
    if (!w)
        return;
    struct lb_series *s = &w->series;
    double begin = fmax(note->begin - s->begin, 0), end = fmax(note->end - s->begin, begin), length = end - begin;
    while (end >= s->width_s * LB_WATCH_SPANS)
        widen(s);
    struct lb_span all = {.n_prompt = note->n_prompt,
                          .n_new = note->n_new,
                          .n_tok = note->n_tok,
                          .room = (double)batch_tokens,
                          .seq_s = length * note->n_seq,
                          .busy_s = length};
    int64_t first = (int64_t)(begin / s->width_s), last = (int64_t)(end / s->width_s);
    for (int64_t i = first; i <= last && i < LB_WATCH_SPANS; i++) {
        double from = fmax(begin, (double)i * s->width_s), to = fmin(end, (double)(i + 1) * s->width_s);
        add_span(&s->span[i], &all, length > 0 ? fmax(to - from, 0) / length : i == first);
        s->span[i].pages = fmax(s->span[i].pages, (double)note->pages);
    }
    s->n = last + 1 > s->n ? last + 1 : s->n;
    s->end_s = fmax(s->end_s, end);
}

void lb_series_join(struct lb_series *s, const struct lb_series *other)
{
    struct lb_series o = *other;
    while (o.width_s < s->width_s)
        widen(&o);
    while (s->width_s < o.width_s)
        widen(s);
    for (int64_t i = 0; i < LB_WATCH_SPANS; i++) {
        add_span(&s->span[i], &o.span[i], 1);
        s->span[i].pages += o.span[i].pages; /* each group has pages of its own */
    }
    s->n = o.n > s->n ? o.n : s->n;
    s->end_s = fmax(s->end_s, o.end_s);
}

static void add_length(struct lb_lengths *l, int64_t length, int64_t n)
{
    while (length / l->width >= LB_WATCH_CLASSES) {
        for (int64_t i = 0; i < LB_WATCH_CLASSES; i++) {
            int64_t count = l->count[i];
            l->count[i] = 0;
            l->count[i / 2] += count;
        }
        l->width *= 2;
    }
    l->count[length / l->width] += n;
    l->n += n;
    l->longest = length > l->longest ? length : l->longest;
}

/* Keeps the row among the slowest, if it is one of them. */
static void add_slow(struct lb_watch *w, const struct lb_slow_row *row)
{
    int at = w->n_slow;
    while (at > 0 && w->slow[at - 1].latency_s < row->latency_s)
        at--;
    if (at == LB_WATCH_SLOW)
        return;
    if (w->n_slow < LB_WATCH_SLOW)
        w->n_slow++;
    memmove(&w->slow[at + 1], &w->slow[at], (size_t)(w->n_slow - 1 - at) * sizeof *row);
    w->slow[at] = *row;
}

/* Cut at a whole character. */
static void copy_id(char *out, size_t size, const char *id)
{
    size_t n = strlen(id);
    const char *dots = "";
    if (n >= size) {
        n = lb_utf8_valid_prefix(id, size - sizeof "...");
        dots = "...";
    }
    snprintf(out, size, "%.*s%s", (int)n, id, dots);
}

void lb_watch_row(struct lb_watch *w, struct lb_work *row)
{
    if (!w || row->row.code != LB_ROW_OK)
        return;
    struct lb_times t = lb_work_times(row);
    struct lb_slow_row slow = {
        .index = row->row.index, .latency_s = t.last - t.admitted, .wait_s = t.admitted - t.read, .rank = row->rank};
    for (int32_t i = 0; i < row->n_part; i++) {
        const struct lb_work *p = lb_work_part(row, i);
        if (!p->prompt_lent)
            add_length(&w->prompt, p->n_prompt, 1);
        add_length(&w->answer, p->n_out, p->n_copy);
        slow.n_prompt += p->prompt_lent ? 0 : p->n_prompt;
        slow.n_new += p->n_out * p->n_copy;
    }
    copy_id(slow.id, sizeof slow.id, row->row.id_json ? row->row.id_json : "null");
    add_slow(w, &slow);
}
