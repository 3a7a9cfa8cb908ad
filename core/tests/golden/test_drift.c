#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/model/decoder.h"
#include "core/model/kv.h"
#include "core/tests/golden/golden.h"
#include "core/tests/scratch.h"

/* Texts of 400 new ids against what transformers makes of them (testdata/drift.jsonl): errors do not gather with
 * length. Greedy texts come out of the engine; any text, those that do not repeat themselves too, is fed id by id. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define TESTDATA LB_SOURCE_DIR "/testdata/"

enum { N_NEW = 400, PART = 100, N_PART = N_NEW / PART, N_TOP = 8, MAX_LEN = 512, MAX_VOCAB = 1024 };

#define TOLERANCE 1e-4 /* of logits and log-probabilities in f32, half of what the goldens allow after 24 ids */

static float got[N_NEW * MAX_VOCAB], exact[N_NEW * MAX_VOCAB]; /* [N_NEW, n_vocab] */

/* ---- one text at a time through the decoder ---- */

struct rig {
    struct lb_config config;
    struct lb_wfile file;
    struct lb_backend *be;
    struct lb_model *m;
    struct lb_kv kv;
    struct lb_step step;
};

static void must(enum lb_status status, const struct lb_err *err)
{
    if (status != LB_OK)
        fail_msg("%s", err->text);
}

static void rig_open(struct rig *r, enum lb_dtype dtype, const char *isa)
{
    const int32_t n_page = MAX_LEN / LK_PAGE_TOKENS;
    const struct lb_step_limits limit = {MAX_LEN, 1, n_page};
    struct lb_err err = LB_ERR_INIT;
    struct lb_log log = {0};
    *r = (struct rig){0};
    must(lb_safetensors_open(&r->file, scratch, &err), &err);
    must(lb_config_read_dir(&r->config, scratch, &log, &err), &err);
    assert_true(r->config.n_vocab <= MAX_VOCAB);
    struct lb_backend_spec be = {.device = "cpu", .dtype = dtype, .isa = isa, .n_thread = 2};
    must(lb_backend_open(&r->be, &be, &err), &err);
    struct lb_model_spec spec = {.config = &r->config, .weights = &r->file, .backend = r->be};
    must(lb_model_open(&r->m, &spec, &err), &err);
    must(lb_model_reserve(r->m, limit, 1, n_page, &err), &err);
    must(lb_kv_init(&r->kv, n_page, 1, MAX_LEN, &err), &err);
    must(lb_step_init(&r->step, limit, &err), &err);
}

static void rig_close(struct rig *r)
{
    lb_step_release(&r->step);
    lb_kv_release(&r->kv);
    lb_model_free(r->m);
    r->be->ops->close(r->be);
    lb_config_release(&r->config);
    lb_wfile_close(&r->file);
}

/* Tokens [from, to) of a text; the last one's logits. */
static const struct lb_cand *feed(struct rig *r, int32_t seq, const int32_t *text, int from, int to, int n_prompt)
{
    struct lb_step *st = &r->step;
    const struct lb_kv_seq *s = &r->kv.seq[seq];
    const struct lb_cand *cand;
    struct lb_err err = LB_ERR_INIT;
    lb_step_clear(st);
    assert_true(lb_kv_extend(&r->kv, seq, to));
    for (int at = from; at < to; at++) {
        st->tok[st->n_tok] = text[at];
        st->pos[st->n_tok] = at;
        st->tok_page[st->n_tok] = s->page[at / LK_PAGE_TOKENS];
        st->rope_len[st->n_tok++] = at < n_prompt ? n_prompt : at + 1;
    }
    st->n_seq = 1;
    st->seq_start[0] = st->page_start[0] = 0;
    memcpy(st->page, s->page, (size_t)s->n_page * sizeof *s->page);
    st->seq_start[1] = st->n_tok;
    st->page_start[1] = st->n_page = s->n_page;
    st->out_tok[0] = st->n_tok - 1;
    st->out_flags[0] = LB_OUT_LOGITS;
    st->n_out = 1;
    st->n_new = lb_kv_take_new(&r->kv, st->new_page, st->limit.n_page);
    must(lb_model_forward(r->m, st, &cand, &err), &err);
    assert_true(cand->finite);
    return cand;
}

static int ids_of(const json_t *row, const char *key, int32_t *out)
{
    const json_t *list = json_object_get(row, key);
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (int)json_array_size(list);
}

static double recorded(const json_t *row, const char *key, size_t i)
{
    const json_t *x = json_array_get(json_object_get(row, key), i);
    assert_true(json_is_number(x));
    return json_number_value(x);
}

