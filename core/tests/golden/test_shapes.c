#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/golden/golden.h"

/* Models of other shapes than the goldens have, drawn from a seed, against the naive model; and the contract on them.
 */

static const struct naive_shape shapes[] = {
    {.n_vocab = 515,
     .dim = 144,
     .ffn_dim = 200,
     .n_layer = 2,
     .n_head = 3,
     .n_kv_head = 1,
     .head_dim = 48,
     .theta = 10000},
    {.n_vocab = 777,
     .dim = 560,
     .ffn_dim = 333,
     .n_layer = 2,
     .n_head = 7,
     .n_kv_head = 1,
     .head_dim = 80,
     .theta = 500000,
     .tied = true},
    {.n_vocab = 130,
     .dim = 64,
     .ffn_dim = 96,
     .n_layer = 3,
     .n_head = 8,
     .n_kv_head = 4,
     .head_dim = 8,
     .theta = 100,
     .attn_bias = true,
     .mlp_bias = true},
    {.n_vocab = 1001,
     .dim = 96,
     .ffn_dim = 31,
     .n_layer = 2,
     .n_head = 14,
     .n_kv_head = 2,
     .head_dim = 64,
     .theta = 10000},
    {.n_vocab = 300,
     .dim = 96,
     .ffn_dim = 160,
     .n_layer = 1,
     .n_head = 16,
     .n_kv_head = 16,
     .head_dim = 6,
     .theta = 10000},
    {.n_vocab = 257,
     .dim = 160,
     .ffn_dim = 70,
     .n_layer = 2,
     .n_head = 1,
     .n_kv_head = 1,
     .head_dim = 160,
     .theta = 10000},
    {.family = NAIVE_MISTRAL,
     .n_vocab = 400,
     .dim = 96,
     .ffn_dim = 100,
     .n_layer = 3,
     .n_head = 6,
     .n_kv_head = 2,
     .head_dim = 16,
     .theta = 10000,
     .window = 33},
    {.family = NAIVE_QWEN2,
     .n_vocab = 300,
     .dim = 112,
     .ffn_dim = 90,
     .n_layer = 4,
     .n_head = 14,
     .n_kv_head = 2,
     .head_dim = 8,
     .theta = 1000000,
     .tied = true,
     .window = 7,
     .n_full = 2},
    {.family = NAIVE_QWEN3,
     .n_vocab = 330,
     .dim = 80,
     .ffn_dim = 130,
     .n_layer = 3,
     .n_head = 4,
     .n_kv_head = 1,
     .head_dim = 40,
     .theta = 1000000,
     .attn_bias = true,
     .window = 1,
     .n_full = 1},
    {.family = NAIVE_GLM,
     .n_vocab = 270,
     .dim = 96,
     .ffn_dim = 75,
     .n_layer = 2,
     .n_head = 5,
     .n_kv_head = 1,
     .head_dim = 36,
     .theta = 10000,
     .attn_bias = true,
     .n_rot = 10},
    {.family = NAIVE_GLM4,
     .n_vocab = 360,
     .dim = 72,
     .ffn_dim = 64,
     .n_layer = 3,
     .n_head = 12,
     .n_kv_head = 6,
     .head_dim = 14,
     .theta = 5000,
     .attn_bias = true,
     .n_rot = 14},
    /* three segments, five experts: one, two and two a segment; a shared expert that is no multiple of 32 wide */
    {.family = NAIVE_GLM4_MOE,
     .n_vocab = 310,
     .dim = 72,
     .ffn_dim = 50,
     .n_layer = 3,
     .n_head = 3,
     .n_kv_head = 1,
     .head_dim = 24,
     .theta = 10000,
     .attn_bias = true,
     .n_rot = 12,
     .n_expert = 5,
     .n_used = 2,
     .n_shared = 2,
     .moe_dim = 41,
     .n_group = 1,
     .n_group_used = 1},
    /* 16 segments, fewer experts: most leaves are empty; groups; no shared expert */
    {.family = NAIVE_GLM4_MOE,
     .n_vocab = 280,
     .dim = 128,
     .ffn_dim = 40,
     .n_layer = 2,
     .n_head = 64,
     .n_kv_head = 4,
     .head_dim = 8,
     .theta = 10000,
     .n_rot = 4,
     .n_expert = 9,
     .n_used = 4,
     .moe_dim = 33,
     .n_group = 3,
     .n_group_used = 2},
    {.family = NAIVE_LITE,
     .n_vocab = 310,
     .dim = 72,
     .ffn_dim = 100,
     .n_layer = 2,
     .n_head = 5,
     .n_kv_head = 5,
     .head_dim = 31,
     .theta = 10000,
     .n_rot = 12,
     .attn_bias = true,
     .kv_rank = 33,
     .half_split = true},
    {.family = NAIVE_LITE,
     .n_vocab = 300,
     .dim = 96,
     .ffn_dim = 64,
     .n_layer = 2,
     .n_head = 64,
     .n_kv_head = 64,
     .head_dim = 12,
     .theta = 10000,
     .n_rot = 4,
     .attn_bias = true,
     .n_expert = 6,
     .n_used = 2,
     .n_shared = 1,
     .moe_dim = 40,
     .n_group = 1,
     .n_group_used = 1,
     .kv_rank = 270,
     .q_rank = 41},
};

enum { N_ROW = 8 };

/* The naive logits of a row's ids, for the next set, which chooses the same ones as a rule. */
struct known {
    size_t n;
    int32_t *ids;   /* [n] */
    double *logits; /* [n, n_vocab], of what was chosen */
};

