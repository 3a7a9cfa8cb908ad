#define _GNU_SOURCE
#include "core/resume.h"

#include <string.h>
#include <sys/stat.h>

#include "core/backend/backend.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/io/jsonl_read.h"

static bool has_set(const char *isa)
{
    const char *sets = lb_backend_isa_list();
    size_t n = strlen(isa);
    for (const char *at = sets; (at = strstr(at, isa)) != NULL; at += n)
        if ((at == sets || at[-1] == ' ') && (!at[n] || at[n] == ' '))
            return true;
    return false;
}

/* What was fixed at the first start. A set that the processor lacks is no hindrance where OUT may turn out to be
 * complete. */
static enum lb_status adopt(struct lb_resume *r, const char *fingerprint, struct lb_options *o, struct lb_err *err)
{
    (void)lb_fingerprint_clock(fingerprint, &o->now);
    if (o->isa || !lb_facts_text(fingerprint, "isa", r->isa, sizeof r->isa) || has_set(r->isa))
        return LB_OK;
    if (r->found.fingerprint)
        return lb_err_set(err, LB_E_USAGE,
                          "the rows of '%s.partial' were computed with the kernel set '%s', which this processor lacks "
                          "(it has %s): go on where they were, or discard them with --restart",
                          r->found.path, r->isa, lb_backend_isa_list());
    r->isa[0] = 0;
    return LB_OK;
}

static enum lb_status read_done(struct lb_resume *r, const char *stats, struct lb_err *err)
{
    struct lb_str path = {0};
    lb_str_putf(&path, "%s.stats.json", r->found.path);
    enum lb_status status = path.failed ? lb_err_memory(err, "a path", path.len)
                                        : lb_earlier_read(&r->done, stats ? stats : path.data, err);
    lb_str_release(&path);
    if (status == LB_OK && (r->done.exit_code < 0 || r->done.exit_code > 1))
        lb_earlier_release(&r->done);
    return status;
}

enum lb_status lb_resume_look(struct lb_resume *r, const struct lb_journal_spec *journal, struct lb_options *o,
                              struct lb_err *err)
{
    LB_TRY(lb_journal_check(journal, &r->found, err));
    if (r->found.out && !o->overwrite) {
        LB_TRY(read_done(r, o->stats, err));
        if (!r->done.fingerprint)
            return lb_journal_refuse(r->found.path, err);
    }
    const char *then = r->found.fingerprint ? r->found.fingerprint : r->done.fingerprint;
    return then ? adopt(r, then, o, err) : LB_OK;
}

/* The rows of the inputs as one number, read to their end. */
static enum lb_status hash_inputs(const struct lb_fingerprint_spec *spec, int64_t *rows, uint64_t *hash,
                                  struct lb_err *err)
{
    struct lb_lines *lines;
    struct lb_line line;
    LB_TRY(lb_lines_open(&lines, spec->inputs, spec->n_input, err));
    enum lb_status status;
    *hash = 0;
    for (*rows = 0;; ++*rows) {
        status = lb_lines_next(lines, &line, err);
        if (status != LB_OK || !line.data)
            break;
        *hash = lb_row_chain(*hash, lb_hash64(line.data, line.len, 0));
    }
    lb_lines_close(lines);
    return status;
}

/* Whether the OUT that is there is what this run would make. */
static enum lb_status check_done(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err)
{
    /* fixed at the first start, and no processor needs to have the set again */
    const char *const ignored[] = {"clock", spec->o->isa ? NULL : "isa", NULL};
    struct lb_str text = {0};
    int64_t rows = 0;
    uint64_t hash = 0;
    bool same_rows = spec->o->prompt != NULL;
    enum lb_status status = lb_facts_differ(r->done.fingerprint, r->print.data, ignored, &text, err);
    if (status == LB_OK && !text.len && !spec->o->prompt && r->done.has_input_hash) {
        status = hash_inputs(spec, &rows, &hash, err);
        same_rows = rows == r->done.rows && hash == r->done.input_hash;
    }
    if (status == LB_OK && text.len)
        status = lb_err_set(err, LB_E_USAGE, "'%s' exists, made with other settings: %s; replace it with --overwrite",
                            r->found.path, text.data);
    else if (status == LB_OK && !same_rows)
        status = lb_err_set(err, LB_E_USAGE, "'%s' exists, made of other input rows: replace it with --overwrite",
                            r->found.path);
    r->complete = status == LB_OK;
    lb_str_release(&text);
    return status;
}

enum lb_status lb_resume_settle(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err)
{
    LB_TRY(lb_fingerprint_make(spec, &r->print, err));
    if (!r->done.fingerprint)
        return lb_journal_compare(&r->found, r->print.data, err);
    LB_TRY(check_done(r, spec, err));
    return lb_journal_forget(&r->found, err);
}

void lb_resume_release(struct lb_resume *r)
{
    lb_journal_found_release(&r->found);
    lb_earlier_release(&r->done);
    lb_str_release(&r->print);
}
