/* NCCL whose ranks are threads of this process, or processes, each with a device of its own. A collective is an
 * operation of each rank's stream, done when all of them have come to it. */
#include "kernels/tests/standin/standin_between.h"
#include "kernels/tests/standin/standin_state.h"

#include <nccl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIQUE 64
#define MAX_MEETING 4096 /* of a communicator, that not all ranks have come to */
#define MAX_TROUBLE 16

/* A communicator of all its ranks. */
struct clique {
    uint64_t id;
    int n_rank, n_come, n_open;
    struct standin_meeting *meeting[MAX_MEETING]; /* number n at n % MAX_MEETING */
    bool broken;
    struct standin_between *between; /* NULL: all ranks are here */
};

struct ncclComm {
    struct clique *clique;
    int rank, device;
    bool blocking, was_asked; /* a first collective answers "in progress" */
    long n_meeting;
    ncclResult_t async;
    struct standin_op *pending[MAX_MEETING];
    int n_pending;
};

enum verb { ALL_GATHER, ALL_REDUCE, BROADCAST };

struct collective {
    struct ncclComm *comm;
    enum verb verb;
    const char *from;
    char *to;
    size_t count, size;
    ncclDataType_t type;
    int root;
    size_t taken; /* bytes */
    long number;  /* of the communicator's collectives */
};

static struct clique *cliques[MAX_CLIQUE];
static int n_clique;
static uint64_t n_id;
static struct {
    int rank;
    long n, ms;
} troubles[MAX_TROUBLE];
static int n_trouble;
static _Thread_local int group;

static ncclResult_t enter(const char *call)
{
    return standin_enter_other(call) ? ncclUnhandledCudaError : ncclSuccess;
}

