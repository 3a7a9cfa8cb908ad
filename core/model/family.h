/* Model families. A family is a row of family.def: names of its architecture in config.json and GGUF, flags, what its
 * class takes where config.json says nothing, and tensor name patterns ("%d" is the layer). */
#ifndef CORE_MODEL_FAMILY_H
#define CORE_MODEL_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Roles of tensors; the index of a family's name tables. Each has ".weight", some a ".bias" beside it. */
enum lb_role {
    LB_R_EMBED,
    LB_R_NORM,
    LB_R_HEAD,
    LB_R_ATTN_NORM,
    LB_R_Q,
    LB_R_K,
    LB_R_V,
    LB_R_QKV, /* rows of Q, K and V in one tensor */
    LB_R_Q_NORM,
    LB_R_K_NORM,
    LB_R_Q_A, /* latent attention: the query's latent, its norm, its heads; the key's and value's latent beside the
               * part of the key that turns, the norm, the heads */
    LB_R_Q_A_NORM,
    LB_R_Q_B,
    LB_R_KV_A,
    LB_R_KV_A_NORM,
    LB_R_KV_B,
    LB_R_K_B, /* KV_B in two, [head, latent, key] and [head, value, latent]; whole names */
    LB_R_V_B,
    LB_R_INDEX_Q, /* the indexer: heads of queries, the key, its LayerNorm, the heads' weights */
    LB_R_INDEX_K,
    LB_R_INDEX_K_NORM,
    LB_R_INDEX_W,
    LB_R_O,
    LB_R_POST_ATTN_NORM, /* of the attention's output, before the residual */
    LB_R_FFN_NORM,
    LB_R_GATE,
    LB_R_UP,
    LB_R_GATE_UP, /* gate rows, then up rows in one tensor */
    LB_R_DOWN,
    LB_R_POST_FFN_NORM,
    LB_R_ROUTER,
    LB_R_ROUTER_BIAS, /* whole name, without ".weight" */
    LB_R_EXPERT_GATE, /* of one expert: the second "%d" of the pattern */
    LB_R_EXPERT_UP,
    LB_R_EXPERT_DOWN,
    LB_R_EXPERTS_GATE, /* of all experts, one matrix behind the other; whole names */
    LB_R_EXPERTS_UP,
    LB_R_EXPERTS_GATE_UP, /* an expert's gate rows, then its up rows */
    LB_R_EXPERTS_DOWN,
    LB_R_SHARED_GATE, /* of the expert that every token takes */
    LB_R_SHARED_UP,
    LB_R_SHARED_DOWN,
    LB_N_ROLE,
};

/* Sizes that config.json names, each in its family's words. */
enum lb_size {
    LB_S_VOCAB,
    LB_S_DIM,
    LB_S_FFN,
    LB_S_LAYER,
    LB_S_HEAD,
    LB_S_KV_HEAD,
    LB_S_HEAD_DIM,
    LB_S_POSITION,
    LB_N_SIZE,
};

struct lb_size_key {
    const char *key;
    int64_t value; /* the class's, where the file says nothing; 0: follows from other sizes */
};

enum lb_family_flag {
    LB_FAM_INTERLEAVED = 1 << 0,    /* RoPE turns pairs (2i, 2i + 1) */
    LB_FAM_QK_NORM = 1 << 1,        /* each head of Q and K is normalized before RoPE */
    LB_FAM_SANDWICH = 1 << 2,       /* the outputs of attention and FFN are normalized too */
    LB_FAM_QKV_BIAS = 1 << 3,       /* Q, K and V always have a bias */
    LB_FAM_ATTENTION_BIAS = 1 << 4, /* config.json's attention_bias: Q, K and V have one */
    LB_FAM_BIASED = 1 << 5,         /* attention_bias is true where the file says nothing */
    LB_FAM_O_BIAS = 1 << 6,         /* attention_bias covers the output projection */
    LB_FAM_MLP_BIAS = 1 << 7,       /* config.json's mlp_bias is read */
    LB_FAM_WINDOW = 1 << 8,         /* sliding_window holds for all layers */
    LB_FAM_WINDOW_LAYERS = 1 << 9,  /* use_sliding_window, and layer_types or max_window_layers, say where it holds */
    LB_FAM_CHATGLM = 1 << 10,       /* config.json is in ChatGLM's words */
    LB_FAM_GGUF_PAIRED = 1 << 11,   /* GGUF stores the two halves of a Q or K head in turn (spec/models.md 2.2.4) */
    LB_FAM_USE_QK_NORM = 1 << 12,   /* config.json's use_qk_norm: as LB_FAM_QK_NORM */
    LB_FAM_ROPE_KEY = 1 << 13,      /* config.json's rope_interleave is read */
};

