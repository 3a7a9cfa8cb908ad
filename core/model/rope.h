/* Frequencies of rotary position embedding (RoFormer, arXiv 2104.09864) and their scalings, in float32 as transformers'
 * modeling_rope_utils.py computes them. */
#ifndef CORE_MODEL_ROPE_H
#define CORE_MODEL_ROPE_H

#include "core/base/err.h"
#include "core/model/config.h"

/* Computes inv_freq (lb_mem_new, owned by r) and scale from the other fields, which are in range: n_rot even and 2 or
 * more, theta and original_max > 1, factor > 0, llama3 low_freq < high_freq. Dynamic NTK gets the frequencies of the
 * plain base. A frequency that is not finite and positive is LB_E_INPUT; `where` is the file. */
enum lb_status lb_rope_fill(struct lb_rope *r, const char *where, struct lb_err *err);

/* Divides inv_freq[i] by divisor[i], [n_rot / 2] (rope_freqs.weight of GGUF). */
enum lb_status lb_rope_divide(struct lb_rope *r, const float *divisor, const char *where, struct lb_err *err);

/* What latent attention multiplies scores with where the rope type is not the default: mscale(factor,
 * mscale_all_dim)^2. */
float lb_rope_score_scale(const struct lb_rope *r);

const char *lb_rope_type_name(enum lb_rope_type type); /* "default", "linear", ... as config.json writes it */

#endif
