/* The decoder against transformers: golden rows of every model (../shared/goldens), fed straight into
 * lb_model_forward, one row alone, all rows in ragged steps, and in chunks of 16 tokens: the golden ids, and the same
 * bits however the rows were packed; bf16 within the goldens' rule. Inner numbers against attention.json. Bad weight
 * files say what is wrong. With --cuda LIBRARY all models that are recorded, on a device of that library. */
#define _GNU_SOURCE
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/model/decoder.h"
#include "core/model/kv.h"
#include "core/model/pack.h"
#include "core/tests/whole.h"
#include "kernels/cpu/lk_cpu.h"

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

enum { N_NEW = 24, MAX_ROW = 16, MAX_PROMPT = 128, MAX_TOK = 512, N_TOP = 8 };

struct golden {
    int n_prompt;
    int32_t prompt[MAX_PROMPT], greedy[N_NEW];
    double top[N_NEW][N_TOP], logprob[N_NEW];
    int32_t top_id[N_NEW][N_TOP];
};

static struct golden golden[MAX_ROW];
static int n_golden;

/* --cuda: the library, and the one row in so many that is run where each thread of a device is modeled */
static const char *cuda_path;
static int cuda_step = 1;

/* One recorded row in so many is run, fewer where a device's threads are modeled, and of models and files that others
 * are like one in so many. Under a sanitizer the question is what is read and written. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SAMPLE = 12, DEVICE_SAMPLE = 12, MODELS = 4, FILES = 4 };
#else
enum { SAMPLE = 4, DEVICE_SAMPLE = 5, MODELS = 2, FILES = 1 };
#endif

/* New ids of a row that are run and compared. */
static int n_new = N_NEW;

static void read_golden(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    n_golden = 0;
    json_t *row;
    while ((row = json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL)) != NULL) {
        assert_true(n_golden < MAX_ROW);
        struct golden *g = &golden[n_golden++];
        json_t *prompt = json_object_get(row, "prompt_token_ids"), *greedy = json_object_get(row, "greedy_ids");
        g->n_prompt = (int)json_array_size(prompt);
        assert_in_range(g->n_prompt, 1, MAX_PROMPT);
        assert_int_equal(json_array_size(greedy), N_NEW);
        for (int i = 0; i < g->n_prompt; i++)
            g->prompt[i] = (int32_t)json_integer_value(json_array_get(prompt, (size_t)i));
        for (size_t i = 0; i < N_NEW; i++) {
            json_t *top = json_array_get(json_object_get(row, "step_top8"), i);
            g->greedy[i] = (int32_t)json_integer_value(json_array_get(greedy, i));
            g->logprob[i] = json_number_value(json_array_get(json_object_get(row, "logprobs"), i));
            for (size_t j = 0; j < N_TOP; j++) {
                g->top_id[i][j] = (int32_t)json_integer_value(json_array_get(json_array_get(top, j), 0));
                g->top[i][j] = json_number_value(json_array_get(json_array_get(top, j), 1));
            }
        }
        json_decref(row);
    }
    fclose(f);
    assert_int_equal(n_golden, 12);
    int step = cuda_path ? cuda_step : whole_or(SAMPLE);
    n_golden /= step;
    for (int i = 0; i < n_golden; i++)
        golden[i] = golden[i * step];
}

/* ---- a model, ready to run ---- */

struct rig {
    struct lb_config config;
    struct lb_gguf gguf; /* .w also for directories */
    bool is_gguf;
    struct lb_lora_set lora; /* one adapter for all rows, or none */
    struct lb_backend *be;
    struct lb_model *m;
    struct lb_kv kv;
    struct lb_step step;
};

/* Of llama-mha, whose goldens are of the merged weights. */
#define ADAPTER "llama-lora"

