#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/io/row_index.h"
#include "core/run/idset.h"
#include "core/run/run.h"

/* ---- reader: lines -> rows ---- */

static void warn_name(void *ctx, int64_t index, const char *member, const char *known)
{
    struct lb_run *r = ctx;
    if (!atomic_exchange(&r->warned_name, true))
        lb_log_put(r->spec->log, LB_LOG_WARN, "row %lld: unknown member \"%s\" is ignored; did you mean \"%s\"?",
                   (long long)index, member, known);
}

/* What an unreadable line is written as is said by the first readable one: until that comes they are held, some of
 * them, so that memory has an end. */
#define MAX_HELD 4096

struct reader {
    struct lb_run *r;
    struct lb_row_spec spec;
    bool settled, over; /* over: the run takes no more rows */
    enum lb_row_api form;
    struct lb_work *held, **held_end;
    int n_held;
    /* ids */
    struct lb_id_set ids;
    uint32_t pause;    /* lines until it is asked whether the run is over */
    bool told;         /* of an id that came again: once */
    const char **file; /* [n_file] names, lent by the line reader */
    size_t n_file, cap_file;
};

static void push_row(struct reader *rd, struct lb_work *w)
{
    if (rd->over || !lb_queue_push(&rd->r->raw, w)) {
        lb_work_free(w);
        rd->over = true;
    }
}

static void settle(struct reader *rd, enum lb_row_api form)
{
    rd->settled = true;
    rd->form = form;
    while (rd->held) {
        struct lb_work *w = rd->held;
        rd->held = w->next;
        w->row.api = form;
        push_row(rd, w);
    }
}

static void hand_on(struct reader *rd, struct lb_work *w)
{
    if (!w->row.unread || rd->spec.format != LB_FORMAT_AUTO) {
        if (!rd->settled)
            settle(rd, w->row.api == LB_API_NATIVE ? LB_API_NATIVE : LB_API_OPENAI);
        push_row(rd, w);
        return;
    }
    w->row.api = rd->form;
    if (rd->settled) {
        push_row(rd, w);
        return;
    }
    w->next = NULL;
    *rd->held_end = w;
    rd->held_end = &w->next;
    if (++rd->n_held == MAX_HELD)
        settle(rd, LB_API_NATIVE);
}

static enum lb_status place_of(struct reader *rd, const struct lb_line *line, struct lb_id_place *at,
                               struct lb_err *err)
{
    if (rd->n_file == 0 || rd->file[rd->n_file - 1] != line->file) {
        void *list = rd->file;
        LB_TRY(lb_mem_grow(&list, &rd->cap_file, rd->n_file + 1, sizeof *rd->file, "names of inputs", err));
        rd->file = list;
        rd->file[rd->n_file++] = line->file;
    }
    *at = (struct lb_id_place){(uint32_t)(rd->n_file - 1), (uint32_t)line->number};
    return LB_OK;
}

static enum lb_status tell_id(struct reader *rd, const struct lb_row *row, const struct lb_line *line,
                              struct lb_id_place first, struct lb_err *err)
{
    rd->told = true;
    lb_id_set_release(&rd->ids);
    return lb_audit_row(rd->r->spec->audit, "duplicate_id", LB_CHANGES, err,
                        "%s:%lld: the id %.80s is that of %s:%lld too: what is drawn for one is drawn for the other",
                        line->file, (long long)line->number, row->id_json, rd->file[first.file], (long long)first.line);
}

/* Warns of an id that two rows have. */
static enum lb_status watch_id(struct reader *rd, const struct lb_row *row, const struct lb_line *line,
                               struct lb_err *err)
{
    struct lb_id_place at, first;
    bool again;
    if (rd->told || !row->has_id)
        return LB_OK;
    LB_TRY(place_of(rd, line, &at, err));
    LB_TRY(lb_id_set_add(&rd->ids, row->key, at, &again, &first, err));
    return again ? tell_id(rd, row, line, first, err) : LB_OK;
}

/* A row that is not run, of another shard or finished by an earlier run, still says, if it is the first readable one,
 * what unreadable ones are written as.
 */
static enum lb_status note_form(struct reader *rd, const struct lb_line *line, struct lb_err *err)
{
    struct lb_row row;
    enum lb_status status = lb_row_parse(&row, &rd->spec, line->index, line->data, line->len, err);
    status = lb_mem_blame(status, "a row", err);
    if (status != LB_OK) {
        lb_row_release(&row);
        return status;
    }
    if (!row.unread || rd->spec.format != LB_FORMAT_AUTO)
        settle(rd, row.api == LB_API_NATIVE ? LB_API_NATIVE : LB_API_OPENAI);
    else if (++rd->n_held == MAX_HELD)
        settle(rd, LB_API_NATIVE);
    lb_row_release(&row);
    return LB_OK;
}

