/* What a report is made of, against sums over all that went in: memory is fixed, so that what is halved must still add
 * up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/str.h"
#include "core/run/flow.h"
#include "core/run/timeline.h"
#include "core/run/watch.h"

#define BUDGET 512

static void assert_close(double got, double want)
{
    if (fabs(got - want) > 1e-6 * fabs(want) + 1e-9)
        fail_msg("%.9g is not %.9g", got, want);
}

static struct lb_span sum_of(const struct lb_series *s)
{
    struct lb_span sum = {0};
    assert_true(s->n <= LB_WATCH_SPANS);
    for (int64_t i = 0; i < LB_WATCH_SPANS; i++) {
        const struct lb_span *a = &s->span[i];
        sum.n_prompt += a->n_prompt;
        sum.n_new += a->n_new;
        sum.n_tok += a->n_tok;
        sum.room += a->room;
        sum.seq_s += a->seq_s;
        sum.busy_s += a->busy_s;
        sum.pages = fmax(sum.pages, a->pages);
        if (i >= s->n)
            assert_true(a->n_tok == 0 && a->busy_s == 0);
    }
    return sum;
}

/* Steps from 10 us to seconds, with pauses, over a time that needs the spans to double many times. */
static void put_steps(struct lb_watch *w, int n, double scale, struct lb_span *want)
{
    double t = w->series.begin;
    for (int i = 0; i < n; i++) {
        double length = scale * (1 + rand() % 1000);
        struct lb_step_note note = {.begin = t,
                                    .end = t + length,
                                    .pages = rand() % 1000,
                                    .n_tok = 1 + rand() % BUDGET,
                                    .n_seq = 1 + rand() % 64};
        note.n_prompt = rand() % (note.n_tok + 1);
        note.n_new = note.n_seq;
        lb_watch_step(w, &note, BUDGET);
        want->n_prompt += note.n_prompt;
        want->n_new += note.n_new;
        want->n_tok += note.n_tok;
        want->room += BUDGET;
        want->seq_s += length * note.n_seq;
        want->busy_s += length;
        want->pages = fmax(want->pages, (double)note.pages);
        t += length * (rand() % 4 == 0 ? 3 : 1);
    }
}

static void compare(const struct lb_span *got, const struct lb_span *want)
{
    assert_close(got->n_prompt, want->n_prompt);
    assert_close(got->n_new, want->n_new);
    assert_close(got->n_tok, want->n_tok);
    assert_close(got->room, want->room);
    assert_close(got->seq_s, want->seq_s);
    assert_close(got->busy_s, want->busy_s);
}

static void steps_add_up(void **state)
{
    (void)state;
    static struct lb_watch w;
    for (int round = 0; round < 6; round++) {
        struct lb_span want = {0};
        lb_watch_init(&w);
        put_steps(&w, 3000, pow(10, -8 + round), &want);
        struct lb_span got = sum_of(&w.series);
        compare(&got, &want);
        assert_true(got.pages == want.pages);
        /* half of the spans at least are in use, once they had to be doubled */
        if (w.series.width_s > 0.006)
            assert_true(w.series.n > LB_WATCH_SPANS / 2);
        assert_true(w.series.end_s > w.series.width_s * (double)(w.series.n - 1) - 1e-9);
        assert_true(w.series.end_s <= w.series.width_s * (double)w.series.n + 1e-9);
    }
}

/* A long step lies in the spans that it took, evenly. */
static void steps_are_spread(void **state)
{
    (void)state;
    static struct lb_watch w;
    lb_watch_init(&w);
    double width = w.series.width_s;
    struct lb_step_note note = {
        .begin = w.series.begin + 2.5 * width, .end = w.series.begin + 6.5 * width, .n_tok = 80, .n_seq = 3};
    lb_watch_step(&w, &note, BUDGET);
    const double want[] = {0, 0, 10, 20, 20, 20, 10, 0};
    for (int i = 0; i < 8; i++) {
        assert_close(w.series.span[i].n_tok, want[i]);
        assert_close(w.series.span[i].seq_s, want[i] / 20 * width * 3);
    }
}

static void ranks_add_up(void **state)
{
    (void)state;
    static struct lb_watch a, b;
    struct lb_span want = {0};
    lb_watch_init(&a);
    lb_watch_init(&b);
    put_steps(&a, 500, 1e-6, &want);
    put_steps(&b, 500, 1e-3, &want);
    struct lb_series both = a.series, other = b.series;
    lb_series_join(&both, &b.series);
    struct lb_span got = sum_of(&both);
    compare(&got, &want);
    lb_series_join(&other, &a.series);
    assert_memory_equal(&both.width_s, &other.width_s, sizeof both.width_s);
    assert_int_equal(both.n, other.n);
}

