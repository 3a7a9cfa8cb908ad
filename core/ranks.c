#define _GNU_SOURCE
#include "core/ranks.h"

#include <string.h>

#include "core/backend/backend.h"
#include "core/base/mem.h"
#include "core/dist/cpuset.h"
#include "core/io/facts.h"

/* ---- for the program ---- */

/* The world, and what its watchdog calls; one a process. */
static struct {
    struct lb_launch launch;
    struct lb_world *world;
} joined;

static void on_late(void *ctx, const char *text)
{
    (void)ctx;
    if (joined.launch.late)
        joined.launch.late(joined.launch.ctx, text, joined.world && lb_world_tells(joined.world));
}

enum lb_status lb_join(struct lb_world **out, const struct lb_launch *l, struct lb_err *err)
{
    struct lb_world_spec spec = {
        .use_mpi = true, .n_task = l->n_task, .timeout_s = l->timeout_s, .log = l->log, .late = on_late};
    joined.launch = *l;
    enum lb_status status = lb_world_open(out, &spec, err);
    joined.world = *out;
    return status;
}

struct lb_rank_place lb_rank_of(const struct lb_world *w)
{
    return (struct lb_rank_place){w->rank, w->size, w->host};
}

/* Rank 0 speaks for all, so that its own failures need no place. */
enum lb_status lb_agree(struct lb_world *w, enum lb_status status, struct lb_err *err)
{
    struct lb_err place = {.status = LB_E_DEVICE};
    status = lb_world_agree(w, status, err);
    lb_err_where(&place, "rank 0 on host %s", lb_world_host(w, 0));
    size_t n = strlen(place.text);
    if (status != LB_OK && strncmp(err->text, place.text, n) == 0)
        memmove(err->text, err->text + n, strlen(err->text + n) + 1);
    return status;
}

void lb_leave(struct lb_world *w, int code)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_world_failed(w, &err) != LB_OK)
        lb_world_abort(w, code);
    lb_world_close(w);
}

/* ---- for the library ---- */

enum lb_status lb_ranks_init(struct lb_ranks *r, struct lb_world *world, struct lb_err *err)
{
    *r = (struct lb_ranks){.world = world, .own_world = !world, .size = 1, .tp = 1, .dp = 1};
    if (!world)
        LB_TRY(lb_world_open(&r->world, &(struct lb_world_spec){0}, err));
    r->rank = r->world->rank;
    r->size = r->world->size;
    return LB_OK;
}

void lb_ranks_part(struct lb_ranks *r)
{
    if (r->comm)
        r->comm->ops->close(r->comm);
    r->comm = NULL;
}

void lb_ranks_release(struct lb_ranks *r)
{
    lb_ranks_part(r);
    if (r->own_world)
        lb_world_close(r->world);
    *r = (struct lb_ranks){0};
}

enum lb_status lb_ranks_agree(struct lb_ranks *r, enum lb_status status, struct lb_err *err)
{
    if (r->size == 1)
        return status;
    if (r->agreed.status != LB_OK) /* whatever this caller's record holds: the others say that too */
        *err = r->agreed;
    else if (lb_agree(r->world, status, err) != LB_OK)
        r->agreed = *err;
    return r->agreed.status;
}

/* One text of every rank, on rank 0: [size], NULL elsewhere. */
static enum lb_status collect(struct lb_ranks *r, const char *text, struct lb_str **all, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    *all = NULL;
    if (r->rank == 0) {
        *all = lb_mem_new((size_t)r->size, sizeof **all);
        if (!*all)
            status = lb_err_memory(err, "what ranks report", (size_t)r->size * sizeof **all);
    }
    LB_TRY(lb_ranks_agree(r, status, err));
    return lb_world_gather_str(r->world, text, strlen(text) + 1, *all, err);
}

static void collected_free(const struct lb_ranks *r, struct lb_str *all)
{
    for (int i = 0; all && i < r->size; i++)
        lb_str_release(&all[i]);
    lb_mem_free(all);
}