/* Passes over a row that an earlier run finished, if it is one. */
static enum lb_status pass_over(struct reader *rd, const struct lb_line *line, bool *passed, struct lb_err *err)
{
    struct lb_run *r = rd->r;
    const struct lb_taken *t = r->taken;
    uint64_t at = (uint64_t)(line->index / r->spec->n_shard);
    *passed = t && at < t->n && t->hash[at];
    if (!*passed)
        return LB_OK;
    uint64_t hash = lb_hash64(line->data, line->len, 0);
    if (lb_taken_hash(hash) != t->hash[at])
        return lb_err_set(err, LB_E_INPUT,
                          "%s:%lld: row %lld is not the one that an earlier run finished: send the same input, or "
                          "discard those rows with --restart",
                          line->file ? line->file : "the prompt", (long long)line->number, (long long)line->index);
    r->input_hash = lb_row_chain(r->input_hash, hash);
    atomic_fetch_add(&r->bytes_read, (long long)line->len + 1);
    atomic_fetch_add(&r->rows_read, 1);
    atomic_fetch_add(&r->rows_done, 1);
    return rd->settled ? LB_OK : note_form(rd, line, err);
}

/* The end of the input, which may not lie before rows that an earlier run finished. */
static enum lb_status end_rows(const struct reader *rd, struct lb_err *err)
{
    const struct lb_taken *t = rd->r->taken;
    int64_t n = atomic_load(&rd->r->rows_read);
    if (!t || (uint64_t)n >= t->n)
        return LB_OK;
    return lb_err_set(
        err, LB_E_INPUT,
        "the input ends after %lld rows, but an earlier run had row %lld: send the same input, or discard "
        "those rows with --restart",
        (long long)n, (long long)t->n - 1);
}

static enum lb_status parse_row(struct reader *rd, const struct lb_line *line, struct lb_work **out, struct lb_err *err)
{
    double begin = lb_now();
    struct lb_work *w = *out = lb_work_new();
    if (!w)
        return lb_err_memory(err, "a row", sizeof *w);
    enum lb_status status = lb_row_parse(&w->row, &rd->spec, line->index, line->data, line->len, err);
    status = lb_mem_blame(status, "a row", err);
    w->time.read = lb_now();
    lb_timeline_work(rd->r->spec->timeline, LB_TL_READER, begin, w->time.read, 1);
    w->weight = (int64_t)line->len;
    atomic_fetch_add(&rd->r->bytes_read, (long long)line->len + 1);
    return status;
}

static void count_row(struct lb_run *r, uint64_t line_hash)
{
    r->input_hash = lb_row_chain(r->input_hash, line_hash);
    atomic_fetch_add(&r->rows_read, 1);
}

static enum lb_status hand_row(struct reader *rd, const struct lb_line *line, struct lb_err *err)
{
    struct lb_work *w;
    bool passed;
    LB_TRY(pass_over(rd, line, &passed, err));
    if (passed)
        return LB_OK;
    enum lb_status status = parse_row(rd, line, &w, err);
    if (status == LB_OK)
        count_row(rd->r, w->row.line_hash);
    if (status == LB_OK && line->file)
        status = watch_id(rd, &w->row, line, err);
    if (status == LB_OK)
        hand_on(rd, w);
    else
        lb_work_free(w);
    return status;
}

/* A row of another shard. */
static enum lb_status skip_row(struct reader *rd, const struct lb_line *line, struct lb_err *err)
{
    atomic_fetch_add(&rd->r->bytes_read, (long long)line->len + 1);
    return rd->settled ? LB_OK : note_form(rd, line, err);
}

/* `-p TEXT` is a row like any other. */
static enum lb_status read_prompt(struct reader *rd, struct lb_err *err)
{
    const char *key = rd->spec.input_key ? rd->spec.input_key : "prompt", *prompt = rd->r->spec->prompt;
    struct lb_str text = {0};
    lb_str_putc(&text, '{');
    lb_str_put_json(&text, key, strlen(key));
    lb_str_putc(&text, ':');
    lb_str_put_json(&text, prompt, strlen(prompt));
    lb_str_putc(&text, '}');
    const struct lb_line line = {.data = text.data, .len = text.len};
    enum lb_status status = text.failed ? lb_err_memory(err, "the prompt", strlen(prompt)) : hand_row(rd, &line, err);
    lb_str_release(&text);
    return status;
}

static enum lb_status read_lines(struct reader *rd, struct lb_err *err)
{
    while (!rd->over) {
        struct lb_line line;
        LB_TRY(lb_lines_next(rd->r->spec->lines, &line, err));
        if (!line.data)
            return end_rows(rd, err);
        if (line.index % rd->r->spec->n_shard == rd->r->spec->shard_index)
            LB_TRY(hand_row(rd, &line, err));
        else
            LB_TRY(skip_row(rd, &line, err));
    }
    return LB_OK;
}

/* ---- rows in the order of an index ---- */

