/* Macros, callers' blocks, blocks, loops and the object `loop`. */
#include <stdio.h>
#include <string.h>

#include "core/text/jinja/jinja_eval.h"
#include "core/text/jinja/jinja_help.h"

static bool is_name(const char *name, size_t n, const char *what)
{
    return n == strlen(what) && !memcmp(name, what, n);
}

/* ---- macros ---- */

struct closure {
    struct lb_jobject object;
    struct lb_jeval *e;
    const struct lb_jmacro *m;
    struct lb_jact *outer;
};

static struct lb_jval parameter_names(struct lb_jeval *e, const struct lb_jmacro *m)
{
    struct lb_jval names = lb_jlist_new(e->r, LB_J_TUPLE, m->param.n);
    for (size_t i = 0; i < m->param.n; i++) {
        const struct lb_jname *name = &e->t->name[m->param.item[i]->u.ref.name];
        lb_jlist_push(e->r, names, lb_jtext_lend(e->r, name->text, name->n));
    }
    return names;
}

static bool macro_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    const struct closure *c = o->data;
    (void)r;
    if (is_name(name, n, "name"))
        *out = c->m->name;
    else if (is_name(name, n, "arguments"))
        *out = parameter_names(c->e, c->m);
    else if (is_name(name, n, "catch_kwargs"))
        *out = lb_jbool(c->m->kwargs_slot >= 0);
    else if (is_name(name, n, "catch_varargs"))
        *out = lb_jbool(c->m->varargs_slot >= 0);
    else if (is_name(name, n, "caller"))
        *out = lb_jbool(c->m->caller_slot >= 0);
    else
        return false;
    return true;
}

static const struct lb_jval *find_kwarg(const struct lb_jargs *args, const char *name, size_t n)
{
    for (size_t i = 0; i < args->n_kwarg; i++)
        if (args->kwarg[i].name.u.text->len == n && !memcmp(args->kwarg[i].name.u.text->data, name, n))
            return &args->kwarg[i].value;
    return NULL;
}

/* Whether a parameter that was not given by its place takes this argument. */
static bool is_taken(const struct closure *c, struct lb_jval name, size_t by_place)
{
    const struct lb_jtext *t = name.u.text;
    if (c->m->caller_slot >= 0 && is_name(t->data, t->len, "caller"))
        return true;
    for (size_t i = by_place; i < c->m->param.n; i++) {
        const struct lb_jname *p = &c->e->t->name[c->m->param.item[i]->u.ref.name];
        if (p->n == t->len && !memcmp(p->text, t->data, p->n))
            return true;
    }
    return false;
}

/* What no parameter takes: the variables kwargs and varargs of macros that use them, a failure for others. */
static void bind_rest(const struct closure *c, const struct lb_jargs *args, struct lb_jact *act, size_t by_place)
{
    struct lb_jrun *r = c->e->r;
    const struct lb_jmacro *m = c->m;
    const struct lb_jtext *name =
        m->name.kind == LB_J_STR ? m->name.u.text : &(struct lb_jtext){.data = "caller", .len = 6};
    struct lb_jval rest = m->kwargs_slot >= 0 ? lb_jdict_new(r, LB_J_DICT) : lb_jnone();
    for (size_t i = 0; i < args->n_kwarg && !r->failed; i++) {
        const struct lb_jkwarg *k = &args->kwarg[i];
        if (is_taken(c, k->name, by_place))
            continue;
        if (rest.kind == LB_J_DICT)
            lb_jdict_set(r, rest, k->name, k->value);
        else
            lb_jinja_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)name->len, name->data,
                          (int)k->name.u.text->len, k->name.u.text->data);
    }
    if (m->kwargs_slot >= 0)
        act->slot[m->kwargs_slot] = rest;
    if (m->varargs_slot >= 0) {
        struct lb_jval more = lb_jlist_new(r, LB_J_TUPLE, args->n - by_place);
        for (size_t i = by_place; i < args->n; i++)
            lb_jlist_push(r, more, args->arg[i]);
        act->slot[m->varargs_slot] = more;
    } else if (args->n > m->param.n) {
        lb_jinja_fail(r, "macro '%.*s' takes not more than %zu argument(s)", (int)name->len, name->data, m->param.n);
    }
}

static struct lb_jval not_provided(struct lb_jeval *e, const struct lb_jname *name)
{
    size_t n = name->n + 40;
    char *hint = lb_jrun_alloc(e->r, n);
    if (hint)
        snprintf(hint, n, "parameter '%.*s' was not provided", (int)name->n, name->text);
    return lb_jeval_hint(e->r, hint);
}