static enum lb_status compare_one(const struct lb_ranks *r, int rank, const char *what, const struct lb_str *facts,
                                  const char *const *ignored, struct lb_err *err)
{
    static const char *const words[2] = {"there", "on rank 0"};
    struct lb_str text = {0};
    enum lb_status status = lb_facts_differ_as(words, facts[rank].data, facts[0].data, ignored, &text, err);
    if (status == LB_OK && text.len)
        status = lb_err_set(err, LB_E_USAGE, "rank %d on host %s has other %s than rank 0 on host %s: %s", rank,
                            lb_world_host(r->world, rank), what, lb_world_host(r->world, 0), text.data);
    lb_str_release(&text);
    return status;
}

enum lb_status lb_ranks_compare(struct lb_ranks *r, const char *what, const char *facts, const char *const *ignored,
                                struct lb_err *err)
{
    struct lb_str *all;
    if (r->size == 1)
        return LB_OK;
    enum lb_status status = collect(r, facts, &all, err);
    for (int i = 1; status == LB_OK && all && i < r->size; i++)
        if (strcmp(all[i].data, all[0].data) != 0)
            status = compare_one(r, i, what, all, ignored, err);
    collected_free(r, all);
    return lb_ranks_agree(r, status, err);
}

enum lb_status lb_ranks_compare_options(struct lb_ranks *r, const struct lb_options *o, struct lb_err *err)
{
    static const char *const none[] = {NULL};
    struct lb_str facts = {0};
    lb_str_putf(&facts,
                "{\"version\":\"%s\",\"render\":%d,\"plan\":%d,\"tp\":%lld,\"dtype\":\"%s\",\"quantize\":\"%s\",",
                LB_VERSION, o->render, o->plan, (long long)o->tp, o->dtype ? o->dtype : "auto",
                o->quantize ? o->quantize : "none");
    lb_str_putf(&facts, "\"batch_tokens\":%lld,\"max_seqs\":%lld,\"max_model_len\":%lld,", (long long)o->batch_tokens,
                (long long)o->max_seqs, (long long)o->max_model_len);
    lb_str_putf(&facts, "\"report\":%d,\"trace\":%d}", o->report != NULL, o->trace != NULL);
    enum lb_status status = lb_ranks_agree(r, facts.failed ? lb_err_memory(err, "the options", 256) : LB_OK, err);
    if (status == LB_OK)
        status = lb_ranks_compare(r, "options", facts.data, none, err);
    lb_str_release(&facts);
    return status;
}

/* A word of a list with commas or spaces between its words. */
static bool lists(const char *list, const char *word, size_t n)
{
    for (const char *at = list; *at; at += strspn(at, " ,")) {
        size_t len = strcspn(at, " ,");
        if (len == n && memcmp(at, word, n) == 0)
            return true;
        at += len;
    }
    return false;
}

/* The words of `of` that are in `in` too (NULL: all), and "ref", which may always be used. */
static void meet(struct lb_str *out, const char *of, const char *in)
{
    for (const char *at = of; *at; at += strspn(at, " ,")) {
        size_t len = strcspn(at, " ,");
        if (!in || lists(in, at, len) || (len == 3 && memcmp(at, "ref", 3) == 0)) {
            if (out->len)
                lb_str_putc(out, ',');
            lb_str_put(out, at, len);
        }
        at += len;
    }
}

/* What all of them list; *poorer: a rank that lacks what another has, or -1. */
static void meet_all(const struct lb_ranks *r, const struct lb_str *all, struct lb_str *common, int *poorer)
{
    lb_str_puts(common, all[0].data);
    for (int i = 1; i < r->size && !common->failed; i++) {
        struct lb_str less = {0};
        meet(&less, common->data, all[i].data);
        lb_str_release(common);
        *common = less;
    }
    *poorer = -1;
    bool differ = false;
    for (int i = 0; i < r->size && !common->failed; i++) {
        differ = differ || strcmp(all[i].data, common->data) != 0;
        if (*poorer < 0 && strcmp(all[i].data, common->data) == 0)
            *poorer = i;
    }
    *poorer = !differ ? -1 : *poorer < 0 ? 0 : *poorer;
}

