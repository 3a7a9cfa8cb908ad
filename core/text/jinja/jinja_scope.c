/* Gives each variable of a template its place, as Jinja2's compiler does (see jinja_impl.h).
 *
 * A frame first collects what its statements load and store, not looking into frames inside of it, then those are
 * visited. A name that is stored before it is loaded is the frame's own and unset until then; one that is loaded first
 * or stored in a branch alone begins as what it is outside. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"
#include "core/text/jinja/jinja_impl.h"

#define MAX_TREE_DEPTH 1000 /* of recursion over the tree: long chains of operators are deep too */

struct function {
    int level; /* functions around it */
    int n_slot;
    struct place *first; /* its places, to forget them */
};

/* Where the frames at one level of one function keep a name: frames side by side share it. */
struct place {
    const struct function *fn;
    int level, slot, name;
    struct place *below, *next;
};

struct frame {
    struct frame *parent;
    struct function *fn;
    int level;
    int tree; /* frames of one tree see each other: a block starts a new one */
    bool outer_soft;
    struct binding *first;
    size_t n;
};

struct binding {
    const struct frame *frame;
    struct binding *below;       /* the same name in an outer frame */
    struct binding *next;        /* the frame's next name */
    const struct binding *outer; /* OUTER: what it begins as */
    int name, slot;
    uint8_t how; /* enum lb_jload_how */
    bool stored;
};

struct head {
    struct binding *binding;
    struct place *place;
};

enum special { NOTHING, LOOP, CALLER, KWARGS, VARARGS, SELF, SUPER, N_SPECIAL };
static const char *const special_name[N_SPECIAL] = {"", "loop", "caller", "kwargs", "varargs", "self", "super"};

struct resolver {
    struct lb_jinja *t;
    int special[N_SPECIAL]; /* the names' numbers, -1: the template has no such name */
    struct lb_jpool pool;   /* gone afterwards */
    struct head *head;      /* [n_name] innermost first */
    struct frame *frame;
    struct function *fn;
    const struct lb_jblock *block; /* in which the frame's tree is, NULL: the template itself */
    int depth, n_tree;
    int branches; /* ifs around what is being collected */
    int loops;    /* around what is being visited, in the same function */
    int any_loop; /* around it in any function */
    bool soft;    /* an unknown filter or test fails only when it is reached */
    bool failed;
    struct lb_err *err;
};

__attribute__((format(printf, 3, 4))) static void fail(struct resolver *s, int line, const char *fmt, ...)
{
    if (!s->failed) {
        char text[256];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        lb_err_set(s->err, LB_E_INPUT, "line %d: %s", line, text);
    }
    s->failed = true;
}

static void *take(struct resolver *s, struct lb_jpool *pool, size_t bytes)
{
    void *p = lb_jpool_take(pool, bytes);
    if (!p) {
        lb_err_memory(s->err, "a template", bytes);
        s->failed = true;
    }
    return p;
}

/* ---- walking over a node's children ---- */

struct walk {
    void (*node)(struct resolver *s, struct lb_jnode *n, void *with);
    void *with;
};

static void each(struct resolver *s, const struct lb_jnodes *list, const struct walk *w)
{
    for (size_t i = 0; i < list->n && !s->failed; i++)
        w->node(s, list->item[i], w->with);
}

static void maybe(struct resolver *s, struct lb_jnode *n, const struct walk *w)
{
    if (n && !s->failed)
        w->node(s, n, w->with);
}

static void each_argument(struct resolver *s, const struct lb_jarglist *a, const struct walk *w)
{
    if (!a)
        return;
    each(s, &a->arg, w);
    each(s, &a->kwarg, w);
    maybe(s, a->more, w);
    maybe(s, a->kwmore, w);
}

