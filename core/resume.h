/* How a run goes on from an earlier one of the same command: what that left at OUT, what of it holds for this one (the
 * clock of templates, the kernel set), and whether anything is left to do. */
#ifndef CORE_RESUME_H
#define CORE_RESUME_H

#include "core/fingerprint.h"
#include "core/io/facts.h"
#include "core/io/journal.h"

struct lb_resume {
    struct lb_journal_found found;
    struct lb_earlier done; /* statistics beside an OUT that may not be replaced */
    struct lb_str print;    /* fingerprint of this run */
    char isa[64];           /* kernel set of the earlier run, "" when there was none or the command line names one */
    bool complete;          /* nothing is left to do */
    bool again;             /* OUT is complete, and its failed rows are run again */
    bool replace;           /* OUT is to be replaced by what it holds and rows that were run again */
};

/* Looks at OUT, OUT.partial and the statistics, and touches nothing. The clock that was fixed at the first start goes
 * into o->now. LB_E_USAGE: OUT may not be replaced or is an input, OUT.partial is in use, or this processor lacks its
 * kernel set. */
enum lb_status lb_resume_look(struct lb_resume *r, const struct lb_journal_spec *journal, struct lb_options *o,
                              struct lb_err *err);

/* Makes the fingerprint and compares. LB_E_USAGE: OUT.partial's is another (names what differs), its rows are not those
 * of the inputs any more, or OUT is not what this run would make. */
enum lb_status lb_resume_settle(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err);
/* Where failed rows of a complete OUT are run again: makes OUT.partial of it. */
enum lb_status lb_resume_begin(struct lb_resume *r, const struct lb_fingerprint_spec *spec, struct lb_err *err);
void lb_resume_release(struct lb_resume *r);

#endif
