/* Statements and output. */
#include <string.h>

#include "core/text/jinja/jinja_eval.h"
#include "core/text/jinja/jinja_help.h"

static void check_output(struct lb_jeval *e)
{
    if (e->out->failed) {
        lb_jinja_fail(e->r, "out of memory");
        e->r->status = LB_E_DEVICE;
    } else if (e->out->len - e->base > LB_JINJA_MAX_OUTPUT) {
        lb_jinja_fail(e->r, "the output is longer than %zu MiB", LB_JINJA_MAX_OUTPUT >> 20);
    }
}

static void put_text(struct lb_jeval *e, const struct lb_jtext *t)
{
    if (t->len > LB_JINJA_MAX_OUTPUT - (e->out->len - e->base)) {
        lb_jinja_fail(e->r, "the output is longer than %zu MiB", LB_JINJA_MAX_OUTPUT >> 20);
        return;
    }
    lb_str_put(e->out, t->data, t->len);
    lb_jeval_charge(e, t->len >> 6);
    check_output(e);
}

void lb_jeval_put(struct lb_jeval *e, struct lb_jval v)
{
    if (e->r->failed)
        return;
    if (v.kind == LB_J_STR) {
        put_text(e, v.u.text);
    } else {
        lb_jput_str(e->r, e->out, v);
        check_output(e);
    }
}

static void take_back(struct lb_jeval *e, size_t mark)
{
    e->out->len = mark;
    if (e->out->data)
        e->out->data[mark] = 0;
}

struct lb_jval lb_jeval_capture(struct lb_jeval *e, size_t mark)
{
    struct lb_jval v = {.kind = LB_J_UNDEFINED};
    if (!e->r->failed && lb_jroom(e->r, e->out->len - mark))
        v = lb_jtext_copy(e->r, e->out->data ? e->out->data + mark : "", e->out->len - mark);
    take_back(e, mark);
    return v;
}

/* Filter and call blocks are written as they are, and the reference writes nothing but texts. */
static void put_block_text(struct lb_jeval *e, struct lb_jval v)
{
    if (v.kind == LB_J_STR)
        lb_jeval_put(e, v);
    else
        lb_jinja_fail(e->r, "a block gave %s where a str is expected", lb_jtype_name(v));
}

static enum lb_jflow exec_if(struct lb_jeval *e, const struct lb_jbranch *b)
{
    for (; b; b = b->next) {
        if (b->test) {
            e->r->line = b->test->line;
            if (!lb_jtruth(e->r, lb_jeval_node(e, b->test))) {
                if (e->r->failed)
                    return LB_JFLOW_STOP;
                continue;
            }
        }
        return lb_jexec(e, &b->body);
    }
    return LB_JFLOW_ON;
}

/* Set and filter blocks: the body's text, through filters. */
static enum lb_jflow exec_capture(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jscope *s = n->u.scope;
    size_t mark = e->out->len;
    lb_jeval_enter(e, &s->frame);
    enum lb_jflow flow = lb_jexec(e, &s->body);
    if (flow != LB_JFLOW_ON) {
        take_back(e, mark);
        return flow;
    }
    struct lb_jval v = lb_jeval_capture(e, mark);
    e->r->line = n->line;
    if (s->y) {
        e->captured = v;
        v = lb_jeval_node(e, s->y);
    }
    lb_jeval_leave(e, &s->frame);
    if (n->type == LB_JN_CAPTURE)
        lb_jeval_assign(e, s->x, v);
    else
        put_block_text(e, v);
    return LB_JFLOW_ON;
}

static enum lb_jflow exec_scope(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jscope *s = n->u.scope;
    lb_jeval_enter(e, &s->frame);
    for (size_t i = 0; i + 1 < s->list.n && !e->r->failed; i += 2)
        lb_jeval_assign(e, s->list.item[i], lb_jeval_node(e, s->list.item[i + 1]));
    if (n->type == LB_JN_ESCAPE && lb_jtruth(e->r, lb_jeval_node(e, s->y)))
        lb_jinja_fail(e->r, "automatic escaping is not built in");
    enum lb_jflow flow = lb_jexec(e, &s->body);
    lb_jeval_leave(e, &s->frame);
    return flow;
}

static void exec_call_block(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jval body = lb_jmacro_new(e, n->u.macro);
    struct lb_jargs args = {0};
    if (n->type == LB_JN_CALLER) {
        const struct lb_jnode *call = n->u.macro->x;
        struct lb_jval callee = lb_jeval_node(e, call->u.apply.x);
        lb_jeval_args(e, call->u.apply.args, &body, &args);
        body = callee;
    }
    if (!e->r->failed)
        put_block_text(e, lb_jcall_value(e->r, body, &args));
}

static enum lb_jflow exec_one(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jrun *r = e->r;
    r->line = n->line;
    switch (n->type) {
    case LB_JN_DATA:
        put_text(e, n->u.constant.u.text);
        break;
    case LB_JN_PRINT:
        for (size_t i = 0; i < n->u.list.n && !r->failed; i++) {
            r->line = n->u.list.item[i]->line;
            lb_jeval_put(e, lb_jeval_node(e, n->u.list.item[i]));
        }
        break;
    case LB_JN_IF:
        return exec_if(e, n->u.branch);
    case LB_JN_FOR:
        return lb_jexec_loop(e, n);
    case LB_JN_SET:
        lb_jeval_assign(e, n->u.pair.left, lb_jeval_node(e, n->u.pair.right));
        break;
    case LB_JN_CAPTURE:
    case LB_JN_FILTERED:
        return exec_capture(e, n);
    case LB_JN_WITH:
    case LB_JN_ESCAPE:
        return exec_scope(e, n);
    case LB_JN_MACRO:
        lb_jeval_assign(e, n->u.macro->x, lb_jmacro_new(e, n->u.macro));
        break;
    case LB_JN_CALLER:
    case LB_JN_GENERATE:
        exec_call_block(e, n);
        break;
    case LB_JN_BLOCK:
        lb_jexec_block(e, n->u.block, e->act);
        break;
    case LB_JN_BREAK:
        return LB_JFLOW_BREAK;
    case LB_JN_CONTINUE:
        return LB_JFLOW_CONTINUE;
    case LB_JN_LOADER:
        lb_jinja_fail(r, "'%.*s' cannot be done: there are no other templates", (int)n->u.constant.u.text->len,
                      n->u.constant.u.text->data);
        break;
    default:
        lb_jinja_fail(r, "a statement of unknown kind");
    }
    return LB_JFLOW_ON;
}

enum lb_jflow lb_jexec(struct lb_jeval *e, const struct lb_jnodes *body)
{
    enum lb_jflow flow = LB_JFLOW_ON;
    if (lb_jeval_nest(e))
        for (size_t i = 0; i < body->n && flow == LB_JFLOW_ON && !e->r->failed; i++)
            flow = exec_one(e, body->item[i]);
    e->nest--;
    return e->r->failed ? LB_JFLOW_STOP : flow;
}
