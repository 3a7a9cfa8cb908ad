/* A group of ranks against one rank that holds the whole model: candidates of ragged steps with decode in between, bit
 * for bit, for every tp that the model's segments allow, every type and the processor's kernel sets. Ranks are threads.
 * Models are the goldens, and made ones whose shapes are at odds with the cuts. With --cuda LIBRARY the ranks have a
 * device each, of that library, and add up through its NCCL; --cuda LIBRARY [TEST [MODEL ...]] chooses. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/backend_cuda_open.h"
#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/dist/nccl.h"
#include "core/model/decoder.h"
#include "core/model/kv.h"
#include "core/tests/comm_threads.h"
#include "core/tests/mademodel.h"
#include "core/tests/whole.h"
#include "kernels/cpu/lk_cpu.h"

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

enum { N_STEP = 6, BAD = 3, N_ROW = 5, MAX_TOK = 160, MAX_LEN = 96, N_PAGE = N_ROW * MAX_LEN / LK_PAGE_TOKENS };

static const struct lb_step_limits limit = {MAX_TOK, N_ROW, N_PAGE};

/* --cuda */
static const char *cuda_path;
static const struct lb_cuda_library *cuda;
static char **only; /* golden models that were asked for by name; NULL: all */

/* What the leader found of one wanted token. */
struct found {
    int32_t best, top_id[LK_TOP];
    float best_logit, top_logit[LK_TOP];
    bool finite, asked;
    double lse;
};

/* On a device's model, which takes its time, a sample; all with LB_TEST_FULL=1. */
static bool is_sampled(void)
{
    return cuda && !is_whole();
}

/* The steps of a run, made while one rank ran them. */
struct script {
    const struct lb_config *config;
    const struct lb_wfile *file;
    enum lb_dtype dtype;
    bool int8, w4a8;
    const char *isa, *name;
    struct lb_step step[N_STEP];
    int32_t slot[N_STEP][N_ROW]; /* after the step */
    struct found found[N_STEP][N_ROW];
    float *logits[N_STEP][N_ROW]; /* [n_vocab] of those that ask for anything; else NULL */
    int64_t weight_bytes;
};

static struct found found_of(const struct lb_cand *cand)
{
    struct found f;
    memset(&f, 0, sizeof f);
    f.best = cand->best;
    f.best_logit = cand->best_logit;
    f.finite = cand->finite;
    if (cand->top_id) {
        f.asked = true;
        f.lse = cand->lse;
        memcpy(f.top_id, cand->top_id, sizeof f.top_id);
        memcpy(f.top_logit, cand->top_logit, sizeof f.top_logit);
    }
    return f;
}

/* One rank's model. */
struct rank {
    const struct script *script;
    struct lb_comm *boot, *comm; /* of threads; what the model has: the same, or one over it */
    struct lb_backend *be;
    struct lb_model *m;
    int index, size;
    bool fails; /* a run that fails: the last rank's step BAD has an id beyond the vocabulary, and results are noted */
    char text[LB_ERR_TEXT_BYTES + 64];
    struct {
        enum lb_status status;
        char text[LB_ERR_TEXT_BYTES];
    } noted[N_STEP];
};

static bool rank_open(struct rank *r, struct lb_err *err)
{
    const struct script *s = r->script;
    struct lb_backend_spec be = {.device = cuda ? "cuda" : "cpu",
                                 .dtype = s->dtype,
                                 .int8 = s->int8,
                                 .w4a8 = s->w4a8,
                                 .isa = cuda ? NULL : s->isa,
                                 .n_thread = r->size == 1 ? 2 : 1,
                                 .local_rank = r->index,
                                 .cuda_library = cuda_path};
    if (lb_backend_open(&r->be, &be, err) != LB_OK)
        return false;
    if (cuda && r->size > 1) {
        struct lb_nccl_spec nccl = {r->comm, r->be->stream, false, NULL};
        struct lb_comm *comm;
        if (cuda->comm_open(&comm, &nccl, err) != LB_OK)
            return false;
        r->comm = comm;
        r->be->alive = cuda->comm_alive;
        r->be->alive_ctx = comm;
    }
    struct lb_model_spec spec = {.config = s->config, .weights = s->file, .backend = r->be, .comm = r->comm};
    return lb_model_open(&r->m, &spec, err) == LB_OK && lb_model_reserve(r->m, limit, N_ROW, N_PAGE, err) == LB_OK;
}

