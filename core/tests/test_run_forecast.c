/* What --plan is made of: the simulated scheduler, steps that are made up, the layers that stand for a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "core/run/probe.h"
#include "core/run/simulate.h"
#include "core/run/standin.h"
#include "core/tests/mademodel.h"

/* ---- simulation ---- */

struct lengths {
    int32_t n_prompt, n_new;
};

struct seen {
    int64_t n_step, n_tok, n_out, most_seq, n_full, to_last_full; /* steps; tokens until the last full one */
    bool fails;
};

static enum lb_status see(void *ctx, const struct lb_sched *s, const struct lb_step *step, struct lb_err *err)
{
    struct seen *k = ctx;
    (void)s;
    k->n_step++;
    k->n_tok += step->n_tok;
    k->n_out += step->n_out;
    if (step->n_tok == step->limit.n_tok) {
        k->n_full = k->n_step;
        k->to_last_full = k->n_tok;
    }
    k->most_seq = step->n_seq > k->most_seq ? step->n_seq : k->most_seq;
    return k->fails ? lb_err_set(err, LB_E_DEVICE, "a failure") : LB_OK;
}

static struct lb_plan plan_of(int64_t batch, int64_t max_seqs, int64_t kv_pages)
{
    struct lb_plan p = {
        .batch_tokens = batch, .batch_most = batch, .max_seqs = max_seqs, .kv_pages = kv_pages, .max_model_len = 1000};
    lb_plan_derive(&p);
    return p;
}

static struct seen simulate(const struct lengths *row, size_t n, struct lb_plan p, int64_t *peak)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_sim_rows rows = {0};
    struct seen k = {0};
    const struct lb_sim_watch watch = {see, &k};
    for (size_t i = 0; i < n; i++)
        assert_int_equal(lb_sim_add(&rows, NULL, row[i].n_prompt, row[i].n_new, &err), LB_OK);
    assert_int_equal(lb_sim_order(&rows, true, &err), LB_OK);
    assert_int_equal(lb_sim_run(&rows, &p, true, &watch, peak, &err), LB_OK);
    lb_sim_release(&rows);
    return k;
}

