/* Model families. A family is a row of family.def: names of its architecture in config.json and GGUF, flags, and tensor
 * name patterns ("%d" is the layer). */
#ifndef CORE_MODEL_FAMILY_H
#define CORE_MODEL_FAMILY_H

#include <stddef.h>

/* Roles of tensors; the index of a family's name tables. Each has ".weight", some a ".bias" beside it. */
enum lb_role {
    LB_R_EMBED,
    LB_R_NORM,
    LB_R_HEAD,
    LB_R_ATTN_NORM,
    LB_R_Q,
    LB_R_K,
    LB_R_V,
    LB_R_O,
    LB_R_FFN_NORM,
    LB_R_GATE,
    LB_R_UP,
    LB_R_DOWN,
    LB_N_ROLE,
};

struct lb_family {
    const char *name;                 /* "llama" */
    const char *hf_arch;              /* "LlamaForCausalLM" */
    const char *hf_type;              /* model_type: "llama" */
    const char *gguf_arch;            /* general.architecture */
    const char *hf_tensor[LB_N_ROLE]; /* without ".weight" */
    const char *gguf_tensor[LB_N_ROLE];
};

extern const struct lb_family lb_families[];
extern const size_t lb_n_family;

/* NULL: unknown. One of the two names may be NULL (not given); those given must both be the family's. */
const struct lb_family *lb_family_by_hf(const char *architecture, const char *model_type);
const struct lb_family *lb_family_by_gguf(const char *architecture, size_t n);

/* "LlamaForCausalLM, ..." (gguf 0) or "llama, ..." (1): what error messages name as supported. */
void lb_family_list(int gguf, char *out, size_t n);

struct lb_tensor_name {
    char text[192];
};

/* A role's tensor name ("model.layers.3.self_attn.q_proj.weight"). suffix: ".weight" or ".bias". */
struct lb_tensor_name lb_family_tensor(const struct lb_family *f, int gguf, enum lb_role role, int layer,
                                       const char *suffix);

#endif