static void rank_close(struct rank *r)
{
    lb_model_free(r->m);
    if (r->comm)
        r->comm->ops->close(r->comm);
    if (r->be)
        r->be->ops->close(r->be);
}

#define RANK_FAIL(...)                                  \
    do {                                                \
        snprintf(r->text, sizeof r->text, __VA_ARGS__); \
        return false;                                   \
    } while (0)

/* A rank's own part of the logits, and the whole row where it is given. */
static bool rank_logits(struct rank *r, int i, const struct lb_step *step, const struct lb_cand *cand)
{
    const int64_t *parts = lb_model_parts(r->m), begin = parts[r->index], n = parts[r->index + 1] - begin;
    for (int j = 0; j < step->n_out; j++) {
        const float *want = r->script->logits[i][j], *own = lb_model_logits(r->m, j);
        if ((own != NULL) != (step->out_flags[j] != 0))
            RANK_FAIL("step %d, output %d: logits are %s", i, j, own ? "there" : "missing");
        if (own && memcmp(own, want + begin, (size_t)n * sizeof *own) != 0)
            RANK_FAIL("step %d, output %d: the part's logits differ", i, j);
        if (!cand)
            continue;
        if ((cand[j].logits != NULL) != (step->out_flags[j] == LB_OUT_LOGITS))
            RANK_FAIL("step %d, output %d: a row is %s", i, j, cand[j].logits ? "there" : "missing");
        if (cand[j].logits && memcmp(cand[j].logits, want, (size_t)parts[r->size] * sizeof *want) != 0)
            RANK_FAIL("step %d, output %d: logits differ", i, j);
    }
    return true;
}

static bool rank_step(struct rank *r, int i)
{
    const struct script *s = r->script;
    struct lb_step step = s->step[i];
    struct lb_err err = LB_ERR_INIT;
    const struct lb_cand *cand;
    int32_t tok[MAX_TOK];
    memcpy(tok, step.tok, (size_t)step.n_tok * sizeof *tok);
    step.tok = tok;
    if (r->fails && i == BAD && r->index == r->size - 1)
        tok[0] = (int32_t)s->config->n_vocab;
    if (i > 0)
        memcpy(lb_model_slots(r->m), s->slot[i - 1], sizeof s->slot[i - 1]);
    lb_model_tell(r->m, i == 2 ? 1u << r->index : 0);
    uint64_t allocated = lb_mem_count();
    enum lb_status status = lb_model_forward(r->m, &step, &cand, &err);
    if (i > 0 && lb_mem_count() != allocated)
        RANK_FAIL("step %d allocates", i);
    if (r->fails) {
        r->noted[i].status = status;
        memcpy(r->noted[i].text, err.text, sizeof err.text);
        return true;
    }
    if (status != LB_OK)
        RANK_FAIL("step %d: %s", i, err.text);
    if (r->index != 0 && cand)
        RANK_FAIL("step %d: candidates on a rank that does not lead", i);
    if (!rank_logits(r, i, &step, cand))
        return false;
    if (r->index != 0)
        return true;
    if (lb_model_told(r->m) != (i == 2 ? (1u << r->size) - 1 : 0))
        RANK_FAIL("step %d: the leader is told %x", i, lb_model_told(r->m));
    for (int j = 0; j < step.n_out; j++) {
        struct found f = found_of(&cand[j]);
        if (memcmp(&f, &s->found[i][j], sizeof f) != 0)
            RANK_FAIL("step %d, output %d: best %d (%.9g) is %d (%.9g) with one rank", i, j, f.best,
                      (double)f.best_logit, s->found[i][j].best, (double)s->found[i][j].best_logit);
    }
    return true;
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    struct lb_err err = LB_ERR_INIT;
    if (!rank_open(r, &err)) {
        snprintf(r->text, sizeof r->text, "%s", err.text);
        lb_comm_threads_fail(r->boot);
        return NULL;
    }
    for (int i = 0; i < N_STEP && rank_step(r, i); i++)
        ;
    if (r->text[0])
        lb_comm_threads_fail(r->boot);
    return NULL;
}

