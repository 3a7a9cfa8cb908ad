#define _GNU_SOURCE
#include "core/dist/lifeline.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/mem.h"

#define MAX_ADDRESS 8
#define MAX_GUEST 32    /* connections that have not said who they are */
#define GUEST_TURNS 100 /* how long they may take for it */
#define GOODBYE 'b'

/* Where rank 0 listens; IPv4 addresses stand as IPv6 ones (RFC 4291, section 2.5.5.2). Loopback comes last, for ranks
 * under the same kernel. */
struct place {
    uint64_t secret;
    int32_t port, n_address; /* port 0: nowhere */
    struct in6_addr address[MAX_ADDRESS];
};

struct hello {
    uint64_t secret;
    int32_t rank, pad;
};

struct line {
    int fd, rank; /* fd -1: none */
    int turns;    /* of a guest */
    struct hello hello;
    size_t n_hello; /* bytes of it that have come or gone */
    bool there, cut;
};

struct lb_lifeline {
    struct place place;
    int listen_fd, rank;
    struct line *line; /* [n_line] rank 0: of each other host; else the one with rank 0 */
    int n_line;
    struct line guest[MAX_GUEST]; /* rank 0: who comes; else attempts, one an address */
};

static void drop(struct line *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

/* ---- opening ---- */

static void add_address(struct place *p, const struct sockaddr *from, bool loopback)
{
    struct in6_addr a;
    if (p->n_address == MAX_ADDRESS)
        return;
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)from;
        bool is_loop = (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
        if (is_loop != loopback)
            return;
        memset(&a, 0, sizeof a);
        a.s6_addr[10] = a.s6_addr[11] = 0xff;
        memcpy(a.s6_addr + 12, &v4->sin_addr, 4);
    } else if (from->sa_family == AF_INET6) {
        memcpy(&a, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, sizeof a);
        if (IN6_IS_ADDR_LINKLOCAL(&a) || IN6_IS_ADDR_LOOPBACK(&a))
            return;
        if (loopback)
            return;
    } else {
        return;
    }
    p->address[p->n_address++] = a;
}

static void list_addresses(struct place *p)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0)
        return;
    for (int loopback = 0; loopback < 2; loopback++)
        for (const struct ifaddrs *i = all; i; i = i->ifa_next)
            if (i->ifa_addr && (i->ifa_flags & IFF_UP))
                add_address(p, i->ifa_addr, loopback);
    freeifaddrs(all);
}

static void listen_on(struct lb_lifeline *l)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    socklen_t size = sizeof any;
    int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (getrandom(&l->place.secret, sizeof l->place.secret, 0) != sizeof l->place.secret ||
        bind(fd, (const struct sockaddr *)&any, size) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, (struct sockaddr *)&any, &size) != 0) {
        close(fd);
        return;
    }
    l->listen_fd = fd;
    l->place.port = ntohs(any.sin6_port);
    list_addresses(&l->place);
}