/* The row's text id by id: logits[n, n_vocab] of its first n new ids. */
static void force(struct rig *r, const json_t *row, int n, float *logits)
{
    int32_t text[MAX_LEN];
    int n_prompt = ids_of(row, "prompt_token_ids", text);
    assert_true(n_prompt > 0 && n_prompt + N_NEW <= MAX_LEN);
    assert_int_equal(ids_of(row, "ids", text + n_prompt), N_NEW);
    int32_t seq = lb_kv_open(&r->kv);
    for (int i = 0; i < n; i++) {
        const struct lb_cand *c = feed(r, seq, text, i ? n_prompt + i - 1 : 0, n_prompt + i, n_prompt);
        memcpy(logits + i * r->config.n_vocab, c->logits, (size_t)r->config.n_vocab * sizeof *logits);
    }
    lb_kv_close(&r->kv, seq);
}

static double log_sum_exp(const float *x, int64_t n)
{
    double best = (double)x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        best = fmax(best, (double)x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - best);
    return best + log(sum);
}

/* Worst distance of a log-probability in each part, and of the logits at its end. */
static void check_forced(const char *where, const json_t *row, int n, const float *logits, int64_t n_vocab)
{
    double worst[N_PART] = {0};
    for (int i = 0; i < n; i++) {
        const float *l = logits + i * n_vocab;
        int64_t id = (int64_t)recorded(row, "ids", (size_t)i);
        double off = fabs((double)l[id] - log_sum_exp(l, n_vocab) - recorded(row, "logprobs", (size_t)i));
        worst[i / PART] = fmax(worst[i / PART], off);
        for (size_t k = 0; i % PART == PART - 1 && k < N_TOP; k++) {
            const json_t *pair = json_array_get(json_array_get(json_object_get(row, "top8"), (size_t)(i / PART)), k);
            double is = (double)l[json_integer_value(json_array_get(pair, 0))];
            assert_int_equal(json_array_size(pair), 2);
            worst[i / PART] = fmax(worst[i / PART], fabs(is - json_number_value(json_array_get(pair, 1))));
        }
    }
    print_message("%s: worst in each hundred %.2g %.2g %.2g %.2g\n", where, worst[0], worst[1], worst[2], worst[3]);
    for (int p = 0; p < N_PART; p++)
        if (!(worst[p] <= TOLERANCE))
            fail_msg("%s: after %d ids logits or log-probabilities are %g off", where, (p + 1) * PART, worst[p]);
}

/* ---- bf16 next to transformers' own bf16 ---- */

struct rounding {
    double square[N_PART], square_theirs[N_PART];
    int n_flip, n_flip_theirs, n_row;
};

static int64_t best_of(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static void add_rounding(struct rounding *r, const json_t *row, const float *want, const float *is, int64_t n_vocab)
{
    for (int i = 0; i < N_NEW; i++) {
        const float *a = want + i * n_vocab, *b = is + i * n_vocab;
        for (int64_t k = 0; k < n_vocab; k++)
            r->square[i / PART] += pow((double)a[k] - (double)b[k], 2) / (double)(PART * n_vocab);
        r->n_flip += best_of(a, n_vocab) != best_of(b, n_vocab);
    }
    for (size_t p = 0; p < N_PART; p++) {
        r->square_theirs[p] += pow(recorded(row, "bf16_rms", p), 2);
        r->n_flip_theirs += (int)recorded(row, "bf16_flips", p);
    }
    r->n_row++;
}

/* The goldens' rule, for each hundred. */
static void check_rounding(const char *where, const struct rounding *r)
{
    double share = (double)r->n_flip / (r->n_row * N_NEW), theirs = (double)r->n_flip_theirs / (r->n_row * N_NEW);
    for (int p = 0; p < N_PART; p++) {
        double is = sqrt(r->square[p] / r->n_row), limit = 1.5 * sqrt(r->square_theirs[p] / r->n_row);
        print_message("%s: bf16 rms of hundred %d: %.4f (transformers %.4f)\n", where, p + 1, is, limit / 1.5);
        assert_true(is > 0 && is <= limit);
    }
    print_message("%s: bf16 flips %.2f %% (%.2f %%)\n", where, 100 * share, 100 * theirs);
    assert_true(share <= 2 * theirs + 0.02);
}

/* ---- greedy texts from the engine ---- */

static void check_greedy(const char *where, const json_t *want, const json_t *row)
{
    json_t *ids = json_object_get(row, "token_ids");
    const json_t *got_logprobs = json_object_get(row, "logprobs");
    double worst = 0;
    if (!json_equal(json_object_get(want, "ids"), ids)) {
        size_t i = 0;
        while (json_equal(json_array_get(json_object_get(want, "ids"), i), json_array_get(ids, i)))
            i++;
        fail_msg("%s: id %zu of %zu is another one", where, i, json_array_size(ids));
    }
    for (size_t i = 0; i < N_NEW; i++)
        worst = fmax(worst, fabs(recorded(want, "logprobs", i) -
                                 json_number_value(json_object_get(json_array_get(got_logprobs, i), "logprob"))));
    print_message("%s: 400 greedy ids equal, worst log-probability %.2g off\n", where, worst);
    assert_true(worst <= TOLERANCE);
}

static void run_greedy(const char *where, const char *isa, const json_t *recorded_rows)
{
    struct lb_options o;
    struct golden_out out;
    json_t *rows = json_array(), *want = json_array(), *row;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)recorded_rows, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "how")), "greedy") != 0)
            continue;
        json_array_append(want, row);
        json_array_append_new(rows, json_pack("{s:O,s:i,s:b,s:i}", "prompt_token_ids",
                                              json_object_get(row, "prompt_token_ids"), "max_tokens", N_NEW,
                                              "ignore_eos", 1, "logprobs", 0));
    }
    golden_options(&o, scratch);
    o.isa = isa;
    golden_run(&o, rows, &out);
    assert_int_equal(out.exit_code, 0);
    assert_true(json_array_size(rows) > 0);
    json_array_foreach(out.rows, i, row) check_greedy(where, json_array_get(want, i), row);
    golden_out_release(&out);
    json_decref(rows);
    json_decref(want);
}

