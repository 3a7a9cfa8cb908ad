/* The order of rows against what its header says, found by comparing every row with every other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/mem.h"
#include "core/run/order.h"
#include "kernels/types.h"

enum { N_ROW = 300, N_BEGINNING = 9, LONGEST = 130 };

/* Prompts of this test take less than a step: a row takes as many as it has new tokens. */
static int64_t course(const struct lb_work *w)
{
    return w->set.max_tokens;
}

static int64_t none(const struct lb_work *w)
{
    (void)w;
    return 0;
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static struct lb_work *new_row(int64_t index, int64_t n)
{
    struct lb_work *w = lb_work_new();
    w->row.index = index;
    w->n_prompt = n;
    w->prompt = lb_mem_new((size_t)n, sizeof *w->prompt);
    return w;
}

/* Few beginnings of all lengths, some with another in front, then tokens of few kinds. */
static struct lb_work *random_row(int64_t index, uint32_t *random)
{
    int64_t n = 1 + next_random(random) % LONGEST, same = next_random(random) % (LONGEST + 1);
    int32_t kind = (int32_t)(next_random(random) % N_BEGINNING);
    struct lb_work *w = new_row(index, n);
    for (int64_t i = 0; i < n; i++)
        w->prompt[i] = i < same ? 100 + (i < 40 ? kind / 3 : kind) : (int32_t)(next_random(random) % 3);
    w->set.adapter = (int32_t)(next_random(random) % 2);
    w->set.max_tokens = 1 + next_random(random) % 3; /* so that prompts decide too */
    return w;
}

static int64_t alike(const struct lb_work *a, const struct lb_work *b)
{
    int64_t n = 0;
    while (a->set.adapter == b->set.adapter && n < a->n_prompt && n < b->n_prompt && a->prompt[n] == b->prompt[n])
        n++;
    return n;
}

/* Of the rows that begin as w does. */
static int64_t most_of_group(struct lb_work *const *rows, const struct lb_work *w,
                             int64_t (*of)(const struct lb_work *))
{
    int64_t most = of(w);
    for (int i = 0; i < N_ROW; i++)
        if (alike(rows[i], w) >= LK_PAGE_TOKENS && of(rows[i]) > most)
            most = of(rows[i]);
    return most;
}

static int64_t length(const struct lb_work *w)
{
    return w->n_prompt;
}

/* More of the first, or as many and more of the second. */
static bool is_before(int64_t a, int64_t a2, int64_t b, int64_t b2)
{
    return a > b || (a == b && a2 > b2);
}

/* course: what counts in front of the prompts' lengths. */
static void check_random(bool by_course, int64_t (*course_of)(const struct lb_work *))
{
    uint32_t random = 11;
    struct lb_work *rows[N_ROW];
    bool seen[N_ROW] = {false};
    for (int i = 0; i < N_ROW; i++)
        rows[i] = random_row(i, &random);
    lb_order_rows(rows, N_ROW, by_course);
    for (int i = 0; i < N_ROW; i++) {
        assert_false(seen[rows[i]->row.index]);
        seen[rows[i]->row.index] = true;
        int64_t most = 0;
        for (int k = 0; k < N_ROW; k++)
            if (k != i && alike(rows[i], rows[k]) > most)
                most = alike(rows[i], rows[k]);
        assert_int_equal(rows[i]->n_shared, most);
    }
    for (int i = 1; i < N_ROW; i++) {
        const struct lb_work *a = rows[i - 1], *b = rows[i];
        if (alike(a, b) >= LK_PAGE_TOKENS) { /* one group */
            assert_true(is_before(course_of(a), length(a), course_of(b), length(b)) ||
                        (course_of(a) == course_of(b) && length(a) == length(b) && a->row.index < b->row.index));
            continue;
        }
        assert_false(is_before(most_of_group(rows, b, course_of), most_of_group(rows, b, length),
                               most_of_group(rows, a, course_of), most_of_group(rows, a, length)));
        for (int k = i; k < N_ROW; k++) /* a group stands together */
            assert_true(alike(a, rows[k]) < LK_PAGE_TOKENS);
    }
    for (int i = 0; i < N_ROW; i++)
        lb_work_free(rows[i]);
}

static void test_random(void **state)
{
    (void)state;
    check_random(true, course);
    check_random(false, none);
}

/* Samples of a prompt share all of it, a further prompt of the row is left to itself. */
static void test_samples(void **state)
{
    (void)state;
    struct lb_work *w = new_row(0, 50);
    w->part = lb_mem_new(3, sizeof(struct lb_work *));
    w->part[0] = w;
    w->part[1] = lb_work_new();
    *w->part[1] = (struct lb_work){.lead = w, .prompt = w->prompt, .n_prompt = 50, .prompt_lent = true};
    w->part[2] = new_row(0, 60);
    w->part[2]->lead = w;
    w->n_part = w->n_left = 3;
    lb_order_rows(&w, 1, false);
    assert_int_equal(w->n_shared, 50);
    assert_int_equal(w->part[1]->n_shared, 50);
    assert_int_equal(w->part[2]->n_shared, 0);
    lb_work_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_samples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
