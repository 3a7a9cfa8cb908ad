/* The output of a run. Three kinds, chosen by what OUT is:
 *  - a regular (or new) file: rows are appended at once to OUT.partial (one write a row, synced every few seconds;
 *    line 1 {"llmbatch_partial":1,"fingerprint":{...}}, then INDEX TAB XXH3-64 of the input line in 16 hex digits TAB
 *    output line); lb_journal_finish puts them in order (or in completion order), writes them beside OUT (compressed by
 *    suffix), syncs, renames to OUT and removes OUT.partial;
 *  - stdout or something that is not a regular file: rows come out in input order (held back until those before them
 *    are done) or in completion order.
 * Links are resolved first; /dev/stdout and /dev/fd/N are the descriptors that they name. OUT is written as OUT.tmp
 * first. An OUT.partial that an earlier run left is taken over (lb_journal_open). One thread, the writer, uses a
 * journal. OUT.partial is locked against other processes while it is open; no other part of the program may open it,
 * which would drop the lock. The program ignores SIGPIPE. */
#ifndef CORE_IO_JOURNAL_H
#define CORE_IO_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/log.h"
#include "core/io/partial.h"

struct lb_journal;

struct lb_journal_spec {
    const char *path;  /* NULL or "-": stdout */
    bool overwrite;    /* an existing OUT may be replaced */
    bool restart;      /* an existing OUT.partial is discarded */
    bool retry_errors; /* failed rows of an existing OUT.partial are run again */
    bool completion_order;
    const char *const *inputs; /* [n_input] OUT must not be one of them */
    size_t n_input;
    const struct lb_log *log;
};

/* What stands where OUT shall be. */
struct lb_journal_found {
    bool out;          /* a regular file */
    char *path;        /* resolved OUT where it becomes a regular file, else NULL; owned */
    char *fingerprint; /* of OUT.partial, a JSON object, owned; NULL: there is none, or it is to be discarded */
};

/* Checks what can be checked before a model is loaded and touches nothing: OUT is an input, OUT.partial is being
 * written by another run or is no such file, the folder is missing or cannot be written: LB_E_USAGE or LB_E_DEVICE.
 * Whether an OUT that exists may be replaced is the caller's to find out. found may be released in any case. */
enum lb_status lb_journal_check(const struct lb_journal_spec *spec, struct lb_journal_found *found, struct lb_err *err);
void lb_journal_found_release(struct lb_journal_found *found);

/* "'OUT' exists ...": LB_E_USAGE. */
enum lb_status lb_journal_refuse(const char *path, struct lb_err *err);

/* Whether rows with fingerprint `now` may join OUT.partial's: LB_E_USAGE names what differs. */
enum lb_status lb_journal_compare(const struct lb_journal_found *found, const char *now, struct lb_err *err);

/* Removes an OUT.partial beside an OUT that is complete: its run was killed between the two last steps. */
enum lb_status lb_journal_forget(const struct lb_journal_found *found, struct lb_err *err);

/* Makes an OUT.partial of an OUT that is complete, without its failed rows, so that they are run again: fingerprint is
 * that of OUT, hash[n_row] are its input lines'. OUT stays. LB_E_USAGE: OUT is not what was made of such rows. */
enum lb_status lb_journal_reopen(const char *path, const char *fingerprint, const uint64_t *hash, size_t n_row,
                                 int64_t n_shard, struct lb_err *err);

/* Checks again and opens. OUT.partial is locked: LB_E_USAGE names the host and process of another run that holds it. A
 * new one begins with fingerprint_json (an object); one that is there must have the same (LB_E_USAGE, nothing is
 * touched), its rows are taken over, and a torn last line is removed, which is said. What spec points to is lent for
 * the call, the log for the journal's life. */
enum lb_status lb_journal_open(struct lb_journal **out, const struct lb_journal_spec *spec,
                               const char *fingerprint_json, struct lb_err *err);

/* Rows that were taken over; they must not be put again. Any thread may read them until lb_journal_finish. */
const struct lb_taken *lb_journal_taken(const struct lb_journal *j);

/* True when OUT becomes a regular file (default stats, OUT.partial). */
bool lb_journal_regular(const struct lb_journal *j);
const char *lb_journal_path(const struct lb_journal *j); /* resolved OUT, NULL for stdout */

/* Adds a finished row (line without line ending, indices from 0, each once). *closed is set when a pipe was closed by
 * its reader: the run ends quietly. A full disk is LB_E_DEVICE; rows written before it are safe. */
enum lb_status lb_journal_put(struct lb_journal *j, int64_t index, uint64_t line_hash, const char *line, size_t n,
                              bool *closed, struct lb_err *err);

/* complete: all rows are there; OUT is made. Not complete: OUT.partial is kept and synced (one without rows goes); on a
 * stream rows held back are written, gaps allowed. `before_rename` (may be NULL; the stats) is called once when that
 * has succeeded, just before OUT is renamed where it is; if it fails, OUT.partial is kept. A reader of a stream that
 * has gone is no failure. Any other is LB_E_DEVICE, or LB_E_USAGE when somebody else made OUT meanwhile, and keeps
 * OUT.partial; *made (may be NULL) tells whether OUT has been renamed all the same. Frees always. */
enum lb_status lb_journal_finish(struct lb_journal *j, bool complete,
                                 enum lb_status (*before_rename)(void *ctx, struct lb_err *err), void *ctx, bool *made,
                                 struct lb_err *err);

/* Writes a small file as PATH.tmp, syncs and renames it: stats. What is not a regular file is written as it is. */
enum lb_status lb_file_replace(const char *path, const char *data, size_t n, struct lb_err *err);

#endif
