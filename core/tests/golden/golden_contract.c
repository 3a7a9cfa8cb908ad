#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tests/golden/golden.h"

/* The contract that a row's output depends on the row alone, as bytes of the output file: rows of every kind through
 * other batches, threads, orders and pages. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

/* Changes a row's logits before an id is chosen. */
static void add_penalties(json_t *row, size_t i)
{
    json_object_set_new(row, "repetition_penalty", json_real(i % 2 ? 1.2 : 0.9));
    if (i % 3 == 0)
        json_object_set_new(row, "frequency_penalty", json_real(0.4));
    if (i % 3 == 1)
        json_object_set_new(row, "logit_bias", json_pack("{s:i,s:f}", "5", -100, "70", 2.5));
    if (i % 4 == 2)
        json_object_set_new(row, "min_tokens", json_integer(6));
}

/* Scores its prompt, from a position inside it or whole; a few rows do nothing else. */
static void add_scores(json_t *row, size_t i)
{
    json_object_set_new(row, "prompt_logprobs", json_integer((json_int_t)i % 3));
    if (i % 2)
        json_object_set_new(row, "prompt_logprobs_from", json_integer((json_int_t)i));
    if (i % 8 == 1)
        json_object_set_new(row, "max_tokens", json_integer(0));
}

/* Greedy rows, and the same prompts sampled, all with log-probabilities so that a changed bit shows; some of both with
 * penalties. Where it takes long two prompts, the second one of more than a page and scored. */
json_t *golden_contract_rows(const json_t *golden)
{
    json_t *rows = json_array();
    const bool few = golden_extent() == EXTENT_SANITIZED;
    const size_t n = few ? 6 : json_array_size(golden);
    for (int sampled = 0; sampled < 2; sampled++) {
        for (size_t i = 0; i < n; i += few ? 5 : 1) {
            if (golden_extent() == EXTENT_SAMPLE && (i % 8 == 1 || i == 2 || i == 4)) /* others of these lengths stay */
                continue;
            const json_int_t n_new = few ? 4 + (json_int_t)i : 8 + (json_int_t)(i * 5) % 17;
            json_t *row = golden_id_row(json_array_get(golden, i), sampled ? "-sampled" : "", n_new);
            json_object_set_new(row, "logprobs", json_integer(4));
            if (sampled) {
                json_object_set_new(row, "temperature", json_real(0.9));
                if (i % 3)
                    json_object_set_new(row, "top_p", json_real(0.8));
                if (i % 2)
                    json_object_set_new(row, "top_k", json_integer(40));
                if (i % 4 == 0)
                    json_object_set_new(row, "n", json_integer(3)); /* on copies of the prompt's last page */
            }
            if (i % 4 == (sampled ? 2 : 3))
                add_penalties(row, i);
            if (i % 4 == (sampled ? 3 : 1))
                add_scores(row, i);
            json_array_append_new(rows, row);
        }
    }
    return rows;
}

/* Output rows as text without `index`, which says where a row stood in its file. */
static char *row_text(const json_t *row)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)row);
    json_object_del(copy, "index");
    char *text = json_dumps(copy, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(copy);
    return text;
}

void golden_check_same(const char *where, const json_t *want, const json_t *got)
{
    assert_int_equal(json_array_size(want), json_array_size(got));
    for (size_t i = 0; i < json_array_size(want); i++) {
        char *w = row_text(json_array_get(want, i)), *g = row_text(json_array_get(got, i));
        if (strcmp(w, g) != 0)
            fail_msg("%s: row %zu differs\n%s\n%s", where, i, w, g);
        free(w);
        free(g);
    }
}

void golden_one_at_a_time(const char *where, struct lb_options *o, const json_t *rows, const json_t *want)
{
    static size_t turn; /* of a sample a model and set has every seventh row, the next one others */
    size_t step = golden_extent() == EXTENT_FULL ? 1 : 7;
    for (size_t i = turn++ % step; i < json_array_size(rows); i += step) {
        json_t *one = json_pack("[O]", json_array_get(rows, i)), *ref = json_pack("[O]", json_array_get(want, i));
        struct golden_out out;
        golden_run(o, one, &out);
        golden_check_same(where, ref, out.rows);
        golden_out_release(&out);
        json_decref(one);
        json_decref(ref);
    }
}

static json_t *reversed(const json_t *rows)
{
    json_t *r = json_array();
    for (size_t i = json_array_size(rows); i-- > 0;)
        json_array_append(r, json_array_get(rows, i));
    return r;
}

static void check_backward(struct lb_options *o, const json_t *rows, const json_t *base)
{
    struct golden_out out;
    json_t *backward = reversed(rows), *want = reversed(base);
    golden_run(o, backward, &out);
    golden_check_same("reversed", want, out.rows);
    golden_out_release(&out);
    json_decref(backward);
    json_decref(want);
}

int64_t golden_longest_pages(const json_t *rows)
{
    int64_t most = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        int64_t n = (int64_t)json_array_size(json_object_get(row, "prompt_token_ids")) +
                    json_integer_value(json_object_get(row, "max_tokens"));
        most = n > most ? n : most;
    }
    return (most + 31) / 32; /* tokens of a page */
}