/* Pages of groups add up; those of spans that become one do not. */
static void pages_of_ranks(void **state)
{
    (void)state;
    struct lb_series a = {.width_s = 1, .n = 3, .end_s = 2.5}, b = {.width_s = 2, .n = 1, .end_s = 1.5};
    for (int i = 0; i < 3; i++)
        a.span[i] = (struct lb_span){.n_tok = 1 + i, .pages = 10 + i};
    b.span[0] = (struct lb_span){.n_tok = 100, .pages = 50};
    struct lb_series ab = a, ba = b;
    lb_series_join(&ab, &b);
    lb_series_join(&ba, &a);
    const struct lb_series *both[] = {&ab, &ba};
    for (int i = 0; i < 2; i++) {
        const struct lb_series *s = both[i];
        assert_true(s->width_s == 2 && s->n == 2 && s->end_s == 2.5);
        assert_true(s->span[0].n_tok == 103 && s->span[0].pages == 61);
        assert_true(s->span[1].n_tok == 3 && s->span[1].pages == 12);
    }
}

static struct lb_work *make_row(int64_t index, const char *id, int64_t n_prompt, int64_t n_out, double seconds)
{
    struct lb_work *w = lb_work_new();
    assert_non_null(w);
    w->row.index = index;
    w->row.id_json = lb_mem_strdup(id);
    w->n_prompt = n_prompt;
    w->n_out = n_out;
    w->time = (struct lb_times){.read = 1, .admitted = 3, .first = 3 + seconds / 2, .last = 3 + seconds};
    return w;
}

static int by_latency(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void rows_add_up(void **state)
{
    (void)state;
    static struct lb_watch w;
    static double latency[2000];
    int64_t n_prompt = 0, longest = 0;
    lb_watch_init(&w);
    for (int i = 0; i < 2000; i++) {
        int64_t length = i % 100 == 0 ? 1 + rand() % 100000 : 1 + rand() % 700;
        latency[i] = 0.001 * (rand() % 5000);
        struct lb_work *row = make_row(i, "\"x\"", length, 7, latency[i]);
        lb_watch_row(&w, row);
        row->row.code = LB_ROW_BAD_ROW; /* one that failed does not count */
        lb_watch_row(&w, row);
        lb_work_free(row);
        longest = length > longest ? length : longest;
    }
    for (int64_t i = 0; i < LB_WATCH_CLASSES; i++)
        n_prompt += w.prompt.count[i];
    assert_int_equal(n_prompt, 2000);
    assert_int_equal(w.prompt.n, 2000);
    assert_int_equal(w.prompt.longest, longest);
    assert_true(w.prompt.width * LB_WATCH_CLASSES > longest && w.prompt.width * LB_WATCH_CLASSES <= 2 * longest);
    assert_int_equal(w.answer.count[7], 2000);
    assert_int_equal(w.answer.width, 1);
    qsort(latency, 2000, sizeof *latency, by_latency);
    assert_int_equal(w.n_slow, LB_WATCH_SLOW);
    for (int i = 0; i < LB_WATCH_SLOW; i++) {
        assert_close(w.slow[i].latency_s, latency[i]);
        assert_close(w.slow[i].wait_s, 2);
    }
}

/* Ids of any length and of any bytes that JSON may hold. */
static void ids_are_cut(void **state)
{
    (void)state;
    static struct lb_watch w;
    char id[200];
    for (size_t n = 1; n < sizeof id / 2; n++) {
        lb_watch_init(&w);
        for (size_t i = 0; i < n; i++)
            memcpy(id + 2 * i, "\xC3\xA9", 2);
        id[2 * n] = 0;
        struct lb_work *row = make_row(0, id, 1, 1, 1);
        lb_watch_row(&w, row);
        lb_work_free(row);
        size_t kept = strlen(w.slow[0].id);
        assert_true(kept < sizeof w.slow[0].id);
        assert_int_equal(lb_utf8_valid_prefix(w.slow[0].id, kept), kept);
        if (2 * n < sizeof w.slow[0].id)
            assert_string_equal(w.slow[0].id, id);
        else
            assert_string_equal(w.slow[0].id + kept - 3, "...");
    }
}

int main(void)
{
    srand(7);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_add_up),   cmocka_unit_test(steps_are_spread), cmocka_unit_test(ranks_add_up),
        cmocka_unit_test(pages_of_ranks), cmocka_unit_test(rows_add_up),      cmocka_unit_test(ids_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
