#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "core/run/plan.h"
#include "core/run/stats.h"

static struct lb_wtensor tensor = {.name = "w", .n_dim = 2, .dim = {1000, 1000}};
static struct lb_wfile weights = {.tensor = &tensor, .n_tensor = 1};

static struct lb_config config_of(int64_t max_position, enum lb_rope_type type)
{
    return (struct lb_config){.family = lb_family_by_hf(NULL, "glm4_moe"),
                              .n_layer = 3,
                              .n_kv_head = 2,
                              .head_dim = 16,
                              .v_dim = 16,
                              .rope = {.type = type, .factor = 4, .max_position = max_position}};
}

static struct lb_plan_spec spec_of(const struct lb_config *c)
{
    return (struct lb_plan_spec){.config = c, .weights = &weights, .dtype = LB_BF16, .free_bytes = (size_t)1 << 30};
}

/* 3 layers, K and V, 2 heads of 16, 32 positions, 2 bytes */
enum { PAGE = 3 * 2 * 2 * 16 * 32 * 2 };

static void test_pages(void **state)
{
    (void)state;
    struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
    struct lb_plan_spec spec = spec_of(&c);
    struct lb_err err = LB_ERR_INIT;
    struct lb_plan p;
    assert_int_equal(lb_plan_page_bytes(&c, LB_BF16, 1), PAGE);
    assert_int_equal(lb_plan_page_bytes(&c, LB_F32, 1), 2 * PAGE);
    /* a latent of 24 beside a key of 32, and index keys of 8 in the two layers that choose */
    struct lb_layer_kind layer[3] = {{.index_shared = false}, {.index_shared = true}, {.index_shared = false}};
    struct lb_config latent = {.n_layer = 3, .n_kv_head = 1, .head_dim = 32, .v_dim = 24, .layer = layer};
    assert_int_equal(lb_plan_page_bytes(&latent, LB_BF16, 1), 3 * (32 + 24) * 32 * 2);
    latent.index = (struct lb_index){.topk = 5, .n_head = 2, .head_dim = 8};
    assert_int_equal(lb_plan_page_bytes(&latent, LB_BF16, 1), (3 * (32 + 24) + 2 * 8) * 32 * 2);
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_int_equal(p.batch_tokens, 512);
    assert_int_equal(p.max_seqs, 512); /* a token of each fills a step */
    assert_int_equal(p.max_model_len, 1000);
    assert_int_equal(p.kv_pages, 512 * 32); /* all rows at full length need no more */
    assert_int_equal(p.limit.n_page, p.kv_pages);
    assert_int_equal(p.limit.n_seq, 512);
    spec.rows_enough = 64; /* the device gains nothing by more: the cache is no larger */
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_int_equal(p.max_seqs, 64);
    assert_int_equal(p.kv_pages, 64 * 32);
    assert_string_equal(p.why_seqs, "more would gain nothing");
    spec.max_seqs = 200; /* who asks for more gets more */
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_int_equal(p.max_seqs, 200);
    spec.max_seqs = spec.rows_enough = 0;
    spec.kv_memory = 10 * PAGE + 1;
    spec.batch_tokens = 16;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_int_equal(p.kv_pages, 10);
    assert_int_equal(p.limit.n_seq, 16); /* lengths are not known */
    assert_int_equal(p.max_out, 16);
    assert_int_equal(lb_plan_pages(&p, PAGE * 3, &err), LB_OK); /* a kernel set with larger pages */
    assert_int_equal(p.kv_pages, 3);
    spec.kv_memory = PAGE - 1;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_USAGE);
    spec.kv_memory = 0;
    spec.batch_tokens = 100;
    c.dim = 64; /* a token: 2 choices of 64 + 64 + 32, the router's 64 + 8, 4 segments of 64, 40 gated */
    c.n_seg = 4;
    c.moe = (struct lb_moe_shape){.n_expert = 8, .n_used = 2, .ffn_dim = 32, .shared_dim = 40};
    assert_true(lb_plan_moe_bytes(&c, 100) == 100 * 4 * (2 * 160 + 72 + 256 + 40));
    struct lb_config dense = c;
    dense.moe = (struct lb_moe_shape){.n_expert = 0};
    assert_true(lb_plan_step_bytes(&c, LB_BF16, 1, 100, 100) - lb_plan_step_bytes(&dense, LB_BF16, 1, 100, 100) ==
                100 * 4 * (2 * 160 + 72 + 256 + 40));
}