/* The children of an expression, in the order in which the reference visits them. */
static void expression_children(struct resolver *s, struct lb_jnode *n, const struct walk *w)
{
    switch (n->type) {
    case LB_JN_TUPLE:
    case LB_JN_LIST:
    case LB_JN_DICT:
    case LB_JN_CONCAT:
    case LB_JN_COMPARE:
    case LB_JN_PRINT:
        each(s, &n->u.list, w);
        break;
    case LB_JN_BINARY:
    case LB_JN_NOT:
    case LB_JN_NEG:
    case LB_JN_POS:
    case LB_JN_AND:
    case LB_JN_OR:
    case LB_JN_OPERAND:
    case LB_JN_ITEM:
    case LB_JN_SET:
        maybe(s, n->u.pair.left, w);
        maybe(s, n->u.pair.right, w);
        break;
    case LB_JN_COND:
    case LB_JN_SLICE:
        maybe(s, n->u.cond.test, w);
        maybe(s, n->u.cond.yes, w);
        maybe(s, n->u.cond.no, w);
        break;
    case LB_JN_ATTR:
        maybe(s, n->u.attr.x, w);
        break;
    case LB_JN_CALL:
    case LB_JN_FILTER:
    case LB_JN_TEST:
        maybe(s, n->u.apply.x, w);
        each_argument(s, n->u.apply.args, w);
        break;
    default:
        break;
    }
}

/* All children of any node. */
static void children(struct resolver *s, struct lb_jnode *n, const struct walk *w)
{
    switch (n->type) {
    case LB_JN_IF:
        for (struct lb_jbranch *b = n->u.branch; b; b = b->next) {
            maybe(s, b->test, w);
            each(s, &b->body, w);
        }
        break;
    case LB_JN_FOR:
        maybe(s, n->u.loop->target, w);
        maybe(s, n->u.loop->iter, w);
        each(s, &n->u.loop->body, w);
        each(s, &n->u.loop->other, w);
        maybe(s, n->u.loop->test, w);
        break;
    case LB_JN_CAPTURE:
    case LB_JN_FILTERED:
    case LB_JN_WITH:
    case LB_JN_ESCAPE:
        maybe(s, n->u.scope->x, w);
        maybe(s, n->u.scope->y, w);
        each(s, &n->u.scope->list, w);
        each(s, &n->u.scope->body, w);
        break;
    case LB_JN_CALLER:
        maybe(s, n->u.macro->x, w);
        /* fall through */
    case LB_JN_MACRO:
    case LB_JN_GENERATE:
        each(s, &n->u.macro->param, w);
        each(s, &n->u.macro->other, w);
        each(s, &n->u.macro->body, w);
        break;
    default:
        expression_children(s, n, w);
    }
}

/* ---- is a special name used in a body without being set before? ---- */

struct wanted {
    int name[3]; /* -1: not or no longer wanted */
    bool found[3];
    bool scoped_block; /* there is one, which sees the frame's variables */
};

static void find_wanted(struct resolver *s, struct lb_jnode *n, void *with)
{
    struct wanted *want = with;
    if (n->type == LB_JN_BLOCK) {
        want->scoped_block = want->scoped_block || n->u.block->scoped;
        return;
    }
    if (n->type == LB_JN_NAME) {
        for (int i = 0; i < 3; i++) {
            if (want->name[i] != n->u.ref.name)
                continue;
            if (n->u.ref.use == LB_JREF_LOAD)
                want->found[i] = true;
            else
                want->name[i] = -1;
        }
        return;
    }
    if (++s->depth > MAX_TREE_DEPTH)
        fail(s, n->line, "the template is nested too deeply");
    children(s, n, &(struct walk){find_wanted, want});
    s->depth--;
}

static struct wanted find_names(struct resolver *s, const struct lb_jnodes *body, enum special a, enum special b,
                                enum special c)
{
    struct wanted want = {.name = {s->special[a], s->special[b], s->special[c]}};
    each(s, body, &(struct walk){find_wanted, &want});
    return want;
}

/* ---- frames ---- */

static struct binding *visible(const struct resolver *s, int name)
{
    struct binding *b = s->head[name].binding;
    return b && b->frame->tree == s->frame->tree ? b : NULL;
}

static int slot_of(struct resolver *s, int name)
{
    for (struct place *p = s->head[name].place; p && p->fn == s->fn; p = p->below)
        if (p->level == s->frame->level)
            return p->slot;
    struct place *p = take(s, &s->pool, sizeof *p);
    if (!p)
        return 0;
    *p = (struct place){s->fn, s->frame->level, s->fn->n_slot++, name, s->head[name].place, s->fn->first};
    s->head[name].place = p;
    s->fn->first = p;
    return p->slot;
}

