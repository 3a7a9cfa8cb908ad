/* Reading members of a JSON object of a model directory: the type and the range are checked, and messages name the
 * file and the key. A member that is null counts as absent. */
#ifndef CORE_MODEL_CONFIG_JSON_H
#define CORE_MODEL_CONFIG_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

/* An object of a file, and how messages name its members. */
struct lb_cfg {
    const char *path;
    const char *prefix; /* "", "rope_scaling." */
    const json_t *object;
};

/* Ranges that several keys have. */
extern const int64_t lb_cfg_size[2], lb_cfg_any[2];
extern const double lb_cfg_factor[2], lb_cfg_from_zero[2], lb_cfg_share[2];

/* A file that holds one JSON object without duplicate keys, at most 16 MB; the caller releases *out. */
enum lb_status lb_cfg_open(const char *path, json_t **out, struct lb_err *err);

const json_t *lb_cfg_member(const struct lb_cfg *s, const char *key); /* NULL when absent */

/* LB_E_INPUT: "FILE: KEY is not WANT". */
enum lb_status lb_cfg_wrong(const struct lb_cfg *s, const char *key, const char *want, struct lb_err *err);
enum lb_status lb_cfg_need(const struct lb_cfg *s, const char *key, struct lb_err *err);

/* These leave *out alone when the member is absent. Texts are lent by the object. */
enum lb_status lb_cfg_int(const struct lb_cfg *s, const char *key, const int64_t range[2], int64_t *out,
                          struct lb_err *err);
enum lb_status lb_cfg_real(const struct lb_cfg *s, const char *key, const double range[2], double *out,
                           struct lb_err *err);
enum lb_status lb_cfg_bool(const struct lb_cfg *s, const char *key, bool *out, struct lb_err *err);
enum lb_status lb_cfg_text(const struct lb_cfg *s, const char *key, const char **out, struct lb_err *err);

#endif