static enum lb_status rig_files(struct rig *r, const char *name, struct lb_err *err)
{
    char path[512];
    struct lb_log log = {0};
    r->is_gguf = strstr(name, "gguf") != NULL;
    snprintf(path, sizeof path, r->is_gguf ? GOLDENS "%s/%s.gguf" : GOLDENS "%s", name, name);
    if (r->is_gguf) {
        LB_TRY(lb_gguf_open(&r->gguf, path, err));
        return lb_config_read_gguf(&r->config, &r->gguf, &log, err);
    }
    const struct lb_lora_source adapter = {.name = "", .dir = path};
    const char *dir = strcmp(name, ADAPTER) == 0 ? GOLDENS "llama-mha" : path;
    LB_TRY(lb_config_read_dir(&r->config, dir, &log, err));
    LB_TRY(lb_pack_open(&r->gguf.w, dir, &r->config.pack, err));
    return dir == path ? LB_OK : lb_lora_open(&r->lora, &adapter, 1, &r->config, err);
}

/* The model of files that are open. */
static void rig_start(struct rig *r, enum lb_dtype dtype, const char *isa, int n_thread)
{
    struct lb_err err = LB_ERR_INIT;
    bool on_device = strcmp(isa ? isa : "", "cuda") == 0;
    struct lb_backend_spec be = {.device = on_device ? "cuda" : "cpu",
                                 .dtype = dtype,
                                 .isa = on_device ? NULL : isa,
                                 .n_thread = n_thread,
                                 .cuda_library = cuda_path};
    if (lb_backend_open(&r->be, &be, &err) != LB_OK)
        fail_msg("%s", err.text);
    struct lb_model_spec spec = {.config = &r->config, .weights = &r->gguf.w, .backend = r->be};
    spec.lora = r->lora.n > 0 ? &r->lora : NULL;
    if (lb_model_open(&r->m, &spec, &err) != LB_OK)
        fail_msg("%s", err.text);
    struct lb_step_limits limit = {MAX_TOK, MAX_ROW, MAX_ROW * 8};
    if (lb_model_reserve(r->m, limit, MAX_ROW, MAX_ROW * 5, &err) != LB_OK ||
        lb_kv_init(&r->kv, MAX_ROW * 5, MAX_ROW, 160, &err) != LB_OK || lb_step_init(&r->step, limit, &err) != LB_OK)
        fail_msg("%s", err.text);
}

static void rig_open(struct rig *r, const char *name, enum lb_dtype dtype, const char *isa, int n_thread)
{
    *r = (struct rig){0};
    struct lb_err err = LB_ERR_INIT;
    if (rig_files(r, name, &err) != LB_OK)
        fail_msg("%s", err.text);
    rig_start(r, dtype, isa, n_thread);
}

static void rig_close(struct rig *r)
{
    lb_step_release(&r->step);
    lb_kv_release(&r->kv);
    lb_model_free(r->m);
    r->be->ops->close(r->be);
    lb_config_release(&r->config);
    lb_lora_close(&r->lora);
    if (r->is_gguf)
        lb_gguf_close(&r->gguf);
    else
        lb_wfile_close(&r->gguf.w);
}

static bool have_goldens(void)
{
    return lb_file_exists(GOLDENS "README.md");
}

/* ---- rows through steps ---- */

/* A row on its way. `out` holds the ids that it was fed: its own greedy ones, or the golden ones. */
struct run_row {
    const struct golden *g;
    int32_t out[N_NEW], seq, slot;
    int n_fed, n_out;
    uint64_t bits[N_NEW]; /* hash of the logits of each generated token */
    float *logits;        /* NULL, or room for them: [n_new, n_vocab] */
};

static int32_t token_of(const struct run_row *r, int at)
{
    return at < r->g->n_prompt ? r->g->prompt[at] : r->out[at - r->g->n_prompt];
}

