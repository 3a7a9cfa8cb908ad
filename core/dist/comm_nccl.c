/* NCCL, the only file that knows it. */
#include <nccl.h>

#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/dist/nccl.h"
#include "kernels/cuda/lk_cuda.h"

/* Numbers of a rank that are gathered at once: enough that a link is used well, little beside the weights. */
#define CHUNK ((int64_t)1 << 20)
#define NAP_NS 200000

struct nccl {
    struct lb_comm comm;
    struct lb_comm *boot;
    ncclComm_t nccl; /* NULL once it has failed */
    cudaStream_t stream;
    float *parts;       /* [size, CHUNK], the device's */
    bool ring, by_peer; /* err is of something that another rank did */
    struct lb_err err;
};

/* The first failure stays. What is under way is ended, so that the stream comes to its end. */
static void broke(struct nccl *c, const char *call, const char *why)
{
    lb_err_set(&c->err, LB_E_DEVICE, "%s: %s", call, why);
    if (c->nccl)
        ncclCommAbort(c->nccl);
    c->nccl = NULL;
}

/* What NCCL or a peer has to say. ncclInProgress: not yet ready; after a failure: ncclSystemError. */
static ncclResult_t look(struct nccl *c, const char *call)
{
    ncclResult_t async = ncclSuccess;
    struct lb_err err = LB_ERR_INIT;
    if (!c->nccl)
        return ncclSystemError;
    ncclResult_t asked = ncclCommGetAsyncError(c->nccl, &async);
    if (asked != ncclSuccess)
        async = asked;
    bool ok = async == ncclSuccess || async == ncclInProgress;
    c->by_peer = !ok && asked == ncclSuccess;
    if (!ok)
        broke(c, call, ncclGetErrorString(async));
    else if (c->boot->ops->status(c->boot, &err) != LB_OK) {
        c->by_peer = true;
        broke(c, call, err.text);
        async = ncclSystemError;
    }
    return async;
}