static void bind_parameters(const struct closure *c, const struct lb_jargs *args, struct lb_jact *act)
{
    struct lb_jeval *e = c->e;
    const struct lb_jmacro *m = c->m;
    size_t by_place = args->n < m->param.n ? args->n : m->param.n;
    if (!lb_jrun_spend(e->r, args->n_kwarg * (m->param.n + 1)))
        return;
    for (size_t i = 0; i < m->param.n; i++) {
        const struct lb_jname *name = &e->t->name[m->param.item[i]->u.ref.name];
        const struct lb_jval *v = i < by_place ? &args->arg[i] : find_kwarg(args, name->text, name->n);
        if (v)
            act->slot[m->param.item[i]->u.ref.slot] = *v;
    }
    if (m->caller_slot >= 0) {
        const struct lb_jval *caller = find_kwarg(args, "caller", 6);
        act->slot[m->caller_slot] =
            caller && caller->kind != LB_J_NONE ? *caller : lb_jeval_hint(e->r, "No caller defined");
    }
    bind_rest(c, args, act, by_place);
    for (size_t i = 0; i < m->param.n && !e->r->failed; i++) {
        const struct lb_jnode *p = m->param.item[i];
        size_t without = m->param.n - m->other.n;
        if (act->slot[p->u.ref.slot].kind != LB_J_ABSENT)
            continue;
        act->slot[p->u.ref.slot] =
            i < without ? not_provided(e, &e->t->name[p->u.ref.name]) : lb_jeval_node(e, m->other.item[i - without]);
    }
}

static struct lb_jval macro_call(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
{
    const struct closure *c = self.u.object->data;
    struct lb_jeval *e = c->e;
    struct lb_jact *act = lb_jeval_act(e, c->outer, c->m->n_slot), *before = e->act;
    struct lb_jval text = {.kind = LB_J_UNDEFINED};
    size_t mark = e->out->len;
    int line = r->line;
    if (act && lb_jrun_enter(r)) {
        e->act = act;
        lb_jeval_enter(e, &c->m->frame);
        bind_parameters(c, args, act);
        lb_jexec(e, &c->m->body);
        text = lb_jeval_capture(e, mark);
        e->act = before;
        if (!r->failed)
            r->line = line;
    }
    lb_jrun_leave(r);
    return text;
}

struct lb_jval lb_jmacro_new(struct lb_jeval *e, const struct lb_jmacro *m)
{
    struct closure *c = lb_jrun_alloc(e->r, sizeof *c);
    if (!c)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    *c = (struct closure){
        .object = {.type_name = "Macro", .get = macro_get, .call = macro_call, .data = c},
        .e = e,
        .m = m,
        .outer = e->act,
    };
    return (struct lb_jval){.kind = LB_J_OBJECT, .u.object = &c->object};
}

/* ---- blocks: they stand in place, there is no template to inherit from ---- */

struct block_ref {
    struct lb_jobject object;
    struct lb_jeval *e;
    const struct lb_jblock *b;
};

void lb_jexec_block(struct lb_jeval *e, const struct lb_jblock *b, struct lb_jact *site)
{
    struct lb_jact *before = e->act;
    int line = e->r->line;
    if (b->required)
        lb_jinja_fail(e->r, "required block '%.*s' is not there", (int)b->name.u.text->len, b->name.u.text->data);
    struct lb_jact *act = lb_jeval_act(e, site, b->n_slot);
    if (act && lb_jrun_enter(e->r)) {
        e->act = act;
        lb_jeval_enter(e, &b->frame);
        if (b->self_slot >= 0)
            act->slot[b->self_slot] = lb_jself_new(e);
        if (b->super_slot >= 0)
            act->slot[b->super_slot] = lb_jeval_hint(e->r, "there is no parent block");
        lb_jexec(e, &b->body);
        e->act = before;
        if (!e->r->failed)
            e->r->line = line;
    }
    lb_jrun_leave(e->r);
}

static struct lb_jval block_call(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
{
    struct block_ref *ref = self.u.object->data;
    size_t mark = ref->e->out->len;
    if (args->n || args->n_kwarg)
        return lb_jinja_fail(r, "a block takes no arguments");
    lb_jexec_block(ref->e, ref->b, NULL);
    return lb_jeval_capture(ref->e, mark);
}

static bool block_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    (void)o;
    if (!is_name(name, n, "super"))
        return false;
    *out = lb_jeval_hint(r, "there is no parent block");
    return true;
}

static bool self_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    struct lb_jeval *e = o->data;
    for (const struct lb_jnode *b = e->t->blocks; b; b = b->u.block->next) {
        const struct lb_jtext *t = b->u.block->name.u.text;
        if (t->len != n || memcmp(t->data, name, n))
            continue;
        struct block_ref *ref = lb_jrun_alloc(r, sizeof *ref);
        if (!ref)
            return false;
        *ref = (struct block_ref){
            .object = {.type_name = "BlockReference", .get = block_get, .call = block_call, .data = ref},
            .e = e,
            .b = b->u.block,
        };
        *out = (struct lb_jval){.kind = LB_J_OBJECT, .u.object = &ref->object};
        return true;
    }
    return false;
}