static struct binding *bind(struct resolver *s, int name, enum lb_jload_how how)
{
    struct binding *b = take(s, &s->pool, sizeof *b);
    if (!b)
        return NULL;
    *b = (struct binding){.frame = s->frame, .below = s->head[name].binding, .next = s->frame->first, .name = name};
    b->how = (uint8_t)how;
    b->slot = slot_of(s, name);
    s->head[name].binding = b;
    s->frame->first = b;
    s->frame->n++;
    return b;
}

static void load(struct resolver *s, int name)
{
    if (!visible(s, name))
        bind(s, name, LB_JLOAD_CONTEXT);
}

static void store(struct resolver *s, int name)
{
    struct binding *b = visible(s, name);
    if (!b || b->frame != s->frame) {
        const struct binding *outer = b;
        b = bind(s, name, outer ? LB_JLOAD_OUTER : s->branches ? LB_JLOAD_CONTEXT : LB_JLOAD_ABSENT);
        if (b)
            b->outer = outer;
    }
    if (b)
        b->stored = true;
}

static int parameter(struct resolver *s, int name)
{
    struct binding *b = visible(s, name);
    if (!b || b->frame != s->frame)
        b = bind(s, name, LB_JLOAD_ABSENT);
    if (!b)
        return 0;
    b->how = LB_JLOAD_ABSENT;
    b->stored = true;
    return b->slot;
}

static int special(struct resolver *s, enum special which)
{
    return s->special[which] >= 0 ? parameter(s, s->special[which]) : -1;
}

static void enter_function(struct resolver *s, struct function *fn)
{
    *fn = (struct function){.level = s->fn ? s->fn->level + 1 : 0};
    s->fn = fn;
}

static void leave_function(struct resolver *s, struct function *outer)
{
    for (struct place *p = s->fn->first; p; p = p->next)
        s->head[p->name].place = p->below;
    s->fn = outer;
}

static void enter_frame(struct resolver *s, struct frame *f)
{
    *f = (struct frame){.parent = s->frame, .fn = s->fn, .tree = s->n_tree, .outer_soft = s->soft};
    s->soft = false;
    if (s->frame) {
        f->level = s->frame->level + 1;
        f->tree = s->frame->tree;
    }
    s->frame = f;
}

/* Inside a block what is not its own comes from the template's variables, and where it is scoped from those around it
 * before: they are the bindings of the tree below. */
static void block_load(const struct resolver *s, const struct binding *b, struct lb_jload *to)
{
    const struct binding *o = b->below;
    while (o && o->frame->tree == b->frame->tree)
        o = o->below;
    for (bool nearest = s->block->scoped; o; o = o->below) {
        if (!o->stored)
            continue;
        if (nearest) {
            to->outer = o->slot;
            to->hops = b->frame->fn->level - o->frame->fn->level;
        }
        nearest = false;
        if (!o->frame->parent && !o->frame->fn->level)
            to->root = o->slot;
    }
}

/* Takes the frame off and writes down what is to be done on entering it. */
static void leave_frame(struct resolver *s, struct lb_jframe *out)
{
    struct frame *f = s->frame;
    out->load = f->n ? take(s, &s->t->pool, f->n * sizeof *out->load) : NULL;
    out->n = out->load ? f->n : 0;
    size_t i = 0;
    for (struct binding *b = f->first; b; b = b->next, i++) {
        s->head[b->name].binding = b->below;
        if (!out->load)
            continue;
        struct lb_jload l = {.how = b->how, .slot = b->slot, .name = b->name, .outer = -1, .root = -1};
        if (b->how == LB_JLOAD_OUTER) {
            l.outer = b->outer->slot;
            l.hops = f->fn->level - b->outer->frame->fn->level;
        } else if (b->how == LB_JLOAD_CONTEXT && s->block) {
            block_load(s, b, &l);
        }
        out->load[i] = l;
    }
    s->frame = f->parent;
    s->soft = f->outer_soft;
}

/* ---- what a frame loads and stores ---- */

static void collect(struct resolver *s, struct lb_jnode *n, void *with);
static const struct walk collecting = {collect, NULL};

