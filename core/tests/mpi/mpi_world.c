/* The world's collectives, its hosts and processors, shared memory, and channels under load beside all that. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "core/dist/chan.h"
#include "core/dist/share.h"
#include "core/tests/mpi/mpi_check.h"

static void check_collectives(struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    for (size_t bytes = 0; bytes < 3000000; bytes = bytes * 3 + 1) {
        unsigned char *all = w->rank == 0 ? malloc(bytes * (size_t)w->size + 1) : NULL, *mine = malloc(bytes + 1);
        CHECK(mine);
        memset(mine, 'a' + w->rank, bytes);
        CHECK_OK(lb_world_gather(w, mine, bytes, all, &err), &err);
        for (size_t i = 0; all && i < bytes * (size_t)w->size; i++)
            CHECK(all[i] == 'a' + i / bytes);
        CHECK_OK(lb_world_bcast(w, mine, bytes, &err), &err);
        for (size_t i = 0; i < bytes; i++)
            CHECK(mine[i] == 'a');
        free(all);
        free(mine);
    }
    struct lb_str s = {0}, all[64] = {0};
    lb_str_putf(&s, w->rank == 0 ? "what rank %d says, to all" : "rank %d's", w->rank);
    CHECK_OK(lb_world_bcast_str(w, &s, &err), &err);
    CHECK(strcmp(s.data, "what rank 0 says, to all") == 0);
    lb_str_clear(&s);
    for (int i = 0; i < w->rank * 1000; i++)
        lb_str_putc(&s, 'r');
    CHECK_OK(lb_world_gather_str(w, s.data, s.len, w->rank == 0 ? all : NULL, &err), &err);
    for (int r = 0; r < w->size && w->rank == 0; r++) {
        CHECK(all[r].len == (size_t)r * 1000);
        lb_str_release(&all[r]);
    }
    lb_str_release(&s);
}

static void check_agree(struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    CHECK(lb_world_agree(w, LB_OK, &err) == LB_OK && err.status == LB_OK);
    /* the gravest counts, and of equals the first rank's */
    if (w->rank >= 1)
        lb_err_set(&err, LB_E_INPUT, "cannot read file %d", w->rank);
    else
        lb_err_set(&err, LB_E_INTERRUPTED, "interrupted");
    CHECK(lb_world_agree(w, err.status, &err) == LB_E_INPUT);
    char want[200];
    snprintf(want, sizeof want, "rank 1 on host %s: cannot read file 1", lb_world_host(w, 1));
    CHECK(err.status == LB_E_INPUT && strcmp(err.text, want) == 0);
    err = (struct lb_err)LB_ERR_INIT;
    CHECK(lb_world_agree(w, LB_OK, &err) == LB_OK); /* a failure that was agreed on does not stick */
}

static void check_hosts(struct lb_world *w, int per_host)
{
    int n = per_host ? per_host : w->size;
    CHECK(w->n_host == (w->size + n - 1) / n);
    CHECK(w->host_index == w->rank / n && w->host_rank == w->rank % n);
    CHECK(w->host_size == (w->host_index == w->n_host - 1 ? w->size - w->host_index * n : n));
    CHECK(strcmp(w->host, lb_world_host(w, w->rank)) == 0 && w->host[0]);
}