static ncclResult_t leave(ncclResult_t result)
{
    standin_leave_other();
    return result;
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

void standin_delay(int rank, long n, long ms)
{
    standin_enter_other("standin_delay");
    if (rank < 0)
        n_trouble = 0;
    else if (n_trouble < MAX_TROUBLE) {
        troubles[n_trouble].rank = rank;
        troubles[n_trouble].n = n;
        troubles[n_trouble++].ms = ms;
    }
    standin_leave_other();
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *version)
{
    ncclResult_t r = enter("ncclGetVersion");
    *version = NCCL_VERSION_CODE;
    return leave(r);
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    ncclResult_t r = enter("ncclGetUniqueId");
    uint64_t name[2] = {++n_id, (uint64_t)getpid()};
    memset(id, 0, sizeof *id);
    memcpy(id, name, sizeof name);
    return leave(r);
}

static struct clique *clique_of(uint64_t id, int n_rank)
{
    for (int i = 0; i < n_clique; i++)
        if (cliques[i]->id == id)
            return cliques[i];
    struct clique *c = calloc(1, sizeof *c);
    if (!c || n_clique == MAX_CLIQUE)
        abort();
    c->id = id;
    c->n_rank = n_rank;
    cliques[n_clique++] = c;
    return c;
}

static void clique_drop(struct clique *c)
{
    if (--c->n_open > 0)
        return;
    for (int i = 0; i < n_clique; i++)
        if (cliques[i] == c)
            cliques[i--] = cliques[--n_clique];
    if (c->between)
        standin_between_close(c->between, c->broken);
    for (int i = 0; i < MAX_MEETING; i++)
        if (c->meeting[i] && --c->meeting[i]->n_ref == 0)
            free(c->meeting[i]);
    free(c);
}

static bool all_came(const struct clique *c)
{
    return c->between ? standin_between_all_came(c->between) : c->n_come >= c->n_rank;
}

/* The number of a rank among those of this process. */
static int seat_of(const struct ncclComm *comm)
{
    return comm->clique->between ? 0 : comm->rank;
}

static ncclResult_t join_clique(ncclComm_t *out, int n_rank, const ncclUniqueId *id, int rank, bool blocking)
{
    uint64_t name[2];
    memcpy(name, id, sizeof name);
    if (n_rank < 1 || n_rank > STANDIN_MAX_DEVICE || rank < 0 || rank >= n_rank || name[0] == 0) {
        standin_report("rank %d of %d with id %llu", rank, n_rank, (unsigned long long)name[0]);
        return ncclInvalidArgument;
    }
    bool apart = getenv("STANDIN_PROCESSES") && n_rank > 1;
    if (name[1] != (uint64_t)getpid() && n_rank > 1 && !apart)
        return ncclSystemError;
    struct clique *c = clique_of(name[0], n_rank);
    if (apart && !c->between && !(c->between = standin_between_open(name, n_rank, rank)))
        return ncclSystemError;
    struct ncclComm *comm = calloc(1, sizeof *comm);
    if (!comm)
        abort();
    *comm = (struct ncclComm){.clique = c, .rank = rank, .device = standin_device(), .blocking = blocking};
    c->n_come++;
    c->n_open++;
    standin_made("communicator", comm);
    standin_news();
    *out = comm;
    while (blocking && !all_came(c))
        standin_await();
    return blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_rank, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    ncclResult_t r = enter("ncclCommInitRank");
    *out = NULL;
    return leave(r ? r : join_clique(out, n_rank, &id, rank, !config || config->blocking != 0));
}

ncclResult_t ncclCommInitRank(ncclComm_t *out, int n_rank, ncclUniqueId id, int rank)
{
    return ncclCommInitRankConfig(out, n_rank, id, rank, NULL);
}

static void close_comm(struct ncclComm *comm)
{
    clique_drop(comm->clique);
    free(comm);
}

static void give_up(struct ncclComm *comm)
{
    for (int i = 0; i < comm->n_pending; i++) {
        comm->pending[i]->aborted = true;
        comm->pending[i]->meeting->op[seat_of(comm)] = NULL;
        ((struct collective *)comm->pending[i]->ctx)->comm = NULL;
    }
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    ncclResult_t r = enter("ncclCommDestroy");
    if (!standin_gone("communicator", comm))
        return leave(ncclInvalidArgument);
    if (standin_graph_has(comm))
        standin_report("a graph has collectives of the communicator still");
    if (comm->n_pending > 0)
        standin_report("%d collectives of the communicator are still to be done", comm->n_pending);
    give_up(comm);
    close_comm(comm);
    return leave(r);
}

/* This rank's collectives end without a result; those of other ranks wait until they do this too. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    ncclResult_t r = enter("ncclCommAbort");
    if (!standin_gone("communicator", comm))
        return leave(ncclInvalidArgument);
    comm->clique->broken |= !all_came(comm->clique) || comm->clique->between;
    give_up(comm);
    standin_news();
    close_comm(comm);
    return leave(r);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *async)
{
    ncclResult_t r = enter("ncclCommGetAsyncError");
    if (r || !standin_lives("communicator", comm))
        return leave(r ? r : ncclInvalidArgument);
    const struct clique *c = comm->clique;
    bool broken = c->broken || (c->between && standin_between_has_gone(c->between));
    *async = broken ? ncclRemoteError : comm->async;
    if (!broken && !comm->blocking && !all_came(c))
        *async = ncclInProgress;
    comm->async = ncclSuccess;
    return leave(ncclSuccess);
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *n)
{
    ncclResult_t r = enter("ncclCommCount");
    *n = comm->clique->n_rank;
    return leave(r);
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    ncclResult_t r = enter("ncclCommUserRank");
    *rank = comm->rank;
    return leave(r);
}

ncclResult_t ncclGroupStart(void); /* the header's have no prototypes in C */
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void)
{
    ncclResult_t r = enter("ncclGroupStart");
    group++;
    return leave(r);
}

ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t r = enter("ncclGroupEnd");
    if (--group < 0)
        standin_report("no group was begun");
    return leave(r);
}

/* ---- collectives ---- */

static size_t sent(const struct collective *c)
{
    return c->count * c->size;
}

static size_t taken(const struct collective *c)
{
    return c->verb == ALL_GATHER ? c->count * c->size * (size_t)c->comm->clique->n_rank : c->count * c->size;
}

static bool is_same(const struct collective *a, const struct collective *b)
{
    return a->verb == b->verb && a->count == b->count && a->type == b->type && a->root == b->root;
}

