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
    /* failed rows of OUT are being run again already, or OUT is a complete one of which OUT.partial will be made */
    r->replace = o->retry_errors && r->found.out;
    if (r->found.out && (o->retry_errors ? !r->found.fingerprint : !o->overwrite)) {
        LB_TRY(read_done(r, o->stats, err));
        if (!r->done.fingerprint && !o->overwrite)
            return lb_journal_refuse(r->found.path, err);
    }
    const char *then = r->found.fingerprint ? r->found.fingerprint : r->done.fingerprint;
    return then ? adopt(r, then, o, err) : LB_OK;
}

/* The rows of the inputs as one number, read to their end. */
struct input_rows {
    int64_t n;
    uint64_t hash;
    uint64_t *line; /* [n] hashes of the lines, owned; only where they are asked for */
    size_t cap;
};

static enum lb_status hash_line(struct input_rows *rows, bool each, const struct lb_line *line, struct lb_err *err)
{
    uint64_t hash = lb_hash64(line->data, line->len, 0);
    void *list = rows->line;
    if (each)
        LB_TRY(lb_mem_grow(&list, &rows->cap, (size_t)rows->n + 1, sizeof hash, "the rows of the inputs", err));
    rows->line = list;
    if (each)
        rows->line[rows->n] = hash;
    rows->n++;
    rows->hash = lb_row_chain(rows->hash, hash);
    return LB_OK;
}

static enum lb_status hash_inputs(const struct lb_fingerprint_spec *spec, struct input_rows *rows, bool each,
                                  struct lb_err *err)
{
    struct lb_lines *lines;
    LB_TRY(lb_lines_open(&lines, spec->inputs, spec->n_input, err));
    lb_lines_every(lines, spec->o->shard_index, spec->o->n_shard);
    enum lb_status status = LB_OK;
    for (struct lb_line line = {.data = ""}; status == LB_OK && line.data;) {
        status = lb_lines_next(lines, &line, err);
        if (status == LB_OK && line.data)
            status = hash_line(rows, each, &line, err);
    }
    lb_lines_close(lines);
    return status;
}

static bool same_rows(const struct lb_resume *r, const struct input_rows *rows)
{
    return r->done.has_input_hash && rows->n == r->done.rows && rows->hash == r->done.input_hash;
}

static enum lb_status other_rows(const struct lb_resume *r, struct lb_err *err)
{
    return lb_err_set(err, LB_E_USAGE, "'%s' exists, made of other input rows: replace it with --overwrite",
                      r->found.path);
}

/* Whether the OUT that is there is what this run would make. */
static enum lb_status check_done(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err)
{
    /* fixed at the first start; the set is not needed again where no row is run */
    const char *const ignored[] = {"clock", spec->o->isa || spec->o->retry_errors ? NULL : "isa", NULL};
    struct lb_str text = {0};
    struct input_rows rows = {0};
    enum lb_status status = lb_facts_differ(r->done.fingerprint, r->print.data, ignored, &text, err);
    if (status == LB_OK && text.len)
        status = lb_err_set(err, LB_E_USAGE, "'%s' exists, made with other settings: %s; replace it with --overwrite",
                            r->found.path, text.data);
    r->again = status == LB_OK && spec->o->retry_errors && r->done.exit_code == 1;
    if (status == LB_OK && !r->again && !spec->o->prompt) {
        status = hash_inputs(spec, &rows, false, err);
        if (status == LB_OK && !same_rows(r, &rows))
            status = other_rows(r, err);
    }
    r->complete = status == LB_OK && !r->again;
    lb_str_release(&text);
    return status;
}

enum lb_status lb_resume_settle(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err)
{
    LB_TRY(lb_fingerprint_make(spec, &r->print, err));
    if (!r->done.fingerprint)
        return lb_journal_compare(&r->found, r->print.data, err);
    LB_TRY(check_done(r, spec, err));
    return r->again ? LB_OK : lb_journal_forget(&r->found, err);
}

enum lb_status lb_resume_begin(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err)
{
    struct input_rows rows = {0};
    if (!r->again || spec->o->prompt)
        return LB_OK;
    for (size_t i = 0; i < spec->n_input; i++) {
        struct stat st;
        if (strcmp(spec->inputs[i], "-") == 0 || stat(spec->inputs[i], &st) != 0 || !S_ISREG(st.st_mode))
            return lb_err_set(err, LB_E_USAGE,
                              "--retry-errors of the complete '%s' reads the inputs twice: they must be files",
                              r->found.path);
    }
    enum lb_status status = hash_inputs(spec, &rows, true, err);
    if (status == LB_OK && !same_rows(r, &rows))
        status = other_rows(r, err);
    if (status == LB_OK)
        status =
            lb_journal_reopen(r->found.path, r->done.fingerprint, rows.line, (size_t)rows.n, spec->o->n_shard, err);
    lb_mem_free(rows.line);
    return status;
}

void lb_resume_release(struct lb_resume *r)
{
    lb_journal_found_release(&r->found);
    lb_earlier_release(&r->done);
    lb_str_release(&r->print);
}
