#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/settings.h"
#include "core/run/stop.h"

/* ---- stop strings ---- */

/* The rule itself, on whole texts: after each piece, of all matches that end in the new part the one that ends first,
 * then the order of the list. */
static const char *naive_stop(const char *const *piece, size_t n_piece, char *const *stop, size_t n_stop, size_t *at)
{
    char text[256] = "";
    for (size_t p = 0; p < n_piece; p++) {
        size_t old = strlen(text);
        strcat(text, piece[p]);
        for (size_t end = old + 1; end <= strlen(text); end++) {
            for (size_t i = 0; i < n_stop; i++) {
                size_t n = strlen(stop[i]);
                if (n <= end && strncmp(text + end - n, stop[i], n) == 0) {
                    *at = end - n;
                    return stop[i];
                }
            }
        }
    }
    return NULL;
}

/* A byte tokenizer made of a GGUF vocabulary: each piece of the alphabet is a token. */
static const char *const pieces[] = {"a", "b", "ab", "ba", "\xC3\xA9", "aab", "\n", "abab", "x"};
enum { N_PIECE = sizeof pieces / sizeof *pieces };

static const char *bytes_to_unicode[N_PIECE] = {"a",   "b",        "ab",   "ba", "\xC3\x83\xC2\xA9",
                                                "aab", "\xC4\x8A", "abab", "x"};

static struct lb_tok *open_tok(void)
{
    static struct lb_bytes token[N_PIECE];
    for (int i = 0; i < N_PIECE; i++)
        token[i] = (struct lb_bytes){bytes_to_unicode[i], strlen(bytes_to_unicode[i])};
    struct lb_vocab v = {.model = {"gpt2", 4},
                         .pre = {"gpt-2", 5},
                         .n_token = N_PIECE,
                         .token = token,
                         .bos = -1,
                         .eos = -1,
                         .eot = -1,
                         .eom = -1,
                         .unk = -1,
                         .pad = -1,
                         .add_bos = 0,
                         .add_space_prefix = 0};
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *tok;
    if (lb_tok_open_vocab(&tok, &v, &err) != LB_OK)
        fail_msg("%s", err.text);
    for (int i = 0; i < N_PIECE; i++) {
        struct lb_bytes b = lb_tok_piece(tok, i);
        assert_int_equal(b.len, strlen(pieces[i]));
        assert_memory_equal(b.data, pieces[i], b.len);
    }
    return tok;
}

static void test_stop_strings(void **state)
{
    (void)state;
    static char *lists[][3] = {
        {"abba", "bb", "aaa"}, {"bab", "abab", "ab"}, {"\xC3\xA9x", "x", "\n\n"}, {"a\nb", "aabb", "\xC3\xA9"}};
    struct lb_tok *tok = open_tok();
    unsigned random = 1;
    int n_found = 0;
    for (int round = 0; round < 4000; round++) {
        struct lb_settings set = {
            .stop = lists[round % 4], .n_stop = (size_t)(1 + round / 4 % 3), .skip_special = true};
        struct lb_stop_text *t = lb_stop_text_new(tok, &set, 3 * 4 + 64);
        const char *text[12], *got = NULL, *want;
        size_t at = 0, want_at = 0, used = 0;
        uint64_t allocations = lb_mem_count();
        while (used < 12 && !got) {
            random = random * 1103515245u + 12345u;
            int32_t id = (int32_t)(random >> 16) % N_PIECE;
            text[used++] = pieces[id];
            got = lb_stop_text_put(t, &set, id, true, &at);
        }
        assert_int_equal(lb_mem_count(), allocations);
        want = naive_stop(text, used, set.stop, set.n_stop, &want_at);
        assert_ptr_equal(got, want);
        if (got)
            assert_int_equal(at, want_at);
        n_found += got != NULL;
        lb_stop_text_free(t);
    }
    assert_true(n_found > 1000 && n_found < 4000);
    lb_tok_free(tok);
}

/* ---- the order of the rules ---- */

static struct lb_work *work_of(int32_t id, int64_t n_out, int64_t max_tokens)
{
    struct lb_work *w = lb_work_new();
    w->out = lb_mem_new((size_t)max_tokens, sizeof *w->out);
    w->n_out = n_out;
    w->out[n_out - 1] = id;
    w->set.max_tokens = max_tokens;
    return w;
}