/* A prompt of P in chunks of B, then a token a step; the last token is never fed. */
static void test_one_row(void **state)
{
    (void)state;
    static const struct {
        struct lengths row;
        int64_t batch, n_step, peak;
    } cases[] = {
        {{1, 1}, 8, 1, 1}, {{8, 1}, 8, 1, 1}, {{9, 1}, 8, 2, 1}, {{100, 30}, 32, 4 + 29, 5}, {{40, 25}, 64, 25, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t peak;
        struct seen k = simulate(&cases[i].row, 1, plan_of(cases[i].batch, 4, 100), &peak);
        assert_int_equal(k.n_step, cases[i].n_step);
        assert_int_equal(k.n_tok, cases[i].row.n_prompt + cases[i].row.n_new - 1);
        assert_int_equal(k.n_out, cases[i].row.n_new);
        assert_int_equal(peak, cases[i].peak);
    }
}

static void test_many_rows(void **state)
{
    (void)state;
    struct lengths row[300];
    int64_t n_tok = 0, n_out = 0, peak;
    for (int i = 0; i < 300; i++) {
        row[i] = (struct lengths){1 + i * 37 % 200, 1 + i * 11 % 90};
        n_tok += row[i].n_prompt + row[i].n_new - 1;
        n_out += row[i].n_new;
    }
    struct seen k = simulate(row, 300, plan_of(64, 20, 5000), &peak);
    assert_int_equal(k.n_tok, n_tok);
    assert_int_equal(k.n_out, n_out);
    assert_int_equal(k.most_seq, 20);
    assert_true(k.n_step >= n_tok / 64 && k.n_step >= n_out / 20);
    assert_true(peak <= 20 * 10);
    /* with as many rows as a step has tokens steps are full until there are no more */
    k = simulate(row, 300, plan_of(64, 64, 5000), &peak);
    assert_true(k.n_full > k.n_step / 2 && k.to_last_full == 64 * k.n_full);
    /* a small cache: rows are evicted and fed again, and those that could never fit are left out */
    k = simulate(row, 300, plan_of(64, 20, 12), &peak);
    assert_int_equal(k.n_out, n_out);
    assert_true(k.n_tok >= n_tok);
    assert_int_equal(peak, 12);
    k = simulate(row, 300, plan_of(64, 20, 3), &peak);
    assert_true(k.n_out < n_out && k.n_out > 0);
    k = simulate(row, 0, plan_of(64, 20, 3), &peak);
    assert_int_equal(k.n_step, 0);
}

/* Rows that begin alike pay for their beginning once, whatever their order; those with other beginnings as before. */
static void test_shared_beginnings(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_sim_rows rows = {0};
    struct lb_plan p = plan_of(64, 16, 400);
    int64_t n_tok = 0, peak;
    enum { N = 30, BEGIN = 100, OWN = 21, NEW = 5 };
    for (int i = 0; i < N; i++) {
        int32_t prompt[BEGIN + OWN];
        for (int k = 0; k < BEGIN + OWN; k++)
            prompt[k] = k < BEGIN ? 7 * k + i % 2 : 1000 * i + k;
        assert_int_equal(lb_sim_add(&rows, prompt, BEGIN + OWN, NEW, &err), LB_OK);
        n_tok += BEGIN + OWN + NEW - 1;
    }
    assert_int_equal(lb_sim_order(&rows, true, &err), LB_OK);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(rows.row[i].n_shared, BEGIN / 32);
        assert_true(i % (N / 2) == 0 || rows.row[i].group == rows.row[i - 1].group);
    }
    struct seen k = {0}, apart = {0};
    const struct lb_sim_watch watch = {see, &k}, other = {see, &apart};
    assert_int_equal(lb_sim_run(&rows, &p, true, &watch, &peak, &err), LB_OK);
    assert_int_equal(k.n_tok, n_tok - (N - 2) * (BEGIN / 32 * 32));
    assert_int_equal(k.n_out, N * NEW);
    assert_int_equal(lb_sim_run(&rows, &p, false, &other, &peak, &err), LB_OK);
    assert_int_equal(apart.n_tok, n_tok);
    lb_sim_release(&rows);
}

static void test_watch_that_fails(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_sim_rows rows = {0};
    struct seen k = {.fails = true};
    const struct lb_sim_watch watch = {see, &k};
    struct lb_plan p = plan_of(64, 4, 100);
    int64_t peak;
    assert_int_equal(lb_sim_add(&rows, NULL, 13, 50, &err), LB_OK);
    assert_int_equal(lb_sim_run(&rows, &p, true, &watch, &peak, &err), LB_E_DEVICE);
    assert_int_equal(k.n_step, 1);
    lb_sim_release(&rows);
}

/* ---- made-up steps ---- */

