#include <unistd.h>

#include "core/base/mem.h"
#include "core/io/journal.h"
#include "core/io/jsonl_read.h"
#include "core/io/partial.h"
#include "core/io/target.h"
#include "core/llmbatch.h"

struct merge {
    const struct lb_options *o;
    struct lb_lines **shard; /* [o->n_input] */
    struct lb_journal *out;
    struct lb_journal_found found;
    bool closed;
};

/* The shard that ended first has k rows; those before it one more, and no other has more than it. */
static enum lb_status check_ends(struct merge *m, size_t first, int64_t k, struct lb_err *err)
{
    const char *const *name = m->o->inputs;
    for (size_t i = 0; i < m->o->n_input; i++) {
        struct lb_line line;
        if (i == first)
            continue;
        LB_TRY(lb_lines_next(m->shard[i], &line, err));
        if (line.data)
            return lb_err_set(
                err, LB_E_INPUT,
                "'%s' ends after %lld rows and '%s' does not: these are not all shards of one run, in the "
                "order of their numbers",
                name[first], (long long)k, name[i]);
    }
    return LB_OK;
}

/* A line that knows its row's number must be in its place. */
static enum lb_status check_line(const struct merge *m, size_t shard, const struct lb_line *line, int64_t index,
                                 struct lb_err *err)
{
    struct lb_outcome o;
    bool ok;
    LB_TRY(lb_outcome_read(&o, line->data, line->len, &ok, err));
    if (!ok || line->too_long)
        return lb_err_set(err, LB_E_INPUT, "%s:%lld: this is no row of an output", m->o->inputs[shard],
                          (long long)line->number);
    if (o.index >= 0 && o.index != index)
        return lb_err_set(
            err, LB_E_INPUT,
            "%s:%lld: this is row %lld, where row %lld is due: name the outputs of all shards, in the order "
            "of their numbers",
            m->o->inputs[shard], (long long)line->number, (long long)o.index, (long long)index);
    return LB_OK;
}

static enum lb_status copy_rows(struct merge *m, struct lb_err *err)
{
    size_t n = m->o->n_input;
    for (int64_t index = 0; !m->closed; index++) {
        size_t i = (size_t)index % n;
        struct lb_line line;
        LB_TRY(lb_lines_next(m->shard[i], &line, err));
        if (!line.data)
            return check_ends(m, i, index / (int64_t)n, err);
        LB_TRY(check_line(m, i, &line, index, err));
        LB_TRY(lb_journal_put(m->out, index, 0, line.data, line.len, &m->closed, err));
    }
    return LB_OK;
}

/* An OUT.partial that a run has left is not this one's to discard. */
static enum lb_status open_out(struct merge *m, struct lb_err *err)
{
    static const char print[] = "{\"version\":\"" LB_VERSION "\",\"merge\":true}";
    const struct lb_options *o = m->o;
    struct lb_journal_spec spec = {.path = o->output,
                                   .overwrite = o->overwrite,
                                   .restart = o->restart,
                                   .inputs = o->inputs,
                                   .n_input = o->n_input,
                                   .log = &o->log};
    LB_TRY(lb_journal_check(&spec, &m->found, err));
    if (m->found.out && !o->overwrite)
        return lb_journal_refuse(m->found.path, err);
    if (m->found.fingerprint)
        LB_TRY(lb_journal_compare(&m->found, print, err));
    spec.restart = true;
    return lb_journal_open(&m->out, &spec, print, err);
}

/* Nothing of a merge is worth to be gone on from. */
static void remove_partial(const struct merge *m)
{
    char *partial = m->found.path ? lb_target_beside(m->found.path, ".partial") : NULL;
    if (partial)
        (void)unlink(partial);
    lb_mem_free(partial);
}

enum lb_status lb_merge(const struct lb_options *o, struct lb_err *err)
{
    struct merge m = {.o = o, .shard = lb_mem_new(o->n_input, sizeof(struct lb_lines *))};
    if (!m.shard)
        return lb_err_memory(err, "the shards", o->n_input * sizeof(struct lb_lines *));
    enum lb_status status = LB_OK;
    for (size_t i = 0; i < o->n_input && status == LB_OK; i++)
        status = lb_lines_open(&m.shard[i], &o->inputs[i], 1, err);
    if (status == LB_OK)
        status = open_out(&m, err);
    if (status == LB_OK)
        status = copy_rows(&m, err);
    if (m.out) {
        struct lb_err late = LB_ERR_INIT;
        enum lb_status ended = lb_journal_finish(m.out, status == LB_OK && !m.closed, NULL, NULL, NULL, &late);
        if (status == LB_OK && ended != LB_OK)
            status = lb_err_set(err, ended, "%s", late.text);
        if (status != LB_OK)
            remove_partial(&m);
    }
    lb_journal_found_release(&m.found);
    for (size_t i = 0; i < o->n_input; i++)
        lb_lines_close(m.shard[i]);
    lb_mem_free(m.shard);
    return status;
}
