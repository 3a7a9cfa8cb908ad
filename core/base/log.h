/* Messages for people, handed upward: core never prints. The emitter is called from any thread and serializes itself.
 */
#ifndef CORE_BASE_LOG_H
#define CORE_BASE_LOG_H

enum lb_log_level { LB_LOG_ERROR, LB_LOG_WARN, LB_LOG_INFO, LB_LOG_DEBUG };

struct lb_log {
    enum lb_log_level level;                                            /* messages above it are dropped */
    void (*emit)(void *ctx, enum lb_log_level level, const char *text); /* one line without newline; NULL drops all */
    void *ctx;
};

__attribute__((format(printf, 3, 4))) void lb_log_put(const struct lb_log *log, enum lb_log_level level,
                                                      const char *fmt, ...);

#endif
