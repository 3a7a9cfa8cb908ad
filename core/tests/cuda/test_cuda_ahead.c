/* Running a step ahead on a device of the stand-ins: OUT is the same bytes as without it and as rows alone give,
 * whatever ends when; steps really were launched while another one was on its way; a device that fails then, or a
 * signal, loses no finished row. The argument is the library with the backend and the stand-ins. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/llmbatch.h"
#include "core/model/decoder.h"
#include "core/tests/cuda/standinrun.h"
#include "core/tests/whole.h"

#define CONFIG(n_layer)                                                                                       \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"num_hidden_layers\":" n_layer ","   \
    "\"max_position_embeddings\":128,\"eos_token_id\":1,\"hidden_act\":\"silu\",\"num_attention_heads\":2,"   \
    "\"num_key_value_heads\":1,\"head_dim\":8,\"hidden_size\":16,\"intermediate_size\":32,\"vocab_size\":40," \
    "\"torch_dtype\":\"float32\"}"
#define N_ROW 6

static long long n_ahead; /* of the last run */
static volatile sig_atomic_t stop_now;

/* A run's settings beside the rows. */
struct how {
    const char *dtype;
    int64_t max_seqs, batch_tokens, crowd_pages;
    bool no_ahead, no_prefix_cache, timing, bold;
    const struct lb_hook *hook;
};

static void hear(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    const char *at = strstr(text, "steps launched while another one was on its way: ");
    if (at)
        n_ahead = strtoll(strchr(at, ':') + 2, NULL, 10);
}

static enum lb_status run(const struct how *h, struct lb_stats *stats, int *code, struct lb_err *err)
{
    struct lb_options o;
    run_options(&o);
    o.dtype = h->dtype;
    o.max_model_len = 100;
    o.batch_tokens = h->batch_tokens;
    o.max_seqs = h->max_seqs;
    o.kv_memory = 1 << 17;
    o.crowd_pages = h->crowd_pages;
    o.no_ahead = h->no_ahead;
    o.bold_drafts = h->bold;
    o.no_prefix_cache = h->no_prefix_cache;
    o.timing = h->timing;
    o.token_ids = true;
    o.hook = h->hook;
    o.stop = &stop_now;
    o.log = (struct lb_log){LB_LOG_DEBUG, hear, NULL};
    n_ahead = -1;
    return run_with(&o, stats, code, err);
}

/* OUT of a run that goes well, which is then removed. */
static struct lb_str output(const char *what, const struct how *h, struct lb_stats *stats)
{
    struct lb_str out = {0};
    struct lb_err err;
    int code;
    if (run(h, stats, &code, &err) != LB_OK || lb_file_read(out_path, 1 << 20, &out, &err) != LB_OK)
        fail_msg("%s: %s", what, err.text);
    check_standin(what);
    unlink(out_path);
    return out;
}

static void same(const char *what, const struct lb_str *a, const struct lb_str *b)
{
    if (a->len != b->len || memcmp(a->data, b->data, a->len) != 0)
        fail_msg("%s: OUT is\n%.*s\nnot\n%.*s", what, (int)b->len, b->data, (int)a->len, a->data);
}

/* Settings of a row that draws. */
static void write_draw(struct lb_str *rows, struct made *m, int seed)
{
    static const char *const more[] = {
        "", "", ",\"top_k\":5", ",\"top_p\":0.8", ",\"min_p\":0.1", ",\"top_p\":0.9,\"top_k\":12"};
    lb_str_putf(rows, ",\"temperature\":%s,\"seed\":%d%s", made_random(m) % 2 ? "0.9" : "3", seed,
                more[made_random(m) % 6]);
}