/* ---- models ---- */

/* Rows of one model on one set, or the beginning of the first one; exact logits are those of the set itself in f32,
 * which are checked first. */
static void check_set(const char *name, const char *isa, const json_t *rows, bool all)
{
    const bool slow = golden_extent() == EXTENT_SANITIZED || strcmp(isa, "ref") == 0;
    const int n = all ? N_NEW : slow ? PART / 2 : PART;
    struct rounding rounding = {0};
    struct rig f32, bf16;
    char where[256];
    json_t *row;
    size_t i;
    rig_open(&f32, LB_F32, isa);
    rig_open(&bf16, LB_BF16, isa);
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        if (!all && i > 0)
            break;
        snprintf(where, sizeof where, "%s, %s, on %s", name, json_string_value(json_object_get(row, "how")), isa);
        force(&f32, row, n, exact);
        check_forced(where, row, n, exact, f32.config.n_vocab);
        force(&bf16, row, n, got);
        if (all)
            add_rounding(&rounding, row, exact, got, f32.config.n_vocab);
    }
    rig_close(&f32);
    rig_close(&bf16);
    snprintf(where, sizeof where, "%s on %s", name, isa);
    if (all)
        check_rounding(where, &rounding);
    if (all)
        run_greedy(where, isa, rows);
}

/* The turn-th model. A sample has every third one on the last set, and beginnings on every second set in turn; where
 * that takes long the beginning on one set. Of a beginning the reference has half. */
static void check_sets(const char *name, const json_t *rows, size_t turn)
{
    const enum golden_extent extent = golden_extent();
    const char *const *sets = golden_sets();
    size_t n_set = 0;
    while (sets[n_set])
        n_set++;
    for (size_t s = 0; s < n_set; s++) {
        bool sample = extent == EXTENT_SAMPLE && s + 1 == n_set && turn % 3 == 0;
        bool begins = extent == EXTENT_SAMPLE ? (s + turn) % 2 == 0 : s == turn % n_set;
        if (extent == EXTENT_FULL || sample || begins)
            check_set(name, sets[s], rows, sample || extent == EXTENT_FULL);
    }
}

static void test_drift(void **state)
{
    (void)state;
    json_t *all = golden_read(TESTDATA "drift.jsonl");
    assert_non_null(all);
    size_t turn = 0;
    for (size_t i = 0, n; i < json_array_size(all); i += n) {
        const json_t *first = json_array_get(all, i);
        json_t *rows = json_array(), *change = json_object_get(first, "change");
        const char *model = json_string_value(json_object_get(first, "model"));
        char dir[512], name[128];
        for (n = 0; i + n < json_array_size(all); n++) {
            json_t *row = json_array_get(all, i + n);
            if (strcmp(json_string_value(json_object_get(row, "model")), model) != 0 ||
                !json_equal(json_object_get(row, "change"), change))
                break;
            json_array_append(rows, row);
        }
        const char *type = json_string_value(json_object_get(change, "model_type"));
        snprintf(name, sizeof name, "%s%s%s", model, type ? " as " : "", type ? type : "");
        snprintf(dir, sizeof dir, "%s%s", strncmp(model, "tiny", 4) == 0 ? TESTDATA : GOLDENS, model);
        if (access(dir, R_OK) == 0) {
            scratch_empty(NULL);
            golden_bend(dir, scratch, change);
            check_sets(name, rows, turn++);
        }
        json_decref(rows);
    }
    json_decref(all);
}

int golden_drift(void);

int golden_drift(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drift)};
    int failed = cmocka_run_group_tests_name("drift", tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
