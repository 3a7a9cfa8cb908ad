/* What people see on standard error: messages, progress, the summary at the end. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <pthread.h>
#include <stdbool.h>

#include "core/llmbatch.h"

struct lb_report {
    pthread_mutex_t mutex; /* one line at a time */
    bool redraw;           /* progress is one line that is drawn again */
    bool drawn;            /* ... and stands there now */
    double next_line_s;    /* else the elapsed time of the next line */
    char place[80];        /* "[R@HOST]" of one of several ranks, else "" */
};

void lb_report_init(struct lb_report *r, int progress_mode /* enum lb_progress_mode */);
void lb_report_release(struct lb_report *r);

/* Lines begin with "llmbatch[RANK@HOST]: " from now on. Before other threads report. */
void lb_report_place(struct lb_report *r, int rank, const char *host);

/* "llmbatch: LEVEL: text"; ctx is the report. Any thread. */
void lb_report_message(void *ctx, enum lb_log_level level, const char *text);

/* ctx is the report. */
void lb_report_progress(void *ctx, const struct lb_progress *p);

/* Takes the progress line away. */
void lb_report_end(struct lb_report *r);

/* The end summary, nothing for a run that never began. */
void lb_report_summary(struct lb_report *r, const struct lb_stats *s);

#endif