/* What weights and steps of 100 tokens leave goes to the cache, apart from a part for the host and a quarter for
 * others; to the byte what does not fit is refused with what would. */
static void test_share(void **state)
{
    (void)state;
    struct lb_config c = config_of(1 << 20, LB_ROPE_DEFAULT);
    struct lb_plan_spec spec = spec_of(&c);
    struct lb_err err = LB_ERR_INIT;
    struct lb_plan p;
    spec.batch_tokens = 100;
    spec.max_seqs = 40;
    const double steps = lb_plan_step_bytes(&c, LB_BF16, 1, 100, 100), host = 200.0 * (1 << 20);
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_true(fabs((double)p.kv_memory - 0.75 * ((1 << 30) - 2e6 - steps - host)) <= 1);
    assert_int_equal(p.kv_pages, p.kv_memory / PAGE);
    assert_true(p.need.weights == 2e6 && p.need.steps == steps && p.need.kv == (double)p.kv_pages * PAGE);
    assert_string_equal(p.why_kv, "as memory allows");
    spec.free_bytes = (size_t)(2e6 + steps) - 1;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "--batch-tokens 50 would fit"));
    spec.free_bytes = (size_t)(2e6 + steps + 3 * 1048576);
    spec.kv_memory = 3 * 1048576;
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    spec.kv_memory++;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "2 MiB would fit"));
}

/* What is known of the rows bounds the cache, and says how large a step may be chosen. */
static void test_expected_rows(void **state)
{
    (void)state;
    static const struct {
        struct lb_expect rows;
        size_t free_bytes;
        int64_t batch, batch_most, seqs, pages;
    } cases[] = {
        {{0, 0, 0}, (size_t)8 << 30, 512, 512, 512, 512 * 32},  /* nothing is known */
        {{3, 100, 300}, (size_t)8 << 30, 512, 512, 96, 3 * 32}, /* 96 pages hold 24 rows of 100, four times as many may
                                                                   come */
        {{0, 100, 16000}, (size_t)8 << 30, 512, 512, 512, 512 * 32},
        {{0, 100, 16384}, (size_t)8 << 30, 512, 1024, 1024, 1024 * 32}, /* sixteen steps of 1,024 */
        {{0, 100, 1e9}, (size_t)8 << 30, 512, 4096, 4096, 4096 * 32},
        {{2000, 100, 1e9}, (size_t)8 << 30, 512, 4096, 4096, 2000 * 32},
        {{0, 1000, 1e9}, (size_t)30 << 20, 512, 1024, 0, 0}, /* steps of 2,048 would take too much of the memory */
        {{0, 1000, 1e9}, (size_t)3 << 20, 64, 64, 0, 0},
    };
    struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_plan_spec spec = spec_of(&c);
        struct lb_err err = LB_ERR_INIT;
        struct lb_plan p;
        spec.expect = cases[i].rows;
        spec.free_bytes = cases[i].free_bytes;
        assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
        if (p.batch_tokens != cases[i].batch || p.batch_most != cases[i].batch_most)
            fail_msg("case %zu: %lld, %lld", i, (long long)p.batch_tokens, (long long)p.batch_most);
        if (cases[i].seqs) {
            assert_int_equal(p.max_seqs, cases[i].seqs);
            assert_int_equal(p.kv_pages, cases[i].pages);
        }
        lb_plan_take_batch(&p, 256);
        assert_int_equal(p.limit.n_tok, 256);
        assert_true(p.max_seqs <= 256 && p.limit.n_seq == p.max_seqs && p.max_out == 256);
    }
}

static void test_memory(void **state)
{
    (void)state;
    struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
    struct lb_plan_spec spec = spec_of(&c);
    struct lb_err err = LB_ERR_INIT;
    struct lb_plan p;
    spec.free_bytes = 1999999; /* a million weights of two bytes */
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_DEVICE);
    err = (struct lb_err)LB_ERR_INIT;
    spec.free_bytes = 2000000 + 5 * PAGE; /* less than a quarter is left */
    spec.batch_tokens = 16;
    spec.free_bytes += (size_t)lb_plan_step_bytes(&c, LB_BF16, 1, 16, 16);
    spec.kv_memory = 5 * PAGE;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_int_equal(p.kv_pages, 5);
    spec.kv_memory = 6 * PAGE;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_DEVICE);
}