static void test_order(void **state)
{
    (void)state;
    static const struct lb_config config = {.eos = {{.id = 7}, {.id = 9}}, .n_eos = 2};
    static const int32_t stop_ids[] = {11, 7};
    static const struct {
        int32_t id;
        int64_t n_out;
        bool ignore_eos;
        size_t n_stop_ids;
        bool ended, by_id;
    } cases[] = {
        {5, 1, false, 0, false, false}, {7, 1, false, 0, true, true},    {9, 4, false, 0, true, true}, /* on the last */
        {7, 1, true, 0, false, false},  {7, 4, true, 0, true, false},    {11, 1, true, 1, true, true},
        {7, 1, true, 2, true, true},    {11, 1, false, 0, false, false}, {5, 4, false, 2, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_work *w = work_of(cases[i].id, cases[i].n_out, 4);
        w->set.ignore_eos = cases[i].ignore_eos;
        w->set.stop_ids = stop_ids;
        w->set.n_stop_ids = cases[i].n_stop_ids;
        assert_int_equal(lb_stop_check(w, &config), cases[i].ended);
        assert_int_equal(w->ended_by_id, cases[i].by_id);
        if (cases[i].ended)
            assert_int_equal(w->finish, cases[i].by_id ? LB_FINISH_STOP : LB_FINISH_LENGTH);
        lb_work_free(w);
    }
}

/* A stop string in the last allowed token is "stop"; an end token's text is not searched. */
static void test_stop_beats_length(void **state)
{
    (void)state;
    static char *stop[] = {"b"};
    static const struct lb_config config = {.eos = {{.id = 3}}, .n_eos = 1};
    struct lb_tok *tok = open_tok();
    for (int32_t id = 2; id <= 3; id++) { /* "ab", and "ba" as the end token */
        struct lb_work *w = work_of(id, 1, 1);
        w->set.stop = stop;
        w->set.n_stop = 1;
        w->stop_at = lb_stop_text_new(tok, &w->set, 64);
        assert_true(lb_stop_check(w, &config));
        assert_int_equal(w->finish, LB_FINISH_STOP);
        assert_ptr_equal(w->stop_string, id == 2 ? stop[0] : NULL);
        assert_int_equal(w->text_bytes, id == 2 ? 1 : 0);
        lb_work_free(w);
    }
    lb_tok_free(tok);
}

/* With min_tokens a stop string counts where it ends in text behind that many ids; what came before is not looked for
 * again. With include_stop the text goes on to its end. */
static void test_stop_text(void **state)
{
    (void)state;
    static char *stop[] = {"ba"};
    static const struct lb_config config = {0};
    static const int32_t ids[] = {2, 3, 2, 3}; /* abbaabba: "ba" ends at 4 and 8 */
    static const struct {
        int64_t min_tokens;
        bool include;
        int64_t n_out;
        size_t text_bytes;
    } cases[] = {{0, false, 2, 2}, {1, false, 2, 2}, {2, false, 4, 6},
                 {3, true, 4, 8},  {0, true, 2, 4},  {4, true, 0, 0}};
    struct lb_tok *tok = open_tok();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_work *w = work_of(0, 1, 9);
        w->set.stop = stop;
        w->set.n_stop = 1;
        w->set.min_tokens = cases[i].min_tokens;
        w->set.include_stop = cases[i].include;
        w->stop_at = lb_stop_text_new(tok, &w->set, 64);
        int64_t ended = 0;
        for (w->n_out = 1; w->n_out <= 4 && !ended; w->n_out++) {
            w->out[w->n_out - 1] = ids[w->n_out - 1];
            if (lb_stop_check(w, &config))
                ended = w->n_out;
        }
        assert_int_equal(ended, cases[i].n_out);
        if (ended)
            assert_int_equal(w->text_bytes, cases[i].text_bytes);
        lb_work_free(w);
    }
    lb_tok_free(tok);
}

/* ---- settings ---- */

static void test_settings(void **state)
{
    (void)state;
    const struct lb_gen none = {0};
    struct lb_gen_defaults model = {.has_temperature = true, .temperature = 0.6, .has_top_p = true, .top_p = 0.9};
    struct lb_gen warm = {.set = LB_GEN_TEMPERATURE | LB_GEN_SEED, .temperature = 0.8, .seed = -3};
    struct lb_gen cold = {.set = LB_GEN_TEMPERATURE, .temperature = 0};
    struct lb_gen few = {.set = LB_GEN_TOP_K | LB_GEN_MAX_TOKENS, .top_k = -1, .max_tokens = 5};
    struct lb_settings s;

    lb_settings_resolve(&s, &model, &none, NULL); /* no do_sample: greedy, and nothing of the file counts */
    assert_true(s.sampling.greedy && s.sampling.top_p == 1 && s.max_tokens == 256 && !s.max_given && s.seed == 0);
    assert_true(s.skip_special && !s.ignore_eos && s.logprobs == -1);
    lb_settings_resolve(&s, &model, &none, &warm); /* a temperature decides alone */
    assert_true(!s.sampling.greedy && s.sampling.temperature == 0.8 && s.sampling.top_p == 1);
    assert_true(s.seed == (uint64_t)-3);

    model.do_sample = true;
    lb_settings_resolve(&s, &model, &none, NULL);
    assert_true(!s.sampling.greedy && s.sampling.temperature == 0.6 && s.sampling.top_p == 0.9);
    assert_true(s.sampling.top_k == 0 && s.sampling.min_p == 0); /* top-k is off where unwritten */
    lb_settings_resolve(&s, &model, &warm, NULL);
    assert_true(s.sampling.temperature == 0.8 && s.sampling.top_p == 0.9);
    lb_settings_resolve(&s, &model, &warm, &cold);
    assert_true(s.sampling.greedy);
    lb_settings_resolve(&s, &model, &cold, &warm);
    assert_true(!s.sampling.greedy);
    model.has_top_k = true;
    model.top_k = 50;
    lb_settings_resolve(&s, &model, &none, &none);
    assert_int_equal(s.sampling.top_k, 50);
    lb_settings_resolve(&s, &model, &none, &few);
    assert_true(s.sampling.top_k == 0 && s.max_tokens == 5 && s.max_given);
    model.has_temperature = false;
    lb_settings_resolve(&s, &model, &none, NULL);
    assert_true(s.sampling.temperature == 1);
    model.has_repetition = true; /* counts for greedy rows too, as in vLLM */
    model.repetition = 1.05;
    lb_settings_resolve(&s, &model, &cold, NULL);
    assert_true(s.sampling.greedy && s.penalty.repetition == 1.05f);
    model.do_sample = false;
    lb_settings_resolve(&s, &model, &none, NULL);
    assert_true(s.penalty.repetition == 1 && s.penalty.presence == 0 && s.penalty.frequency == 0 && s.min_tokens == 0);
    model.do_sample = true;
    warm.temperature = 1e-6;
    lb_settings_resolve(&s, &model, &none, &warm);
    assert_true(s.sampling.greedy);
}

