/* The mixture of experts of a config.json (transformers: models/glm4_moe, glm4_moe_lite, glm_moe_dsa,
 * configuration_*.py). */
#ifndef CORE_MODEL_CONFIG_MOE_H
#define CORE_MODEL_CONFIG_MOE_H

#include "core/model/config.h"
#include "core/model/config_json.h"

/* c has its sizes and c->layer; its family has a mixture. LB_E_INPUT names the key. */
enum lb_status lb_config_moe(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err);

#endif
