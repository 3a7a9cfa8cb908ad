#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "core/tests/golden/golden.h"

/* Greedy ids under penalties, biases and min_tokens, as testdata/make_penalties.py has them; log-probabilities stay
 * those of the model whatever is chosen. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define TESTDATA LB_SOURCE_DIR "/testdata/"
#define N_TOP 20

/* The model's recorded rows as input rows, each followed by its prompt without settings. */
static json_t *rows_of(const json_t *recorded, const char *model, json_t *want)
{
    json_t *rows = json_array(), *row;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)recorded, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "model")), model) != 0)
            continue;
        json_t *in = json_copy(row);
        json_array_append(want, json_object_get(row, "token_ids"));
        json_object_del(in, "model");
        json_object_del(in, "token_ids");
        json_object_update_new(in, json_pack("{s:i,s:b,s:i}", "max_tokens", 24, "ignore_eos", 1, "logprobs", N_TOP));
        json_array_append_new(rows, in);
        json_array_append_new(rows,
                              json_pack("{s:O,s:i,s:i}", "prompt_token_ids", json_object_get(row, "prompt_token_ids"),
                                        "max_tokens", 1, "logprobs", N_TOP));
    }
    return rows;
}

static void check_row(size_t i, const json_t *want, const json_t *row)
{
    json_t *ids = json_object_get(row, "token_ids");
    if (json_equal((json_t *)(uintptr_t)want, ids))
        return;
    char *w = json_dumps(want, JSON_COMPACT), *g = json_dumps(ids ? ids : row, JSON_COMPACT);
    fail_msg("recorded row %zu\nwant %s\n got %s", i, w, g);
}

/* The first new id: the best ones are the model's own, and the chosen one has its own number and rank among them. True
 * when it is not the best. */
static bool check_logprobs(const json_t *row, const json_t *plain)
{
    const json_t *got = json_array_get(json_object_get(row, "logprobs"), 0);
    const json_t *own = json_array_get(json_object_get(plain, "logprobs"), 0);
    const json_t *top = json_object_get(got, "top"), *id = json_object_get(got, "id");
    size_t rank = (size_t)json_integer_value(json_object_get(got, "rank"));
    assert_int_equal(json_array_size(top), N_TOP);
    assert_true(json_equal(json_object_get(own, "top"), json_object_get(got, "top")));
    assert_true(rank > 0);
    if (rank <= N_TOP) {
        const json_t *pair = json_array_get(top, rank - 1);
        assert_true(json_equal(json_array_get(pair, 0), (json_t *)(uintptr_t)id));
        assert_true(json_equal(json_array_get(pair, 1), json_object_get(got, "logprob")));
    }
    return rank > 1;
}

static void penalties_of(const char *path, const char *model, const char *isa, const json_t *recorded)
{
    struct lb_options o;
    struct golden_out out;
    json_t *want = json_array(), *rows = rows_of(recorded, model, want);
    size_t n = json_array_size(want), n_other = 0;
    golden_options(&o, path);
    o.isa = isa;
    golden_run(&o, rows, &out);
    assert_int_equal(out.exit_code, 0);
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(out.rows, 2 * i);
        check_row(i, json_array_get(want, i), row);
        n_other += check_logprobs(row, json_array_get(out.rows, 2 * i + 1));
    }
    print_message("%s on %s: %zu rows under penalties equal, %zu do not begin with the best id\n", model, out.stats.isa,
                  n, n_other);
    assert_true(n >= 20 && n_other >= 3);
    golden_out_release(&out);
    json_decref(rows);
    json_decref(want);
}

static void test_penalties(void **state)
{
    (void)state;
    json_t *recorded = golden_read(TESTDATA "penalties.jsonl");
    assert_non_null(recorded);
    for (const char *const *isa = golden_f32_sets(); *isa; isa++) {
        /* a sample has a larger model's on the last set, under a sanitizer no other one has any */
        bool have = access(GOLDENS "README.md", R_OK) == 0, last = !isa[1];
        enum golden_extent extent = golden_extent();
        if (extent < EXTENT_SAMPLE && !last)
            continue;
        if (!have || extent == EXTENT_FULL || (extent == EXTENT_SAMPLE && last))
            penalties_of(TESTDATA "tiny-llama", "tiny-llama", *isa, recorded);
        if (have)
            penalties_of(GOLDENS "llama-mha", "llama-mha", *isa, recorded);
    }
    json_decref(recorded);
}

int golden_penalties(void);

int golden_penalties(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_penalties)};
    return cmocka_run_group_tests_name("penalties", tests, NULL, NULL);
}
