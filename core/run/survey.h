/* --plan: what a run would do, told as text. Rows are read, rendered and tokenized, not run; the writer thread hands
 * them in, and when all are through the text is made. */
#ifndef CORE_RUN_SURVEY_H
#define CORE_RUN_SURVEY_H

#include <stddef.h>
#include <stdint.h>

#include "core/run/audit.h"
#include "core/run/flow.h"
#include "core/run/simulate.h"
#include "core/run/stats.h"

#define LB_SURVEY_BUCKETS 31 /* lengths from 2^i on */

struct lb_survey {
    int64_t n_ok, n_prompt, tokens, shortest, longest;
    int64_t new_tokens; /* at most, over all rows */
    struct lb_sim_rows lengths;
    int64_t bucket[LB_SURVEY_BUCKETS];
    struct { /* the first row of each error code */
        int64_t index;
        char *message;
    } failed[LB_N_ROW_CODE];
    /* the first row that would run */
    int64_t first;
    char *first_id, *first_text; /* text NULL: a row of ids */
    size_t n_first_text;
    int32_t *first_ids;
    int64_t n_first_ids;
};

void lb_survey_release(struct lb_survey *s); /* of a zeroed struct too */

/* Takes what it wants to keep from the row. */
enum lb_status lb_survey_row(struct lb_survey *s, struct lb_work *w, struct lb_err *err);

/* What the text tells beside the rows; NULL where it is not known. */
struct lb_survey_view {
    const char *model;
    const struct lb_config *config;
    const struct lb_tok *tok;
    const struct lb_chat *chat;
    const struct lb_audit *audit;
    const struct lb_stats *stats; /* rows by error code, settings */
    int64_t max_model_len;        /* 0: not known */
    const struct lb_str *outlook; /* what the run would take, as lines; NULL: none */
};

/* Appends lines of 80 columns at most (long names aside). Memory failures stick in out. */
void lb_survey_put(const struct lb_survey *s, const struct lb_survey_view *v, struct lb_str *out);

#endif
