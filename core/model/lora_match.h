/* Module paths against the patterns of an adapter's configuration: regular expressions in Python's way, which PCRE2
 * reads alike. */
#ifndef CORE_MODEL_LORA_MATCH_H
#define CORE_MODEL_LORA_MATCH_H

#include <stdbool.h>

#include "core/base/err.h"

/* Whether a pattern is letters, digits, '_', '-' and '.' alone. */
bool lb_lora_is_name(const char *pattern);

/* Whether the pattern matches the whole path; behind: or what follows a period in it. LB_E_INPUT: the pattern is none,
 * or takes too long. */
enum lb_status lb_lora_match(const char *pattern, bool behind, const char *path, bool *matches, struct lb_err *err);

#endif