static const double *naive_logits(const struct naive_model *m, int64_t n_vocab, const json_t *prompt, const json_t *ids,
                                  struct known *k)
{
    size_t np = json_array_size(prompt), n = np + json_array_size(ids);
    int32_t *all = malloc(n * sizeof *all);
    for (size_t i = 0; i < n; i++)
        all[i] = (int32_t)json_integer_value(i < np ? json_array_get(prompt, i) : json_array_get(ids, i - np));
    if (k->n == n && memcmp(all, k->ids, n * sizeof *all) == 0) {
        free(all);
        return k->logits;
    }
    free(k->ids);
    free(k->logits);
    *k = (struct known){n, all, malloc(n * (size_t)n_vocab * sizeof *k->logits)};
    naive_forward(m, all, (int64_t)np - 1, (int64_t)n, k->logits);
    return k->logits;
}

/* Teacher-forced: the engine's own greedy ids go through the naive model; at each step the engine's log-probabilities
 * must be the naive ones, within `bound` for float32. */
static double naive_difference(const struct naive_model *m, const struct naive_shape *s, const json_t *row,
                               struct known *known)
{
    const json_t *prompt = json_object_get(row, "prompt_token_ids"), *ids = json_object_get(row, "token_ids");
    size_t np = json_array_size(prompt), n = np + json_array_size(ids);
    const double *logits = naive_logits(m, s->n_vocab, prompt, ids, known);
    double worst = 0;
    for (size_t i = np; i < n; i++) {
        const double *l = logits + (i - 1) * (size_t)s->n_vocab;
        double best = -INFINITY, sum = 0;
        for (int64_t j = 0; j < s->n_vocab; j++)
            best = fmax(best, l[j]);
        for (int64_t j = 0; j < s->n_vocab; j++)
            sum += exp(l[j] - best);
        const json_t *top = json_object_get(json_array_get(json_object_get(row, "logprobs"), i - np), "top");
        for (size_t k = 0; k < json_array_size(top); k++) {
            const json_t *pair = json_array_get(top, k);
            int64_t id = json_integer_value(json_array_get(pair, 0));
            double want = l[id] - best - log(sum);
            worst = fmax(worst, fabs(want - json_number_value(json_array_get(pair, 1))));
        }
    }
    return worst;
}

static json_t *shape_rows(const struct naive_shape *s)
{
    static const int lengths[N_ROW] = {1, 2, 31, 32, 33, 64, 70, 7};
    json_t *rows = json_array();
    for (size_t r = 0; r < N_ROW; r += golden_extent() == EXTENT_SANITIZED ? 4 : 1) {
        json_t *ids = json_array();
        for (int i = 0; i < lengths[r]; i++)
            json_array_append_new(ids, json_integer((json_int_t)(((size_t)i * 37 + r * 101 + 5) % (size_t)s->n_vocab)));
        json_array_append_new(rows, json_pack("{s:i,s:o,s:i,s:b,s:i}", "id", 100 + (int)r, "prompt_token_ids", ids,
                                              "max_tokens", 6 + (int)r, "ignore_eos", 1, "logprobs", 8));
    }
    return rows;
}

static void naive_of(const struct naive_model *m, size_t i, const char *dir, const char *isa, const json_t *rows,
                     struct known *known)
{
    const struct naive_shape *s = &shapes[i];
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, dir);
    o.isa = isa;
    golden_run(&o, rows, &out);
    double worst = 0;
    for (size_t r = 0; r < json_array_size(rows); r++)
        worst = fmax(worst, naive_difference(m, s, json_array_get(out.rows, r), &known[r]));
    print_message("shape %zu (head_dim %d, %d:%d heads, vocabulary %d) on %s: worst log-probability difference %.2g\n",
                  i, (int)s->head_dim, (int)s->n_head, (int)s->n_kv_head, (int)s->n_vocab, out.stats.isa, worst);
    assert_true(worst <= GOLDEN_TOLERANCE);
    golden_out_release(&out);
}

/* Every shape meets the second implementation; the contract, many runs each, every so many. */
static const size_t contract_step[] = {
    [EXTENT_SANITIZED] = 18, [EXTENT_MODEL] = 18, [EXTENT_SAMPLE] = 9, [EXTENT_FULL] = 1};

static void test_shapes(void **state)
{
    (void)state;
    size_t step = golden_extent() < EXTENT_SAMPLE ? 3 : 1;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += step) {
        const struct naive_shape *s = &shapes[i];
        char dir[] = "/tmp/lb-naive-XXXXXX", path[64];
        assert_non_null(mkdtemp(dir));
        struct naive_model *m = naive_new(s, 7 + i);
        naive_write(m, dir);
        json_t *rows = shape_rows(s);
        struct known known[N_ROW] = {{0}};
        for (const char *const *isa = golden_f32_sets(); *isa; isa++)
            if (golden_extent() == EXTENT_FULL || !isa[1] || i % (golden_extent() < EXTENT_SAMPLE ? 2 : 3) == 0)
                naive_of(m, i, dir, *isa, rows, known);
        for (size_t r = 0; r < N_ROW; r++) {
            free(known[r].ids);
            free(known[r].logits);
        }
        if (i % contract_step[golden_extent()] == 0)
            golden_contract(dir, rows, golden_extent() >= EXTENT_SAMPLE, false);
        json_decref(rows);
        naive_free(m);
        snprintf(path, sizeof path, "%s/config.json", dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        unlink(path);
        rmdir(dir);
    }
}

int golden_shapes(void);

int golden_shapes(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests_name("shapes", tests, NULL, NULL);
}