struct lb_jval lb_jself_new(struct lb_jeval *e)
{
    struct lb_jobject *o = lb_jrun_alloc(e->r, sizeof *o);
    if (!o)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    *o = (struct lb_jobject){.type_name = "TemplateReference", .get = self_get, .data = e};
    return (struct lb_jval){.kind = LB_J_OBJECT, .u.object = o};
}

/* ---- loops ---- */

/* Lies in the arena: a template may keep `loop` for longer than the loop lasts. */
struct loop {
    struct lb_jobject object;
    struct lb_jeval *e;
    const struct lb_jloop *f;
    struct lb_jact *act;
    struct lb_jiter it;
    struct lb_jval rest; /* LIST of what is still to come once somebody asked how much it is */
    size_t rest_at;
    struct lb_jval before, current, after; /* after: seen ahead of its turn, or ABSENT */
    struct lb_jval changed;                /* what loop.changed() was given last */
    int64_t index0, length;                /* length -1: not known yet */
    int depth0;
};

/* The next item that the loop's condition lets through. */
static bool draw(struct loop *l, struct lb_jval *item)
{
    struct lb_jeval *e = l->e;
    if (l->rest.kind == LB_J_LIST) {
        bool more = l->rest_at < l->rest.u.list->n;
        if (more)
            *item = l->rest.u.list->item[l->rest_at++];
        return more;
    }
    if (!l->f->test)
        return lb_jiter_next(e->r, &l->it, item);
    struct lb_jact *before = e->act;
    bool found = false;
    e->act = l->act;
    while (!found && lb_jiter_next(e->r, &l->it, item)) {
        lb_jeval_assign(e, l->f->test_target, *item);
        found = lb_jtruth(e->r, lb_jeval_node(e, l->f->test)) && !e->r->failed;
    }
    e->act = before;
    return found;
}

static bool peek(struct loop *l)
{
    if (l->after.kind == LB_J_ABSENT && !draw(l, &l->after))
        l->after = lb_jeval_absent();
    return l->after.kind != LB_J_ABSENT;
}

static int64_t loop_length(struct loop *l)
{
    if (l->length < 0 && l->f->test) {
        struct lb_jval rest = lb_jlist_new(l->e->r, LB_J_LIST, 0), item;
        while (draw(l, &item))
            lb_jlist_push(l->e->r, rest, item);
        if (l->e->r->failed)
            return 0;
        l->rest = rest;
        l->rest_at = 0;
        l->length = (int64_t)rest.u.list->n + l->index0 + 1 + (l->after.kind != LB_J_ABSENT);
    }
    return l->length;
}

