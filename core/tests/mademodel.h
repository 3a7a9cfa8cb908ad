/* Models of any shape for tests: a configuration, and every tensor that its family names, drawn from a seed, in memory.
 * The numbers mean nothing; the file is whole. */
#ifndef CORE_TESTS_MADEMODEL_H
#define CORE_TESTS_MADEMODEL_H

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/io/wfile.h"
#include "core/model/config.h"
#include "core/model/quant.h"
#include "core/tests/scratch.h"

struct made {
    struct lb_config config;
    struct lb_wfile file;
    enum lb_wtype type; /* of matrices */
    uint32_t state;
};

static inline uint32_t made_random(struct made *m)
{
    m->state = m->state * 1664525u + 1013904223u;
    return m->state >> 8;
}

static inline void made_check(enum lb_status status, const struct lb_err *err)
{
    if (status == LB_OK)
        return;
    fprintf(stderr, "%s\n", err->text);
    abort();
}

/* n elements around `mean`; block formats are made of random bytes behind a small scale. */
static inline void made_fill(struct made *m, enum lb_wtype type, uint8_t *data, int64_t n, float mean)
{
    size_t block = lb_quant_bytes(type, 32);
    if (type >= LB_W_Q8_0) {
        for (size_t i = 0; i < lb_quant_bytes(type, n); i++)
            data[i] = i % block == 0 ? (uint8_t)made_random(m) : i % block == 1 ? 0x18 : (uint8_t)(made_random(m) >> 8);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float x = mean + ((float)made_random(m) / 8388608.0f - 1) * (mean > 0 ? 0.25f : 0.15f);
        uint16_t half = lb_bf16_round(x);
        if (type == LB_W_BF16)
            memcpy(data + 2 * i, &half, sizeof half);
        else
            memcpy(data + 4 * i, &x, sizeof x);
    }
}

static inline void made_add(struct made *m, const char *name, int64_t n_row, int64_t n_col, float mean)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_wfile *w = &m->file;
    if (!*name || n_row == 0)
        return;
    enum lb_wtype type = n_col > 0 ? m->type : LB_W_F32;
    int64_t n = n_row * (n_col > 0 ? n_col : 1);
    struct lb_wtensor t = {.type = type, .type_name = "made", .n_dim = n_col > 0 ? 2 : 1, .dim = {n_row, n_col}};
    t.n_bytes = lb_quant_bytes(type, n);
    uint8_t *data = lb_mem_new(t.n_bytes, 1);
    char *copy = lb_mem_strdup(name);
    made_check(lb_wfile_own(w, data, &err), &err);
    made_check(lb_wfile_own(w, copy, &err), &err);
    made_fill(m, type, data, n, mean);
    t.name = copy;
    t.data = data;
    t.file = "made";
    w->tensor[w->n_tensor++] = t;
}

/* One role's tensors: ".weight", and ".bias" where asked for. */
static inline void made_role(struct made *m, int il, enum lb_role role, int64_t n_row, int64_t n_col, bool bias)
{
    const struct lb_family *f = m->config.family;
    made_add(m, lb_family_tensor(f, 0, role, il, ".weight").text, n_row, n_col, n_col == 0 ? 1 : 0);
    if (bias)
        made_add(m, lb_family_tensor(f, 0, role, il, ".bias").text, n_row, 0, 0);
}

