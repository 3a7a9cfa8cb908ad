/* Models of ranks: every tp that divides the world, each group's leader against a model that it holds alone, bit for
 * bit; and groups of one host keep one packed copy of each slice. */
#include <stdatomic.h>
#include <string.h>

#include "core/model/decoder.h"
#include "core/tests/mademodel.h"
#include "core/tests/mpi/mpi_check.h"

enum { N_ROW = 3, N_STEP = 4, MAX_TOK = 64 };

static const char *const configs[] = {
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"num_hidden_layers\":2,"
    "\"max_position_embeddings\":64,\"eos_token_id\":1,\"num_attention_heads\":8,\"num_key_value_heads\":2,"
    "\"head_dim\":16,\"hidden_size\":64,\"intermediate_size\":200,\"vocab_size\":300}",
    "{\"architectures\":[\"Glm4MoeLiteForCausalLM\"],\"model_type\":\"glm4_moe_lite\",\"num_hidden_layers\":2,"
    "\"max_position_embeddings\":64,\"eos_token_id\":1,\"num_attention_heads\":8,\"num_key_value_heads\":8,"
    "\"hidden_size\":64,\"intermediate_size\":96,\"vocab_size\":130,\"n_routed_experts\":5,\"num_experts_per_tok\":2,"
    "\"moe_intermediate_size\":24,\"n_shared_experts\":1,\"n_group\":1,\"topk_group\":1,\"q_lora_rank\":32,"
    "\"kv_lora_rank\":24,\"qk_nope_head_dim\":12,\"qk_rope_head_dim\":8,\"v_head_dim\":20,"
    "\"mlp_layer_types\":[\"dense\",\"sparse\"]}",
};

struct engine {
    struct lb_backend *be;
    struct lb_model *m;
};

static int n_shared; /* lines that say so */

static void count_line(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    n_shared += strstr(text, "packed weights are shared with rank") != NULL;
}

static const struct lb_step_limits limit = {MAX_TOK, N_ROW, N_ROW};
static const struct lb_log counting = {.level = LB_LOG_INFO, .emit = count_line};

static void engine_open(struct engine *e, const struct made *made, struct lb_comm *comm, struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend_spec be = {.device = "cpu", .dtype = LB_BF16, .n_thread = 1};
    struct lb_model_spec spec = {.config = &made->config, .weights = &made->file, .comm = comm, .world = w};
    spec.log = &counting;
    CHECK_OK(lb_backend_open(&e->be, &be, &err), &err);
    spec.backend = e->be;
    CHECK_OK(lb_model_open(&e->m, &spec, &err), &err);
    CHECK_OK(lb_model_reserve(e->m, limit, N_ROW, N_ROW, &err), &err);
}

static void engine_close(struct engine *e)
{
    lb_model_free(e->m);
    e->be->ops->close(e->be);
}

/* Step 0 has the rows' prompts, later ones a token each: the sample of the step before. */
static void fill_step(struct lb_step *s, int number)
{
    static const int length[N_ROW] = {1, 17, 26};
    lb_step_clear(s);
    s->number = number;
    for (int r = 0; r < N_ROW; r++) {
        int begin = number == 0 ? 0 : length[r] + number - 1, n = number == 0 ? length[r] : 1;
        s->seq_start[r] = s->n_tok;
        s->page_start[r] = s->page[r] = s->new_page[r] = r;
        for (int i = 0; i < n; i++) {
            s->tok[s->n_tok] = number == 0 ? 3 + 7 * r + i * 5 % 100 : ~r;
            s->pos[s->n_tok] = begin + i;
            s->rope_len[s->n_tok] = begin + i + 1;
            s->tok_page[s->n_tok++] = r;
        }
        s->out_tok[r] = s->n_tok - 1;
        s->out_flags[r] = (int[]){LB_OUT_LOGITS, 0, LB_OUT_TOP}[r];
    }
    s->n_seq = s->n_page = s->n_out = N_ROW;
    s->n_new = number == 0 ? N_ROW : 0;
    s->seq_start[N_ROW] = s->n_tok;
    s->page_start[N_ROW] = N_ROW;
}

static void compare(const struct lb_cand *a, const struct lb_cand *b, int64_t n_vocab)
{
    CHECK(a->best == b->best && memcmp(&a->best_logit, &b->best_logit, sizeof a->best_logit) == 0);
    CHECK(a->finite && b->finite && (a->top_id != NULL) == (b->top_id != NULL));
    if (!a->top_id)
        return;
    CHECK(!a->logits || memcmp(a->logits, b->logits, (size_t)n_vocab * sizeof *a->logits) == 0);
    CHECK(memcmp(a->top_id, b->top_id, LK_TOP * sizeof *a->top_id) == 0 && a->lse == b->lse);
}

static void check_groups(struct lb_world *w, const struct made *made, int tp)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_comm *comm;
    struct engine group, whole;
    struct lb_step step;
    CHECK_OK(lb_world_group(w, tp, &comm, &err), &err);
    n_shared = 0;
    engine_open(&group, made, comm, w);
    /* the first group of a host packs */
    int per_group = w->rank % tp, first = w->rank;
    for (int r = w->rank; r >= 0; r--)
        if (r % tp == per_group && strcmp(lb_world_host(w, r), w->host) == 0)
            first = r;
    CHECK(n_shared == (first != w->rank));
    engine_open(&whole, made, NULL, NULL);
    CHECK_OK(lb_step_init(&step, limit, &err), &err);
    for (int i = 0; i < N_STEP; i++) {
        const struct lb_cand *cand, *want;
        fill_step(&step, i);
        CHECK_OK(lb_model_forward(whole.m, &step, &want, &err), &err);
        CHECK_OK(lb_model_forward(group.m, &step, &cand, &err), &err);
        CHECK((cand != NULL) == (comm->rank == 0));
        for (int j = 0; j < N_ROW; j++) {
            if (cand)
                compare(&cand[j], &want[j], made->config.n_vocab);
            lb_model_slots(group.m)[j] = lb_model_slots(whole.m)[j] = want[j].best;
        }
    }
    lb_step_release(&step);
    engine_close(&whole);
    engine_close(&group);
    comm->ops->close(comm);
}

int main(int argc, char **argv)
{
    struct lb_world *w = open_world(argc, argv);
    struct lb_err err = LB_ERR_INIT;
    CHECK(scratch_make(NULL) == 0);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct made made;
        made_open(&made, configs[i], LB_W_F32, (uint32_t)i + 1);
        for (int tp = 1; tp <= w->size; tp *= 2)
            check_groups(w, &made, tp);
        made_close(&made);
    }
    scratch_remove(NULL);
    CHECK_OK(lb_world_agree(w, LB_OK, &err), &err);
    lb_world_close(w);
    return 0;
}
