#define _GNU_SOURCE
#include "core/dist/board.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/dist/memfd.h"

static size_t board_bytes(int n_seat)
{
    return sizeof(struct lb_board) + (size_t)n_seat * sizeof(struct lb_seat);
}

enum lb_status lb_board_make(struct lb_board_map *m, int n_seat, struct lb_err *err)
{
    void *map;
    *m = (struct lb_board_map){.fd = -1, .bytes = board_bytes(n_seat)};
    LB_TRY(lb_memfd_make(m->bytes, 0, &map, &m->fd, err));
    m->board = map;
    return LB_OK;
}

enum lb_status lb_board_open(struct lb_board_map *m, int n_seat, int pid, int fd, struct lb_err *err)
{
    void *map;
    *m = (struct lb_board_map){.fd = -1, .bytes = board_bytes(n_seat)};
    LB_TRY(lb_memfd_open(pid, fd, m->bytes, 0, &map, err));
    m->board = map;
    return LB_OK;
}

void lb_board_release(struct lb_board_map *m)
{
    if (m->board)
        munmap(m->board, m->bytes);
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct lb_board_map){.fd = -1};
}

void lb_seat_text(_Atomic uint64_t *to, const char *text)
{
    uint64_t word[LB_PLACE_BYTES / 8] = {0};
    memcpy(word, text, strnlen(text, LB_PLACE_BYTES));
    for (int i = 0; i < LB_PLACE_BYTES / 8; i++)
        atomic_store_explicit(&to[i], word[i], memory_order_relaxed);
}

void lb_seat_read(const _Atomic uint64_t *from, char text[static LB_PLACE_BYTES + 1])
{
    for (int i = 0; i < LB_PLACE_BYTES / 8; i++) {
        uint64_t word = atomic_load_explicit(&from[i], memory_order_relaxed);
        memcpy(text + 8 * i, &word, 8);
    }
    text[LB_PLACE_BYTES] = 0;
}