/* kinds: bit 0 draws, bit 1 log-probabilities, bit 2 several samples, bit 3 penalties, bit 4 scores. */
static void write_rows(uint32_t seed, int n_row, unsigned kinds)
{
    struct made m = {.state = seed};
    struct lb_str rows = {0};
    for (int i = 0; i < n_row; i++) {
        static const int lens[] = {1, 3, 30, 31, 31, 40}, most[] = {1, 2, 3, 7, 12, 20};
        int n = lens[made_random(&m) % 6], shared = made_random(&m) % 3 == 0;
        lb_str_putf(&rows, "{\"max_tokens\":%d,\"prompt_token_ids\":[", most[made_random(&m) % 6]);
        for (int k = 0; k < n; k++)
            lb_str_putf(&rows, "%s%d", k ? "," : "", shared && n > 32 && k < 33 ? 3 : 2 + (int)(made_random(&m) % 38));
        lb_str_putf(&rows, "]");
        if (made_random(&m) % 2) /* ends with whatever comes from these: at any step */
            lb_str_putf(&rows, ",\"stop_token_ids\":[%d,%d,%d]", 2 + (int)(made_random(&m) % 38),
                        2 + (int)(made_random(&m) % 38), 2 + (int)(made_random(&m) % 38));
        unsigned kind = made_random(&m) % 3 == 0 ? kinds & 1u << made_random(&m) % 5 : 0;
        kind |= made_random(&m) % 3 == 0 ? kinds & 1u : 0; /* so that rows draw beside each kind */
        if (kind & 5u)
            write_draw(&rows, &m, i);
        if (kind & 4u)
            lb_str_putf(&rows, ",\"n\":2");
        if (kind & 2u)
            lb_str_putf(&rows, ",\"logprobs\":1");
        if (kind & 8u)
            lb_str_putf(&rows, ",\"repetition_penalty\":1.3");
        if (kind & 16u)
            lb_str_putf(&rows, ",\"prompt_logprobs\":0");
        lb_str_putf(&rows, "}\n");
    }
    scratch_text("in", rows.data);
    lb_str_release(&rows);
}

/* Steps of rows of all kinds that were launched ahead: with few rows each step may have one that must be seen first. */
static int64_t mixed_ahead;

/* Which courses steps take differs; the bytes do not. */
static void compare(const char *dtype, unsigned kinds, uint32_t seed)
{
    struct lb_stats stats;
    write_rows(seed, is_whole() ? 2 * N_ROW : N_ROW - 2, kinds);
    const struct how alone = {.dtype = dtype, .max_seqs = 1, .batch_tokens = 64, .no_ahead = true};
    struct lb_str want = output("alone", &alone, &stats);
    assert_int_equal(n_ahead, 0);
    int64_t n_new = stats.completion_tokens;
    const struct how hows[] = {{.max_seqs = 5, .batch_tokens = 64},
                               {.max_seqs = 5, .batch_tokens = 64, .no_ahead = true},
                               {.max_seqs = 16, .batch_tokens = 16, .no_prefix_cache = true},
                               {.max_seqs = 4, .batch_tokens = 40, .no_ahead = true, .bold = true},
                               {.max_seqs = 1, .batch_tokens = 8}};
    size_t n =
        is_whole() || kinds > 1 ? sizeof hows / sizeof *hows : 1; /* of a sample rows of all kinds have all ways */
    for (size_t i = 0; i < n; i++) {
        struct how h = hows[i];
        char what[64];
        h.dtype = dtype;
        snprintf(what, sizeof what, "%s, kinds %u, seed %u, way %zu", dtype, kinds, seed, i);
        struct lb_str got = output(what, &h, &stats);
        same(what, &want, &got);
        lb_str_release(&got);
        assert_int_equal(stats.completion_tokens, n_new);
        assert_true(h.bold == (stats.mine.drafted > 0)); /* else a device takes none */
        mixed_ahead += kinds > 1 ? n_ahead : 0;
        if (h.no_ahead ? n_ahead != 0 : n_ahead < 1 && kinds <= 1)
            fail_msg("%s: %lld steps were launched ahead", what, n_ahead);
        if (kinds <= 1 && i == 0 && n_ahead < stats.mine.steps * 3 / 4) /* nothing stands in the way */
            fail_msg("%s: of %lld steps %lld were launched ahead", what, (long long)stats.mine.steps, n_ahead);
    }
    lb_str_release(&want);
}

static void test_same_bytes(void **state)
{
    (void)state;
    uint32_t n = is_whole() ? 12 : 1;
    for (uint32_t seed = 1; seed <= n; seed++) {
        compare("f32", seed % 2, seed);
        compare("bf16", 31, seed);
    }
    assert_true(mixed_ahead > 0);
}

/* Rows that grow beyond what there is: a step that would evict one waits for the step before. */
static void test_evictions(void **state)
{
    (void)state;
    struct lb_stats stats;
    struct lb_str rows = {0};
    for (int i = 0; i < 4; i++) {
        lb_str_putf(&rows, "{\"max_tokens\":%d,\"ignore_eos\":true,\"prompt_token_ids\":[%d", 5 + i, 2 + i);
        for (int k = 1; k < 31; k++)
            lb_str_putf(&rows, ",%d", 2 + (i * 7 + k * 5) % 38);
        lb_str_putf(&rows, "]}\n");
    }
    scratch_text("in", rows.data);
    lb_str_release(&rows);
    const struct how alone = {.dtype = "f32", .max_seqs = 1, .batch_tokens = 64, .no_ahead = true};
    const struct how crowd = {.dtype = "f32", .max_seqs = 8, .batch_tokens = 128, .crowd_pages = 4};
    struct lb_str want = output("alone", &alone, &stats), got = output("crowded", &crowd, &stats);
    same("crowded", &want, &got);
    assert_true(stats.mine.recomputed > 0 && n_ahead > 0);
    lb_str_release(&want);
    lb_str_release(&got);
}

