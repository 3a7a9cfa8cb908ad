/* The output of a run. Three kinds, chosen by what OUT is:
 *  - a regular (or new) file: rows are appended at once to OUT.partial (one write a row, synced every few seconds;
 *    line 1 {"llmbatch_partial":1,"fingerprint":{...}}, then INDEX TAB XXH3-64 of the input line in 16 hex digits TAB
 *    output line); lb_journal_finish puts them in order (or in completion order), writes them beside OUT (compressed by
 *    suffix), syncs, renames to OUT and removes OUT.partial;
 *  - stdout or something that is not a regular file: rows come out in input order (held back until those before them
 *    are done) or in completion order.
 * Links are resolved first; /dev/stdout and /dev/fd/N are the descriptors that they name. OUT is written as OUT.tmp
 * first. One thread, the writer, uses a journal. OUT.partial is locked against other processes while it is open; no
 * other part of the program may open it, which would drop the lock. The program ignores SIGPIPE. */
#ifndef CORE_IO_JOURNAL_H
#define CORE_IO_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/log.h"

struct lb_journal;

struct lb_journal_spec {
    const char *path; /* NULL or "-": stdout */
    bool overwrite;   /* an existing OUT may be replaced */
    bool restart;     /* an existing OUT.partial is discarded */
    bool completion_order;
    const char *const *inputs; /* [n_input] OUT must not be one of them */
    size_t n_input;
    const struct lb_log *log;
};

/* Checks what can be checked before a model is loaded and touches nothing: OUT exists without overwrite, OUT is an
 * input, OUT.partial exists without restart (names both ways out), the folder is missing or cannot be written:
 * LB_E_USAGE or LB_E_DEVICE. */
enum lb_status lb_journal_check(const struct lb_journal_spec *spec, struct lb_err *err);

/* Checks again and opens; fingerprint_json (an object) goes into line 1 of OUT.partial, which is locked: LB_E_USAGE
 * names the host and process of another run that holds it. What spec points to is lent for the call, the log for the
 * journal's life. */
enum lb_status lb_journal_open(struct lb_journal **out, const struct lb_journal_spec *spec,
                               const char *fingerprint_json, struct lb_err *err);

/* True when OUT becomes a regular file (default stats, OUT.partial). */
bool lb_journal_regular(const struct lb_journal *j);
const char *lb_journal_path(const struct lb_journal *j); /* resolved OUT, NULL for stdout */

/* Adds a finished row (line without line ending, indices from 0, each once). *closed is set when a pipe was closed by
 * its reader: the run ends quietly. A full disk is LB_E_DEVICE; rows written before it are safe. */
enum lb_status lb_journal_put(struct lb_journal *j, int64_t index, uint64_t line_hash, const char *line, size_t n,
                              bool *closed, struct lb_err *err);

/* complete: all rows are there; OUT is made. Not complete: OUT.partial is kept and synced; on a stream rows held back
 * are written, gaps allowed. `before_rename` (may be NULL; the stats) is called once when that has succeeded, just
 * before OUT is renamed where it is; if it fails, OUT.partial is kept. A reader of a stream that has gone is no
 * failure. Any other is LB_E_DEVICE, or LB_E_USAGE when somebody else made OUT meanwhile, and keeps OUT.partial. Frees
 * always. */
enum lb_status lb_journal_finish(struct lb_journal *j, bool complete,
                                 enum lb_status (*before_rename)(void *ctx, struct lb_err *err), void *ctx,
                                 struct lb_err *err);

/* Writes a small file as PATH.tmp, syncs and renames it: stats. What is not a regular file is written as it is. */
enum lb_status lb_file_replace(const char *path, const char *data, size_t n, struct lb_err *err);

#endif
