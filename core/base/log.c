#include "core/base/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

void lb_log_put(const struct lb_log *log, enum lb_log_level level, const char *fmt, ...)
{
    if (!log || !log->emit || level > log->level)
        return;
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log->emit(log->ctx, level, text);
}
