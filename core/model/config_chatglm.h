/* What ChatGLM's own configuration class (chatglm2-6b, chatglm3-6b, glm-4-9b: configuration_chatglm.py) says in words
 * of its own: rope, biases, and switches that would change the numbers. */
#ifndef CORE_MODEL_CONFIG_CHATGLM_H
#define CORE_MODEL_CONFIG_CHATGLM_H

#include "core/model/config.h"
#include "core/model/config_json.h"

/* c has its sizes. LB_E_INPUT names a switch whose mathematics is not computed. */
enum lb_status lb_config_chatglm(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err);

#endif
