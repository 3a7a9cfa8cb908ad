/* Low-rank adapters (LoRA; Hu et al. 2021) as PEFT saves them: a directory with adapter_config.json and
 * adapter_model.safetensors (spec/models.md 2.6).
 *
 *     lb_lora_open(&set, &spec, n, config, err);   reads and checks all of them: no weight of the model is needed
 *     lb_lora_load(...);                           lays them out beside the model's matrices (weights_lora.c)
 *     lb_lora_close(&set);
 *
 * What is not done is refused, never left out: DoRA, biases, whole modules (modules_to_save), embeddings and the LM
 * head, experts, the matrix that latent attention absorbs. */
#ifndef CORE_MODEL_LORA_H
#define CORE_MODEL_LORA_H

#include "core/io/wfile.h"
#include "core/model/config.h"

#define LB_LORA_MAX_RANK 1024
#define LB_LORA_MAX_SET 1024

/* A and B of one module of the model. */
struct lb_lora_module {
    enum lb_role role;
    int layer;
    const struct lb_wtensor *a, *b; /* [rank, in], [out, rank] */
    int64_t rank;
    float scale;
};

struct lb_lora {
    char *name; /* "" for the run's only one */
    char *dir;
    struct lb_wfile file;
    struct lb_lora_module *module; /* [n_module], sorted by layer and role */
    size_t n_module;
    int64_t max_rank;
};

struct lb_lora_set {
    struct lb_lora *adapter; /* [n] */
    int32_t n;
};

struct lb_lora_source {
    const char *name, *dir; /* name "": unnamed */
};

/* The model's modules are named in Hugging Face's way, whatever its own file is. LB_E_INPUT names the file, and the
 * field or tensor. */
enum lb_status lb_lora_open(struct lb_lora_set *set, const struct lb_lora_source *source, int32_t n,
                            const struct lb_config *config, struct lb_err *err);
void lb_lora_close(struct lb_lora_set *set); /* also after a failed open */

/* NULL when the adapter has nothing for the module. */
const struct lb_lora_module *lb_lora_module_of(const struct lb_lora *l, enum lb_role role, int layer);

/* Numbers of all adapters, both matrices of each module. */
int64_t lb_lora_elements(const struct lb_lora_set *set);

#endif