/* 8 query heads of 16, 2 KV heads, dim 64, 3 layers; a million weights in all, K and V 2 * 2 * 16 * 64 of a layer's. */
static struct lb_config config_of_ranks(struct lb_layer_kind *layer)
{
    struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
    c.n_head = 8;
    c.n_seg = 8;
    c.dim = 64;
    c.layer = layer;
    return c;
}

static void test_ranks(void **state)
{
    (void)state;
    struct lb_layer_kind layer[3] = {{0}};
    struct lb_config c = config_of_ranks(layer);
    struct lb_plan_spec spec = spec_of(&c);
    struct lb_err err = LB_ERR_INIT;
    struct lb_plan p;
    /* of two ranks each has one of the KV heads, of eight one that three others have too */
    assert_int_equal(lb_plan_page_bytes(&c, LB_BF16, 2), PAGE / 2);
    assert_int_equal(lb_plan_page_bytes(&c, LB_BF16, 8), PAGE / 2);
    const double kv = 3 * 2 * 16 * 64; /* of one head */
    assert_true(lb_plan_weight_bytes(&spec, 1) == 2e6);
    assert_true(lb_plan_weight_bytes(&spec, 2) == 1e6);
    assert_true(lb_plan_weight_bytes(&spec, 8) == 2 * ((1e6 - 2 * kv) / 8 + kv));
    /* a router of 5 experts in the last layer is every rank's; a latent of 24, 8 more that turn, one of queries of 32
     */
    layer[2].moe = true;
    c.moe = (struct lb_moe_shape){.n_expert = 5};
    c.mla = (struct lb_mla){.kv_rank = 24, .q_rank = 32, .rope_dim = 8};
    c.n_kv_head = 1;
    const double whole = 64 * (5 + 3 * (24 + 8 + 32));
    assert_true(lb_plan_weight_bytes(&spec, 4) == 2 * ((1e6 - whole) / 4 + whole));
    assert_int_equal(lb_plan_page_bytes(&c, LB_BF16, 4), PAGE / 2);

    /* four ranks of a host: weights once, a cache each */
    c = config_of_ranks(layer);
    layer[2].moe = false;
    spec.host_ranks = 4;
    spec.batch_tokens = 16;
    double steps = 4 * lb_plan_step_bytes(&c, LB_BF16, 1, 16, 16), cache = 4 * 40 * PAGE;
    spec.free_bytes = (size_t)(2000000 + steps + cache / 0.75 / 0.75); /* a quarter for others, one for the host */
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_true(p.kv_pages == 40 || p.kv_pages == 39);
    spec.tp = 2; /* two groups: halves of a page */
    spec.free_bytes -= (size_t)(steps - 4 * lb_plan_step_bytes(&c, LB_BF16, 2, 16, 16));
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    assert_true(p.kv_pages == 80 || p.kv_pages == 79);
    spec.free_bytes = (size_t)(2000000 + 4 * lb_plan_step_bytes(&c, LB_BF16, 2, 16, 16)) + 4 * 5 * PAGE;
    spec.kv_memory = 5 * PAGE;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_OK);
    spec.kv_memory++;
    assert_int_equal(lb_plan_make(&p, &spec, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "for each rank of the host"));
}

