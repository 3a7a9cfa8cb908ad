#define _GNU_SOURCE
#include "kernels/tests/standin/standin_between.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/tests/standin/standin_state.h"

#define AREA ((size_t)4 << 20)

struct memory {
    atomic_int n_come, gone;
    atomic_long given[STANDIN_MAX_DEVICE], left[STANDIN_MAX_DEVICE]; /* collectives */
    char area[STANDIN_MAX_DEVICE][AREA];
};

struct standin_between {
    struct memory *m;
    int n_rank, rank;
};

struct standin_between *standin_between_open(const uint64_t id[2], int n_rank, int rank)
{
    char name[64];
    struct standin_between *b = calloc(1, sizeof *b);
    snprintf(name, sizeof name, "/standin-%llx-%llx", (unsigned long long)id[1], (unsigned long long)id[0]);
    int fd = b ? shm_open(name, O_RDWR | O_CREAT, 0600) : -1;
    void *p = fd >= 0 && ftruncate(fd, sizeof *b->m) == 0
                  ? mmap(NULL, sizeof *b->m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
                  : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (p == MAP_FAILED) {
        free(b);
        return NULL;
    }
    *b = (struct standin_between){p, n_rank, rank};
    if (atomic_fetch_add(&b->m->n_come, 1) + 1 == n_rank)
        shm_unlink(name);
    return b;
}

void standin_between_close(struct standin_between *b, bool gone)
{
    if (gone)
        atomic_store(&b->m->gone, 1);
    munmap(b->m, sizeof *b->m);
    free(b);
}

bool standin_between_all_came(const struct standin_between *b)
{
    return atomic_load(&b->m->n_come) >= b->n_rank;
}

bool standin_between_has_gone(const struct standin_between *b)
{
    return atomic_load(&b->m->gone) != 0;
}

static bool all_at(const struct standin_between *b, atomic_long *counts, long n)
{
    for (int r = 0; r < b->n_rank; r++)
        if (atomic_load(&counts[r]) < n)
            return false;
    return true;
}

bool standin_between_meet(struct standin_between *b, long n, const void *data, size_t bytes)
{
    if (bytes > AREA)
        abort();
    if (atomic_load(&b->m->given[b->rank]) == n) {
        if (!all_at(b, b->m->left, n))
            return false;
        if (data)
            memcpy(b->m->area[b->rank], data, bytes);
        atomic_store(&b->m->given[b->rank], n + 1);
    }
    return all_at(b, b->m->given, n + 1);
}

char *standin_between_area(const struct standin_between *b, int rank)
{
    return b->m->area[rank];
}

void standin_between_leave(struct standin_between *b, long n)
{
    atomic_store(&b->m->left[b->rank], n + 1);
}