static struct lb_jval loop_cycle(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
{
    const struct loop *l = self.u.object->data;
    if (!args->n || args->n_kwarg)
        return lb_jinja_fail(r, "no items for cycling given");
    return args->arg[(uint64_t)l->index0 % args->n];
}

static struct lb_jval loop_changed(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
{
    struct loop *l = self.u.object->data;
    struct lb_jval now = lb_jlist_new(r, LB_J_TUPLE, args->n);
    for (size_t i = 0; i < args->n; i++)
        lb_jlist_push(r, now, args->arg[i]);
    bool changed = l->changed.kind == LB_J_ABSENT || !lb_jequal(r, l->changed, now);
    if (changed && !r->failed)
        l->changed = now;
    return lb_jbool(changed);
}

static bool loop_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    struct loop *l = o->data;
    struct lb_jval self = {.kind = LB_J_OBJECT, .u.object = o};
    if (is_name(name, n, "index"))
        *out = lb_jint(l->index0 + 1);
    else if (is_name(name, n, "index0"))
        *out = lb_jint(l->index0);
    else if (is_name(name, n, "first"))
        *out = lb_jbool(l->index0 == 0);
    else if (is_name(name, n, "last"))
        *out = lb_jbool(!peek(l));
    else if (is_name(name, n, "length"))
        *out = lb_jint(loop_length(l));
    else if (is_name(name, n, "revindex"))
        *out = lb_jint(loop_length(l) - l->index0);
    else if (is_name(name, n, "revindex0"))
        *out = lb_jint(loop_length(l) - l->index0 - 1);
    else if (is_name(name, n, "previtem"))
        *out = l->index0 ? l->before : lb_jeval_hint(r, "there is no previous item");
    else if (is_name(name, n, "nextitem"))
        *out = peek(l) ? l->after : lb_jeval_hint(r, "there is no next item");
    else if (is_name(name, n, "depth"))
        *out = lb_jint(l->depth0 + 1);
    else if (is_name(name, n, "depth0"))
        *out = lb_jint(l->depth0);
    else if (is_name(name, n, "cycle"))
        *out = lb_jfunction(r, "cycle", loop_cycle, self, NULL);
    else if (is_name(name, n, "changed"))
        *out = lb_jfunction(r, "changed", loop_changed, self, NULL);
    else
        return false;
    return true;
}

static struct lb_jval loop_call(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args);

static struct loop *new_loop(struct lb_jeval *e, const struct lb_jloop *f, struct lb_jval over, int depth0)
{
    struct loop *l = lb_jrun_alloc(e->r, sizeof *l);
    if (!l || !lb_jiter_init(e->r, &l->it, over))
        return NULL;
    l->object = (struct lb_jobject){.type_name = "LoopContext", .get = loop_get, .call = loop_call, .data = l};
    l->e = e;
    l->f = f;
    l->act = e->act;
    l->rest = l->after = l->changed = l->current = lb_jeval_absent();
    l->index0 = -1;
    l->length = f->test ? -1 : l->it.n;
    l->depth0 = depth0;
    return l;
}

/* The else branch is what runs unless a body came to its end: `continue` keeps it from that, as in the reference. */
static enum lb_jflow run_loop(struct lb_jeval *e, const struct lb_jloop *f, struct lb_jval over, int depth0)
{
    struct loop *l = new_loop(e, f, over, depth0);
    if (!l)
        return LB_JFLOW_STOP;
    bool ended = false;
    int line = e->r->line;
    if (f->test)
        lb_jeval_enter(e, &f->test_frame);
    while (!e->r->failed && peek(l)) {
        l->index0++;
        l->before = l->current;
        l->current = l->after;
        l->after = lb_jeval_absent();
        e->r->line = line;
        lb_jeval_enter(e, &f->body_frame);
        if (f->loop_slot >= 0)
            e->act->slot[f->loop_slot] = (struct lb_jval){.kind = LB_J_OBJECT, .u.object = &l->object};
        lb_jeval_assign(e, f->target, l->current);
        enum lb_jflow flow = lb_jexec(e, &f->body);
        if (flow == LB_JFLOW_BREAK || flow == LB_JFLOW_STOP)
            break;
        ended = ended || flow == LB_JFLOW_ON;
        e->r->line = line;
    }
    if (e->r->failed)
        return LB_JFLOW_STOP;
    lb_jeval_leave(e, &f->body_frame);
    if (!f->has_else || ended)
        return LB_JFLOW_ON;
    lb_jeval_enter(e, &f->else_frame);
    enum lb_jflow flow = lb_jexec(e, &f->other);
    lb_jeval_leave(e, &f->else_frame);
    return flow;
}

/* A recursive loop is a function: its variables are its own in each call. */
static enum lb_jflow run_recursive(struct lb_jeval *e, const struct lb_jloop *f, struct lb_jval over, int depth0)
{
    struct lb_jact *before = e->act;
    enum lb_jflow flow = LB_JFLOW_STOP;
    if (lb_jrun_enter(e->r)) {
        flow = run_loop(e, f, over, depth0);
        e->act = before;
    }
    lb_jrun_leave(e->r);
    return flow;
}

static struct lb_jval loop_call(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
{
    const struct loop *l = self.u.object->data;
    struct lb_jeval *e = l->e;
    if (!l->f->recursive)
        return lb_jinja_fail(r, "the loop must have the 'recursive' marker to be called recursively");
    if (args->n != 1 || args->n_kwarg)
        return lb_jinja_fail(r, "loop() takes one argument, what to loop over");
    struct lb_jact *before = e->act;
    struct lb_jact *act = lb_jeval_act(e, l->act->outer, l->f->n_slot);
    size_t mark = e->out->len;
    int line = r->line;
    if (!act)
        return self;
    e->act = act;
    run_recursive(e, l->f, args->arg[0], l->depth0 + 1);
    e->act = before;
    if (!r->failed)
        r->line = line;
    return lb_jeval_capture(e, mark);
}

enum lb_jflow lb_jexec_loop(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jloop *f = n->u.loop;
    struct lb_jval over = lb_jeval_node(e, f->iter);
    if (e->r->failed)
        return LB_JFLOW_STOP;
    if (!f->recursive)
        return run_loop(e, f, over, 0);
    struct lb_jact *before = e->act, *act = lb_jeval_act(e, before, f->n_slot);
    if (!act)
        return LB_JFLOW_STOP;
    e->act = act;
    enum lb_jflow flow = run_recursive(e, f, over, 0);
    e->act = before;
    return flow;
}
