/* The evaluator's parts: expressions (jinja_eval.c), statements (jinja_eval_stmt.c), what can be called and the loop
 * object (jinja_eval_call.c). One rendering is one struct lb_jeval. */
#ifndef CORE_TEXT_JINJA_EVAL_H
#define CORE_TEXT_JINJA_EVAL_H

#include "core/text/jinja/jinja_impl.h"

/* Recursion of the evaluator over the tree and through macros: bounds the C stack. */
#define LB_JINJA_MAX_NEST 1500

/* The variables of one call of a function. Macros outlive the call that made them, so it lies in the arena. */
struct lb_jact {
    struct lb_jact *outer;
    struct lb_jval slot[]; /* LB_J_ABSENT: not set */
};

struct lb_jvariable {
    struct lb_jval value;
    const struct lb_jinja_var *given;
    bool ready;
};

struct lb_jeval {
    struct lb_jrun *r;
    const struct lb_jinja *t;
    struct lb_jvariable *variable; /* [n_name] of the context, worked out when they are first asked for */
    struct lb_str *out;            /* a capture is what was put since a mark */
    size_t base;                   /* where this rendering's output begins */
    struct lb_jact *act, *root;
    struct lb_jval captured; /* what a filter without a value is applied to */
    int nest;
};

enum lb_jflow { LB_JFLOW_ON, LB_JFLOW_BREAK, LB_JFLOW_CONTINUE, LB_JFLOW_STOP /* failed */ };

/* Pays for what no lb_jrun_spend has paid for. */
static inline void lb_jeval_charge(struct lb_jeval *e, size_t steps)
{
    int64_t left = LB_JINJA_MAX_STEPS - e->r->steps;
    e->r->steps += (int64_t)steps < left ? (int64_t)steps : left;
}

bool lb_jeval_nest(struct lb_jeval *e); /* one level deeper and a step; pair with e->nest-- */
struct lb_jval lb_jeval_node(struct lb_jeval *e, const struct lb_jnode *n);
/* caller: NULL, or what is passed by that name */
void lb_jeval_args(struct lb_jeval *e, const struct lb_jarglist *a, const struct lb_jval *caller, struct lb_jargs *out);
void lb_jeval_assign(struct lb_jeval *e, const struct lb_jnode *target, struct lb_jval v);
void lb_jeval_put(struct lb_jeval *e, struct lb_jval v);
/* What was put since the output was `mark` long is taken back, as a text. */
struct lb_jval lb_jeval_capture(struct lb_jeval *e, size_t mark);
void lb_jeval_enter(struct lb_jeval *e, const struct lb_jframe *f);
void lb_jeval_leave(struct lb_jeval *e, const struct lb_jframe *f);
struct lb_jact *lb_jeval_act(struct lb_jeval *e, struct lb_jact *outer, int n_slot); /* NULL: failed */

enum lb_jflow lb_jexec(struct lb_jeval *e, const struct lb_jnodes *body);

struct lb_jval lb_jmacro_new(struct lb_jeval *e, const struct lb_jmacro *m);
enum lb_jflow lb_jexec_loop(struct lb_jeval *e, const struct lb_jnode *n);
void lb_jexec_block(struct lb_jeval *e, const struct lb_jblock *b, struct lb_jact *site);
struct lb_jval lb_jself_new(struct lb_jeval *e);

static inline struct lb_jval lb_jeval_absent(void)
{
    return (struct lb_jval){.kind = LB_J_ABSENT};
}

static inline struct lb_jval lb_jeval_hint(struct lb_jrun *r, const char *hint)
{
    struct lb_jundef *u = lb_jrun_alloc(r, sizeof *u);
    if (u)
        u->hint = hint;
    return (struct lb_jval){.kind = LB_J_UNDEFINED, .u.undef = u};
}

#endif
