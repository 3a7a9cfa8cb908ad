#define _GNU_SOURCE
#include "core/dist/world.h"

#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/dist/world_impl.h"

enum lb_status lb_world_open(struct lb_world **out, const struct lb_world_spec *spec, struct lb_err *err)
{
    *out = NULL;
    if (spec->use_mpi)
        return lb_err_set(err, LB_E_USAGE, "this build has no MPI: run one process, or pass --no-mpi");
    struct lb_world_impl *v = lb_mem_new(1, sizeof *v);
    if (!v)
        return lb_err_memory(err, "the world", sizeof *v);
    v->spec = *spec;
    if (gethostname(v->host, sizeof v->host - 1) != 0)
        strcpy(v->host, "localhost");
    v->world = (struct lb_world){.size = 1, .host = v->host, .host_size = 1, .n_host = 1, .impl = v};
    *out = &v->world;
    return LB_OK;
}

void lb_world_close(struct lb_world *w)
{
    if (w)
        lb_mem_free(w->impl);
}

_Noreturn void lb_world_abort(struct lb_world *w, int code)
{
    (void)w;
    _exit(code);
}

enum lb_status lb_world_failed(struct lb_world *w, struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    if (!atomic_load_explicit(&v->failed, memory_order_acquire))
        return LB_OK;
    return lb_err_set(err, v->failure.status, "%s", v->failure.text);
}

bool lb_world_tells(const struct lb_world *w)
{
    return w->rank == 0;
}

const char *lb_world_host(const struct lb_world *w, int rank)
{
    (void)rank;
    return w->host;
}

enum lb_status lb_world_agree(struct lb_world *w, enum lb_status status, struct lb_err *err)
{
    (void)w;
    (void)err;
    return status;
}

enum lb_status lb_world_bcast(struct lb_world *w, void *data, size_t bytes, struct lb_err *err)
{
    (void)data;
    (void)bytes;
    return lb_world_failed(w, err);
}

enum lb_status lb_world_bcast_str(struct lb_world *w, struct lb_str *s, struct lb_err *err)
{
    (void)s;
    return lb_world_failed(w, err);
}

enum lb_status lb_world_gather(struct lb_world *w, const void *mine, size_t bytes, void *all, struct lb_err *err)
{
    if (mine != all && bytes)
        memcpy(all, mine, bytes);
    return lb_world_failed(w, err);
}

enum lb_status lb_world_gather_str(struct lb_world *w, const void *mine, size_t bytes, struct lb_str *all,
                                   struct lb_err *err)
{
    lb_str_put(&all[0], mine, bytes);
    if (all[0].failed)
        return lb_err_memory(err, "what ranks report", bytes);
    return lb_world_failed(w, err);
}

enum lb_status lb_world_group(struct lb_world *w, int tp, struct lb_comm **comm, struct lb_err *err)
{
    *comm = lb_comm_self();
    if (tp < 1 || tp > LB_COMM_MAX_RANKS || w->size % tp != 0)
        return lb_err_set(err, LB_E_USAGE, "tp %d does not divide the %d ranks", tp, w->size);
    return LB_OK;
}

void lb_world_beat(struct lb_world *w, const char *where, int64_t n)
{
    (void)w;
    (void)where;
    (void)n;
}

void lb_world_idle(struct lb_world *w)
{
    (void)w;
}
