/* JSON texts read with jansson, want of memory told from texts that are no JSON. */
#ifndef CORE_IO_JSON_TRY_H
#define CORE_IO_JSON_TRY_H

#include <jansson.h>

#include "core/base/err.h"

/* *out NULL with LB_OK: the text is no JSON. Memory alone fails. */
enum lb_status lb_json_try(json_t **out, const char *text, size_t n, size_t flags, struct lb_err *err);

#endif