/* Sizes of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are made from one
 * latent a token; a part of the query and one key for all heads carry the position. */
struct lb_mla {
    int64_t kv_rank;  /* of the keys' and values' latent; 0: attention is of another kind */
    int64_t q_rank;   /* of the query's latent; 0: queries come from the residual stream itself */
    int64_t nope_dim; /* of a query head, without position */
    int64_t rope_dim; /* of a query head, turned */
    int64_t v_dim;    /* of a head of V */
};

/* Sizes of the indexer of sparse attention: how many positions a token attends to, heads and their width. */
struct lb_index {
    int64_t topk; /* 0: there is none */
    int64_t n_head, head_dim;
};

#define LB_FAM_MAX_EOS 3

/* A class's mixture of experts. n_expert 0: the family has none. */
struct lb_family_moe {
    int64_t n_expert, n_used, n_shared, ffn_dim, n_dense; /* n_dense: layers in front without a mixture */
    double scale;
};

struct lb_family {
    const char *name;      /* "llama" */
    const char *hf_arch;   /* "LlamaForCausalLM" */
    const char *hf_type;   /* model_type: "llama" */
    const char *gguf_arch; /* general.architecture; NULL: another row's, or none */
    unsigned flags;        /* enum lb_family_flag */
    struct lb_size_key size[LB_N_SIZE];
    const char *eps_key;
    double norm_eps, rot_share; /* rot_share: of a head's dimensions that RoPE turns */
    struct lb_mla mla;          /* kv_rank 0: none */
    struct lb_index index;
    struct lb_family_moe moe;
    int64_t window; /* 0: none */
    int64_t bos;    /* -1: none */
    int64_t eos[LB_FAM_MAX_EOS];
    int n_eos;
    const char *hf_tensor[LB_N_ROLE]; /* without ".weight"; NULL: the family has none */
    const char *gguf_tensor[LB_N_ROLE];
};

extern const struct lb_family lb_families[];
extern const size_t lb_n_family;

static inline bool lb_family_is(const struct lb_family *f, enum lb_family_flag flag)
{
    return (f->flags & (unsigned)flag) != 0;
}

/* NULL: unknown. One of the two names may be NULL (not given); those given must both be the family's. */
const struct lb_family *lb_family_by_hf(const char *architecture, const char *model_type);
const struct lb_family *lb_family_by_gguf(const char *architecture, size_t n);

#define LB_FAMILY_LIST_BYTES 512

/* "LlamaForCausalLM, ..." (gguf 0) or "llama, ..." (1): what error messages name as supported. */
void lb_family_list(int gguf, char *out, size_t n);

struct lb_tensor_name {
    char text[192];
};

/* A role's tensor name ("model.layers.3.self_attn.q_proj.weight"), empty where the family has no such tensor. suffix:
 * ".weight" or ".bias". */
struct lb_tensor_name lb_family_tensor(const struct lb_family *f, int gguf, enum lb_role role, int layer,
                                       const char *suffix);

/* The same for a role whose tensor belongs to one expert. */
struct lb_tensor_name lb_family_expert_tensor(const struct lb_family *f, int gguf, enum lb_role role, int layer,
                                              int expert);

/* The layer whose tensor has this name; -1: none's. */
int64_t lb_family_layer_of(const struct lb_family *f, int gguf, const char *name);

#endif