static void test_fill(void **state)
{
    (void)state;
    static const struct lb_probe_seq seq[] = {
        {0, 33, true}, {95, 1, true}, {96, 2, false}, {500, 70, true}, {31, 1, true}};
    enum { N = sizeof seq / sizeof *seq, OWN = 2 + 1 + 1 + 3 + 1 };
    const struct lb_step_limits limit = {107, N, 100};
    for (int64_t n_page = 1; n_page <= 40; n_page++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_step s;
        int written[40] = {0};
        assert_int_equal(lb_step_init(&s, limit, &err), LB_OK);
        assert_int_equal(lb_probe_fill(&s, seq, N, n_page), n_page > OWN);
        for (int32_t i = 0; n_page > OWN && i < N; i++) {
            int32_t page = s.page_start[i], last = -1;
            assert_int_equal(s.seq_start[i + 1] - s.seq_start[i], seq[i].n_tok);
            for (int32_t t = s.seq_start[i]; t < s.seq_start[i + 1]; t++) {
                assert_int_equal(s.pos[t], seq[i].pos + t - s.seq_start[i]);
                assert_int_equal(s.tok_page[t], s.page[page + s.pos[t] / 32]);
                written[s.tok_page[t]] += s.tok_page[t] != last;
                last = s.tok_page[t];
            }
            assert_int_equal(s.page_start[i + 1] - page, (seq[i].pos + seq[i].n_tok + 31) / 32);
            for (int32_t k = page; k < s.page_start[i + 1]; k++)
                assert_in_range(s.page[k], 0, n_page - 1);
        }
        for (int64_t k = 0; k < n_page && n_page > OWN; k++)
            assert_int_equal(written[k], k < OWN); /* by one sequence; pages that are only read are others */
        if (n_page > OWN)
            assert_int_equal(s.n_out, 4);
        lb_step_release(&s);
    }
    struct lb_err err = LB_ERR_INIT;
    struct lb_step small;
    assert_int_equal(lb_step_init(&small, (struct lb_step_limits){106, N, 100}, &err), LB_OK);
    assert_false(lb_probe_fill(&small, seq, N, 40));
    lb_step_release(&small);
    assert_int_equal(lb_step_init(&small, (struct lb_step_limits){107, N, 20}, &err), LB_OK);
    assert_false(lb_probe_fill(&small, seq, N, 40));
    lb_step_release(&small);
}

/* ---- layers ---- */

/* 'd' dense, 'm' mixture, 'w' dense with a window, 's' a mixture that shares an earlier layer's choice */
static struct lb_config config_of(const char *kinds, struct lb_layer_kind *layer)
{
    for (size_t i = 0; kinds[i]; i++)
        layer[i] = (struct lb_layer_kind){.window = kinds[i] == 'w' ? 64 : 0,
                                          .index_shared = kinds[i] == 's',
                                          .moe = kinds[i] == 'm' || kinds[i] == 's'};
    return (struct lb_config){.n_layer = (int64_t)strlen(kinds), .layer = layer, .n_vocab = 100000};
}

static void test_layers_in_turn(void **state)
{
    (void)state;
    static const struct {
        const char *kinds;
        int turn[6];
    } cases[] = {{"dddd", {3, 2, 1, 0, 3, 2}},  {"ddmm", {3, 2, 3, 2, 3, 2}}, {"m", {0, 0, 0, 0, 0, 0}},
                 {"dmsms", {3, 1, 3, 1, 3, 1}}, {"mdm", {2, 0, 2, 0, 2, 0}},  {"ss", {0, 0, 0, 0, 0, 0}}};
    struct lb_layer_kind layer[8];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct lb_config c = config_of(cases[k].kinds, layer);
        for (int i = 0; i < 6; i++)
            if (lb_probe_layer(&c, i) != cases[k].turn[i])
                fail_msg("%s: %d is %d", cases[k].kinds, i, lb_probe_layer(&c, i));
    }
}

/* Whatever the pattern, the layers that are timed stand for as many as there are; those in front of them are there. */
static void test_standin(void **state)
{
    (void)state;
    static const struct {
        const char *kinds;
        double layer_bytes;
        int64_t n_layer;
        int n_kind;
    } cases[] = {
        {"dddddddddd", 1e6, 10, 1}, {"dddddddddd", 40e6, 3, 1}, {"dddmmmmmmm", 1e9, 4, 2},
        {"dddmmmmmmm", 40e6, 6, 2}, {"wdwdwdwdwd", 60e6, 2, 2}, {"dwmdwmdwm", 1e6, 3, 3},
        {"d", 1e12, 1, 1},          {"dddmmm", 1e12, 4, 2},     {"dddwww", 1e12, 1, 1},
    };
    struct lb_layer_kind layer[16];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct lb_config c = config_of(cases[k].kinds, layer);
        struct lb_standin s;
        lb_standin_cut(&s, &c, cases[k].layer_bytes);
        double sum = 0;
        for (int i = 0; i < s.n_kind; i++) {
            sum += s.kind[i].share * (s.kind[i].end - s.kind[i].first);
            assert_true(s.kind[i].end <= s.config.n_layer);
        }
        if (s.n_kind != cases[k].n_kind || s.config.n_layer != cases[k].n_layer || fabs(sum - (double)c.n_layer) > 1e-9)
            fail_msg("%s: %d kinds, %lld layers that stand for %g", cases[k].kinds, s.n_kind,
                     (long long)s.config.n_layer, sum);
        assert_true(fabs((double)s.config.n_vocab * s.head_share - 100000) < 1e-6);
    }
}