/* watch_id for a row that is not parsed: only one whose id does not tell at sight, or came before, is. */
static enum lb_status watch_look(struct reader *rd, const struct lb_row_look *look, const struct lb_line *line,
                                 struct lb_err *err)
{
    struct lb_id_place at, first;
    struct lb_row row;
    bool again = false;
    if (rd->told || !look->has_id)
        return LB_OK;
    if (look->plain_id) {
        LB_TRY(place_of(rd, line, &at, err));
        LB_TRY(lb_id_set_add(&rd->ids, look->key, at, &again, &first, err));
        if (!again)
            return LB_OK;
    }
    enum lb_status status = lb_row_parse(&row, &rd->spec, line->index, line->data, line->len, err);
    status = lb_mem_blame(status, "a row", err);
    if (status == LB_OK && !again)
        status = watch_id(rd, &row, line, err);
    else if (status == LB_OK && row.has_id && row.key == look->key)
        status = tell_id(rd, &row, line, first, err);
    lb_row_release(&row);
    return status;
}

/* Notes where a row lies that is to be run; *line is looked at, not read. */
static enum lb_status index_row(struct reader *rd, struct lb_row_index *ix, const struct lb_line *line,
                                struct lb_err *err)
{
    struct lb_row_look look;
    bool passed;
    LB_TRY(pass_over(rd, line, &passed, err));
    if (passed)
        return LB_OK;
    uint64_t hash = lb_hash64(line->data, line->len, 0);
    count_row(rd->r, hash);
    if (!rd->settled)
        LB_TRY(note_form(rd, line, err));
    lb_row_scan(&look, &rd->spec, line->data, line->len);
    LB_TRY(watch_look(rd, &look, line, err));
    return lb_row_index_add(ix, line, &look, hash, err);
}

/* Whether the run has come to its end before the reader: asked now and then. */
static bool is_over(struct reader *rd)
{
    if (rd->pause-- > 0)
        return rd->over;
    rd->pause = 256;
    rd->over = rd->over || atomic_load(&rd->r->halt) || atomic_load(&rd->r->leaving);
    return rd->over;
}

static enum lb_status index_lines(struct reader *rd, struct lb_row_index *ix, struct lb_err *err)
{
    while (!is_over(rd)) {
        struct lb_line line;
        LB_TRY(lb_lines_next(rd->r->spec->lines, &line, err));
        if (!line.data)
            return end_rows(rd, err);
        if (line.index % rd->r->spec->n_shard == rd->r->spec->shard_index)
            LB_TRY(index_row(rd, ix, &line, err));
        else
            LB_TRY(skip_row(rd, &line, err));
    }
    return LB_OK;
}

static enum lb_status hand_indexed(struct reader *rd, struct lb_row_index *ix, struct lb_err *err)
{
    while (!rd->over) {
        struct lb_line line;
        struct lb_work *w;
        LB_TRY(lb_row_index_next(ix, &line, err));
        if (!line.data)
            return LB_OK;
        enum lb_status status = parse_row(rd, &line, &w, err);
        if (status != LB_OK) {
            lb_work_free(w);
            return status;
        }
        hand_on(rd, w);
    }
    return LB_OK;
}

/* An input that breaks off is found out first, and told when the rows before that have been handed on. */
static enum lb_status read_ordered(struct reader *rd, struct lb_err *err)
{
    const struct lb_run_spec *spec = rd->r->spec;
    struct lb_row_index *ix;
    struct lb_err broken = LB_ERR_INIT;
    LB_TRY(lb_row_index_new(&ix, spec->order, spec->n_order, err));
    enum lb_status end = index_lines(rd, ix, &broken), status = LB_OK;
    if (!rd->settled)
        settle(rd, LB_API_NATIVE);
    atomic_store(&rd->r->counted, true);
    lb_id_set_release(&rd->ids);
    if (end == LB_OK || end == LB_E_INPUT) {
        status = lb_row_index_sort(ix, err);
        if (status == LB_OK)
            status = hand_indexed(rd, ix, err);
    }
    lb_row_index_free(ix);
    if (status != LB_OK || end == LB_OK)
        return status;
    return lb_err_set(err, end, "%s", broken.text);
}

void *lb_run_reader(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct reader rd = {.r = r, .spec = r->spec->rows};
    rd.spec.close_name = warn_name;
    rd.spec.ctx = r;
    rd.held_end = &rd.held;
    lb_run_be_nice();
    enum lb_status status = r->spec->order   ? read_ordered(&rd, &err)
                            : r->spec->lines ? read_lines(&rd, &err)
                                             : read_prompt(&rd, &err);
    if (!rd.settled)
        settle(&rd, LB_API_NATIVE);
    if (status != LB_OK && status != LB_E_INTERRUPTED)
        lb_run_fail(r, &err, status != LB_E_INPUT);
    atomic_store(&r->read_all, true);
    atomic_store(&r->counted, true);
    lb_queue_close(&r->raw);
    lb_id_set_release(&rd.ids);
    lb_mem_free(rd.file);
    return NULL;
}
