#include "core/model/config_json.h"

#include <string.h>

#include "core/base/file.h"
#include "core/model/config.h"

#define JSON_MAX_BYTES ((size_t)16 << 20)

const int64_t lb_cfg_size[2] = {1, LB_MAX_DIM};
const int64_t lb_cfg_any[2] = {INT64_MIN, INT64_MAX};
const double lb_cfg_factor[2] = {1e-6, 1e6};
const double lb_cfg_from_zero[2] = {0, 1e6};
const double lb_cfg_share[2] = {1e-6, 1};

const json_t *lb_cfg_member(const struct lb_cfg *s, const char *key)
{
    const json_t *v = json_object_get(s->object, key);
    return json_is_null(v) ? NULL : v;
}

enum lb_status lb_cfg_wrong(const struct lb_cfg *s, const char *key, const char *want, struct lb_err *err)
{
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s is not %s", s->path, s->prefix, key, want);
}

enum lb_status lb_cfg_need(const struct lb_cfg *s, const char *key, struct lb_err *err)
{
    if (lb_cfg_member(s, key))
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s is missing", s->path, s->prefix, key);
}

enum lb_status lb_cfg_int(const struct lb_cfg *s, const char *key, const int64_t range[2], int64_t *out,
                          struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_integer(v))
        return lb_cfg_wrong(s, key, "a whole number", err);
    int64_t n = json_integer_value(v);
    if (n < range[0] || n > range[1])
        return lb_err_set(err, LB_E_INPUT, "%s: %s%s is %lld; it must lie between %lld and %lld", s->path, s->prefix,
                          key, (long long)n, (long long)range[0], (long long)range[1]);
    *out = n;
    return LB_OK;
}

enum lb_status lb_cfg_real(const struct lb_cfg *s, const char *key, const double range[2], double *out,
                           struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_number(v))
        return lb_cfg_wrong(s, key, "a number", err);
    double x = json_number_value(v);
    if (!(x >= range[0] && x <= range[1]))
        return lb_err_set(err, LB_E_INPUT, "%s: %s%s is %g; it must lie between %g and %g", s->path, s->prefix, key, x,
                          range[0], range[1]);
    *out = x;
    return LB_OK;
}

enum lb_status lb_cfg_bool(const struct lb_cfg *s, const char *key, bool *out, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_boolean(v))
        return lb_cfg_wrong(s, key, "true or false", err);
    *out = json_is_true(v);
    return LB_OK;
}

enum lb_status lb_cfg_text(const struct lb_cfg *s, const char *key, const char **out, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_string(v))
        return lb_cfg_wrong(s, key, "a string", err);
    *out = json_string_value(v);
    return LB_OK;
}

enum lb_status lb_cfg_open(const char *path, json_t **out, struct lb_err *err)
{
    struct lb_str text = {0};
    json_error_t je;
    char shown[LB_SHOW_BYTES];
    *out = NULL;
    enum lb_status status = lb_file_read(path, JSON_MAX_BYTES, &text, err);
    if (status == LB_OK) {
        *out = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &je);
        if (!*out) {
            status = lb_err_set(err, LB_E_INPUT, "%s: not valid JSON: %s (line %d)", path,
                                lb_wfile_show(shown, je.text, strlen(je.text)), je.line);
        } else if (!json_is_object(*out)) {
            json_decref(*out);
            *out = NULL;
            status = lb_err_set(err, LB_E_INPUT, "%s: not a JSON object", path);
        }
    }
    lb_str_release(&text);
    return status;
}