/* Runs the script with tp ranks; `bytes` gets each rank's packed bytes. */
static void run_group(const struct script *s, int tp, bool fails, struct rank *rank, int64_t *bytes)
{
    struct lb_comm *comm[LB_COMM_MAX_RANKS];
    pthread_t thread[LB_COMM_MAX_RANKS];
    lb_comm_threads_open(tp, comm);
    for (int i = 0; i < tp; i++) {
        rank[i] = (struct rank){.script = s, .boot = comm[i], .comm = comm[i], .index = i, .size = tp, .fails = fails};
        assert_int_equal(pthread_create(&thread[i], NULL, rank_main, &rank[i]), 0);
    }
    for (int i = 0; i < tp; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < tp; i++) {
        if (bytes)
            bytes[i] = rank[i].be->counts.weight_bytes;
        if (!fails && rank[i].be && rank[i].be->counts.product_rows != rank[i].be->counts.token_rows)
            fail_msg("%s: rank %d of %d computes padding", s->name, i, tp);
        rank_close(&rank[i]);
    }
}

/* ---- the script ---- */

struct row {
    int32_t seq, n_prompt, n_fed, slot;
    int n_out;
};

static uint32_t noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void put(struct lb_step *st, struct lb_kv *kv, struct row *r, int n, uint32_t *state, int64_t n_vocab)
{
    assert_true(lb_kv_extend(kv, r->seq, r->n_fed + n));
    const struct lb_kv_seq *s = &kv->seq[r->seq];
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq++] = st->n_page;
    for (int i = 0; i < n; i++) {
        int at = r->n_fed + i;
        st->tok[st->n_tok] = r->slot >= 0 ? ~r->slot : (int32_t)(noise(state) % (uint64_t)n_vocab);
        st->pos[st->n_tok] = at;
        st->tok_page[st->n_tok] = s->page[at / LK_PAGE_TOKENS];
        st->rope_len[st->n_tok++] = at < r->n_prompt ? r->n_prompt : at + 1;
    }
    memcpy(st->page + st->n_page, s->page, (size_t)s->n_page * sizeof *s->page);
    st->n_page += s->n_page;
    r->n_fed += n;
    r->slot = -1;
    if (r->n_fed >= r->n_prompt) {
        r->slot = st->n_out;
        st->out_tok[st->n_out] = st->n_tok - 1;
        st->out_flags[st->n_out++] = (int32_t[]){0, LB_OUT_LOGITS, LB_OUT_TOP}[noise(state) % 3];
    }
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq] = st->n_page;
}

/* Prompts of different lengths, some in two pieces, that begin in different steps; decode as soon as they can. */
static void make_step(struct script *s, int i, struct lb_kv *kv, struct row *row, uint32_t *state)
{
    static const int begins[N_ROW] = {0, 0, 0, 1, 1}, pieces[N_ROW] = {1, 2, 1, 2, 1};
    struct lb_step *st = &s->step[i];
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_step_init(st, limit, &err), LB_OK);
    lb_step_clear(st);
    st->number = i;
    for (int r = 0; r < N_ROW; r++) {
        if (i < begins[r])
            continue;
        int left = row[r].n_prompt - row[r].n_fed;
        put(st, kv, &row[r],
            left <= 0          ? 1
            : row[r].n_fed > 0 ? left
                               : (left + pieces[r] - 1) / pieces[r],
            state, s->config->n_vocab);
    }
    st->n_new = lb_kv_take_new(kv, st->new_page, N_PAGE);
}