/* As a ring adds: each stretch of the numbers begins at another rank. */
static void add_ring(float *sum, char *const *from, int n_rank, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int first = (int)(i * (size_t)n_rank / n);
        const float *x = (const float *)(const void *)from[first];
        sum[i] = x[i];
        for (int r = 1; r < n_rank; r++) {
            x = (const float *)(const void *)from[(first + r) % n_rank];
            sum[i] += x[i];
        }
    }
}

/* What each rank gives, as it is before anything is written. */
static char **take_all(struct standin_meeting *m)
{
    char **from = calloc((size_t)m->n_rank, sizeof *from);
    for (int r = 0; from && r < m->n_rank; r++) {
        const struct collective *c = m->op[r]->ctx;
        standin_begin_op(m->stream[r], m->op[r]);
        bool gives = c->verb != BROADCAST || r == c->root;
        from[r] = malloc(sent(c) + 1);
        if (from[r] && gives) {
            standin_touch(c->from, sent(c), false);
            memcpy(from[r], c->from, sent(c));
        }
    }
    return from;
}

static void no_more(struct standin_meeting *m)
{
    for (int r = 0; r < m->n_rank; r++) {
        struct ncclComm *comm = ((struct collective *)m->op[r]->ctx)->comm;
        for (int i = 0; i < comm->n_pending; i++)
            if (comm->pending[i] == m->op[r])
                comm->pending[i--] = comm->pending[--comm->n_pending];
    }
}

static void write_result(const struct collective *c, char *const *from)
{
    int n_rank = c->comm->clique->n_rank;
    standin_touch(c->to, taken(c), true);
    for (int i = 0; i < n_rank && c->verb == ALL_GATHER; i++)
        memcpy(c->to + (size_t)i * sent(c), from[i], sent(c));
    if (c->verb == BROADCAST)
        memcpy(c->to, from[c->root], sent(c));
    if (c->verb == ALL_REDUCE)
        add_ring((float *)(void *)c->to, from, n_rank, c->count);
}

/* Among processes: this one's part is given when its stream has come to it. */
static bool there(struct standin_meeting *m)
{
    const struct collective *c = m->op[0]->ctx;
    bool gives = c->verb != BROADCAST || c->comm->rank == c->root;
    standin_begin_op(m->stream[0], m->op[0]);
    if (gives)
        standin_touch(c->from, sent(c), false);
    standin_now = (struct standin_now){0};
    return standin_between_meet(c->comm->clique->between, c->number, gives ? c->from : NULL, sent(c));
}

static void run_apart(struct standin_meeting *m)
{
    const struct collective *c = m->op[0]->ctx;
    char *from[STANDIN_MAX_DEVICE];
    for (int r = 0; r < c->comm->clique->n_rank; r++)
        from[r] = standin_between_area(c->comm->clique->between, r);
    standin_begin_op(m->stream[0], m->op[0]);
    write_result(c, from);
    standin_between_leave(c->comm->clique->between, c->number);
    no_more(m);
}

static void run(struct standin_meeting *m)
{
    const struct collective *first = m->op[0]->ctx;
    for (int r = 1; r < m->n_rank; r++)
        if (!is_same(first, m->op[r]->ctx)) {
            standin_report("%s of rank 0 meets another collective, %s of rank %d", m->op[0]->name, m->op[r]->name, r);
            first->comm->clique->broken = true;
            no_more(m);
            return;
        }
    char **from = take_all(m);
    struct standin_clock all = {0};
    for (int r = 0; r < m->n_rank; r++)
        standin_join(&all, &m->stream[r]->clock);
    for (int r = 0; r < m->n_rank; r++) {
        const struct collective *c = m->op[r]->ctx;
        standin_join(&m->stream[r]->clock, &all);
        standin_begin_op(m->stream[r], m->op[r]);
        write_result(c, from);
    }
    for (int r = 0; r < m->n_rank; r++)
        free(from[r]);
    free(from);
    no_more(m);
}

