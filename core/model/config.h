/* The configuration of a model: what config.json, generation_config.json or GGUF metadata say, checked, with defaults
 * filled in. Sizes are positive and bounded, so that products of two of them fit int64_t. */
#ifndef CORE_MODEL_CONFIG_H
#define CORE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend/tensor.h"
#include "core/base/err.h"
#include "core/base/log.h"
#include "core/io/gguf.h"
#include "core/model/family.h"
#include "core/model/pack.h"

#define LB_MAX_EOS 32
#define LB_MAX_LAYER 10000
#define LB_MAX_HEAD (INT64_C(1) << 16)
#define LB_MAX_DIM (INT64_C(1) << 24)      /* of dim, ffn_dim, head_dim, n_vocab and n_head * head_dim */
#define LB_MAX_POSITION (INT64_C(1) << 30) /* of context lengths */

enum lb_rope_type { LB_ROPE_DEFAULT, LB_ROPE_LINEAR, LB_ROPE_DYNAMIC, LB_ROPE_LLAMA3, LB_ROPE_YARN };

struct lb_rope {
    enum lb_rope_type type;
    double theta, factor;
    double low_freq, high_freq;                          /* llama3 */
    double attention_factor;                             /* yarn; <= 0 when not given */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn */
    bool truncate;                                       /* yarn */
    int64_t original_max, max_position, n_rot;
    bool interleaved;
    bool divided;    /* rope_freqs.weight was applied */
    float *inv_freq; /* [n_rot / 2], owned by the config; all scaling applied except dynamic */
    float scale;     /* factor on cos and sin */
};

/* Sampling defaults of generation_config.json; `has_…` tells what the file says. */
struct lb_gen_defaults {
    bool do_sample, has_temperature, has_top_p, has_top_k, has_min_p, has_repetition;
    double temperature, top_p, min_p, repetition;
    int64_t top_k;
};

struct lb_eos_origin {
    int32_t id;
    const char *origin; /* "generation_config.json", "config.json", "class default", "tokenizer", "gguf" */
};

/* What may differ from layer to layer. */
struct lb_layer_kind {
    int64_t window;    /* positions that a token sees, its own among them; 0: all before it */
    bool index_shared; /* where there is an indexer: the positions are those that an earlier layer chose */
    bool moe;          /* a mixture of experts in place of the FFN */
};

struct lb_config {
    const struct lb_family *family;
    char architecture[64];       /* "LlamaForCausalLM", "llama" */
    struct lb_layer_kind *layer; /* [n_layer], owned */
    int64_t n_vocab, dim, ffn_dim, n_layer, n_head;
    /* As attention over the cache has them: latent attention has one KV head, whose key is the part that turns and the
     * latent, and whose value is the latent. */
    int64_t n_kv_head, head_dim, v_dim;
    int64_t out_dim;       /* columns of the output projection that a head has */
    struct lb_mla mla;     /* kv_rank 0: attention is of another kind */
    struct lb_index index; /* topk 0: attention is to all positions */
    float attn_scale;      /* of scores */
    float norm_eps;
    bool tied, attn_bias, o_bias, mlp_bias;
    bool qk_norm;            /* each head of Q and K is normalized before RoPE */
    struct lb_moe_shape moe; /* n_expert 0: no layer is a mixture */
    struct lb_pack_format pack;
    bool gguf; /* tensor names and the Q/K row order are GGUF's */
    struct lb_rope rope;
    struct lb_gen_defaults gen;
    struct lb_eos_origin eos[LB_MAX_EOS]; /* union, without duplicates */
    int n_eos;
    int64_t bos, pad; /* ids, -1 when absent */
    int n_seg;        /* S of the contract: see lb_config_segments */
};

/* Reads config.json and generation_config.json of a directory. Unknown architectures, activations and settings that
 * would change the numbers are LB_E_INPUT naming the key and what is supported. */
enum lb_status lb_config_read_dir(struct lb_config *c, const char *dir, const struct lb_log *log, struct lb_err *err);

/* The same from GGUF metadata; rope_freqs.weight is applied to inv_freq. */
enum lb_status lb_config_read_gguf(struct lb_config *c, const struct lb_gguf *g, const struct lb_log *log,
                                   struct lb_err *err);
void lb_config_release(struct lb_config *c); /* also after a failed read */

/* The last step of both readers: checks the sizes against each other, computes inv_freq and n_seg. `where` is the file.
 */
enum lb_status lb_config_finish(struct lb_config *c, const char *where, struct lb_err *err);

/* Takes c->layer, n_layer entries with this window. */
enum lb_status lb_config_new_layers(struct lb_config *c, int64_t window, struct lb_err *err);

/* Checks c->moe and marks the layers from n_dense on; where that is none, c->moe is cleared. n_shared: experts' widths
 * that the shared expert has. `where` is the file. */
enum lb_status lb_config_new_moe(struct lb_config *c, int64_t n_shared, int64_t n_dense, const char *where,
                                 struct lb_err *err);

/* Checks c->index against the rest. A context that never exceeds topk needs no choice: then the indexer is left out. */
enum lb_status lb_config_finish_index(struct lb_config *c, const char *where, struct lb_err *err);

/* Layers that choose positions; 0 without an indexer. */
int64_t lb_config_index_layers(const struct lb_config *c);

/* Adds an end token unless it is listed. origin has static lifetime. Ids outside the vocabulary, and those beyond
 * LB_MAX_EOS, are dropped with a warning. */
void lb_config_add_eos(struct lb_config *c, int64_t id, const char *origin, const struct lb_log *log);

/* S: the largest power of two <= 8 (<= 16 from 64 heads on) that divides n_head; if that is 1, n_head's smallest prime
 * factor up to 16; else 1. */
int lb_config_segments(int64_t n_head);

/* Bounds of S segments. Heads: in heads, each segment n_head / S of them. Units: in columns of n, kept together in
 * units of 32, segment r begins at min(n, 32 * floor(r * ceil(n/32) / S)). */
void lb_segments_heads(const struct lb_config *c, int64_t *begin /* [n_seg + 1] */);
void lb_segments_units(int64_t n, int n_seg, int64_t *begin /* [n_seg + 1] */);

/* The model in a few info lines: family, sizes, heads, norms, rope, window, end tokens with their origin. */
void lb_config_log(const struct lb_config *c, const struct lb_log *log);

#endif