static void script_open(struct script *s)
{
    static const int lengths[2][N_ROW] = {{1, 37, 7, 70, 33}, {1, 11, 3, 37, 5}};
    struct lb_err err = LB_ERR_INIT;
    struct lb_kv kv;
    struct row row[N_ROW];
    struct rank one = {.script = s, .size = 1};
    uint32_t state = 99;
    if (!rank_open(&one, &err))
        fail_msg("%s: %s", s->name, err.text);
    assert_int_equal(lb_kv_init(&kv, N_PAGE, N_ROW, MAX_LEN, &err), LB_OK);
    for (int r = 0; r < N_ROW; r++)
        row[r] = (struct row){lb_kv_open(&kv), lengths[is_sampled()][r], 0, -1, 0};
    for (int i = 0; i < N_STEP; i++) {
        const struct lb_cand *cand;
        make_step(s, i, &kv, row, &state);
        if (lb_model_forward(one.m, &s->step[i], &cand, &err) != LB_OK)
            fail_msg("%s: %s", s->name, err.text);
        for (int j = 0; j < s->step[i].n_out; j++) {
            s->found[i][j] = found_of(&cand[j]);
            s->logits[i][j] = NULL;
            if (cand[j].logits) {
                s->logits[i][j] = lb_mem_new((size_t)s->config->n_vocab, sizeof(float));
                memcpy(s->logits[i][j], cand[j].logits, (size_t)s->config->n_vocab * sizeof(float));
            }
            assert_true(cand[j].finite);
            s->slot[i][j] = lb_model_slots(one.m)[j] = cand[j].best;
        }
    }
    s->weight_bytes = one.be->counts.weight_bytes;
    rank_close(&one);
    lb_kv_release(&kv);
}

static void script_close(struct script *s)
{
    for (int i = 0; i < N_STEP; i++) {
        for (int j = 0; j < s->step[i].n_out; j++)
            lb_mem_free(s->logits[i][j]);
        lb_step_release(&s->step[i]);
    }
}

/* A device's sample: two ranks; or three; or, of a model with fewer experts than that, four, of which one has none. */
static bool is_left_out(const struct lb_config *c, int tp)
{
    const bool without = c->moe.n_expert > 0 && c->moe.n_expert < 4;
    return is_sampled() && tp != (without ? 4 : c->n_seg % 3 == 0 ? 3 : 2);
}

/* Every tp above 1. */
static void check_groups(struct script *s)
{
    static struct rank rank[LB_COMM_MAX_RANKS];
    script_open(s);
    for (int tp = 2; tp <= s->config->n_seg; tp++) {
        if (s->config->n_seg % tp != 0 || is_left_out(s->config, tp))
            continue;
        run_group(s, tp, false, rank, NULL);
        for (int i = 0; i < tp; i++)
            if (rank[i].text[0] && strcmp(rank[i].text, "another rank has failed") != 0)
                fail_msg("%s, %s %s%s, rank %d of %d: %s", s->name, s->isa, s->dtype == LB_F32 ? "f32" : "bf16",
                         s->int8 ? " int8" : "", i, tp, rank[i].text);
        if (cuda)
            print_message("%s, %s: %d ranks are as one\n", s->name, s->dtype == LB_F32 ? "f32" : "bf16", tp);
    }
    script_close(s);
}

/* What is run: both types on ref and on the processor's best set; or, of sets whose instructions are modeled in C and
 * take many times as long, the two that another program has not run, in bf16. */
static bool modeled;

/* Models that are run with layers in int8 too: heads and FFN in segments, experts with a shared one, latents; those
 * of 4 bits with codes that stay packed. */
