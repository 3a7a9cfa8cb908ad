#include "core/model/lora_match.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "core/base/str.h"
#include "core/io/wfile.h"

#define MAX_PATTERN_BYTES 4096
#define MATCH_LIMIT 20000 /* steps: a path is short, and a pattern that needs more is hostile */

static enum lb_status run(pcre2_code *code, const char *path, bool *matches, struct lb_err *err)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    enum lb_status status = LB_OK;
    if (!context || !data) {
        status = lb_err_memory(err, "a pattern", 0);
    } else {
        pcre2_set_match_limit(context, MATCH_LIMIT);
        pcre2_set_depth_limit(context, MATCH_LIMIT);
        int rc = pcre2_match(code, (PCRE2_SPTR)path, strlen(path), 0, 0, data, context);
        *matches = rc >= 0;
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            status = lb_err_set(err, LB_E_INPUT, "it takes too long to match");
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    return status;
}

bool lb_lora_is_name(const char *pattern)
{
    for (const char *p = pattern; *p; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') && !strchr("_-.", *p))
            return false;
    return true;
}

/* A name against the end of a path, without the expression: some files have one for each module. A period of the
 * pattern stands for any character. */
static bool name_matches(const char *name, bool behind, const char *path)
{
    size_t n = strlen(name), len = strlen(path);
    if (n > len || (n < len && (!behind || path[len - n - 1] != '.')))
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] != '.' && name[i] != path[len - n + i])
            return false;
    return true;
}

enum lb_status lb_lora_match(const char *pattern, bool behind, const char *path, bool *matches, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    struct lb_str whole = {0};
    int code = 0;
    PCRE2_SIZE at = 0;
    *matches = lb_lora_is_name(pattern) && name_matches(pattern, behind, path);
    if (lb_lora_is_name(pattern))
        return LB_OK;
    lb_wfile_show(shown, pattern, strlen(pattern));
    if (strlen(pattern) > MAX_PATTERN_BYTES)
        return lb_err_set(err, LB_E_INPUT, "the pattern '%s' is too long", shown);
    lb_str_putf(&whole, "%s(?:%s)", behind ? "(?:.*\\.)?" : "", pattern);
    if (whole.failed)
        return lb_err_memory(err, "a pattern", strlen(pattern));
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)whole.data, whole.len, PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                                   &code, &at, NULL);
    lb_str_release(&whole);
    if (!re)
        return code == PCRE2_ERROR_HEAP_FAILED ? lb_err_memory(err, "a pattern", 0)
                                               : lb_err_set(err, LB_E_INPUT, "'%s' is no pattern", shown);
    enum lb_status status = run(re, path, matches, err);
    pcre2_code_free(re);
    return status == LB_OK ? LB_OK : lb_err_where(err, "the pattern '%s'", shown);
}