/* ---- memory ---- */

#define LAYERS "\"num_hidden_layers\":2,\"max_position_embeddings\":128,\"eos_token_id\":1,\"hidden_act\":\"silu\","
#define LLAMA(more)                                                                                                    \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," LAYERS "\"num_attention_heads\":8,"          \
    "\"num_key_value_heads\":4,\"head_dim\":32,\"hidden_size\":256,\"intermediate_size\":512,\"vocab_size\":2048" more \
    "}"
#define MIXTURE                                                                                                    \
    "{\"architectures\":[\"Glm4MoeForCausalLM\"],\"model_type\":\"glm4_moe\"," LAYERS "\"num_attention_heads\":8," \
    "\"num_key_value_heads\":2,\"head_dim\":32,\"hidden_size\":128,\"intermediate_size\":256,\"vocab_size\":640,"  \
    "\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":64,\"n_shared_experts\":1,"        \
    "\"first_k_dense_replace\":1,\"n_group\":1,\"topk_group\":1}"

/* What the plan says of weights, from names and shapes alone, is what a backend packs when it reads them. */
static void test_weights(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        enum lb_wtype type;
        enum lb_dtype dtype;
        bool int8, w4a8;
    } cases[] = {
        {LLAMA(""), LB_W_F32, LB_BF16, false, false},
        {LLAMA(""), LB_W_Q8_0, LB_F32, false, false},
        {LLAMA(",\"tie_word_embeddings\":true"), LB_W_F32, LB_BF16, false, false},
        {LLAMA(",\"tie_word_embeddings\":true"), LB_W_BF16, LB_BF16, false, false},
        {LLAMA(",\"tie_word_embeddings\":true"), LB_W_F32, LB_F32, false, false},
        {MIXTURE, LB_W_F32, LB_BF16, false, false},
        {LLAMA(""), LB_W_F32, LB_BF16, true, false},
        {LLAMA(""), LB_W_Q8_0, LB_F32, true, false},
        {LLAMA(""), LB_W_Q4_0, LB_BF16, true, false},
        {LLAMA(""), LB_W_Q4_0, LB_BF16, true, true},
        {MIXTURE, LB_W_BF16, LB_BF16, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct made made;
        struct lb_backend *be;
        struct lb_model *m;
        made_open(&made, cases[i].config, cases[i].type, 7);
        struct lb_backend_spec spec = {.device = "cpu",
                                       .dtype = cases[i].dtype,
                                       .int8 = cases[i].int8,
                                       .w4a8 = cases[i].w4a8,
                                       .isa = "ref",
                                       .n_thread = 1};
        assert_int_equal(lb_backend_open(&be, &spec, &err), LB_OK);
        struct lb_model_spec open = {.config = &made.config, .weights = &made.file, .backend = be};
        assert_int_equal(lb_model_open(&m, &open, &err), LB_OK);
        struct lb_plan_spec plan = {.config = &made.config,
                                    .weights = &made.file,
                                    .dtype = cases[i].dtype,
                                    .int8 = cases[i].int8,
                                    .w4a8 = be->w4a8};
        double said = lb_plan_weight_bytes(&plan, 1), packed = (double)be->counts.weight_bytes;
        if (said < 0.97 * packed || said > 1.03 * packed)
            fail_msg("case %zu: %.0f bytes, but %.0f are packed", i, said, packed);
        lb_model_free(m);
        be->ops->close(be);
        made_close(&made);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_row),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_shared_beginnings),
        cmocka_unit_test(test_watch_that_fails),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_layers_in_turn),
        cmocka_unit_test(test_standin),
        cmocka_unit_test_teardown(test_weights, scratch_empty),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
