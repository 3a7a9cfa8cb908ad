/* quantization_config of config.json, or quantize_config.json beside it (spec/models.md 2.3 to 2.5). */
#ifndef CORE_MODEL_CONFIG_QUANT_H
#define CORE_MODEL_CONFIG_QUANT_H

#include "core/model/config_json.h"
#include "core/model/pack.h"

/* s: config.json, in `dir`. What would give other numbers than the formulas of pack.h is LB_E_INPUT, and says what is
 * supported. How activations and the KV cache are to be quantized is not asked: here only weights are. */
enum lb_status lb_config_read_quant(struct lb_pack_format *f, const struct lb_cfg *s, const char *dir,
                                    struct lb_err *err);

#endif
