/* Status codes and the caller-owned error record.
 *
 * Every function that can fail returns an enum lb_status and takes a struct lb_err * last. The first failure wins:
 * once a record holds a failure, later lb_err_set calls leave it alone. The caller who knows where the failure
 * happened adds it with lb_err_where (outermost place first in the text). A record belongs to one thread.
 * Status values are the program's exit codes (spec: exit codes of the command line). */
#ifndef CORE_BASE_ERR_H
#define CORE_BASE_ERR_H

#include <stdbool.h>

enum lb_status {
    LB_OK = 0,
    LB_E_USAGE = 2,         /* usage, or settings that contradict the files */
    LB_E_INPUT = 3,         /* input or model cannot be read or is not valid */
    LB_E_DEVICE = 4,        /* device, memory or disk failed */
    LB_E_STOPPED = 5,       /* more rows failed than are allowed, or a row is not what it was */
    LB_E_INTERRUPTED = 130, /* a signal asked to stop */
};

#define LB_ERR_TEXT_BYTES 1024

struct lb_err {
    enum lb_status status; /* LB_OK while nothing failed */
    char text[LB_ERR_TEXT_BYTES];
};

#define LB_ERR_INIT \
    {               \
        LB_OK,      \
        {           \
            0       \
        }           \
    }

/* Sets the record if it holds no failure yet; returns `status` so that callers can write `return lb_err_set(...)`. */
__attribute__((format(printf, 3, 4))) enum lb_status lb_err_set(struct lb_err *err, enum lb_status status,
                                                                const char *fmt, ...);

/* Puts "PLACE: " before the text of a failed record and returns its status. */
__attribute__((format(printf, 2, 3))) enum lb_status lb_err_where(struct lb_err *err, const char *fmt, ...);

/* "out of memory (N bytes for WHAT)", LB_E_DEVICE. */
enum lb_status lb_err_memory(struct lb_err *err, const char *what, unsigned long long bytes);

/* Forwards a failure to the caller. */
#define LB_TRY(call)                           \
    do {                                       \
        enum lb_status lb_try_status = (call); \
        if (lb_try_status != LB_OK)            \
            return lb_try_status;              \
    } while (0)

/* Same inside a function with an `out:` label; `var` receives the status. */
#define LB_TRY_OUT(var, call) \
    do {                      \
        (var) = (call);       \
        if ((var) != LB_OK)   \
            goto out;         \
    } while (0)

#endif