/* One attempt an address; which of them works shows later. */
static void call(struct lb_lifeline *l, bool same_machine)
{
    for (int i = 0; i < l->place.n_address && l->place.port; i++) {
        struct sockaddr_in6 to = {
            .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)l->place.port), .sin6_addr = l->place.address[i]};
        bool loopback = IN6_IS_ADDR_V4MAPPED(&to.sin6_addr) && to.sin6_addr.s6_addr[12] == 127;
        if (loopback && !same_machine)
            continue;
        struct line *g = &l->guest[i];
        g->hello = (struct hello){.secret = l->place.secret, .rank = l->rank};
        g->fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (g->fd >= 0 && connect(g->fd, (const struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
            drop(g);
    }
}

enum lb_status lb_lifeline_open(struct lb_world_impl *v, struct lb_err *err)
{
    const struct lb_world *w = &v->world;
    if (w->n_host < 2)
        return LB_OK;
    struct place place;
    memset(&place, 0, sizeof place);
    if (w->host_rank == 0) {
        struct lb_lifeline *l = v->lifeline = lb_mem_new(1, sizeof *l);
        if (l) {
            l->listen_fd = -1;
            l->rank = w->rank;
            l->n_line = w->rank == 0 ? w->n_host - 1 : 1;
            l->line = lb_mem_new((size_t)l->n_line, sizeof *l->line);
            for (int i = 0; i < MAX_GUEST; i++)
                l->guest[i].fd = -1;
            for (int i = 0; l->line && i < l->n_line; i++)
                l->line[i] = (struct line){.fd = -1, .rank = w->rank == 0 ? v->first[i + 1] : 0};
        }
        if (l && l->line && w->rank == 0) {
            listen_on(l);
            place = l->place;
        }
    }
    LB_TRY(lb_world_bcast(&v->world, &place, sizeof place, err));
    struct lb_lifeline *l = v->lifeline;
    if (!l || !l->line)
        return w->host_rank == 0 ? lb_err_memory(err, "connections between hosts", sizeof *l) : LB_OK;
    l->place = place;
    if (w->rank != 0)
        call(l, v->peer[0].machine == v->peer[w->rank].machine);
    return LB_OK;
}

void lb_lifeline_close(struct lb_lifeline *l)
{
    if (!l)
        return;
    for (int i = 0; i < l->n_line && l->line; i++) {
        char bye = GOODBYE;
        if (l->line[i].fd >= 0 && send(l->line[i].fd, &bye, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
            l->line[i].there = false; /* the other side is gone, or will think so after its run has ended */
        drop(&l->line[i]);
    }
    for (int i = 0; i < MAX_GUEST; i++)
        drop(&l->guest[i]);
    if (l->listen_fd >= 0)
        close(l->listen_fd);
    lb_mem_free(l->line);
    lb_mem_free(l);
}

/* ---- turns ---- */

static bool would_wait(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* The connection with a rank that has none yet. */
static struct line *free_line(struct lb_lifeline *l, int rank)
{
    for (int i = 0; i < l->n_line; i++)
        if (l->line[i].rank == rank && !l->line[i].there)
            return &l->line[i];
    return NULL;
}

static void settle(struct line *to, struct line *guest)
{
    to->fd = guest->fd;
    to->there = true;
    guest->fd = -1;
}

/* A guest has said all of it. One connection with a rank is enough: the others do not hear the secret. */
static void receive(struct lb_lifeline *l, struct line *g)
{
    uint64_t secret = l->place.secret;
    struct line *to = g->hello.secret == secret ? free_line(l, g->hello.rank) : NULL;
    if (to && send(g->fd, &secret, sizeof secret, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof secret)
        settle(to, g);
    else
        drop(g);
}

/* Rank 0: who comes says who it is, and hears the secret in return. */
static void take_guests(struct lb_lifeline *l)
{
    for (int i = 0; i < MAX_GUEST && l->listen_fd >= 0; i++) {
        struct line *g = &l->guest[i];
        if (g->fd < 0) {
            int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            *g = (struct line){.fd = fd};
        }
        char *to = (char *)&g->hello + g->n_hello;
        ssize_t n = recv(g->fd, to, sizeof g->hello - g->n_hello, MSG_DONTWAIT);
        if (n > 0)
            g->n_hello += (size_t)n;
        if (n == 0 || (n < 0 && !would_wait()) || ++g->turns > GUEST_TURNS) {
            drop(g);
        } else if (g->n_hello == sizeof g->hello) {
            receive(l, g);
        }
    }
}

/* Another rank: says who it is where a connection has come about, and waits for the secret. */
static void follow_calls(struct lb_lifeline *l)
{
    for (int i = 0; i < MAX_ADDRESS; i++) {
        struct line *g = &l->guest[i];
        struct pollfd fd = {g->fd, POLLOUT | POLLIN, 0};
        if (g->fd < 0 || poll(&fd, 1, 0) <= 0)
            continue;
        if (fd.revents & (POLLERR | POLLHUP)) {
            drop(g);
            continue;
        }
        if ((fd.revents & POLLOUT) && g->n_hello < sizeof g->hello) {
            const char *from = (const char *)&g->hello + g->n_hello;
            ssize_t n = send(g->fd, from, sizeof g->hello - g->n_hello, MSG_NOSIGNAL | MSG_DONTWAIT);
            g->n_hello += n > 0 ? (size_t)n : 0;
        }
        uint64_t secret = 0;
        struct line *to = free_line(l, 0);
        if (!(fd.revents & POLLIN))
            continue;
        if (to && recv(g->fd, &secret, sizeof secret, MSG_DONTWAIT) == sizeof secret && secret == l->place.secret)
            settle(to, g);
        else
            drop(g);
    }
}

static void look_at(struct line *l)
{
    char c = 0;
    ssize_t n = recv(l->fd, &c, 1, MSG_DONTWAIT);
    if (n < 0 && would_wait())
        return;
    /* an end, or a reset, which also comes where what was sent is not read any more; other errors are the network's */
    l->cut = n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE));
    drop(l);
}

void lb_lifeline_turn(struct lb_world_impl *v)
{
    struct lb_lifeline *l = v->lifeline;
    if (!l)
        return;
    if (l->rank == 0)
        take_guests(l);
    else
        follow_calls(l);
    for (int i = 0; i < l->n_line; i++)
        if (l->line[i].fd >= 0)
            look_at(&l->line[i]);
}

bool lb_lifeline_is_cut(const struct lb_lifeline *l, int rank)
{
    for (int i = 0; l && i < l->n_line; i++)
        if (l->line[i].rank == rank)
            return l->line[i].cut;
    return false;
}
