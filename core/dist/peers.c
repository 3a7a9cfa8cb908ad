/* Who is where: the hosts of all ranks, and a board for each host. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/dist/world_impl.h"

/* Ranks with equal cards reach each other through /proc: one kernel, one table of processes. Network namespaces and
 * names tell containers apart, which ought to be hosts of their own. */
struct card {
    char host[LB_HOST_BYTES];
    char boot[40];
    uint64_t pid_space, net_space;
    int64_t group; /* no padding: cards are compared as bytes */
};

struct entry {
    struct card card;
    int pid;
};

static uint64_t inode(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static struct entry own_entry(const struct lb_world_impl *v)
{
    struct entry e;
    memset(&e, 0, sizeof e);
    if (gethostname(e.card.host, sizeof e.card.host - 1) != 0)
        strcpy(e.card.host, "localhost");
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f) {
        if (!fgets(e.card.boot, sizeof e.card.boot, f))
            e.card.boot[0] = 0;
        fclose(f);
    }
    e.card.pid_space = inode("/proc/self/ns/pid");
    e.card.net_space = inode("/proc/self/ns/net");
    if (v->spec.ranks_per_host > 0) {
        e.card.group = v->world.rank / v->spec.ranks_per_host;
        size_t len = strnlen(e.card.host, sizeof e.card.host - 16);
        snprintf(e.card.host + len, sizeof e.card.host - len, ".%d", (int)e.card.group);
    }
    e.pid = (int)getpid();
    return e;
}

/* Numbers hosts by their first ranks; each rank of alone[] is a host of its own. */
static void number_hosts(struct lb_world_impl *v, const struct entry *all, const bool *alone)
{
    struct lb_world *w = &v->world;
    int host_size = 0;
    w->n_host = 0;
    for (int r = 0; r < w->size; r++) {
        struct lb_peer *p = &v->peer[r];
        memcpy(p->host, all[r].card.host, sizeof p->host);
        p->host[sizeof p->host - 1] = 0;
        p->pid = all[r].pid;
        p->machine = r;
        for (int q = r - 1; q >= 0 && all[r].card.boot[0]; q--)
            if (memcmp(all[q].card.boot, all[r].card.boot, sizeof all[r].card.boot) == 0)
                p->machine = q;
        p->host_index = w->n_host;
        p->host_rank = 0;
        for (int h = 0; h < w->n_host && !(alone && alone[r]); h++) {
            if ((alone && alone[v->first[h]]) || memcmp(&all[v->first[h]].card, &all[r].card, sizeof(struct card)) != 0)
                continue;
            p->host_index = h;
            break;
        }
        if (p->host_index == w->n_host)
            v->first[w->n_host++] = r;
        for (int q = 0; q < r; q++)
            p->host_rank += v->peer[q].host_index == p->host_index;
    }
    for (int r = 0; r < w->size; r++)
        host_size += v->peer[r].host_index == v->peer[w->rank].host_index;
    w->host = v->peer[w->rank].host;
    w->host_index = v->peer[w->rank].host_index;
    w->host_rank = v->peer[w->rank].host_rank;
    w->host_size = host_size;
    int on_machine = 0;
    for (int r = 0; r < w->size; r++)
        on_machine += v->peer[r].machine == v->peer[w->rank].machine;
    w->oversubscribed = on_machine > sysconf(_SC_NPROCESSORS_ONLN);
}

struct offer {
    int fd, ok;
};

/* Where a rank cannot open its host's board (a hardened /proc), each rank of that host becomes a host of its own:
 * slower, never wrong. */
static enum lb_status open_boards(struct lb_world_impl *v, const struct entry *all, struct lb_err *err)
{
    struct lb_world *w = &v->world;
    struct offer *offer = lb_mem_new((size_t)w->size, sizeof *offer), mine = {-1, 1};
    bool *alone = lb_mem_new((size_t)w->size, sizeof *alone);
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = offer && alone ? LB_OK : lb_err_memory(err, "the ranks", (unsigned)w->size);
    int first = v->first[w->host_index];
    bool is_split = false;
    if (status == LB_OK && first == w->rank) {
        mine.ok = lb_board_make(&v->board, w->host_size, &why) == LB_OK;
        mine.fd = v->board.fd;
    }
    if (status == LB_OK)
        status = lb_world_share_out(v, &mine, sizeof mine, offer, err);
    if (status == LB_OK && first != w->rank)
        mine.ok = offer[first].ok &&
                  lb_board_open(&v->board, w->host_size, v->peer[first].pid, offer[first].fd, &why) == LB_OK;
    if (status == LB_OK)
        status = lb_world_share_out(v, &mine, sizeof mine, offer, err);
    for (int r = 0; status == LB_OK && r < w->size; r++)
        for (int q = 0; q < w->size && !offer[r].ok; q++)
            if (v->peer[q].host_index == v->peer[r].host_index)
                alone[q] = is_split = true;
    if (status == LB_OK && is_split) {
        bool was_alone = w->host_size == 1;
        number_hosts(v, all, alone);
        if (alone[w->rank] && !was_alone) {
            lb_board_release(&v->board);
            lb_log_put(v->spec.log, LB_LOG_WARN, "ranks of host %s share no memory: %s", w->host,
                       why.status ? why.text : "another of them cannot");
        }
    }
    if (status == LB_OK && !v->board.board)
        status = lb_board_make(&v->board, w->host_size, err);
    if (status == LB_OK)
        v->seat = &v->board.board->seat[w->host_rank];
    lb_mem_free(offer);
    lb_mem_free(alone);
    return status;
}

enum lb_status lb_peers_meet(struct lb_world_impl *v, struct lb_err *err)
{
    size_t n = (size_t)v->world.size;
    struct entry mine = own_entry(v), *all = lb_mem_new(n, sizeof *all);
    v->peer = lb_mem_new(n, sizeof *v->peer);
    v->first = lb_mem_new(n, sizeof *v->first);
    if (!all || !v->peer || !v->first) {
        lb_mem_free(all);
        return lb_err_memory(err, "the ranks", n * sizeof *all);
    }
    enum lb_status status = lb_world_share_out(v, &mine, sizeof mine, all, err);
    if (status == LB_OK)
        number_hosts(v, all, NULL);
    if (status == LB_OK && n > 1)
        status = open_boards(v, all, err);
    lb_mem_free(all);
    return status;
}