/* Appends n tokens of a row to the step. A freshly sampled token goes by way of its slot. */
static void put(struct rig *rig, struct run_row *r, int n)
{
    struct lb_step *st = &rig->step;
    assert_true(lb_kv_extend(&rig->kv, r->seq, r->n_fed + n));
    const struct lb_kv_seq *s = &rig->kv.seq[r->seq];
    st->adapter[st->n_seq] = rig->lora.n;
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq++] = st->n_page;
    for (int i = 0; i < n; i++) {
        int at = r->n_fed + i;
        st->tok[st->n_tok] = r->slot >= 0 && i == n - 1 ? ~r->slot : token_of(r, at);
        st->pos[st->n_tok] = at;
        st->tok_page[st->n_tok] = s->page[at / LK_PAGE_TOKENS];
        st->rope_len[st->n_tok++] = at < r->g->n_prompt ? r->g->n_prompt : at + 1;
    }
    memcpy(st->page + st->n_page, s->page, (size_t)s->n_page * sizeof *s->page);
    st->n_page += s->n_page;
    r->n_fed += n;
    r->slot = -1;
    if (r->n_fed >= r->g->n_prompt) {
        st->out_tok[st->n_out] = st->n_tok - 1;
        st->out_flags[st->n_out++] = LB_OUT_LOGITS;
    }
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq] = st->n_page;
}

static double worst_logit, worst_logprob; /* against the golden ones */

static void take(struct rig *rig, struct run_row *r, int slot, const struct lb_cand *cand, bool teacher)
{
    const struct golden *g = r->g;
    int i = r->n_out++;
    int32_t id = teacher ? g->greedy[i] : cand->best;
    for (int j = 0; j < N_TOP; j++)
        worst_logit = fmax(worst_logit, fabs(g->top[i][j] - (double)cand->logits[g->top_id[i][j]]));
    worst_logprob = fmax(worst_logprob, fabs((double)cand->logits[g->greedy[i]] - cand->lse - g->logprob[i]));
    r->bits[i] = lb_hash64(cand->logits, (size_t)rig->config.n_vocab * sizeof(float), 0);
    if (r->logits)
        memcpy(r->logits + i * rig->config.n_vocab, cand->logits, (size_t)rig->config.n_vocab * sizeof *r->logits);
    r->out[i] = id;
    r->slot = slot;
    lb_model_slots(rig->m)[slot] = id;
}

/* Runs the rows together with at most `budget` tokens a step: decode tokens first, then prompts in chunks. */
static void run_rows(struct rig *rig, struct run_row *row, int n_row, int budget, bool teacher)
{
    struct lb_err err = LB_ERR_INIT;
    for (int i = 0; i < n_row; i++) {
        row[i].seq = lb_kv_open(&rig->kv);
        row[i].slot = -1;
        assert_true(row[i].seq >= 0);
    }
    for (int n_running = n_row; n_running > 0;) {
        struct run_row *asked[MAX_ROW];
        int n_asked = 0;
        lb_step_clear(&rig->step);
        for (int prefill = 0; prefill < 2; prefill++) {
            for (int i = 0; i < n_row; i++) {
                struct run_row *r = &row[i];
                int left = budget - rig->step.n_tok, n = prefill ? r->g->n_prompt - r->n_fed : 1;
                if (r->n_out == n_new || (r->n_fed < r->g->n_prompt) != prefill || left == 0)
                    continue;
                put(rig, r, n < left ? n : left);
                if (r->n_fed >= r->g->n_prompt)
                    asked[n_asked++] = r;
            }
        }
        rig->step.n_new = lb_kv_take_new(&rig->kv, rig->step.new_page, rig->step.limit.n_page);
        const struct lb_cand *cand;
        uint64_t allocated = lb_mem_count();
        if (lb_model_forward(rig->m, &rig->step, &cand, &err) != LB_OK)
            fail_msg("%s", err.text);
        assert_true(rig->step.number == 0 || lb_mem_count() == allocated);
        assert_int_equal(rig->step.n_out, n_asked);
        for (int j = 0; j < n_asked; j++) {
            assert_true(cand[j].finite);
            take(rig, asked[j], j, &cand[j], teacher);
            if (asked[j]->n_out == n_new) {
                lb_kv_close(&rig->kv, asked[j]->seq);
                n_running--;
            }
        }
    }
}

static void rows_init(struct run_row *row)
{
    memset(row, 0, MAX_ROW * sizeof *row);
    for (int i = 0; i < n_golden; i++)
        row[i].g = &golden[i];
}

