/* What config.json says of latent attention (transformers: models/glm4_moe_lite and glm_moe_dsa, configuration_*.py).
 */
#ifndef CORE_MODEL_CONFIG_MLA_H
#define CORE_MODEL_CONFIG_MLA_H

#include "core/model/config.h"
#include "core/model/config_json.h"

/* c has its sizes, the family those of its class. LB_E_INPUT names the key. */
enum lb_status lb_config_mla(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err);

#endif