static void collect_name(struct resolver *s, const struct lb_jnode *n)
{
    if (n->type == LB_JN_NSREF || n->u.ref.use == LB_JREF_LOAD)
        load(s, n->u.ref.name);
    else if (n->u.ref.use == LB_JREF_STORE)
        store(s, n->u.ref.name);
    else
        parameter(s, n->u.ref.name);
}

/* A loop's target: its names are parameters of the body. Targets are no deeper than the parser lets them be. */
static void collect_target(struct resolver *s, struct lb_jnode *n, void *with)
{
    (void)with;
    if (n->type == LB_JN_NAME)
        parameter(s, n->u.ref.name);
    else
        expression_children(s, n, &(struct walk){collect_target, NULL});
}

static void collect(struct resolver *s, struct lb_jnode *n, void *with)
{
    (void)with;
    if (++s->depth > MAX_TREE_DEPTH)
        fail(s, n->line, "the template is nested too deeply");
    switch (s->failed ? LB_JN_BREAK : n->type) {
    case LB_JN_NAME:
    case LB_JN_NSREF:
        collect_name(s, n);
        break;
    case LB_JN_SET:
        collect(s, n->u.pair.right, NULL);
        collect(s, n->u.pair.left, NULL);
        break;
    case LB_JN_IF:
        s->branches++;
        children(s, n, &collecting);
        s->branches--;
        break;
    case LB_JN_FOR:
        collect(s, n->u.loop->iter, NULL);
        break;
    case LB_JN_CAPTURE:
        collect(s, n->u.scope->x, NULL);
        break;
    case LB_JN_FILTERED:
        collect(s, n->u.scope->y, NULL);
        break;
    case LB_JN_WITH:
        for (size_t i = 1; i < n->u.scope->list.n; i += 2)
            collect(s, n->u.scope->list.item[i], NULL);
        break;
    case LB_JN_MACRO:
        store(s, n->u.macro->x->u.ref.name);
        break;
    case LB_JN_CALLER:
        collect(s, n->u.macro->x, NULL);
        break;
    case LB_JN_ESCAPE:
    case LB_JN_GENERATE:
    case LB_JN_BLOCK:
    case LB_JN_BREAK:
        break;
    default:
        expression_children(s, n, &collecting);
    }
    s->depth--;
}

/* ---- places for the names of a frame whose content is known ---- */

static void visit(struct resolver *s, struct lb_jnode *n, void *with);
static const struct walk visiting = {visit, NULL};

static void visit_name(struct resolver *s, struct lb_jnode *n)
{
    if (n->u.ref.use == LB_JREF_STORE && s->any_loop && n->u.ref.name == s->special[LOOP])
        fail(s, n->line, "'loop' cannot be assigned to inside of a loop");
    struct binding *b = visible(s, n->u.ref.name);
    if (!b)
        b = bind(s, n->u.ref.name, LB_JLOAD_CONTEXT);
    if (!b)
        return;
    n->u.ref.slot = b->slot;
    n->u.ref.hops = s->fn->level - b->frame->fn->level;
}

static void visit_apply(struct resolver *s, struct lb_jnode *n)
{
    if (n->type != LB_JN_CALL && !n->u.apply.fn && !s->soft)
        fail(s, n->line, "there is no %s '%.*s'", n->type == LB_JN_FILTER ? "filter" : "test",
             (int)n->u.apply.name.u.text->len, n->u.apply.name.u.text->data);
    expression_children(s, n, &visiting);
}

