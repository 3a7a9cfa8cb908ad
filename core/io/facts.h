/* Facts: a flat JSON object that says what something was made with, such as the fingerprint of a run. Facts are handed
 * around as JSON text; these functions read and compare them. */
#ifndef CORE_IO_FACTS_H
#define CORE_IO_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

/* Appends "NAME (THEN then, NOW now)" for each member that is not the same in both objects, with ", " between them; all
 * that are the same: nothing is appended. ignored: names that do not count, ended by NULL. LB_E_INPUT: `then` is no
 * JSON object. */
enum lb_status lb_facts_differ(const char *then, const char *now, const char *const *ignored, struct lb_str *out,
                               struct lb_err *err);

/* The same with other words than "then" and "now". */
enum lb_status lb_facts_differ_as(const char *const words[2], const char *then, const char *now,
                                  const char *const *ignored, struct lb_str *out, struct lb_err *err);

/* A member that is a text, copied with its final zero; false: there is none, or it does not fit. */
bool lb_facts_text(const char *facts, const char *name, char *out, size_t n);

/* jansson takes its memory from core/base/mem.h from now on, so that lb_mem_blame knows of it. Before any other thread
 * uses it. */
void lb_json_use_memory(void);

/* What the statistics of an earlier run say, as far as a new one wants to know. */
struct lb_earlier {
    char *fingerprint; /* JSON object, owned; NULL: none */
    int64_t exit_code, rows;
    uint64_t input_hash;
    bool has_input_hash;
};

/* Reads a statistics file. One that is not there, or is not ours, has no fingerprint. LB_E_INPUT: it cannot be read. */
enum lb_status lb_earlier_read(struct lb_earlier *e, const char *path, struct lb_err *err);
void lb_earlier_release(struct lb_earlier *e);

#endif