static void run_alone(struct rig *rig, struct run_row *row, bool teacher)
{
    rows_init(row);
    for (int i = 0; i < n_golden; i++)
        run_rows(rig, &row[i], 1, MAX_TOK, teacher);
}

static void run_together(struct rig *rig, struct run_row *row, int budget, bool teacher)
{
    rows_init(row);
    run_rows(rig, row, n_golden, budget, teacher);
}

static void same_bits(const char *name, const struct run_row *a, const struct run_row *b)
{
    for (int i = 0; i < n_golden; i++)
        for (int j = 0; j < n_new; j++)
            if (a[i].bits[j] != b[i].bits[j])
                fail_msg("%s: row %d: logits of token %d depend on the row's company", name, i, j);
}

static void check_model(const char *name, bool bf16_too)
{
    static struct run_row alone[MAX_ROW], other[MAX_ROW];
    struct rig rig;
    read_golden(name);
    rig_open(&rig, name, LB_F32, "ref", 2);
    worst_logit = worst_logprob = 0;
    run_alone(&rig, alone, false);
    for (int i = 0; i < n_golden; i++)
        for (int j = 0; j < n_new; j++)
            if (alone[i].out[j] != golden[i].greedy[j])
                fail_msg("%s: row %d: token %d is %d, golden %d", name, i, j, alone[i].out[j], golden[i].greedy[j]);
    if (!(worst_logit <= 2e-4) || !(worst_logprob <= 2e-4))
        fail_msg("%s: logits are %g apart, log-probabilities %g", name, worst_logit, worst_logprob);
    run_together(&rig, other, MAX_TOK, false);
    same_bits(name, alone, other);
    run_together(&rig, other, 16, false);
    same_bits(name, alone, other);
    assert_int_equal(rig.be->counts.product_rows, rig.be->counts.token_rows);
    assert_int_equal(lb_kv_used(&rig.kv), 0);
    rig_close(&rig);

    const char *set;
    unsigned bit;
    for (int i = 0; bf16_too && (set = lk_cpu_set(i, &bit)) != NULL; i++) {
        if ((lk_cpu_detect() & bit) == 0)
            continue;
        rig_open(&rig, name, LB_BF16, set, 2);
        assert_string_equal(rig.be->isa, set);
        run_alone(&rig, alone, true);
        run_together(&rig, other, MAX_TOK, true);
        same_bits(name, alone, other);
        run_together(&rig, other, 16, true);
        same_bits(name, alone, other);
        rig_close(&rig);
    }
}

/* ---- bf16 against float32, teacher-forced on the golden ids (README of the goldens) ---- */