/* A token that nobody wanted is no step of its row. */
static void test_steps_of_rows(void **state)
{
    (void)state;
    struct lb_stats stats;
    const struct how h = {.dtype = "f32", .max_seqs = 3, .batch_tokens = 64, .timing = true};
    scratch_text("in", "{\"prompt_token_ids\":[5],\"max_tokens\":9}\n{\"prompt_token_ids\":[5],\"max_tokens\":8,"
                       "\"stop_token_ids\":[2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,"
                       "29,30,31,32,33,34,35,36,37,38,39]}\n{\"prompt_token_ids\":[9],\"max_tokens\":1}\n");
    struct lb_str out = output("steps", &h, &stats);
    char *at = out.data;
    for (int i = 0; i < 3; i++) {
        char *n = strstr(at, "\"completion_tokens\":"), *steps = n ? strstr(n, "\"steps\":") : NULL;
        assert_non_null(steps);
        assert_int_equal(strtol(strchr(n, ':') + 1, NULL, 10), strtol(strchr(steps, ':') + 1, NULL, 10));
        at = steps;
    }
    lb_str_release(&out);
}

/* One call fails while two steps are on their way: finished rows are kept, and the same command goes on. */
static void test_faults(void **state)
{
    (void)state;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    int64_t most_kept = 0;
    const struct how h = {.dtype = "f32", .max_seqs = 3, .batch_tokens = 64};
    write_rows(77, 8, 0);
    long before = lib.calls();
    struct lb_str want = output("undisturbed", &h, &stats);
    long n_call = lib.calls() - before, step = is_whole() ? 7 : 151;
    for (long n = n_call / 3; n < n_call; n += step) { /* loading and tries of cuBLASLt come before */
        char what[128];
        lib.arm(n, n % 2);
        enum lb_status status = run(&h, &stats, &code, &err);
        const char *failed = lib.failed();
        lib.arm(0, false);
        snprintf(what, sizeof what, "call %ld, %s", n, failed ? failed : "none");
        check_standin(what);
        if (status != LB_OK && code != LB_E_DEVICE)
            fail_msg("%s: exit code %d, '%s'", what, code, err.text);
        int64_t n_kept = status == LB_OK ? 0 : kept_rows(partial_path);
        most_kept = n_kept > most_kept ? n_kept : most_kept;
        if (status == LB_OK)
            unlink(out_path);
        struct lb_str got = output(what, &h, &stats);
        assert_int_equal(n_kept, stats.resumed);
        same(what, &want, &got);
        lb_str_release(&got);
    }
    assert_true(most_kept > 3);
    lb_str_release(&want);
}

static int steps_left;

static void count_down(void *ctx, const struct lb_step *step, const float *x)
{
    (void)ctx;
    (void)step;
    (void)x;
    stop_now = --steps_left == 0 ? 1 : stop_now;
}

static void test_signal(void **state)
{
    (void)state;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    const struct lb_hook hook = {.embedding = count_down};
    struct how h = {.dtype = "f32", .max_seqs = 3, .batch_tokens = 64};
    write_rows(5, is_whole() ? 10 : 5, 1);
    struct lb_str want = output("undisturbed", &h, &stats);
    h.hook = &hook;
    for (int n = 1; n < 14; n += is_whole() ? 3 : 7) {
        steps_left = n;
        enum lb_status status = run(&h, &stats, &code, &err);
        stop_now = 0;
        check_standin("a signal");
        assert_int_equal(status, LB_E_INTERRUPTED);
        int64_t n_kept = kept_rows(partial_path);
        struct lb_str got = output("behind a signal", &h, &stats);
        assert_int_equal(stats.resumed, n_kept);
        same("behind a signal", &want, &got);
        lb_str_release(&got);
    }
    lb_str_release(&want);
}

static int setup(void **state)
{
    if (scratch_make(state) != 0)
        return -1;
    snprintf(model_path, sizeof model_path, "%s", scratch);
    keep(in_path, "in");
    keep(out_path, "out");
    keep(partial_path, "out.partial");
    write_model(is_whole() ? CONFIG("2") : CONFIG("1"));
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_evictions), cmocka_unit_test(test_steps_of_rows),
        cmocka_unit_test(test_faults),     cmocka_unit_test(test_signal),
    };
    if (argc < 2)
        return 1;
    find_all(argv[1]);
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return cmocka_run_group_tests(tests, setup, scratch_remove);
}