/* Masks after the division: a rank's own, or, with more ranks than processors, one processor each. */
static void check_cpus(struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_cpus cpus;
    cpu_set_t before, after, *all = calloc((size_t)w->size, sizeof *all);
    CHECK(all && sched_getaffinity(0, sizeof before, &before) == 0);
    CHECK_OK(lb_world_cpus(w, &cpus, &err), &err);
    CHECK(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(cpus.n_thread == CPU_COUNT(&after) && cpus.n_thread >= 1 && cpus.why[0]);
    CHECK(w->oversubscribed == (w->size > CPU_COUNT(&before))); /* the test's ranks are started unbound */
    CHECK_OK(lb_world_gather(w, &after, sizeof after, all, &err), &err);
    for (int r = 1; r < w->size && w->rank == 0 && !w->oversubscribed; r++) {
        cpu_set_t both;
        CPU_AND(&both, &all[r], &all[0]);
        CHECK(CPU_COUNT(&both) == 0);
    }
    free(all);
}

static void check_share(struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_shared mem;
    size_t bytes = (3u << 20) + 17;
    for (uint64_t key = 0; key < 3; key++) {
        /* key 2: even ranks share one memory, odd ranks another */
        uint64_t mine = key < 2 ? key : 2 + (uint64_t)w->rank % 2;
        CHECK_OK(lb_world_share(w, mine, bytes, &mem, &err), &err);
        unsigned char *data = mem.data;
        CHECK(((uintptr_t)data & ((2u << 20) - 1)) == 0);
        CHECK(mem.owner == (mem.owner_rank == w->rank));
        if (mem.owner) {
            CHECK(data[0] == 0 && data[bytes - 1] == 0);
            memset(data, 100 + w->rank, bytes);
            lb_shared_ready(w, &mem, true);
        }
        CHECK_OK(lb_shared_wait(w, &mem, &err), &err);
        for (size_t i = 0; i < bytes; i++)
            CHECK(data[i] == 100 + mem.owner_rank);
        int first = w->rank - w->host_rank, owner = w->rank;
        if (key == 1)
            owner = first;
        for (int r = w->rank; key == 2 && r >= first; r -= 2)
            owner = r;
        CHECK(mem.owner_rank == owner);
        lb_shared_release(&mem);
    }
    CHECK_OK(lb_world_share(w, 9, 4096, &mem, &err), &err);
    if (!mem.is_alone) { /* an owner that cannot fill it says so */
        lb_shared_ready(w, &mem, false);
        CHECK(mem.owner || lb_shared_wait(w, &mem, &err) == LB_E_DEVICE);
    }
    lb_shared_release(&mem);
}

#define N_ROW 200
#define TAG_ROW 3
#define TAG_END 4

static size_t row_bytes(int from, int i)
{
    size_t n = ((size_t)i * 7919 + (size_t)from * 31) % 500;
    return i % 50 == 7 ? n * 3000 : n; /* some are longer than what goes eagerly */
}

/* Every rank sends rows to every rank, itself too, all at once, and counts what comes. */
static void *traffic(void *arg)
{
    struct lb_world *w = arg;
    struct lb_err err = LB_ERR_INIT;
    struct lb_chan *c;
    struct lb_msg msg;
    int n_end = 0, n_from[64] = {0};
    static unsigned char row[1500000];
    CHECK_OK(lb_chan_open(&c, w, &err), &err);
    for (int i = 0; i <= N_ROW; i++)
        for (int to = 0; to < w->size; to++) {
            size_t bytes = i < N_ROW ? row_bytes(w->rank, i) : 0;
            memset(row, i + w->rank, bytes);
            CHECK_OK(lb_chan_send(c, to, i < N_ROW ? TAG_ROW : TAG_END, row, bytes, &err), &err);
        }
    while (n_end < w->size) {
        CHECK_OK(lb_chan_recv(c, &msg, 0.1, &err), &err);
        if (msg.from < 0)
            continue;
        int i = n_from[msg.from]++;
        CHECK(msg.tag == (i < N_ROW ? TAG_ROW : TAG_END));
        CHECK(msg.bytes == (i < N_ROW ? row_bytes(msg.from, i) : 0));
        for (size_t k = 0; k < msg.bytes; k++)
            CHECK(((const unsigned char *)msg.data)[k] == (unsigned char)(i + msg.from));
        n_end += i == N_ROW;
    }
    CHECK(lb_chan_send(c, w->size, TAG_ROW, NULL, 0, &err) == LB_E_DEVICE);
    lb_chan_close(c);
    return NULL;
}

static void check_chan_beside_group(struct lb_world *w)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_comm *c;
    pthread_t thread;
    CHECK_OK(lb_world_group(w, w->size, &c, &err), &err);
    CHECK(pthread_create(&thread, NULL, traffic, w) == 0);
    static float part[20000];
    for (int i = 0; i < 100; i++) {
        int n = i % 10 ? 100 : 20000;
        for (int k = 0; k < n; k++)
            part[k] = (float)(k + w->rank);
        c->ops->beat(c, "layer", i);
        c->ops->reduce(c, part, n);
        for (int k = 0; k < n; k++)
            CHECK(part[k] == (float)(k * w->size + w->size * (w->size - 1) / 2)); /* exact in f32 */
    }
    pthread_join(thread, NULL);
    CHECK_OK(c->ops->status(c, &err), &err);
    c->ops->close(c);
}

int main(int argc, char **argv)
{
    struct lb_world *w = open_world(argc, argv);
    check_hosts(w, argc > 2 ? atoi(argv[2]) : 0);
    check_collectives(w);
    check_agree(w);
    check_cpus(w);
    check_share(w);
    check_chan_beside_group(w);
    if (w->rank == 0)
        printf("%d ranks on %d hosts agree\n", w->size, w->n_host);
    lb_world_close(w);
    return 0;
}
