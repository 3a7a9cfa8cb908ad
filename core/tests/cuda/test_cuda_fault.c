/* Whole runs on a device of the stand-ins in which one call of CUDA, cuBLASLt or NCCL fails, each in turn, once or for
 * good: the error names a call, the exit code is 4, finished rows are kept, nothing leaks, and the same command goes on
 * to the same bytes. Every few calls; all with LB_TEST_FULL=1. The argument is the library with the backend and the
 * stand-ins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/llmbatch.h"
#include "core/tests/cuda/standinrun.h"
#include "core/tests/whole.h"

#define CONFIG                                                                                                \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"num_hidden_layers\":1,"             \
    "\"max_position_embeddings\":64,\"eos_token_id\":1,\"hidden_act\":\"silu\",\"num_attention_heads\":2,"    \
    "\"num_key_value_heads\":1,\"head_dim\":8,\"hidden_size\":16,\"intermediate_size\":32,\"vocab_size\":40," \
    "\"torch_dtype\":\"float32\"}"
#define ROWS                                                                             \
    "{\"prompt_token_ids\":[5,6,7],\"max_tokens\":2,\"ignore_eos\":true}\n"              \
    "{\"prompt_token_ids\":[8,9],\"max_tokens\":3,\"ignore_eos\":true,\"logprobs\":1}\n" \
    "{\"prompt_token_ids\":[9],\"max_tokens\":2,\"ignore_eos\":true,\"temperature\":1,\"seed\":3}\n"
#define N_ROW 3

static struct lb_str want;

static enum lb_status run(struct lb_stats *stats, int *code, struct lb_err *err)
{
    struct lb_options o;
    run_options(&o);
    o.dtype = "f32";
    o.max_model_len = 32;
    o.batch_tokens = 8;
    o.max_seqs = 1; /* one row is finished before the next begins */
    o.kv_memory = 1 << 16;
    return run_with(&o, stats, code, err);
}

static void check_out(const char *what)
{
    struct lb_str out = {0};
    struct lb_err err = LB_ERR_INIT;
    if (lb_file_read(out_path, 1 << 20, &out, &err) != LB_OK)
        fail_msg("%s: %s", what, err.text);
    if (out.len != want.len || memcmp(out.data, want.data, out.len) != 0)
        fail_msg("%s: OUT is not what an undisturbed run makes", what);
    lb_str_release(&out);
    unlink(out_path);
}

static void run_well(const char *what, int64_t n_kept)
{
    struct lb_stats stats;
    struct lb_err err;
    int code;
    if (run(&stats, &code, &err) != LB_OK)
        fail_msg("%s, then without a fault: %s", what, err.text);
    if (stats.resumed < n_kept)
        fail_msg("%s: of %d rows %d were taken over", what, (int)n_kept, (int)stats.resumed);
    check_standin(what);
    check_out(what);
}

/* Whether the run came to call n. */
static bool disturb(const char *call, long n, bool dead, int64_t *most_kept)
{
    char what[128];
    struct lb_stats stats;
    struct lb_err err;
    int code;
    lib.arm_at(call, n, dead);
    enum lb_status status = run(&stats, &code, &err);
    const char *failed = lib.failed();
    lib.arm(0, false);
    snprintf(what, sizeof what, "call %ld, %s%s", n, failed ? failed : "none", dead ? ", and later ones" : "");
    check_standin(what);
    if (!failed)
        assert_int_equal(status, LB_OK);
    if (status == LB_OK) { /* no call, or one that only asked or gave back */
        check_out(what);
        return failed != NULL;
    }
    bool named = strstr(err.text, failed) || strstr(err.text, "kernel ") || strstr(err.text, "product of ") ||
                 strstr(err.text, "cuBLASLt ") || strstr(err.text, "out of ");
    if (code != LB_E_DEVICE || !named || strchr(err.text, '\n'))
        fail_msg("%s: exit code %d, '%s'", what, code, err.text);
    int64_t n_kept = kept_rows(partial_path);
    *most_kept = n_kept > *most_kept ? n_kept : *most_kept;
    run_well(what, n_kept);
    return true;
}

static void test_every_call(void **state)
{
    (void)state;
    long step = whole_or(23);
    long before = lib.calls();
    run_well("undisturbed", 0);
    long n_call = lib.calls() - before;
    for (int dead = 0; dead < 2; dead++) {
        int64_t most_kept = 0;
        long n = 1;
        while (disturb(NULL, n, dead, &most_kept))
            n += step;
        assert_true(n > n_call && n <= n_call + step);
        assert_int_equal(most_kept, N_ROW - 1); /* the last row's end is a step like any other */
        printf("%ld calls, one in %ld of them%s\n", n_call, step, dead ? ", and those behind it" : "");
    }
}

/* Those of graphs are few, and stand far apart: the first two of each. */
static void test_graph_calls(void **state)
{
    (void)state;
    static const char *const calls[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate",
                                        "cudaGraphLaunch",        "cudaGraphDestroy",     "cudaGraphExecDestroy"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (int dead = 0; dead < 2; dead++) {
            int64_t most_kept = 0;
            assert_true(disturb(calls[i], 1, dead, &most_kept));
            bool again = disturb(calls[i], 2, dead, &most_kept);
            assert_true(again || strcmp(calls[i], "cudaGraphLaunch") != 0); /* a graph that is queued again */
        }
}

/* Memory that does not do is found before the run, whatever it falls short by. */
static void test_small_devices(void **state)
{
    (void)state;
    bool ran = false;
    for (size_t bytes = 1 << 12; bytes <= (size_t)1 << 27; bytes *= 2) {
        struct lb_stats stats;
        struct lb_err err;
        int code;
        char what[64];
        snprintf(what, sizeof what, "a device of %zu bytes", bytes);
        lib.devices(1, bytes);
        enum lb_status status = run(&stats, &code, &err);
        check_standin(what);
        if (status != LB_OK &&
            (code != LB_E_DEVICE || (!strstr(err.text, "memory") && !strstr(err.text, "free")) || ran))
            fail_msg("%s: exit code %d, '%s'", what, code, err.text);
        if (status != LB_OK && strstr(err.text, "cuda"))
            fail_msg("%s: found by a call, not by the plan: '%s'", what, err.text);
        assert_true(status == LB_OK || kept_rows(partial_path) == 0);
        ran = ran || status == LB_OK;
        if (status == LB_OK)
            check_out(what);
        unlink(partial_path);
    }
    assert_true(ran);
    lib.devices(4, (size_t)256 << 20);
}

static int setup(void **state)
{
    struct lb_stats stats;
    struct lb_err err;
    int code;
    if (scratch_make(state) != 0)
        return -1;
    snprintf(model_path, sizeof model_path, "%s", scratch);
    keep(in_path, "in");
    keep(out_path, "out");
    keep(partial_path, "out.partial");
    write_model(CONFIG);
    scratch_text("in", ROWS);
    if (run(&stats, &code, &err) != LB_OK || lb_file_read(out_path, 1 << 20, &want, &err) != LB_OK) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    unlink(out_path);
    return 0;
}

static int teardown(void **state)
{
    lb_str_release(&want);
    return scratch_remove(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call),
        cmocka_unit_test(test_graph_calls),
        cmocka_unit_test(test_small_devices),
    };
    if (argc < 2)
        return 1;
    find_all(argv[1]);
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
