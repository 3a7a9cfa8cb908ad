#include "core/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum lb_status lb_err_set(struct lb_err *err, enum lb_status status, const char *fmt, ...)
{
    if (err->status != LB_OK)
        return err->status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    err->status = status;
    return status;
}

enum lb_status lb_err_where(struct lb_err *err, const char *fmt, ...)
{
    char old[LB_ERR_TEXT_BYTES];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof err->text)
        return err->status;
    int room = (int)(sizeof err->text - (size_t)n) - 3;
    if (room > 0)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %.*s", room, old);
    return err->status;
}

enum lb_status lb_err_memory(struct lb_err *err, const char *what, unsigned long long bytes)
{
    return lb_err_set(err, LB_E_DEVICE, "out of memory: %llu bytes for %s", bytes, what);
}
