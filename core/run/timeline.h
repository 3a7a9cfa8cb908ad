/* When a run did what, for --trace: steps, the work of the threads beside them, the lives of rows.
 *
 * Rank 0 writes events as they come (core/io/trace.h). The other ranks keep the last LB_TIMELINE_STEPS steps and hand
 * them to rank 0 at the end, so that no rank's memory grows with the run. Nothing here allocates after
 * lb_timeline_init.
 *
 * Clocks of hosts differ: what another host tells counts from the moment at which all agreed to begin. */
#ifndef CORE_RUN_TIMELINE_H
#define CORE_RUN_TIMELINE_H

#include "core/dist/world.h"
#include "core/io/trace.h"
#include "core/run/flow.h"

#define LB_TIMELINE_STEPS 65536

/* One step of a forward thread; times on the clock of lb_now, in this order. */
struct lb_step_note {
    double begin, packed, computed, sampled, end;
    int64_t number, pages; /* pages: of the KV cache in use */
    int32_t n_tok, n_seq;
    int32_t n_prompt, n_out, n_new; /* of n_tok, tokens of prompts; of n_tok, those with an output; new tokens */
};

enum lb_timeline_thread {
    LB_TL_FORWARD = 1,
    LB_TL_READER,
    LB_TL_TOKENIZER,
    LB_TL_WINDOW,
    LB_TL_WRITER,
    LB_TL_N_THREAD,
};

/* Work of a thread that is not told yet: pieces that lie close together are one event. */
struct lb_timeline_work {
    double begin, end;
    int64_t n_row;
};

struct lb_timeline {
    struct lb_trace *trace; /* lent, of rank 0; NULL elsewhere */
    int rank;
    int64_t batch_tokens;
    double origin;                                /* of the trace's clock */
    double begin;                                 /* the run's, on all ranks at the same time */
    struct lb_timeline_work work[LB_TL_N_THREAD]; /* each of its thread alone */
    int64_t pages;                                /* last told */
    struct lb_step_note *note;                    /* [LB_TIMELINE_STEPS] ring of ranks without a trace */
    int64_t n_note;                               /* ever put */
};

/* trace: lent, NULL on ranks other than 0. origin: when the program began. */
enum lb_status lb_timeline_init(struct lb_timeline *t, struct lb_trace *trace, int rank, double origin,
                                struct lb_err *err);
void lb_timeline_release(struct lb_timeline *t);

/* Rows can come now. names: of this rank's host. load_s: what opening the model took. */
void lb_timeline_begin(struct lb_timeline *t, const char *host, int64_t batch_tokens, double load_s);

/* The forward thread's. NULL: nobody wants to know. */
void lb_timeline_step(struct lb_timeline *t, const struct lb_step_note *note);

/* Work on n_row rows, told by the thread itself; NULL: nobody wants to know. */
void lb_timeline_work(struct lb_timeline *t, enum lb_timeline_thread thread, double begin, double end, size_t n_row);

/* A row that has ended: its parts of waiting, prompt and new tokens. Writer thread. */
void lb_timeline_row(struct lb_timeline *t, struct lb_work *w);

/* Tells what is left, once the threads are joined. */
void lb_timeline_end(struct lb_timeline *t);

/* Steps of the other ranks join the trace. Collective. */
enum lb_status lb_timeline_gather(struct lb_timeline *t, struct lb_world *world, struct lb_err *err);

#endif