static inline void made_attention(struct made *m, int il)
{
    const struct lb_config *c = &m->config;
    const struct lb_mla *a = &c->mla;
    made_role(m, il, LB_R_ATTN_NORM, c->dim, 0, false);
    made_role(m, il, LB_R_O, c->dim, c->n_head * c->out_dim, c->o_bias);
    if (a->kv_rank == 0) {
        int64_t q = c->n_head * c->head_dim, kv = c->n_kv_head * c->head_dim;
        bool fused = !lb_family_tensor(c->family, 0, LB_R_Q, il, "").text[0];
        if (fused)
            made_role(m, il, LB_R_QKV, q + 2 * kv, c->dim, c->attn_bias);
        made_role(m, il, LB_R_Q, q, c->dim, c->attn_bias);
        made_role(m, il, LB_R_K, kv, c->dim, c->attn_bias);
        made_role(m, il, LB_R_V, kv, c->dim, c->attn_bias);
        made_role(m, il, LB_R_Q_NORM, c->head_dim, 0, false);
        made_role(m, il, LB_R_K_NORM, c->head_dim, 0, false);
    } else {
        int64_t q = c->n_head * (a->nope_dim + a->rope_dim);
        made_role(m, il, LB_R_Q_A, a->q_rank, c->dim, c->attn_bias);
        made_role(m, il, LB_R_Q_A_NORM, a->q_rank, 0, false);
        made_role(m, il, a->q_rank ? LB_R_Q_B : LB_R_Q, q, a->q_rank ? a->q_rank : c->dim, false);
        made_role(m, il, LB_R_KV_A, a->kv_rank + a->rope_dim, c->dim, c->attn_bias);
        made_role(m, il, LB_R_KV_A_NORM, a->kv_rank, 0, false);
        made_role(m, il, LB_R_KV_B, c->n_head * (a->nope_dim + a->v_dim), a->kv_rank, false);
    }
    made_role(m, il, LB_R_POST_ATTN_NORM, c->dim, 0, false);
}

static inline void made_ffn(struct made *m, int il)
{
    const struct lb_config *c = &m->config;
    const struct lb_moe_shape *x = &c->moe;
    made_role(m, il, LB_R_FFN_NORM, c->dim, 0, false);
    made_role(m, il, LB_R_POST_FFN_NORM, c->dim, 0, false);
    if (!c->layer[il].moe) {
        bool fused = !lb_family_tensor(c->family, 0, LB_R_GATE, il, "").text[0];
        if (fused)
            made_role(m, il, LB_R_GATE_UP, 2 * c->ffn_dim, c->dim, c->mlp_bias);
        made_role(m, il, LB_R_GATE, c->ffn_dim, c->dim, c->mlp_bias);
        made_role(m, il, LB_R_UP, c->ffn_dim, c->dim, c->mlp_bias);
        made_role(m, il, LB_R_DOWN, c->dim, c->ffn_dim, c->mlp_bias);
        return;
    }
    made_role(m, il, LB_R_ROUTER, x->n_expert, c->dim, false);
    made_add(m, lb_family_tensor(c->family, 0, LB_R_ROUTER_BIAS, il, "").text, x->n_expert, 0, 0);
    for (int e = 0; e < (int)x->n_expert; e++) {
        made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_EXPERT_GATE, il, e).text, x->ffn_dim, c->dim, 0);
        made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_EXPERT_UP, il, e).text, x->ffn_dim, c->dim, 0);
        made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_EXPERT_DOWN, il, e).text, c->dim, x->ffn_dim, 0);
    }
    made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_SHARED_GATE, il, 0).text, x->shared_dim, c->dim, 0);
    made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_SHARED_UP, il, 0).text, x->shared_dim, c->dim, 0);
    made_add(m, lb_family_expert_tensor(c->family, 0, LB_R_SHARED_DOWN, il, 0).text, c->dim, x->shared_dim, 0);
}

/* The scratch folder must be there. Ends the program on a configuration that is not read. */
static inline void made_open(struct made *m, const char *config, enum lb_wtype type, uint32_t seed)
{
    enum { MAX_TENSOR = 4096 };
    struct lb_err err = LB_ERR_INIT;
    struct lb_log log = {0};
    *m = (struct made){.type = type, .state = seed};
    scratch_write("config.json", config, strlen(config));
    made_check(lb_config_read_dir(&m->config, scratch, &log, &err), &err);
    const struct lb_config *c = &m->config;
    m->file.tensor = lb_mem_new(MAX_TENSOR, sizeof *m->file.tensor);
    made_role(m, 0, LB_R_EMBED, c->n_vocab, c->dim, false);
    if (!c->tied)
        made_role(m, 0, LB_R_HEAD, c->n_vocab, c->dim, false);
    made_role(m, 0, LB_R_NORM, c->dim, 0, false);
    for (int il = 0; il < (int)c->n_layer; il++) {
        made_attention(m, il);
        made_ffn(m, il);
    }
    made_check(lb_wfile_sort(&m->file, &err), &err);
}

static inline void made_close(struct made *m)
{
    lb_config_release(&m->config);
    lb_wfile_close(&m->file);
}

#endif
