/* A page of memory that all ranks of a host see: where each rank is, and what has been found about one.
 *
 * The host's first rank makes it as a memfd, the others open that through /proc. Every rank writes its own seat and
 * reads the others'. */
#ifndef CORE_DIST_BOARD_H
#define CORE_DIST_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum lb_seat_state {
    LB_SEAT_IDLE, /* may take any time */
    LB_SEAT_BUSY, /* computes */
    LB_SEAT_OPEN, /* waits for the next step, which may take any time */
    LB_SEAT_WAIT, /* waits for rank wait_for inside a step */
};

#define LB_PLACE_BYTES 16

struct lb_seat {
    _Alignas(64) _Atomic uint32_t pulse; /* counted up by the rank's watchdog */
    _Atomic int left;                    /* has gone in an orderly way */
    _Alignas(64) _Atomic uint32_t beat;  /* counted up by the rank's forward thread, with all below */
    _Atomic int state, wait_for;
    _Atomic uint64_t place[LB_PLACE_BYTES / 8]; /* text */
    _Atomic uint64_t doing[LB_PLACE_BYTES / 8]; /* name of the collective that it waits in */
    _Atomic int64_t n, step;
};

#define LB_BOARD_TEXT 400

struct lb_board {
    _Atomic int failed; /* 1: being written, 2: text and rank hold what was found, about which rank */
    int rank;
    char text[LB_BOARD_TEXT];
    struct lb_seat seat[]; /* [host_size] by host_rank */
};

struct lb_board_map {
    struct lb_board *board;
    size_t bytes;
    int fd;
};

/* The first rank's. fd is open until lb_board_release. */
enum lb_status lb_board_make(struct lb_board_map *m, int n_seat, struct lb_err *err);

/* Another rank's: process pid's descriptor fd. */
enum lb_status lb_board_open(struct lb_board_map *m, int n_seat, int pid, int fd, struct lb_err *err);

void lb_board_release(struct lb_board_map *m);

void lb_seat_text(_Atomic uint64_t *to, const char *text);
void lb_seat_read(const _Atomic uint64_t *from, char text[static LB_PLACE_BYTES + 1]);

#endif