static struct lb_jnode *copy_target(struct resolver *s, const struct lb_jnode *n)
{
    struct lb_jnode *copy = take(s, &s->t->pool, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *n;
    if (n->type == LB_JN_TUPLE && n->u.list.n) {
        copy->u.list.item = take(s, &s->t->pool, n->u.list.n * sizeof(struct lb_jnode *));
        for (size_t i = 0; copy->u.list.item && i < n->u.list.n; i++)
            copy->u.list.item[i] = copy_target(s, n->u.list.item[i]);
    }
    return s->failed ? NULL : copy;
}

/* The condition sees the target, in places of its own: the body may have changed its variables of the same names. */
static void visit_loop_test(struct resolver *s, struct lb_jloop *f)
{
    struct frame frame;
    f->test_target = copy_target(s, f->target);
    if (!f->test_target)
        return;
    enter_frame(s, &frame);
    frame.level += 1 << 20;
    collect_target(s, f->test_target, NULL);
    collect(s, f->test, NULL);
    visit(s, f->test_target, NULL);
    visit(s, f->test, NULL);
    leave_frame(s, &f->test_frame);
}

static void visit_loop_parts(struct resolver *s, struct lb_jloop *f)
{
    struct frame frame;
    if (f->test)
        visit_loop_test(s, f);
    struct wanted want = find_names(s, &f->body, LOOP, NOTHING, NOTHING);
    enter_frame(s, &frame);
    f->loop_slot = f->recursive || want.found[0] || want.scoped_block ? special(s, LOOP) : -1;
    collect_target(s, f->target, NULL);
    each(s, &f->body, &collecting);
    visit(s, f->target, NULL);
    s->loops++;
    each(s, &f->body, &visiting);
    s->loops--;
    leave_frame(s, &f->body_frame);
    if (!f->has_else)
        return;
    enter_frame(s, &frame);
    each(s, &f->other, &collecting);
    each(s, &f->other, &visiting);
    leave_frame(s, &f->else_frame);
}

static void visit_loop(struct resolver *s, struct lb_jloop *f)
{
    struct function fn, *outer = s->fn;
    int loops = s->loops;
    s->any_loop++;
    visit(s, f->iter, NULL);
    if (f->recursive) {
        enter_function(s, &fn);
        s->loops = 0;
    }
    visit_loop_parts(s, f);
    if (f->recursive) {
        f->n_slot = fn.n_slot;
        leave_function(s, outer);
        s->loops = loops;
    }
    s->any_loop--;
}

static void visit_scope(struct resolver *s, struct lb_jnode *n)
{
    struct lb_jscope *c = n->u.scope;
    struct frame frame;
    if (n->type == LB_JN_WITH)
        for (size_t i = 1; i < c->list.n; i += 2)
            visit(s, c->list.item[i], NULL);
    enter_frame(s, &frame);
    for (size_t i = 0; i < c->list.n; i += 2)
        collect(s, c->list.item[i], NULL);
    if (n->type == LB_JN_ESCAPE)
        collect(s, c->y, NULL);
    each(s, &c->body, &collecting);
    if (n->type == LB_JN_FILTERED)
        collect(s, c->y, NULL);
    for (size_t i = 0; i < c->list.n; i += 2)
        visit(s, c->list.item[i], NULL);
    each(s, &c->body, &visiting);
    maybe(s, c->y, &visiting);
    leave_frame(s, &c->frame);
    maybe(s, c->x, &visiting);
}

static bool has_parameter(const struct resolver *s, const struct lb_jmacro *m, enum special which, size_t *at)
{
    for (*at = 0; *at < m->param.n; ++*at)
        if (m->param.item[*at]->u.ref.name == s->special[which])
            return true;
    return false;
}

static void visit_macro(struct resolver *s, struct lb_jnode *n)
{
    struct lb_jmacro *m = n->u.macro;
    struct function fn, *outer = s->fn;
    struct frame frame;
    int loops = s->loops;
    size_t at;
    m->caller_slot = m->kwargs_slot = m->varargs_slot = -1;
    struct wanted want = find_names(s, &m->body, CALLER, KWARGS, VARARGS);
    enter_function(s, &fn);
    enter_frame(s, &frame);
    s->loops = 0;
    each(s, &m->param, &collecting);
    each(s, &m->other, &collecting);
    each(s, &m->body, &collecting);
    m->names_caller = has_parameter(s, m, CALLER, &at);
    if (want.found[0] && m->names_caller && at < m->param.n - m->other.n)
        fail(s, n->line, "a parameter named 'caller' needs a default value");
    if (want.found[0] && !m->names_caller)
        m->caller_slot = special(s, CALLER);
    if (want.found[1] && !has_parameter(s, m, KWARGS, &at))
        m->kwargs_slot = special(s, KWARGS);
    if (want.found[2] && !has_parameter(s, m, VARARGS, &at))
        m->varargs_slot = special(s, VARARGS);
    each(s, &m->param, &visiting);
    each(s, &m->other, &visiting);
    each(s, &m->body, &visiting);
    leave_frame(s, &m->frame);
    m->n_slot = fn.n_slot;
    leave_function(s, outer);
    s->loops = loops;
}

static void visit_block(struct resolver *s, struct lb_jblock *b)
{
    struct function fn, *outer = s->fn;
    const struct lb_jblock *outer_block = s->block;
    struct frame frame;
    int loops = s->loops;
    struct wanted want = find_names(s, &b->body, SELF, SUPER, NOTHING);
    enter_function(s, &fn);
    enter_frame(s, &frame);
    frame.tree = ++s->n_tree;
    s->block = b;
    s->loops = 0;
    b->self_slot = want.found[0] ? special(s, SELF) : -1;
    b->super_slot = want.found[1] ? special(s, SUPER) : -1;
    each(s, &b->body, &collecting);
    each(s, &b->body, &visiting);
    leave_frame(s, &b->frame);
    s->block = outer_block;
    b->n_slot = fn.n_slot;
    leave_function(s, outer);
    s->loops = loops;
}

static void visit_inner(struct resolver *s, struct lb_jnode *n)
{
    switch (n->type) {
    case LB_JN_FOR:
        visit_loop(s, n->u.loop);
        break;
    case LB_JN_MACRO:
    case LB_JN_CALLER:
    case LB_JN_GENERATE:
        maybe(s, n->u.macro->x, &visiting);
        visit_macro(s, n);
        break;
    case LB_JN_BLOCK:
        visit_block(s, n->u.block);
        break;
    default:
        visit_scope(s, n);
    }
}

/* Inside of an if, not of frames in it, unknown filters and tests fail only when they are reached. */
static void visit_soft(struct resolver *s, struct lb_jnode *n)
{
    bool soft = s->soft;
    s->soft = true;
    if (n->type == LB_JN_COND)
        expression_children(s, n, &visiting);
    else
        children(s, n, &visiting);
    s->soft = soft;
}

static void visit(struct resolver *s, struct lb_jnode *n, void *with)
{
    (void)with;
    if (++s->depth > MAX_TREE_DEPTH)
        fail(s, n->line, "the template is nested too deeply");
    switch (s->failed ? LB_JN_DATA : n->type) {
    case LB_JN_NAME:
    case LB_JN_NSREF:
        visit_name(s, n);
        break;
    case LB_JN_CALL:
    case LB_JN_FILTER:
    case LB_JN_TEST:
        visit_apply(s, n);
        break;
    case LB_JN_COND:
    case LB_JN_IF:
        visit_soft(s, n);
        break;
    case LB_JN_BREAK:
    case LB_JN_CONTINUE:
        if (!s->loops)
            fail(s, n->line, "'%s' outside of a loop", n->type == LB_JN_BREAK ? "break" : "continue");
        break;
    case LB_JN_FOR:
    case LB_JN_CAPTURE:
    case LB_JN_FILTERED:
    case LB_JN_WITH:
    case LB_JN_ESCAPE:
    case LB_JN_MACRO:
    case LB_JN_CALLER:
    case LB_JN_GENERATE:
    case LB_JN_BLOCK:
        visit_inner(s, n);
        break;
    default:
        expression_children(s, n, &visiting);
    }
    s->depth--;
}

enum lb_status lb_jinja_resolve(struct lb_jinja *t, struct lb_err *err)
{
    struct resolver s = {.t = t, .err = err};
    struct function fn;
    struct frame frame;
    for (int k = 0; k < N_SPECIAL; k++)
        s.special[k] = -1;
    for (size_t i = 0; i < t->n_name; i++)
        for (int k = 1; k < N_SPECIAL; k++)
            if (t->name[i].n == strlen(special_name[k]) && !memcmp(t->name[i].text, special_name[k], t->name[i].n))
                s.special[k] = (int)i;
    s.head = take(&s, &s.pool, (t->n_name + 1) * sizeof *s.head);
    if (s.head) {
        enter_function(&s, &fn);
        enter_frame(&s, &frame);
        struct wanted want = find_names(&s, &t->body, SELF, NOTHING, NOTHING);
        t->self_slot = want.found[0] ? special(&s, SELF) : -1;
        each(&s, &t->body, &collecting);
        each(&s, &t->body, &visiting);
        leave_frame(&s, &t->frame);
        t->n_slot = fn.n_slot;
    }
    lb_jpool_release(&s.pool);
    return s.failed ? err->status : LB_OK;
}
