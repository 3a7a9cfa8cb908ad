/* The null device: it holds no weights and makes logits up, so that everything around the forward pass can be run and
 * measured by itself. What it says of a token depends on the token and its position alone, as a model's would. */
#ifndef CORE_BACKEND_BACKEND_NULL_H
#define CORE_BACKEND_BACKEND_NULL_H

#include "core/backend/backend.h"

/* A model that is opened without weights never asks it for more than reserve, kv_page_bytes, step_begin, head,
 * step_end, slots and parallel: it has no other ops. */
enum lb_status lb_null_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);

#endif