static void test_tp(void **state)
{
    (void)state;
    static const struct {
        int host_ranks, host_nodes, n_rank;
        size_t free_bytes;
        int64_t kv_memory;
        int tp; /* 0: nothing fits */
    } cases[] = {
        {1, 1, 8, 4000000, 0, 1},       /* a copy each */
        {1, 1, 8, 2100000, 0, 2},       /* it would fit, but leave the cache little */
        {1, 1, 8, 700000, 0, 4},        /* a quarter of them */
        {1, 1, 2, 1100000, 0, 2},       /* there are no more ranks to spread them over: they just fit */
        {1, 1, 2, 900000, 0, 0},        /* they do not */
        {1, 1, 6, 900000, 0, 0},        /* 3 and 6 do not divide 8 segments */
        {8, 1, 8, 4000000, 0, 1},       /* one host has them once whatever tp is */
        {8, 1, 8, 1900000, 0, 0},       /* and so no tp helps */
        {4, 1, 8, 1900000, 0, 8},       /* two hosts: half of them each */
        {1, 1, 8, 4000000, 2000000, 1}, /* both fit to the byte */
        {1, 1, 8, 4000000, 2000001, 2},
        {8, 2, 8, 4000000, 0, 8}, /* a copy in each of two nodes leaves no quarter, unless it goes over both */
    };
    struct lb_layer_kind layer[3] = {{0}};
    struct lb_config c = config_of_ranks(layer);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_plan_spec spec = spec_of(&c);
        struct lb_err err = LB_ERR_INIT;
        int tp = -1;
        spec.batch_tokens = 1;
        spec.free_bytes = (size_t)(cases[i].host_ranks * lb_plan_step_bytes(&c, LB_BF16, 1, 1, 1)); /* beside that */
        spec.host_ranks = cases[i].host_ranks;
        spec.host_nodes = cases[i].host_nodes;
        spec.free_bytes += cases[i].free_bytes;
        spec.kv_memory = cases[i].kv_memory;
        assert_int_equal(lb_plan_tp(&spec, cases[i].n_rank, &tp, &err), cases[i].tp ? LB_OK : LB_E_DEVICE);
        assert_int_equal(tp, cases[i].tp);
    }
}

/* Tensors of layers behind the model's own take no memory; any other name does. */
static void test_unread_layers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool gguf, read;
    } t[] = {{"model.layers.2.mlp.gate.weight", false, true},
             {"model.layers.3.eh_proj.weight", false, false},
             {"model.layers.30.enorm.weight", false, false},
             {"model.layers.9999999999999.x", false, false},
             {"model.layers.3", false, true},
             {"model.layers..x", false, true},
             {"model.layers.3x.weight", false, true},
             {"model.norm.weight", false, true},
             {"blk.3.nextn.eh_proj.weight", true, false},
             {"blk.2.attn_q.weight", true, true},
             {"blk.3.nextn.eh_proj.weight", false, true},
             {"token_embd.weight", true, true}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
        struct lb_wtensor one = tensor;
        struct lb_wfile file = {.tensor = &one, .n_tensor = 1};
        struct lb_plan_spec spec = spec_of(&c);
        struct lb_err err = LB_ERR_INIT;
        struct lb_plan p;
        spec.batch_tokens = 1;
        one.name = t[i].name;
        c.gguf = t[i].gguf;
        spec.weights = &file;
        spec.free_bytes = 1999999; /* one byte less than the tensor has in bf16 */
        if (lb_plan_make(&p, &spec, &err) != (t[i].read ? LB_E_DEVICE : LB_OK))
            fail_msg("%s: %s", t[i].name, err.text);
    }
}

/* The head in int8 is counted for processors, whether it is the embedding or not, and not where it stays packed. */
static void test_screened(void **state)
{
    (void)state;
    static const char *const name[] = {"model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"};
    struct lb_config c = config_of(1000, LB_ROPE_DEFAULT);
    struct lb_wtensor some[2] = {tensor, tensor};
    struct lb_wfile file = {.tensor = some, .n_tensor = 2};
    struct lb_plan_spec spec = spec_of(&c);
    const double row = 640 + 16; /* blocks of 64 columns, two scales and two norms */
    spec.weights = &file;
    c.dim = 600;
    c.n_vocab = 1000;
    for (int i = 0; i < 3; i++) {
        some[0].name = name[0];
        some[1].name = name[i];
        assert_true(lb_plan_screen_bytes(&spec, 1) == (i == 0 ? 0 : 1000 * row));
    }
    assert_true(lb_plan_screen_bytes(&spec, 2) == 500 * row);
    spec.device = true;
    assert_true(lb_plan_screen_bytes(&spec, 1) == 0);
    spec.device = false;
    some[1].type = LB_W_Q8_0;
    some[1].dim[0] = some[1].dim[1] = 1024;
    some[1].type_name = "Q8_0";
    assert_true(lb_plan_screen_bytes(&spec, 1) == 0);
    spec.unpack = true;
    assert_true(lb_plan_screen_bytes(&spec, 1) == 1000 * row);
}

