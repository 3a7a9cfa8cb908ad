/* What is wrong, or looks wrong, between a model's files and the prompts given to it: beginnings that come twice or not
 * at all, end tokens that no file lists, pad tokens that end texts, templates whose tokens the tokenizer does not know.
 * Each finding says what llmbatch does about it; it is said once and kept for the statistics.
 *
 * Findings of the model are made before rows run, those of rows by the thread that tokenizes; lb_audit_add may be
 * called by any thread. */
#ifndef CORE_RUN_AUDIT_H
#define CORE_RUN_AUDIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/log.h"
#include "core/model/config.h"
#include "core/run/prompt.h"
#include "core/run/stats.h"

enum lb_severity {
    LB_HARMLESS, /* a trap elsewhere, none here: said at info */
    LB_NOTED,    /* llmbatch mends it: said at warn */
    LB_CHANGES,  /* changes answers: said at warn, refused by --audit error */
};

const char *lb_severity_name(enum lb_severity s); /* "info", "note", "warn" */

struct lb_finding {
    const char *code; /* static: "end_token", ... */
    enum lb_severity severity;
    char *message;
    int64_t count; /* rows; 0: of the model */
    bool of_chats; /* concerns conversations alone: said when the first one comes */
};

#define LB_MAX_FINDING 32

struct lb_audit {
    enum lb_audit_mode mode;
    const struct lb_log *log;
    pthread_mutex_t mutex;
    struct lb_finding item[LB_MAX_FINDING];
    int n;
    bool chats; /* a conversation came */
};

/* log is lent for the audit's life. Must not be copied afterwards. */
void lb_audit_init(struct lb_audit *a, enum lb_audit_mode mode, const struct lb_log *log);
void lb_audit_release(struct lb_audit *a);

/* Counts a finding of a row; the first of its code is said. LB_E_USAGE: --audit error refuses it. */
__attribute__((format(printf, 5, 6))) enum lb_status
lb_audit_row(struct lb_audit *a, const char *code, enum lb_severity severity, struct lb_err *err, const char *fmt, ...);

struct lb_audit_spec {
    const struct lb_tok *tok;
    const struct lb_chat *chat;     /* NULL: none */
    const struct lb_config *config; /* NULL: not known; its end tokens are complete */
};

/* Findings of the model itself. LB_E_USAGE: --audit error refuses one, at once. */
enum lb_status lb_audit_model(struct lb_audit *a, const struct lb_audit_spec *spec, struct lb_err *err);

/* Findings of one prompt that lb_prompt_make made. */
enum lb_status lb_audit_prompt(struct lb_audit *a, const struct lb_prompter *p, int64_t index,
                               const struct lb_prompt *made, struct lb_err *err);

/* A finding that was said. */
bool lb_audit_said(const struct lb_audit *a, const struct lb_finding *f);

/* What was said into out[LB_MAX_FINDING], lent by the audit; returns how many. */
int lb_audit_notes(const struct lb_audit *a, struct lb_note *out);

/* "[{"code":...},...]" of what was said */
void lb_audit_put_json(const struct lb_audit *a, struct lb_str *out);

#endif
