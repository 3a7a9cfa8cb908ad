/* Rows on their way between rank 0 and the leaders of groups.
 *
 * Rank 0 keeps a row and sends what a forward thread needs of it: prompts, settings, what keys its random numbers. The
 * leader makes a row of its own from that, runs it, and sends back what the forward thread found; rank 0 fills it into
 * the row that stayed at home. A ticket tells which one. All ranks run the same build, so that numbers travel as they
 * lie in memory; lengths and indices are checked all the same. */
#ifndef CORE_RUN_ROWWIRE_H
#define CORE_RUN_ROWWIRE_H

#include "core/base/str.h"
#include "core/run/flow.h"

/* Appends a lead with its sequences. Memory failures stick in out. */
void lb_rowwire_put_row(struct lb_str *out, uint64_t ticket, const struct lb_work *lead);

/* A new lead (the caller's, lb_work_free) without output buffers; its texts and lists are its own. LB_E_DEVICE: no
 * memory, or bytes that are no row. */
enum lb_status lb_rowwire_take_row(const void *data, size_t n, uint64_t *ticket, struct lb_work **lead,
                                   struct lb_err *err);

/* Appends what the sequences of an ended lead gave. now: lb_now(); clocks differ between hosts, so times travel as
 * ages. */
void lb_rowwire_put_result(struct lb_str *out, uint64_t ticket, const struct lb_work *lead, double now);

enum lb_status lb_rowwire_ticket(const void *data, size_t n, uint64_t *ticket, struct lb_err *err);

/* Fills the lead that stayed at home, with output buffers, which ran on `rank`. LB_E_DEVICE: bytes that are not its
 * result; what was filled in then is not to be used. */
enum lb_status lb_rowwire_take_result(const void *data, size_t n, struct lb_work *lead, int rank, double now,
                                      struct lb_err *err);

#endif
