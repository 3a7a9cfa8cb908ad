#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/decoder.h"
#include "core/tests/golden/golden.h"

/* Inside the running engine, through struct lb_hook: what Hugging Face recorded of two models in attention.json
 * (embedding, residual stream after each layer, one layer's attention probabilities, last logits). */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

enum { N_TOK = 12, DIM = 64, Q_DIM = 64, MAX_HEAD = 8, MAX_LAYER = 4 };

static const struct model {
    const char *path;
    int n_head, n_layer; /* of Q_DIM / n_head dimensions */
} models[] = {{GOLDENS "llama-gqa-tied", 8, 4}, {GOLDENS "glm", 4, 3}};
enum { N_MODEL = sizeof models / sizeof *models };

struct subject {
    const struct model *model;
    json_t *golden;
};

struct capture {
    int probs_layer, n_head;
    int n_call; /* layer calls seen */
    float embedding[N_TOK * DIM];
    float layer[MAX_LAYER][N_TOK * DIM];
    float attn[MAX_LAYER][N_TOK * Q_DIM];
    float probs[N_TOK][MAX_HEAD][N_TOK];
    bool has_probs;
};

static void see_embedding(void *ctx, const struct lb_step *step, const float *x)
{
    struct capture *c = ctx;
    if (step->n_tok == N_TOK)
        memcpy(c->embedding, x, sizeof c->embedding);
}

static void see_layer(void *ctx, int il, const struct lb_step *step, const float *x)
{
    struct capture *c = ctx;
    if (step->n_tok != N_TOK)
        return;
    memcpy(c->layer[il], x, sizeof c->layer[il]);
    c->n_call++;
}

static void see_attn(void *ctx, int il, const struct lb_step *step, const float *a)
{
    struct capture *c = ctx;
    if (step->n_tok == N_TOK)
        memcpy(c->attn[il], a, sizeof c->attn[il]);
}

static void see_probs(void *ctx, int il, const struct lb_step *step, const float *p, int64_t ld)
{
    struct capture *c = ctx;
    if (step->n_tok != N_TOK || il != c->probs_layer)
        return;
    for (int t = 0; t < N_TOK; t++)
        for (int h = 0; h < c->n_head; h++)
            for (int j = 0; j <= t; j++)
                c->probs[t][h][j] = p[(t * c->n_head + h) * ld + j];
    c->has_probs = true;
}

static void capture_run(struct capture *c, const struct subject *s, const char *dtype, const char *isa,
                        struct golden_out *out)
{
    const json_t *golden = s->golden;
    memset(c, 0, sizeof *c);
    c->n_head = s->model->n_head;
    c->probs_layer = (int)json_integer_value(json_object_get(golden, "layer"));
    struct lb_hook hook = {
        .ctx = c, .embedding = see_embedding, .layer = see_layer, .probs = see_probs, .attn = see_attn};
    struct lb_options o;
    golden_options(&o, s->model->path);
    o.dtype = dtype;
    o.isa = isa;
    o.hook = &hook;
    json_t *rows = json_pack("[{s:O,s:i,s:b,s:i}]", "prompt_token_ids", json_object_get(golden, "prompt_token_ids"),
                             "max_tokens", 1, "ignore_eos", 1, "logprobs", 20);
    golden_run(&o, rows, out);
    json_decref(rows);
    assert_int_equal(c->n_call, s->model->n_layer);
}

static double at(const json_t *m, size_t i, size_t j)
{
    return json_number_value(json_array_get(json_array_get(m, i), j));
}

/* Largest difference of x[n, width] and a nested array; *rms is that of the array. */
static double difference(const float *x, const json_t *want, size_t width, double *rms)
{
    double worst = 0, sum = 0;
    size_t n = json_array_size(want);
    assert_int_equal(n, N_TOK);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < width; j++) {
            worst = fmax(worst, fabs((double)x[i * width + j] - (double)(float)at(want, i, j)));
            sum += at(want, i, j) * at(want, i, j);
        }
    }
    *rms = sqrt(sum / (double)(n * width));
    return worst;
}

static void check_logits(const json_t *golden, const json_t *row, double bound)
{
    const json_t *want = json_object_get(golden, "logits_last");
    const json_t *top = json_object_get(json_array_get(json_object_get(row, "logprobs"), 0), "top");
    double best = -INFINITY, sum = 0;
    for (size_t i = 0; i < json_array_size(want); i++)
        best = fmax(best, json_number_value(json_array_get(want, i)));
    for (size_t i = 0; i < json_array_size(want); i++)
        sum += exp(json_number_value(json_array_get(want, i)) - best);
    assert_int_equal(json_array_size(top), 20);
    for (size_t k = 0; k < json_array_size(top); k++) {
        size_t id = (size_t)at(top, k, 0);
        double lp = json_number_value(json_array_get(want, id)) - best - log(sum);
        assert_true(fabs(at(top, k, 1) - lp) <= bound);
    }
}