/* The rank's operation n takes its place in meeting n. */
static void join(void *ctx, struct standin_op *op, struct CUstream_st *s)
{
    const struct collective *c = ctx;
    struct ncclComm *comm = c->comm;
    struct clique *q = comm->clique;
    long n = ((struct collective *)op->ctx)->number = comm->n_meeting++;
    struct standin_meeting **m = &q->meeting[n % MAX_MEETING];
    if (!*m) {
        *m = calloc(1, sizeof **m);
        if (!*m)
            abort();
        **m = (struct standin_meeting){.n_rank = q->n_rank, .n_ref = 1, .run = run};
        if (q->between)
            **m = (struct standin_meeting){.n_rank = 1, .n_ref = 1, .run = run_apart, .there = there};
    }
    (*m)->op[seat_of(comm)] = op;
    (*m)->stream[seat_of(comm)] = s;
    (*m)->n_ref++;
    op->meeting = *m;
    if (comm->n_pending == MAX_MEETING)
        abort();
    comm->pending[comm->n_pending++] = op;
    for (int i = 0; i < n_trouble; i++) {
        if (troubles[i].rank != comm->rank || troubles[i].n != n)
            continue;
        (*m)->never |= troubles[i].ms < 0;
        (*m)->at_ms = troubles[i].ms > 0 ? now_ms() + (double)troubles[i].ms : 0;
        q->broken |= troubles[i].ms == -2;
    }
    if (++(*m)->n_come == (*m)->n_rank && !(*m)->never) {
        (*m)->n_ref--;
        *m = NULL;
    }
}

/* Of a communicator that was aborted, or on a device that is lost: whatever may stand there then. */
static int abandon(void *ctx, void *stream)
{
    const struct collective *c = ctx;
    struct ncclComm *comm = c->comm;
    (void)stream;
    for (int i = 0; comm && i < comm->n_pending; i++)
        if (comm->pending[i]->ctx == ctx)
            comm->pending[i--] = comm->pending[--comm->n_pending];
    standin_touch(c->to, c->taken, true);
    return 0;
}

static size_t size_of(ncclDataType_t type)
{
    return type == ncclFloat32 ? 4 : type == ncclInt8 || type == ncclUint8 ? 1 : 0;
}

static ncclResult_t collect(const char *name, struct collective *c, cudaStream_t s)
{
    int device;
    ncclResult_t r = enter(name);
    if (r || !standin_lives("communicator", c->comm))
        return leave(r ? r : ncclInvalidArgument);
    c->size = size_of(c->type);
    if (!c->size || (c->verb == ALL_REDUCE && c->type != ncclFloat32))
        standin_report("type %d is not modeled", (int)c->type);
    if (!all_came(c->comm->clique)) {
        standin_report("the communicator is not ready");
        return leave(ncclInvalidUsage);
    }
    bool gives = c->verb != BROADCAST || c->comm->rank == c->root;
    if ((gives && standin_place(c->from, sent(c), &device) != STANDIN_ON_DEVICE) ||
        standin_place(c->to, taken(c), &device) != STANDIN_ON_DEVICE) {
        standin_report("%zu and %zu bytes are not in device memory", sent(c), taken(c));
        return leave(ncclInvalidArgument);
    }
    if (c->count == 0)
        return leave(ncclSuccess);
    c->taken = taken(c);
    struct standin_op *op = standin_op_new(OP_MEET, name, c, sizeof *c);
    op->join = join;
    op->run = abandon;
    op->comm = c->comm;
    if (standin_enqueue(s, op))
        return leave(ncclUnhandledCudaError);
    if (c->comm->blocking || c->comm->was_asked)
        return leave(ncclSuccess);
    c->comm->was_asked = true;
    c->comm->async = ncclInProgress;
    return leave(ncclInProgress);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t s)
{
    struct collective c = {.comm = comm, .verb = ALL_GATHER, .from = from, .to = to, .count = count, .type = type};
    return collect("ncclAllGather", &c, s);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t s)
{
    struct collective c = {.comm = comm, .verb = ALL_REDUCE, .from = from, .to = to, .count = count, .type = type};
    return op == ncclSum ? collect("ncclAllReduce", &c, s) : ncclInvalidArgument;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t s)
{
    struct collective c = {comm, BROADCAST, from, to, count, 0, type, root, 0, 0};
    return collect("ncclBroadcast", &c, s);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const text[] = {"no error",
                                       "unhandled cuda error",
                                       "unhandled system error",
                                       "internal error",
                                       "invalid argument",
                                       "invalid usage",
                                       "remote process exited or there was a network error",
                                       "NCCL operation in progress"};
    return (unsigned)result < sizeof text / sizeof text[0] ? text[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "";
}
