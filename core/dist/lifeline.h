/* A TCP connection between rank 0 and the first rank of each other host, which the kernel ends when a process dies: so
 * that a rank that is killed is known within seconds, not after --rank-timeout. It carries nothing but a goodbye.
 *
 * Its end alone proves nothing (something between the hosts may have cut it), nor does its being there: the watchdog
 * takes an end without a goodbye together with some seconds without notes as a rank that is gone. Where no connection
 * comes about (a firewall), the notes tell alone, later. Watchdog thread, but for open and close. */
#ifndef CORE_DIST_LIFELINE_H
#define CORE_DIST_LIFELINE_H

#include <stdbool.h>

#include "core/dist/world_impl.h"

/* Collective; before the watchdog starts. With one host there is nothing to do. A failure to listen is no failure. */
enum lb_status lb_lifeline_open(struct lb_world_impl *v, struct lb_err *err);

/* Says goodbye and closes. NULL is allowed. */
void lb_lifeline_close(struct lb_lifeline *l);

/* Once a turn: takes connections, and notices those that end. */
void lb_lifeline_turn(struct lb_world_impl *v);

/* Whether the connection with a rank was there and has ended without a goodbye. */
bool lb_lifeline_is_cut(const struct lb_lifeline *l, int rank);

#endif