static int64_t best_of(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* Logits of all rows, [n_golden, n_new, n_vocab]. */
static float *logits_of(const char *name, enum lb_dtype dtype, const char *isa, int64_t *n_vocab)
{
    static struct run_row row[MAX_ROW];
    struct rig rig;
    rig_open(&rig, name, dtype, isa, 2);
    *n_vocab = rig.config.n_vocab;
    float *logits = calloc((size_t)(n_golden * n_new * *n_vocab), sizeof *logits);
    assert_non_null(logits);
    rows_init(row);
    for (int i = 0; i < n_golden; i++)
        row[i].logits = logits + i * n_new * *n_vocab;
    run_rows(&rig, row, n_golden, MAX_TOK, true);
    rig_close(&rig);
    return logits;
}

static void check_distance(const char *name, const char *set, const float *want, int64_t n_vocab,
                           const json_t *tolerance)
{
    const double rms = json_number_value(json_object_get(tolerance, "bf16_rms"));
    const double flips = json_number_value(json_object_get(tolerance, "bf16_flips"));
    const int64_t n_step = (int64_t)n_golden * n_new;
    float *got = logits_of(name, LB_BF16, set, &n_vocab);
    double sum = 0;
    int n_flip = 0;
    for (int64_t k = 0; k < n_step * n_vocab; k++)
        sum += ((double)got[k] - (double)want[k]) * ((double)got[k] - (double)want[k]);
    for (int64_t k = 0; k < n_step; k++)
        n_flip += best_of(got + k * n_vocab, n_vocab) != best_of(want + k * n_vocab, n_vocab);
    double is = sqrt(sum / (double)(n_step * n_vocab)), share = (double)n_flip / (double)n_step;
    print_message("%s on %s: bf16 rms %.4f (transformers %.4f), flips %.2f %% (%.2f %%)\n", name, set, is, rms,
                  100 * share, 100 * flips);
    bool has_rule = strcmp(name, "glm-moe-dsa-sparse") != 0; /* its indexer's choices flip */
    assert_true(is > 0 && (!has_rule || (is <= 1.5 * rms && share <= 2 * flips + 0.02)));
    free(got);
}

static void check_bf16(const char *name, const json_t *tolerance)
{
    int64_t n_vocab;
    read_golden(name);
    float *want = logits_of(name, LB_F32, "ref", &n_vocab);
    const int64_t n_step = (int64_t)n_golden * n_new;
    for (int64_t k = 0; k < n_step; k++) /* else both might leave out the same thing, an adapter above all */
        assert_int_equal(best_of(want + k * n_vocab, n_vocab), golden[k / n_new].greedy[k % n_new]);
    const char *set;
    unsigned bit;
    for (int i = 0; !cuda_path && (set = lk_cpu_set(i, &bit)) != NULL; i++)
        if ((lk_cpu_detect() & bit) != 0)
            check_distance(name, set, want, n_vocab, tolerance);
    if (cuda_path)
        check_distance(name, "cuda", want, n_vocab, tolerance);
    free(want);
}

static void bf16_rule(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    static const char *const names[] = {
        "llama-mha",       "llama-gqa-tied", "llama-yarn",    "llama-bias",  "llama-headdim", "llama-bf16",
        "mistral-swa",     "qwen2",          "qwen3",         "glm",         "glm4",          "glm4-moe",
        "glm4-moe-qknorm", "chatglm",        "glm4-moe-lite", "glm-moe-dsa", ADAPTER};
    json_t *all = json_load_file(GOLDENS "tolerance.json", 0, NULL);
    assert_non_null(all);
    for (size_t i = 0; i < sizeof names / sizeof *names; i += (size_t)whole_or(MODELS))
        check_bf16(names[i], json_object_get(all, names[i]));
    json_decref(all);
}

/* ---- on a device ---- */

/* Models that were asked for; NULL: all that are recorded. */
static char **only;

/* One type: the golden ids in f32, and in both the same bits of rows together, in chunks and, with more time, alone. */
static void check_device(const char *name, enum lb_dtype dtype)
{
    static struct run_row row[MAX_ROW], other[MAX_ROW];
    bool teacher = dtype == LB_BF16;
    struct rig rig;
    rig_open(&rig, name, dtype, "cuda", 1);
    worst_logit = worst_logprob = 0;
    run_together(&rig, row, MAX_TOK, teacher);
    for (int i = 0; i < n_golden; i++)
        if (memcmp(row[i].out, golden[i].greedy, (size_t)n_new * sizeof *row[i].out) != 0)
            fail_msg("%s: row %d: other ids than the golden ones", name, i);
    print_message("%s on cuda: %s logits of all rows are %.2g from the golden ones\n", name, teacher ? "bf16" : "f32",
                  worst_logit);
    if (!teacher && (!(worst_logit <= 2e-4) || !(worst_logprob <= 2e-4)))
        fail_msg("%s: logits are %g apart, log-probabilities %g", name, worst_logit, worst_logprob);
    run_together(&rig, other, 16, teacher);
    same_bits(name, row, other);
    if (cuda_step == 1)
        run_alone(&rig, other, teacher);
    same_bits(name, row, other);
    assert_int_equal(rig.be->counts.product_rows, rig.be->counts.token_rows);
    rig_close(&rig);
}

static int is_model(const struct dirent *e)
{
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", e->d_name);
    bool recorded = lb_file_exists(path);
    snprintf(path, sizeof path, GOLDENS "%s/adapter_config.json", e->d_name);
    bool wanted = !only;
    for (char **name = only; name && *name; name++)
        wanted = wanted || strcmp(*name, e->d_name) == 0;
    return wanted && recorded && !lb_file_exists(path);
}

/* Every folder of the goldens, both types. */
static void on_device(void **state)
{
    (void)state;
    struct dirent **dir;
    int n = scandir(GOLDENS, &dir, is_model, alphasort);
    assert_true(n > 0);
    json_t *all = json_load_file(GOLDENS "tolerance.json", 0, NULL);
    for (int i = 0; i < n; i++) {
        const char *name = dir[i]->d_name;
        const json_t *tolerance = json_object_get(all, name);
        assert_non_null(tolerance);
        read_golden(name);
        check_device(name, LB_F32);
        check_device(name, LB_BF16);
        check_bf16(name, tolerance);
        free(dir[i]);
    }
    free(dir);
    json_decref(all);
}

static void directories(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    static const char *const names[] = {"llama-gqa-tied",
                                        "llama-linear-rope",
                                        "llama-yarn",
                                        "llama-dynamic-ntk",
                                        "llama-bias",
                                        "llama-sharded",
                                        "qwen2",
                                        "qwen3",
                                        "glm",
                                        "chatglm"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i += (size_t)whole_or(MODELS))
        check_model(names[i], false);
    check_model("llama-mha", true);
    check_model("llama-headdim", true);
    check_model("llama-bf16", true);
    check_model("mistral-swa", true);
    check_model("glm4", true);
    check_model("glm4-moe", true);
    check_model("glm4-moe-qknorm", true);
    check_model("glm4-moe-lite", true);
    check_model("glm-moe-dsa", false);
    check_model("glm-moe-dsa-sparse", true);
}

static void gguf_files(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    static const char *const names[] = {"llama-gguf-f32",  "llama-gguf-f16",  "llama-gguf-bf16",
                                        "llama-gguf-q8_0", "llama-gguf-q4_0", "llama-gguf-q4_1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i += (size_t)whole_or(FILES))
        check_model(names[i], i == 2);
}

/* ---- inner numbers ---- */

struct inner {
    json_t *root;
    int n_prompt, n_hidden, n_probs;
    int64_t dim, n_head;
    double embedding, hidden, probs; /* worst differences */
};

static double number_at(const json_t *a, size_t i, size_t j)
{
    const json_t *x = json_array_get(json_array_get(a, i), j);
    assert_true(json_is_number(x));
    return (double)(float)json_number_value(x); /* float32, written with 9 digits */
}

static double rows_apart(const json_t *want, const float *x, int n, int64_t dim)
{
    double worst = 0;
    for (int t = 0; t < n; t++)
        for (int64_t k = 0; k < dim; k++)
            worst = fmax(worst, fabs(number_at(want, (size_t)t, (size_t)k) - (double)x[t * dim + k]));
    return worst;
}

static void see_embedding(void *ctx, const struct lb_step *step, const float *x)
{
    struct inner *in = ctx;
    assert_int_equal(step->n_tok, in->n_prompt);
    in->embedding = rows_apart(json_object_get(in->root, "embedding"), x, step->n_tok, in->dim);
}

static void see_layer(void *ctx, int il, const struct lb_step *step, const float *x)
{
    struct inner *in = ctx;
    const json_t *want = json_array_get(json_object_get(in->root, "hidden_after_layer"), (size_t)il);
    in->hidden = fmax(in->hidden, rows_apart(want, x, step->n_tok, in->dim));
    in->n_hidden++;
}

static void see_probs(void *ctx, int il, const struct lb_step *step, const float *p, int64_t ld)
{
    struct inner *in = ctx;
    if (il != json_integer_value(json_object_get(in->root, "layer")))
        return;
    for (int64_t h = 0; h < in->n_head; h++) {
        const json_t *want = json_array_get(json_object_get(in->root, "attention"), (size_t)h);
        for (int t = 0; t < step->n_tok; t++)
            for (int j = 0; j < in->n_prompt; j++)
                in->probs = fmax(
                    in->probs, fabs(number_at(want, (size_t)t, (size_t)j) - (double)p[(t * in->n_head + h) * ld + j]));
    }
    in->n_probs++;
}

static void inner_numbers(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    struct rig rig;
    rig_open(&rig, "llama-gqa-tied", LB_F32, "ref", 2);
    struct inner in = {.root = json_load_file(GOLDENS "llama-gqa-tied/attention.json", 0, NULL)};
    assert_non_null(in.root);
    json_t *prompt = json_object_get(in.root, "prompt_token_ids"), *logits = json_object_get(in.root, "logits_last");
    static struct golden g;
    struct run_row row = {.g = &g, .slot = -1};
    in.n_prompt = g.n_prompt = (int)json_array_size(prompt);
    in.dim = rig.config.dim;
    in.n_head = rig.config.n_head;
    for (int i = 0; i < g.n_prompt; i++)
        g.prompt[i] = (int32_t)json_integer_value(json_array_get(prompt, (size_t)i));
    struct lb_hook hook = {&in, see_embedding, see_layer, see_probs, NULL};
    lb_model_set_hook(rig.m, &hook);
    row.seq = lb_kv_open(&rig.kv);
    lb_step_clear(&rig.step);
    put(&rig, &row, g.n_prompt);
    rig.step.n_new = lb_kv_take_new(&rig.kv, rig.step.new_page, rig.step.limit.n_page);
    const struct lb_cand *cand;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_model_forward(rig.m, &rig.step, &cand, &err), LB_OK);
    assert_int_equal(in.n_hidden, rig.config.n_layer);
    assert_int_equal(in.n_probs, 1);
    assert_true(in.embedding == 0);
    assert_true(in.hidden <= 1e-4);
    assert_true(in.probs <= 1e-5);
    assert_int_equal(json_array_size(logits), rig.config.n_vocab);
    for (size_t i = 0; i < json_array_size(logits); i++)
        assert_true(fabs(json_number_value(json_array_get(logits, i)) - (double)cand->logits[i]) <= 2e-4);
    json_decref(in.root);
    rig_close(&rig);
}

/* ---- weight files that do not fit ---- */

static struct lb_wtensor *tensor(struct rig *r, const char *name)
{
    for (size_t i = 0; i < r->gguf.w.n_tensor; i++)
        if (strcmp(r->gguf.w.tensor[i].name, name) == 0)
            return &r->gguf.w.tensor[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void expect_refusal(struct rig *r, const char *what, const char *detail)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend_spec be = {.device = "cpu", .dtype = LB_F32, .isa = "ref", .n_thread = 1};
    assert_int_equal(lb_backend_open(&r->be, &be, &err), LB_OK);
    struct lb_model_spec spec = {.config = &r->config, .weights = &r->gguf.w, .backend = r->be};
    assert_int_equal(lb_model_open(&r->m, &spec, &err), LB_E_INPUT);
    assert_null(r->m);
    if (!strstr(err.text, what) || !strstr(err.text, detail))
        fail_msg("'%s' does not say '%s' and '%s'", err.text, what, detail);
    r->be->ops->close(r->be);
}

static void bad_weights(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    static const char q[] = "model.layers.1.self_attn.q_proj.weight", norm[] = "model.norm.weight";
    struct rig r = {0};
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(rig_files(&r, "llama-mha", &err), LB_OK);
    struct lb_wtensor *t = tensor(&r, q), was = *t;
    t->dim[0]--;
    expect_refusal(&r, q, "[63, 64], the model's configuration asks for [64, 64]");
    *t = was;
    t->n_dim = 1;
    expect_refusal(&r, q, "[64], ");
    *t = was;
    t->type = LB_W_OTHER;
    t->type_name = "I32";
    expect_refusal(&r, q, "type I32");
    *t = was;
    t->n_bytes /= 2;
    expect_refusal(&r, q, "too few");
    *t = was;
    t->name = "model.layers.1.self_attn.q_proj.weighs";
    expect_refusal(&r, q, "no tensor");
    *t = was;
    t = tensor(&r, norm);
    was = *t;
    t->type = LB_W_Q8_0;
    t->type_name = "Q8_0";
    expect_refusal(&r, norm, "Q8_0");
    *t = was;
    t = tensor(&r, "lm_head.weight");
    t->name = "lm_heat.weight";
    expect_refusal(&r, "lm_head.weight", "tie_word_embeddings");
    lb_config_release(&r.config);
    lb_wfile_close(&r.gguf.w);

    r = (struct rig){0};
    assert_int_equal(rig_files(&r, "llama-gguf-q4_k", &err), LB_OK);
    t = tensor(&r, "blk.1.attn_v.weight");
    t->type = LB_W_OTHER;
    t->type_name = "IQ3_S";
    expect_refusal(&r, "IQ3_S", "Q4_0");
    lb_config_release(&r.config);
    lb_gguf_close(&r.gguf);
}

/* A router that is NaN for some experts: the rows say so, and nothing else happens. */
static void bad_router(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    static float router[8 * 64];
    struct rig rig = {0};
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(rig_files(&rig, "glm4-moe", &err), LB_OK);
    struct lb_wtensor *t = tensor(&rig, "model.layers.1.mlp.gate.weight");
    assert_int_equal(t->n_bytes, sizeof router);
    memcpy(router, t->data, sizeof router);
    router[3 * 64 + 5] = NAN;
    router[6 * 64] = INFINITY;
    t->data = (const uint8_t *)router;
    rig_start(&rig, LB_BF16, NULL, 2);
    read_golden("glm4-moe");
    struct run_row row = {.g = &golden[0], .slot = -1, .seq = lb_kv_open(&rig.kv)};
    lb_step_clear(&rig.step);
    put(&rig, &row, row.g->n_prompt);
    rig.step.n_new = lb_kv_take_new(&rig.kv, rig.step.new_page, rig.step.limit.n_page);
    const struct lb_cand *cand;
    assert_int_equal(lb_model_forward(rig.m, &rig.step, &cand, &err), LB_OK);
    assert_false(cand[0].finite);
    rig_close(&rig);
}

/* Parameters are the model's: a layer of multi-token prediction that the file has too is not counted. */
static void parameters(void **state)
{
    (void)state;
    if (!have_goldens())
        skip();
    struct rig rig;
    int64_t want = 0, unread = 0;
    rig_open(&rig, "glm4-moe", LB_F32, "ref", 1);
    for (size_t i = 0; i < rig.gguf.w.n_tensor; i++) {
        const struct lb_wtensor *t = &rig.gguf.w.tensor[i];
        bool behind = strncmp(t->name, "model.layers.3.", 15) == 0;
        /* the router's bias is no weight of a product or a norm, and is left out */
        if (!strstr(t->name, "e_score_correction_bias"))
            *(behind ? &unread : &want) += (int64_t)(t->n_bytes / sizeof(float));
    }
    assert_true(unread > 0);
    assert_int_equal(lb_model_size_of(rig.m).n_param, want);
    rig_close(&rig);
}

/* test_model_decoder [--cuda LIBRARY [[sample] MODEL ...]]; a sample is every fifth row, fewer under a sanitizer, and
 * all of all models with LB_TEST_FULL=1. */
int main(int argc, char **argv)
{
    if (!have_goldens())
        printf("skip: test_model_decoder: no ../shared\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inner_numbers), cmocka_unit_test(directories), cmocka_unit_test(gguf_files),
        cmocka_unit_test(bf16_rule),     cmocka_unit_test(bad_weights), cmocka_unit_test(bad_router),
        cmocka_unit_test(parameters),
    };
    const struct CMUnitTest device[] = {cmocka_unit_test(on_device)};
    if (argc > 2 && strcmp(argv[1], "--cuda") == 0 && have_goldens()) {
        bool full = is_whole(), sample = argc > 3 && strcmp(argv[3], "sample") == 0;
        cuda_path = argv[2];
        cuda_step = sample && !full ? DEVICE_SAMPLE : 1;
        n_new = sample && !full ? N_NEW / 3 : N_NEW;
        only = argc > 3 + sample && !(sample && full) ? argv + 3 + sample : NULL;
        return cmocka_run_group_tests_name("device", device, NULL, NULL);
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed == 0 && !have_goldens() ? 77 : failed;
}