static bool in_int8(const char *name)
{
    static const char *const names[] = {"llama-mha",     "llama-gguf-q4_0", "glm4-moe",
                                        "glm4-moe-lite", "experts in Q4_0", "heads of 48 columns, Q4_0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static void check_model(const char *name, const struct lb_config *config, const struct lb_wfile *file)
{
    static struct script s;
    const char *set, *sets[2] = {"ref", "ref"};
    unsigned bit;
    for (int i = 0; !cuda && (set = lk_cpu_set(i, &bit)) != NULL; i++) {
        if ((lk_cpu_detect() & bit) == 0)
            continue;
        sets[0] = modeled ? sets[1] : "ref";
        sets[1] = set;
    }
    assert_true(config->n_seg > 1);
    for (int i = strcmp(sets[0], sets[1]) == 0; i < 2; i++) {
        for (int type = modeled; type < 2 + (!cuda && in_int8(name)); type++) {
            if (is_sampled() && type < 2 && (config->moe.n_expert > 0) != (type > 0))
                continue; /* one type each */
            s = (struct script){.config = config,
                                .file = file,
                                .dtype = type ? LB_BF16 : LB_F32,
                                .int8 = type == 2,
                                .w4a8 = type == 2 && strstr(name, "4_0"),
                                .isa = sets[i],
                                .name = name};
            check_groups(&s);
        }
    }
}

/* ---- models ---- */

static const char *const goldens[] = {"llama-mha",
                                      "llama-gqa-tied",
                                      "llama-dynamic-ntk",
                                      "llama-bias",
                                      "llama-headdim",
                                      "llama-gguf-f16",
                                      "llama-gguf-q8_0",
                                      "llama-gguf-q4_0",
                                      "llama-gguf-q4_1",
                                      "mistral-swa",
                                      "qwen2",
                                      "qwen3",
                                      "glm",
                                      "glm4",
                                      "glm4-moe",
                                      "glm4-moe-qknorm",
                                      "chatglm",
                                      "glm4-moe-lite",
                                      "glm-moe-dsa",
                                      "glm-moe-dsa-sparse"};

static bool is_wanted(const char *name)
{
    for (char **at = only; at && *at; at++)
        if (strcmp(*at, name) == 0)
            return true;
    return !only;
}

static void golden_models(void **state)
{
    (void)state;
    if (!lb_file_exists(GOLDENS "README.md"))
        skip();
    int step = only ? 1 : is_sampled() ? 14 : whole_or(is_sanitized() || modeled ? 9 : 3);
    /* a device's sample is a model with experts: odd_shapes has one without */
    for (size_t i = is_sampled() && !only ? 14 : 0; i < sizeof goldens / sizeof *goldens; i += (size_t)step) {
        char path[512];
        struct lb_config config = {0};
        struct lb_gguf gguf = {0};
        struct lb_log log = {0};
        struct lb_err err = LB_ERR_INIT;
        bool is_gguf = strstr(goldens[i], "gguf") != NULL;
        if (!is_wanted(goldens[i]))
            continue;
        snprintf(path, sizeof path, is_gguf ? GOLDENS "%s/%s.gguf" : GOLDENS "%s", goldens[i], goldens[i]);
        if (is_gguf ? lb_gguf_open(&gguf, path, &err) || lb_config_read_gguf(&config, &gguf, &log, &err)
                    : lb_safetensors_open(&gguf.w, path, &err) || lb_config_read_dir(&config, path, &log, &err))
            fail_msg("%s", err.text);
        check_model(goldens[i], &config, &gguf.w);
        lb_config_release(&config);
        if (is_gguf)
            lb_gguf_close(&gguf);
        else
            lb_wfile_close(&gguf.w);
    }
}

#define LAYERS "\"num_hidden_layers\":2,\"max_position_embeddings\":128,\"eos_token_id\":1,\"hidden_act\":\"silu\","
#define LLAMA(heads, kv, hd, dim, ffn, vocab, more)                                                                \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," LAYERS "\"num_attention_heads\":" #heads \
    ",\"num_key_value_heads\":" #kv ",\"head_dim\":" #hd ",\"hidden_size\":" #dim ",\"intermediate_size\":" #ffn   \
    ",\"vocab_size\":" #vocab more "}"
#define GLM4_MOE(heads, experts, used, moe_dim, shared)                                                             \
    "{\"architectures\":[\"Glm4MoeForCausalLM\"],\"model_type\":\"glm4_moe\"," LAYERS                               \
    "\"num_attention_heads\":" #heads ",\"num_key_value_heads\":2,\"head_dim\":16,\"hidden_size\":40"               \
    ",\"intermediate_size\":100,\"vocab_size\":77,\"n_routed_experts\":" #experts ",\"num_experts_per_tok\":" #used \
    ",\"moe_intermediate_size\":" #moe_dim ",\"n_shared_experts\":" #shared                                         \
    ",\"first_k_dense_replace\":1,\"n_group\":1,\"topk_group\":1}"
#define LITE(heads, q_rank)                                                                           \
    "{\"architectures\":[\"Glm4MoeLiteForCausalLM\"],\"model_type\":\"glm4_moe_lite\"," LAYERS        \
    "\"num_attention_heads\":" #heads ",\"num_key_value_heads\":" #heads ",\"hidden_size\":64"        \
    ",\"intermediate_size\":96,\"vocab_size\":130,\"n_routed_experts\":5,\"num_experts_per_tok\":2"   \
    ",\"moe_intermediate_size\":24,\"n_shared_experts\":1,\"n_group\":1,\"topk_group\":1"             \
    ",\"q_lora_rank\":" #q_rank ",\"kv_lora_rank\":24,\"qk_nope_head_dim\":12,\"qk_rope_head_dim\":8" \
    ",\"v_head_dim\":20,\"attention_bias\":true,\"mlp_layer_types\":[\"dense\",\"sparse\"]}"

static const struct {
    const char *name, *config;
    enum lb_wtype type;
} odd[] = {
    {"3 heads, 1 KV head, tied", LLAMA(3, 1, 20, 40, 100, 77, ",\"tie_word_embeddings\":true"), LB_W_F32},
    {"6 heads, 3 KV heads, biases",
     LLAMA(6, 3, 16, 48, 96, 50, ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true"), LB_W_BF16},
    {"6 heads, 2 KV heads", LLAMA(6, 2, 16, 48, 96, 65, ""), LB_W_F32},
    {"heads of 48 columns, Q8_0", LLAMA(4, 2, 48, 64, 64, 64, ""), LB_W_Q8_0},
    {"heads of 48 columns, Q4_0", LLAMA(8, 8, 48, 64, 160, 96, ""), LB_W_Q4_0},
    {"one unit of FFN and vocabulary", LLAMA(8, 4, 8, 24, 20, 30, ",\"mlp_bias\":true"), LB_W_F32},
    {"5 heads", LLAMA(5, 5, 12, 36, 200, 333, ",\"attention_bias\":true"), LB_W_F32},
    {"64 heads", LLAMA(64, 8, 8, 64, 600, 1000, ""), LB_W_BF16},
    {"sandwich norms",
     "{\"architectures\":[\"Glm4ForCausalLM\"],\"model_type\":\"glm4\"," LAYERS
     "\"num_attention_heads\":8,\"num_key_value_heads\":2,\"head_dim\":24,\"hidden_size\":56,"
     "\"intermediate_size\":136,\"vocab_size\":140,\"attention_bias\":true,\"partial_rotary_factor\":0.5}",
     LB_W_F32},
    {"norms of heads, window",
     "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"," LAYERS
     "\"num_attention_heads\":8,\"num_key_value_heads\":1,\"head_dim\":16,\"hidden_size\":56,"
     "\"intermediate_size\":136,\"vocab_size\":140,\"use_sliding_window\":true,\"sliding_window\":19,"
     "\"max_window_layers\":1}",
     LB_W_BF16},
    {"3 experts for 8 ranks", GLM4_MOE(8, 3, 2, 20, 1), LB_W_F32},
    {"10 experts, a shared one of 3 units", GLM4_MOE(8, 10, 3, 48, 2), LB_W_F32},
    {"no shared expert", GLM4_MOE(6, 7, 2, 33, 0), LB_W_F32},
    {"latents, 6 heads", LITE(6, 32), LB_W_F32},
    {"experts in Q4_0",
     "{\"architectures\":[\"Glm4MoeForCausalLM\"],\"model_type\":\"glm4_moe\"," LAYERS
     "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"hidden_size\":64,"
     "\"intermediate_size\":96,\"vocab_size\":77,\"n_routed_experts\":5,\"num_experts_per_tok\":2,"
     "\"moe_intermediate_size\":64,\"n_shared_experts\":1,\"first_k_dense_replace\":1,\"n_group\":1,"
     "\"topk_group\":1}",
     LB_W_Q4_0},
    {"latents, 3 heads, no latent of queries", LITE(3, null), LB_W_F32},
};

static void odd_shapes(void **state)
{
    (void)state;
    /* a device's sample: a rank without experts, and no shared one */
    const size_t begin = is_sampled() ? 10 : 0, end = is_sampled() ? 13 : sizeof odd / sizeof *odd;
    for (size_t i = begin; i < end; i += (size_t)whole_or(cuda || !(is_sanitized() || modeled) ? 2 : 5)) {
        struct made made;
        made_open(&made, odd[i].config, odd[i].type, (uint32_t)i + 1);
        if (!cuda || made.config.head_dim % 8 == 0)
            check_model(odd[i].name, &made.config, &made.file);
        made_close(&made);
    }
}

/* A rank of tp packs 1/tp of what one rank alone does, norms and rounding of panels aside. */
static void slices_are_small(void **state)
{
    (void)state;
    static struct script s;
    static struct rank rank[LB_COMM_MAX_RANKS];
    struct made made;
    const bool small = is_sanitized() && !is_whole(); /* norms of 8 ranks would be more of it than is allowed */
    made_open(&made, small ? LLAMA(8, 8, 16, 128, 512, 1024, "") : LLAMA(8, 8, 32, 256, 1024, 2048, ""), LB_W_F32, 5);
    s = (struct script){.config = &made.config, .file = &made.file, .dtype = LB_BF16, .isa = "ref", .name = "memory"};
    script_open(&s);
    for (int tp = 2; tp <= (small || is_sampled() ? 4 : 8); tp *= 2) {
        int64_t bytes[LB_COMM_MAX_RANKS];
        run_group(&s, tp, false, rank, bytes);
        for (int i = 0; i < tp; i++) {
            assert_int_equal(rank[i].text[0], 0);
            assert_true(bytes[i] * tp >= s.weight_bytes);
            assert_true(bytes[i] * tp <= s.weight_bytes + s.weight_bytes / 100);
        }
    }
    script_close(&s);
    made_close(&made);
}

/* A step fails on the last rank alone: all ranks end that step and those behind it, and the leader says whose failure
 * it was. */
static void a_failure_reaches_the_leader(void **state)
{
    (void)state;
    static struct script s;
    static struct rank rank[LB_COMM_MAX_RANKS];
    struct made made;
    made_open(&made, LLAMA(8, 4, 8, 24, 96, 70, ""), LB_W_F32, 5);
    s = (struct script){.config = &made.config, .file = &made.file, .dtype = LB_F32, .isa = "ref", .name = "failure"};
    script_open(&s);
    for (int tp = 2; tp <= (is_sampled() ? 2 : 8); tp *= 2) {
        run_group(&s, tp, true, rank, NULL);
        for (int i = 0; i < tp; i++) {
            char whose[32];
            snprintf(whose, sizeof whose, "rank %d of the group: ", tp - 1);
            for (int step = 0; step < N_STEP; step++) {
                bool own = step == BAD && i == tp - 1, told = step == BAD && i == 0;
                assert_int_equal(rank[i].noted[step].status, own || told ? LB_E_USAGE : LB_OK);
                assert_int_equal(strstr(rank[i].noted[step].text, "outside the vocabulary") != NULL, own || told);
                assert_int_equal(strncmp(rank[i].noted[step].text, whose, strlen(whose)) == 0, told);
            }
        }
    }
    script_close(&s);
    made_close(&made);
}

int main(int argc, char **argv)
{
    modeled = argc > 1 && strcmp(argv[1], "--modeled") == 0;
    if (argc > 2 && strcmp(argv[1], "--cuda") == 0) {
        struct lb_err err = LB_ERR_INIT;
        cuda_path = argv[2];
        only = argc > 4 ? argv + 4 : NULL;
        setenv("STANDIN_DEVICES", "16", 1);
        if (argc > 3)
            cmocka_set_test_filter(argv[3]);
        else if (!is_whole()) /* minutes on the model of a block */
            cmocka_set_skip_filter("slices*");
        if (lb_cuda_library_open(&cuda, cuda_path, &err) != LB_OK) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_shapes),
        cmocka_unit_test(golden_models),
        cmocka_unit_test(slices_are_small),
        cmocka_unit_test(a_failure_reaches_the_leader),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