static void check_probs(const struct capture *c, const json_t *heads)
{
    double worst = 0;
    assert_true(c->has_probs);
    for (size_t h = 0; h < (size_t)c->n_head; h++)
        for (size_t t = 0; t < N_TOK; t++)
            for (size_t j = 0; j <= t; j++)
                worst = fmax(worst, fabs((double)c->probs[t][h][j] - at(json_array_get(heads, h), t, j)));
    print_message("attention probabilities differ by %.2g\n", worst);
    assert_true(worst <= 1e-5);
}

static void test_f32(void **state)
{
    const struct subject *s = *state;
    const json_t *golden = s->golden;
    struct capture *c = malloc(sizeof *c);
    for (const char *const *isa = golden_sets(); *isa; isa++) {
        struct golden_out out;
        double rms;
        capture_run(c, s, "f32", *isa, &out);
        if (!golden_cuda)
            assert_string_equal(out.stats.isa, golden_falls_back(*isa) ? "ref" : *isa);
        assert_true(difference(c->embedding, json_object_get(golden, "embedding"), DIM, &rms) == 0);
        for (size_t il = 0; il < (size_t)s->model->n_layer; il++) {
            const json_t *want = json_array_get(json_object_get(golden, "hidden_after_layer"), il);
            double worst = difference(c->layer[il], want, DIM, &rms);
            print_message("%s: layer %zu: hidden states differ by %.2g\n", *isa, il, worst);
            assert_true(worst <= 1e-4);
        }
        if (strcmp(*isa, "ref") == 0) /* which alone gives them */
            check_probs(c, json_object_get(golden, "attention"));
        check_logits(golden, json_array_get(out.rows, 0), 2e-4);
        golden_out_release(&out);
    }
    free(c);
}

/* bf16 sets against the float32 golden: an activation is rounded a dozen times a layer, to 2^-9 relative each. */
static void test_bf16(void **state)
{
    const struct subject *subject = *state;
    const json_t *golden = subject->golden;
    const size_t n_layer = (size_t)subject->model->n_layer;
    char list[128], *sets[8], *rest = list;
    struct capture *c[8];
    size_t n_set = 0;
    snprintf(list, sizeof list, "%s", golden_cuda ? "ref cuda" : lb_isa_list());
    for (char *set = strtok_r(list, " ", &rest); set && n_set < 8; set = strtok_r(NULL, " ", &rest))
        sets[n_set++] = set;
    for (size_t s = 0; s < n_set; s++) {
        c[s] = malloc(sizeof *c[s]);
        struct golden_out out;
        double rms;
        capture_run(c[s], subject, "bf16", sets[s], &out);
        if (strcmp(sets[s], "cuda") != 0)
            assert_string_equal(out.stats.isa, sets[s]);
        for (size_t il = 0; il < n_layer; il++) {
            const json_t *want = json_array_get(json_object_get(golden, "hidden_after_layer"), il);
            double worst = difference(c[s]->layer[il], want, DIM, &rms);
            print_message("%s: layer %zu differs by %.3g of rms\n", sets[s], il, worst / rms);
            assert_true(worst <= 0.1 * rms);
        }
        golden_out_release(&out);
    }
    for (size_t at = n_layer; at < n_set * n_layer; at++) {
        size_t s = at / n_layer, il = at % n_layer;
        double worst = 0, sum = 0;
        const size_t n = N_TOK * Q_DIM;
        for (size_t i = 0; i < n; i++) {
            double a = (double)c[0]->attn[il][i], b = (double)c[s]->attn[il][i];
            worst = fmax(worst, fabs(a - b));
            sum += a * a;
        }
        print_message("%s against ref: attention output %zu differs by %.3g of rms\n", sets[s], il,
                      worst / sqrt(sum / (double)n));
        assert_true(sum > 0);
        assert_true(worst <= 0.05 * sqrt(sum / (double)n));
    }
    for (size_t s = 0; s < n_set; s++)
        free(c[s]);
}

int golden_layers(void);

int golden_layers(void)
{
    int failed = 0;
    for (int m = 0; m < N_MODEL; m++) {
        char path[512];
        snprintf(path, sizeof path, "%s/attention.json", models[m].path);
        struct subject s = {&models[m], json_load_file(path, 0, NULL)};
        if (!s.golden)
            return 1;
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_f32, &s),
            cmocka_unit_test_prestate(test_bf16, &s),
        };
        failed += cmocka_run_group_tests_name("layers", tests, NULL, NULL);
        json_decref(s.golden);
    }
    return failed;
}