/* Without shared pages, and with so few pages that rows are evicted and computed again: `first` of the three ways and
 * every `step`-th behind it. */
static void check_cache(const char *path, struct lb_options *o, const json_t *rows, const struct golden_out *base,
                        size_t first, size_t step)
{
    struct golden_out out;
    bool recorded = strncmp(path, GOLDENS, sizeof GOLDENS - 1) == 0; /* their prompts fill pages, twice each */
    if (recorded)
        assert_true(base->stats.prefix_hit > 0);
    if (first % step == 0) {
        o->no_prefix_cache = true;
        golden_run(o, rows, &out);
        assert_int_equal(out.stats.prefix_hit, 0);
        golden_check_same(path, base->rows, out.rows);
        golden_out_release(&out);
    }
    for (size_t shared = 0; shared < 2; shared++) {
        if ((first + 1 + shared) % step != 0)
            continue;
        o->no_prefix_cache = !shared;
        o->crowd_pages = golden_longest_pages(rows) + 2;
        golden_run(o, rows, &out);
        if (recorded)
            assert_true(out.stats.recomputed > 0);
        golden_check_same(path, base->rows, out.rows);
        golden_out_release(&out);
    }
    o->no_prefix_cache = false;
    o->crowd_pages = 0;
}

void golden_contract_of(const char *path, const struct golden_way *way, const json_t *rows, bool singles)
{
    const char *dtype = way->dtype, *isa = way->isa;
    char where[600];
    struct lb_options o;
    struct golden_out base, out;
    golden_options(&o, path);
    o.dtype = dtype;
    o.isa = isa;
    o.quantize = way->quantize;
    golden_run(&o, rows, &base);
    assert_int_equal(base.exit_code, 0);
    assert_int_equal(base.stats.padding, 0);
    if (!golden_cuda)
        assert_string_equal(base.stats.isa, isa);
    static const int variants[][3] = {{16, 1, 256},  {16, 2, 256}, {512, 1, 256},
                                      {512, 3, 256}, {16, 3, 5},   {512, 2, 1}};
    /* a sample goes on where the last one stopped: all ways are met, not by each model and set */
    static const size_t step[] = {[EXTENT_SANITIZED] = 5, [EXTENT_MODEL] = 5, [EXTENT_SAMPLE] = 5, [EXTENT_FULL] = 1};
    static size_t turn;
    enum golden_extent extent = golden_extent();
    size_t first = turn++;
    for (size_t v = first % step[extent]; v < sizeof variants / sizeof *variants; v += step[extent]) {
        o.batch_tokens = variants[v][0];
        o.threads = variants[v][1];
        o.max_seqs = variants[v][2];
        o.screens = v % 2 ? -1 : 1;
        golden_run(&o, rows, &out);
        snprintf(where, sizeof where, "%s %s %s: budget %d, %d threads, %d sequences", path, dtype, isa, variants[v][0],
                 variants[v][1], variants[v][2]);
        if (strcmp(base.text, out.text) != 0)
            golden_check_same(where, base.rows, out.rows);
        assert_string_equal(base.text, out.text);
        golden_out_release(&out);
    }
    o.batch_tokens = 512;
    o.threads = 2;
    o.max_seqs = 256;
    o.screens = 1;
    if (extent == EXTENT_FULL || first % 4 == 0)
        check_backward(&o, rows, base.rows);
    /* where pages are does not depend on the type: a sample has it in the smaller one */
    if (extent == EXTENT_FULL || (extent == EXTENT_SAMPLE && strcmp(dtype, "bf16") == 0))
        check_cache(path, &o, rows, &base, first, extent == EXTENT_FULL ? 1 : 3);
    snprintf(where, sizeof where, "%s %s %s: alone", path, dtype, isa);
    if (singles)
        golden_one_at_a_time(where, &o, rows, base.rows);
    golden_out_release(&base);
}

void golden_contract(const char *path, const json_t *rows, bool singles, bool ref_singles)
{
    static size_t turn;
    size_t nth = turn++;
    /* the reference, which takes long over packed weights, and f32 of every set */
    bool skips = golden_extent() != EXTENT_FULL && nth % 3 != 1;
    for (const char *const *isa = golden_sets(); *isa; isa++) {
        bool ref = strcmp(*isa, "ref") == 0;
        if (ref && skips)
            continue;
        /* of a sample the last set has every model, the ones before it every second, in turn */
        if (golden_extent() == EXTENT_SAMPLE && !ref && isa[1] && (nth + (size_t)(isa - golden_sets())) % 2)
            continue;
        if (golden_extent() > EXTENT_SANITIZED && !golden_falls_back(*isa) && !skips &&
            (!ref || golden_extent() == EXTENT_FULL))
            golden_contract_of(path, &(struct golden_way){*isa, "f32", NULL}, rows, singles);
        golden_contract_of(path, &(struct golden_way){*isa, "bf16", NULL}, rows, ref ? ref_singles : singles);
    }
}