static const struct lb_setting *told(const struct lb_stats *stats, const char *name)
{
    for (int i = 0; i < stats->n_setting; i++)
        if (strcmp(stats->setting[i].name, name) == 0)
            return &stats->setting[i];
    return NULL;
}

static void test_penalties(void **state)
{
    (void)state;
    struct lb_gen_defaults model = {.do_sample = true, .has_repetition = true, .repetition = 1.05};
    const struct lb_bias bias[] = {{5, 2}};
    const struct lb_gen none = {0};
    struct lb_gen command = {.set = LB_GEN_REPETITION | LB_GEN_MIN_TOKENS | LB_GEN_PRESENCE | LB_GEN_INCLUDE_STOP,
                             .repetition = 1.5,
                             .min_tokens = 4,
                             .presence = -1,
                             .include_stop = true};
    struct lb_gen row = {.set = LB_GEN_FREQUENCY | LB_GEN_PRESENCE | LB_GEN_BIAS,
                         .frequency = 0.5,
                         .bias = (struct lb_bias *)(uintptr_t)bias,
                         .n_bias = 1};
    struct lb_settings s;
    lb_settings_resolve(&s, &model, &command, &row);
    assert_true(s.penalty.repetition == 1.5f && s.penalty.presence == 0 && s.penalty.frequency == 0.5f);
    assert_true(s.penalty.bias == bias && s.penalty.n_bias == 1 && s.min_tokens == 4 && s.include_stop);
    struct lb_stats stats = {0};
    lb_settings_describe(&stats, &model, &none);
    assert_string_equal(told(&stats, "repetition_penalty")->origin, "model");
    assert_string_equal(told(&stats, "repetition_penalty")->value, "1.05");
    assert_null(told(&stats, "presence_penalty"));
    assert_null(told(&stats, "min_tokens"));
    stats.n_setting = 0;
    command.set |= LB_GEN_FREQUENCY | LB_GEN_N | LB_GEN_LOGPROBS; /* as many as there can be */
    command.n = 2;
    command.logprobs = 1;
    lb_settings_describe(&stats, &model, &command);
    assert_string_equal(told(&stats, "repetition_penalty")->origin, "command line");
    assert_string_equal(told(&stats, "presence_penalty")->value, "-1");
    assert_string_equal(told(&stats, "frequency_penalty")->value, "0");
    assert_string_equal(told(&stats, "min_tokens")->value, "4");
    assert_string_equal(told(&stats, "include_stop_str_in_output")->value, "true");
}

static void test_stop_lists(void **state)
{
    (void)state;
    char *of_command[] = {"x"}, *of_row[] = {"y", "z"};
    int32_t ids[] = {4};
    struct lb_gen_defaults model = {0};
    struct lb_gen command = {
        .set = LB_GEN_STOP | LB_GEN_STOP_IDS, .stop = of_command, .n_stop = 1, .stop_ids = ids, .n_stop_ids = 1};
    struct lb_gen row = {.set = LB_GEN_STOP, .stop = of_row, .n_stop = 2};
    struct lb_settings s;
    lb_settings_resolve(&s, &model, &command, &row);
    assert_ptr_equal(s.stop, of_row);
    assert_int_equal(s.n_stop, 2);
    assert_int_equal(s.n_stop_ids, 1);
    row.n_stop = 0; /* an empty list in a row takes the command line's away */
    lb_settings_resolve(&s, &model, &command, &row);
    assert_int_equal(s.n_stop, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_strings),      cmocka_unit_test(test_order),
        cmocka_unit_test(test_stop_beats_length), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_stop_lists),        cmocka_unit_test(test_stop_text),
        cmocka_unit_test(test_penalties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