/* A call returned this: waits until it is under way. */
static bool went_well(struct nccl *c, const char *call, ncclResult_t result)
{
    if (result != ncclSuccess && result != ncclInProgress)
        broke(c, call, ncclGetErrorString(result));
    while (result == ncclInProgress) {
        result = look(c, call);
        if (result == ncclInProgress)
            nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return c->nccl != NULL;
}

bool lb_comm_nccl_poll(void *comm, struct lb_err *err)
{
    struct nccl *c = comm;
    if (strcmp(c->comm.name, "nccl") != 0)
        return true;
    look(c, "NCCL");
    if (c->nccl)
        return true;
    c->comm.heard |= c->by_peer && err->status == LB_OK;
    lb_err_set(err, c->err.status, "%s", c->err.text);
    return false;
}

/* ---- operations ---- */

static void add_in_order(struct nccl *c, float *part, int64_t n)
{
    if (!went_well(c, "ncclAllGather", ncclAllGather(part, c->parts, (size_t)n, ncclFloat32, c->nccl, c->stream)))
        return;
    struct lk_tree t = {
        .y = part, .y_ld = n, .part = c->parts, .part_ld = n, .n_row = 1, .n_col = n, .n_part = c->comm.size};
    int code = lk_cuda_tree(&t, c->stream);
    if (code)
        broke(c, "the tree of NCCL's parts", cudaGetErrorString((cudaError_t)code));
}

static void nccl_reduce(struct lb_comm *comm, float *part, int64_t n)
{
    struct nccl *c = (struct nccl *)comm;
    for (int64_t at = 0; at < n && c->nccl; at += CHUNK) {
        int64_t m = n - at < CHUNK ? n - at : CHUNK;
        if (!c->ring)
            add_in_order(c, part + at, m);
        else
            went_well(c, "ncclAllReduce",
                      ncclAllReduce(part + at, part + at, (size_t)m, ncclFloat32, ncclSum, c->nccl, c->stream));
    }
}

static void nccl_bcast(struct lb_comm *comm, void *data, size_t bytes)
{
    struct nccl *c = (struct nccl *)comm;
    c->boot->ops->bcast(c->boot, data, bytes);
    comm->seconds = c->boot->seconds;
}

static void nccl_gather(struct lb_comm *comm, const void *mine, void *all, const size_t *counts)
{
    struct nccl *c = (struct nccl *)comm;
    c->boot->ops->gather(c->boot, mine, all, counts);
    comm->seconds = c->boot->seconds;
}

static void nccl_beat(struct lb_comm *comm, const char *where, int64_t n)
{
    struct nccl *c = (struct nccl *)comm;
    c->boot->ops->beat(c->boot, where, n);
}

/* Of bcast and gather; a reduce's failures are for those who wait for the stream. */
static enum lb_status nccl_status(struct lb_comm *comm, struct lb_err *err)
{
    struct nccl *c = (struct nccl *)comm;
    return c->boot->ops->status(c->boot, err);
}

/* Parts lie where the backend has them. */
static float *nccl_buffer(struct lb_comm *comm, int64_t n)
{
    (void)comm;
    (void)n;
    return NULL;
}

static void release(struct nccl *c)
{
    if (c->nccl)
        ncclCommDestroy(c->nccl);
    cudaFree(c->parts);
    lb_mem_free(c);
}

static void nccl_close(struct lb_comm *comm)
{
    struct nccl *c = (struct nccl *)comm;
    struct lb_comm *boot = c->boot;
    while (cudaStreamQuery(c->stream) == cudaErrorNotReady && look(c, "NCCL") != ncclSystemError)
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    release(c);
    boot->ops->close(boot);
}

/* ---- beginning ---- */

/* LB_OK when it is that on all ranks, else the first of them to fail, by its number. */
static enum lb_status agree(struct nccl *c, struct lb_err *err)
{
    struct lb_err all[LB_COMM_MAX_RANKS], worst = LB_ERR_INIT, heard = LB_ERR_INIT;
    size_t counts[LB_COMM_MAX_RANKS];
    bool first = c->comm.rank == 0;
    for (int i = 0; i < c->comm.size; i++)
        counts[i] = sizeof c->err;
    c->boot->ops->gather(c->boot, &c->err, first ? all : NULL, counts);
    if (c->boot->ops->status(c->boot, &heard) != LB_OK)
        return lb_err_set(err, heard.status, "%s", heard.text);
    for (int i = c->comm.size - 1; first && i >= 0; i--)
        if (all[i].status != LB_OK)
            worst = all[i];
    c->boot->ops->bcast(c->boot, &worst, sizeof worst);
    if (c->boot->ops->status(c->boot, &heard) != LB_OK)
        return lb_err_set(err, heard.status, "%s", heard.text);
    return worst.status == LB_OK ? LB_OK : lb_err_set(err, worst.status, "%s", worst.text);
}

/* A failed call stays in c->err, and the ranks agree on it afterwards. */
static void begin(struct nccl *c)
{
    struct {
        ncclUniqueId id;
        ncclResult_t result;
    } first = {.result = ncclSuccess};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (c->comm.rank == 0)
        first.result = ncclGetUniqueId(&first.id);
    c->boot->ops->bcast(c->boot, &first, sizeof first);
    if (first.result != ncclSuccess) {
        broke(c, "ncclGetUniqueId", ncclGetErrorString(first.result));
        return;
    }
    config.blocking = 0; /* a rank that is gone must not keep the others here */
    ncclResult_t r = ncclCommInitRankConfig(&c->nccl, c->comm.size, first.id, c->comm.rank, &config);
    if (r != ncclSuccess && r != ncclInProgress)
        broke(c, "ncclCommInitRank", ncclGetErrorString(r));
}

enum lb_status lb_comm_nccl_open(struct lb_comm **out, const struct lb_nccl_spec *spec, struct lb_err *err)
{
    static const struct lb_comm_ops ops = {nccl_close, nccl_reduce, nccl_bcast, nccl_gather,
                                           nccl_beat,  nccl_status, nccl_buffer};
    struct lb_comm *boot = spec->boot;
    *out = boot;
    if (boot->size == 1)
        return LB_OK;
    *out = NULL;
    struct nccl *c = lb_mem_new(1, sizeof *c), none = {.comm = *boot, .boot = boot, .err = LB_ERR_INIT};
    if (!c) { /* the others hear of it */
        lb_err_memory(&none.err, "NCCL", sizeof *c);
        return agree(&none, err);
    }
    *c = (struct nccl){.comm = {&ops, "nccl", boot->rank, boot->size, 0, false},
                       .boot = boot,
                       .stream = spec->stream,
                       .ring = spec->ring,
                       .err = LB_ERR_INIT};
    cudaError_t e =
        spec->ring ? cudaSuccess : cudaMalloc((void **)&c->parts, (size_t)boot->size * CHUNK * sizeof(float));
    if (e != cudaSuccess)
        broke(c, "cudaMalloc of NCCL's parts", cudaGetErrorString(e));
    enum lb_status status = agree(c, err);
    if (status == LB_OK) {
        begin(c);
        status = agree(c, err);
    }
    if (status == LB_OK) {
        went_well(c, "ncclCommInitRank", ncclInProgress);
        status = agree(c, err);
    }
    if (status != LB_OK) {
        if (c->nccl)
            ncclCommAbort(c->nccl);
        c->nccl = NULL;
        release(c);
        return status;
    }
    size_t left, total;
    if (spec->free_bytes && cudaMemGetInfo(&left, &total) == cudaSuccess)
        *spec->free_bytes = left;
    *out = &c->comm;
    return LB_OK;
}
