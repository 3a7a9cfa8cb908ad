/* The wire over MPI, the only file that knows it. */
#include <mpi.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/dist/wire.h"

_Static_assert(sizeof(MPI_Request) <= sizeof((struct lb_wire_req *)0)->raw, "a request fits");

/* One process, one MPI. Below MPI_THREAD_MULTIPLE every call takes the lock; no call blocks while it holds it. */
static struct {
    MPI_Comm lane[LB_N_LANE];
    pthread_mutex_t lock;
    int is_locked;
} mpi = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local char last_error[MPI_MAX_ERROR_STRING + 64];

static void enter(void)
{
    if (mpi.is_locked)
        pthread_mutex_lock(&mpi.lock);
}

static enum lb_status leave(const char *call, int rc)
{
    if (rc != MPI_SUCCESS) {
        char text[MPI_MAX_ERROR_STRING] = "";
        int len = 0;
        MPI_Error_string(rc, text, &len);
        snprintf(last_error, sizeof last_error, "%s: %s", call, text);
    }
    if (mpi.is_locked)
        pthread_mutex_unlock(&mpi.lock);
    return rc == MPI_SUCCESS ? LB_OK : LB_E_DEVICE;
}

/* MPI leaves memory behind, also in components that it unloads, whose stacks nobody can name afterwards. So a leak
 * checker does not count what the library allocates while it begins, and looks before the library ends; it does not
 * look again when the program does. */
#ifdef __SANITIZE_ADDRESS__
void __lsan_do_leak_check(void);
void __lsan_disable(void);
void __lsan_enable(void);
#else
#define __lsan_do_leak_check() ((void)0)
#define __lsan_disable() ((void)0)
#define __lsan_enable() ((void)0)
#endif

static enum lb_status mpi_open(int *rank, int *size, struct lb_err *err)
{
    int level = MPI_THREAD_SINGLE;
    __lsan_disable();
    int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    __lsan_enable();
    if (rc != MPI_SUCCESS)
        return lb_err_set(err, LB_E_DEVICE, "MPI cannot be initialized");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (level < MPI_THREAD_SERIALIZED) {
        MPI_Finalize();
        return lb_err_set(err, LB_E_DEVICE, "this MPI allows calls from one thread alone (level %d): two are needed",
                          level);
    }
    mpi.is_locked = level < MPI_THREAD_MULTIPLE;
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    for (int i = 0; i < LB_N_LANE; i++) {
        if (MPI_Comm_dup(MPI_COMM_WORLD, &mpi.lane[i]) != MPI_SUCCESS)
            return lb_err_set(err, LB_E_DEVICE, "MPI_Comm_dup failed");
        MPI_Comm_set_errhandler(mpi.lane[i], MPI_ERRORS_RETURN);
    }
    return LB_OK;
}

static void mpi_close(void)
{
    __lsan_do_leak_check();
    for (int i = 0; i < LB_N_LANE; i++)
        MPI_Comm_free(&mpi.lane[i]);
    MPI_Finalize();
}

static void mpi_abort(int code)
{
    MPI_Abort(MPI_COMM_WORLD, code);
}

static enum lb_status started(const char *call, int rc, MPI_Request r, struct lb_wire_req *req)
{
    memcpy(req->raw, &r, sizeof r);
    req->active = rc == MPI_SUCCESS;
    return leave(call, rc);
}

static enum lb_status mpi_send(enum lb_lane lane, int to, int tag, const void *data, size_t bytes,
                               struct lb_wire_req *req)
{
    MPI_Request r = MPI_REQUEST_NULL;
    enter();
    int rc = MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, mpi.lane[lane], &r);
    return started("MPI_Isend", rc, r, req);
}

static enum lb_status mpi_recv(enum lb_lane lane, int from, int tag, void *data, size_t bytes, struct lb_wire_req *req)
{
    MPI_Request r = MPI_REQUEST_NULL;
    enter();
    int rc = MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag, mpi.lane[lane], &r);
    return started("MPI_Irecv", rc, r, req);
}

static enum lb_status mpi_test(struct lb_wire_req *req)
{
    if (!req->active)
        return LB_OK;
    MPI_Request r;
    memcpy(&r, req->raw, sizeof r);
    int done = 0;
    enter();
    int rc = MPI_Test(&r, &done, MPI_STATUS_IGNORE);
    memcpy(req->raw, &r, sizeof r);
    req->active = rc == MPI_SUCCESS && !done;
    return leave("MPI_Test", rc);
}

static enum lb_status mpi_probe(enum lb_lane lane, struct lb_wire_head *head)
{
    int there = 0, n = 0;
    MPI_Status s;
    *head = (struct lb_wire_head){.from = -1};
    enter();
    int rc = MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, mpi.lane[lane], &there, &s);
    if (rc == MPI_SUCCESS && there) {
        MPI_Get_count(&s, MPI_BYTE, &n);
        *head = (struct lb_wire_head){s.MPI_SOURCE, s.MPI_TAG, n > 0 ? (size_t)n : 0};
    }
    return leave("MPI_Iprobe", rc);
}

static const char *mpi_error(void)
{
    return last_error;
}

const struct lb_wire_ops *lb_wire_mpi(void)
{
    static const struct lb_wire_ops ops = {mpi_open, mpi_close, mpi_abort, mpi_send,
                                           mpi_recv, mpi_test,  mpi_probe, mpi_error};
    return &ops;
}