enum lb_status lb_ranks_isa(struct lb_ranks *r, const char *wanted, const struct lb_log *log, char *out, size_t n,
                            struct lb_err *err)
{
    struct lb_str mine = {0}, common = {0}, *all = NULL;
    memset(out, 0, n);
    if (r->size == 1)
        return LB_OK;
    meet(&mine, lb_backend_isa_list(), wanted);
    enum lb_status status = mine.failed ? lb_err_memory(err, "the kernel sets", 64) : LB_OK;
    status = lb_ranks_agree(r, status, err);
    if (status == LB_OK)
        status = collect(r, mine.data, &all, err);
    if (status == LB_OK && all) {
        int poorer;
        meet_all(r, all, &common, &poorer);
        if (common.failed || common.len >= n)
            status = lb_err_memory(err, "the kernel sets", common.len);
        else if (poorer >= 0) {
            memcpy(out, common.data, common.len);
            lb_log_put(log, LB_LOG_WARN, "rank %d on host %s may use the kernel sets %s alone: all ranks keep to %s",
                       poorer, lb_world_host(r->world, poorer), all[poorer].data, common.data);
        }
    }
    collected_free(r, all);
    lb_str_release(&mine);
    lb_str_release(&common);
    status = lb_ranks_agree(r, status, err);
    return status == LB_OK ? lb_world_bcast(r->world, out, n, err) : status;
}

enum lb_status lb_ranks_same(const struct lb_ranks *r, void *v, size_t bytes, struct lb_err *err)
{
    return r->size > 1 ? lb_world_bcast(r->world, v, bytes, err) : LB_OK;
}

enum lb_status lb_ranks_least(struct lb_ranks *r, int64_t *v, struct lb_err *err)
{
    if (r->size == 1)
        return LB_OK;
    int64_t *all = r->rank == 0 ? lb_mem_new((size_t)r->size, sizeof *all) : NULL;
    enum lb_status status = r->rank == 0 && !all ? lb_err_memory(err, "what ranks report", 8 * (size_t)r->size) : LB_OK;
    status = lb_ranks_agree(r, status, err);
    if (status == LB_OK)
        status = lb_world_gather(r->world, v, sizeof *v, all, err);
    for (int i = 0; status == LB_OK && all && i < r->size; i++)
        *v = all[i] < *v ? all[i] : *v;
    lb_mem_free(all);
    return status == LB_OK ? lb_world_bcast(r->world, v, sizeof *v, err) : status;
}

/* NUMA nodes that ranks of this host stay in: ranks of different ones do not share weights. */
static enum lb_status count_nodes(struct lb_ranks *r, struct lb_err *err)
{
    r->host_nodes = 1;
    if (r->size == 1)
        return LB_OK;
    int32_t mine = lb_cpuset_node(), *all = lb_mem_new((size_t)r->size, sizeof *all);
    size_t bytes = (size_t)r->size * sizeof *all;
    enum lb_status status = all ? LB_OK : lb_err_memory(err, "what ranks report", bytes);
    status = lb_ranks_agree(r, status, err);
    if (status == LB_OK)
        status = lb_world_gather(r->world, &mine, sizeof mine, r->rank == 0 ? all : NULL, err);
    if (status == LB_OK)
        status = lb_world_bcast(r->world, all, bytes, err);
    for (int i = 0; i < r->size && status == LB_OK; i++) {
        bool counts = all[i] != mine && strcmp(lb_world_host(r->world, i), r->world->host) == 0;
        for (int k = 0; k < i && counts; k++)
            counts = all[k] != all[i] || strcmp(lb_world_host(r->world, k), r->world->host) != 0;
        r->host_nodes += counts;
    }
    lb_mem_free(all);
    return status;
}

enum lb_status lb_ranks_form(struct lb_ranks *r, int tp, const struct lb_plan_spec *plan, struct lb_err *err)
{
    struct lb_plan_spec here = *plan;
    LB_TRY(count_nodes(r, err));
    here.host_nodes = r->host_nodes;
    if (tp == 0 && r->size == 1)
        tp = 1; /* whether it fits is the plan's to say */
    if (tp == 0) {
        LB_TRY(lb_ranks_agree(r, lb_plan_tp(&here, r->size, &tp, err), err));
        int64_t least = -tp;
        LB_TRY(lb_ranks_least(r, &least, err));
        tp = (int)-least;
    }
    if (r->size % tp != 0)
        return lb_err_set(err, LB_E_USAGE, "--tp %d does not divide the number of ranks, %d", tp, r->size);
    r->tp = tp;
    r->dp = r->size / tp;
    return lb_world_group(r->world, tp, &r->comm, err);
}