static void test_length(void **state)
{
    (void)state;
    static const struct {
        enum lb_rope_type type;
        int64_t own, asked, want; /* want 0: refused */
    } cases[] = {
        {LB_ROPE_DEFAULT, 2048, 0, 2048},    {LB_ROPE_DEFAULT, 2048, 100, 100}, {LB_ROPE_DEFAULT, 2048, 2049, 0},
        {LB_ROPE_YARN, 128, 129, 0},         {LB_ROPE_LINEAR, 256, 0, 256},     {LB_ROPE_LLAMA3, 256, 257, 0},
        {LB_ROPE_DYNAMIC, 32, 0, 2048},      {LB_ROPE_DYNAMIC, 4096, 0, 16384}, {LB_ROPE_DYNAMIC, 4096, 99999, 99999},
        {LB_ROPE_DYNAMIC, 4096, 4000, 4000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_config c = config_of(cases[i].own, cases[i].type);
        struct lb_plan_spec spec = spec_of(&c);
        struct lb_err err = LB_ERR_INIT;
        struct lb_plan p;
        spec.max_model_len = cases[i].asked;
        assert_int_equal(lb_plan_make(&p, &spec, &err), cases[i].want ? LB_OK : LB_E_USAGE);
        if (cases[i].want)
            assert_int_equal(p.max_model_len, cases[i].want);
    }
}

static json_t *stats_json(const struct lb_stats *s, const char *command)
{
    struct lb_str text = {0};
    lb_stats_put_json(s, command, &text);
    json_t *j = json_loads(text.data, JSON_REJECT_DUPLICATES, NULL);
    if (!j)
        fail_msg("not JSON: %s", text.data);
    assert_int_equal(text.data[text.len - 1], '\n');
    lb_str_release(&text);
    return j;
}

/* What was not measured is absent, never 0; nothing is NaN. */
static void test_stats_absent(void **state)
{
    (void)state;
    struct lb_stats s = {.model_path = "a \"b\"", .model_tflops = NAN, .total_s = 1, .load_s = 1};
    json_t *j = stats_json(&s, NULL);
    assert_null(json_object_get(j, "command"));
    assert_null(json_object_get(j, "latency_s"));
    assert_null(json_object_get(json_object_get(j, "steps"), "fill"));
    assert_int_equal(json_object_size(json_object_get(j, "throughput")), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "model"), "path")), s.model_path);
    json_decref(j);
}

static void test_stats_values(void **state)
{
    (void)state;
    struct lb_stats s = {
        .rows = 3, .ok = 2, .error = 1, .total_s = 3, .load_s = 1, .forward_s = 1.23456789, .steps = 4};
    s.by_code[LB_ROW_TOO_LONG] = 1;
    s.prompt_tokens = 10;
    s.completion_tokens = 6;
    s.setting[0] = (struct lb_setting){"seed", "7", "command line"};
    s.n_setting = 1;
    s.exit_code = 1;
    struct lb_rank_stats rank[2] = {{.host = "a", .busy_s = 1}, {.rank = 1, .host = "b", .collective_s = 0.5}};
    s.rank = rank;
    s.n_rank = 2;
    json_t *j = stats_json(&s, "llmbatch"), *codes = json_object_get(json_object_get(j, "rows"), "errors_by_code");
    assert_int_equal(json_object_size(codes), 1);
    assert_int_equal(json_integer_value(json_object_get(codes, "too_long")), 1);
    json_t *rate = json_object_get(json_object_get(j, "throughput"), "total_tok_s");
    assert_true(json_number_value(rate) == 8);
    assert_true(json_number_value(json_object_get(json_object_get(j, "time_s"), "forward")) == 1.23457);
    json_t *seed = json_object_get(json_object_get(j, "sampling"), "seed");
    assert_int_equal(json_integer_value(json_object_get(seed, "value")), 7);
    assert_string_equal(json_string_value(json_object_get(seed, "origin")), "command line");
    const json_t *ranks = json_object_get(j, "ranks"), *second = json_array_get(ranks, 1);
    assert_int_equal(json_array_size(ranks), 2);
    assert_string_equal(json_string_value(json_object_get(second, "host")), "b");
    assert_true(json_number_value(json_object_get(second, "collective_s")) == 0.5);
    assert_int_equal(json_integer_value(json_object_get(j, "exit_code")), 1);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages),        cmocka_unit_test(test_share),         cmocka_unit_test(test_expected_rows),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_ranks),         cmocka_unit_test(test_tp),
        cmocka_unit_test(test_screened),     cmocka_unit_test(test_length),        cmocka_unit_test(test_stats_absent),
        cmocka_unit_test(test_stats_values), cmocka_unit_test(test_unread_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
