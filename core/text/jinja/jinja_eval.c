/* Expressions. A failure sticks in the run and every function then gives undefined at once, so that only loops look at
 * it. */
#include <string.h>

#include "core/text/jinja/jinja_eval.h"
#include "core/text/jinja/jinja_help.h"

bool lb_jeval_nest(struct lb_jeval *e)
{
    if (++e->nest > LB_JINJA_MAX_NEST)
        lb_jinja_fail(e->r, "maximum recursion depth exceeded");
    if (e->r->steps >= LB_JINJA_MAX_STEPS)
        lb_jrun_spend(e->r, 1);
    e->r->steps++;
    return !e->r->failed;
}

/* ---- variables ---- */

static struct lb_jval context_variable(struct lb_jeval *e, int name)
{
    struct lb_jvariable *v = &e->variable[name];
    if (!v->ready) {
        const struct lb_jname *n = &e->t->name[name];
        v->value = lb_jeval_absent();
        if (v->given) {
            if (v->given->value)
                v->value = lb_jfrom_json(e->r, v->given->value);
        } else if (!lb_jinja_find_global(e->r, n->text, n->n, &v->value)) {
            v->value = lb_jeval_absent();
        }
        v->ready = true;
    }
    return v->value;
}

static struct lb_jact *outwards(struct lb_jact *a, int hops)
{
    for (; hops > 0 && a; hops--)
        a = a->outer;
    return a;
}

/* Inside a block: from where it stands, from the template's own variables, from the context. */
static struct lb_jval block_variable(struct lb_jeval *e, const struct lb_jload *l)
{
    const struct lb_jact *site = l->outer >= 0 ? outwards(e->act, l->hops) : NULL;
    struct lb_jval v = site ? site->slot[l->outer] : lb_jeval_absent();
    if (v.kind == LB_J_ABSENT && l->root >= 0)
        v = e->root->slot[l->root];
    return v.kind == LB_J_ABSENT ? context_variable(e, l->name) : v;
}

void lb_jeval_enter(struct lb_jeval *e, const struct lb_jframe *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct lb_jload *l = &f->load[i];
        struct lb_jval *to = &e->act->slot[l->slot];
        if (l->how == LB_JLOAD_ABSENT)
            *to = lb_jeval_absent();
        else if (l->how == LB_JLOAD_OUTER)
            *to = outwards(e->act, l->hops)->slot[l->outer];
        else if (l->outer < 0 && l->root < 0)
            *to = context_variable(e, l->name);
        else
            *to = block_variable(e, l);
    }
    lb_jeval_charge(e, f->n / 8);
}

void lb_jeval_leave(struct lb_jeval *e, const struct lb_jframe *f)
{
    for (size_t i = 0; i < f->n; i++)
        e->act->slot[f->load[i].slot] = lb_jeval_absent();
}

struct lb_jact *lb_jeval_act(struct lb_jeval *e, struct lb_jact *outer, int n_slot)
{
    struct lb_jact *a = lb_jrun_alloc(e->r, sizeof *a + (size_t)n_slot * sizeof(struct lb_jval));
    if (!a)
        return NULL;
    a->outer = outer;
    for (int i = 0; i < n_slot; i++)
        a->slot[i] = lb_jeval_absent();
    lb_jeval_charge(e, (size_t)n_slot / 8);
    return a;
}

static struct lb_jval variable(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jval v = outwards(e->act, n->u.ref.hops)->slot[n->u.ref.slot];
    return v.kind == LB_J_ABSENT ? e->t->name[n->u.ref.name].undefined : v;
}

static void assign_member(struct lb_jeval *e, const struct lb_jnode *target, struct lb_jval v)
{
    struct lb_jval ns = variable(e, target);
    const struct lb_jtext *name = target->u.ref.attr.u.text;
    if (ns.kind != LB_J_NAMESPACE)
        lb_jinja_fail(e->r, "cannot assign attribute on non-namespace object");
    else if (name->len && name->data[0] == '_')
        lb_jinja_fail(e->r, "a namespace cannot hold '%.*s': its name begins with an underscore", (int)name->len,
                      name->data);
    else
        lb_jdict_set(e->r, ns, target->u.ref.attr, v);
}

static void unpack(struct lb_jeval *e, const struct lb_jnodes *to, struct lb_jval v)
{
    struct lb_jiter it;
    struct lb_jval item;
    bool iterable = v.kind == LB_J_LIST || v.kind == LB_J_TUPLE || v.kind == LB_J_DICT || v.kind == LB_J_STR ||
                    v.kind == LB_J_RANGE || v.kind == LB_J_STREAM || v.kind == LB_J_UNDEFINED;
    if (!iterable)
        lb_jinja_fail(e->r, "cannot unpack non-iterable %s object", lb_jtype_name(v));
    else if (!lb_jiter_init(e->r, &it, v))
        return;
    else if ((uint64_t)it.n > to->n)
        lb_jinja_fail(e->r, "too many values to unpack (expected %zu)", to->n);
    else if ((uint64_t)it.n < to->n)
        lb_jinja_fail(e->r, "not enough values to unpack (expected %zu, got %lld)", to->n, (long long)it.n);
    else
        for (size_t i = 0; i < to->n && lb_jiter_next(e->r, &it, &item); i++)
            lb_jeval_assign(e, to->item[i], item);
}

void lb_jeval_assign(struct lb_jeval *e, const struct lb_jnode *target, struct lb_jval v)
{
    if (e->r->failed)
        return;
    if (target->type == LB_JN_NAME)
        e->act->slot[target->u.ref.slot] = v;
    else if (target->type == LB_JN_NSREF)
        assign_member(e, target, v);
    else
        unpack(e, &target->u.list, v);
}

/* ---- arguments ---- */

static const struct lb_jval *all_args(struct lb_jeval *e, const struct lb_jarglist *a, size_t *n)
{
    *n = a->arg.n;
    if (!a->more) {
        struct lb_jval *arg = a->arg.n ? lb_jrun_alloc(e->r, a->arg.n * sizeof *arg) : NULL;
        for (size_t i = 0; arg && i < a->arg.n; i++)
            arg[i] = lb_jeval_node(e, a->arg.item[i]);
        return arg;
    }
    struct lb_jval list = lb_jlist_new(e->r, LB_J_LIST, a->arg.n + 4);
    for (size_t i = 0; i < a->arg.n && !e->r->failed; i++)
        lb_jlist_push(e->r, list, lb_jeval_node(e, a->arg.item[i]));
    struct lb_jval more = lb_jlist_of(e->r, lb_jeval_node(e, a->more));
    for (size_t i = 0; !e->r->failed && i < more.u.list->n; i++)
        lb_jlist_push(e->r, list, more.u.list->item[i]);
    *n = e->r->failed ? 0 : list.u.list->n;
    return e->r->failed ? NULL : list.u.list->item;
}

static void more_kwargs(struct lb_jeval *e, struct lb_jval v, struct lb_jkwarg **kwarg, size_t *n)
{
    struct lb_jrun *r = e->r;
    if (v.kind == LB_J_UNDEFINED)
        lb_jinja_fail_undefined(r, v);
    else if (v.kind != LB_J_DICT)
        lb_jinja_fail(r, "argument after ** must be a mapping, not %s", lb_jtype_name(v));
    struct lb_jkwarg *wider = r->failed ? NULL : lb_jrun_alloc(r, (*n + v.u.dict->n + 1) * sizeof *wider);
    if (!wider || !lb_jrun_spend(r, *n * v.u.dict->n))
        return;
    if (*n)
        memcpy(wider, *kwarg, *n * sizeof *wider);
    for (size_t i = 0; i < v.u.dict->n; i++) {
        struct lb_jpair p = v.u.dict->pair[i];
        if (p.key.kind != LB_J_STR) {
            lb_jinja_fail(r, "keywords must be strings");
            return;
        }
        for (size_t k = 0; k < *n; k++)
            if (lb_jtext_equal(wider[k].name, p.key))
                lb_jinja_fail(r, "got multiple values for keyword argument '%.*s'", (int)p.key.u.text->len,
                              p.key.u.text->data);
        wider[*n + i] = (struct lb_jkwarg){p.key, p.value};
    }
    *n += v.u.dict->n;
    *kwarg = wider;
}

void lb_jeval_args(struct lb_jeval *e, const struct lb_jarglist *a, const struct lb_jval *caller, struct lb_jargs *out)
{
    static const struct lb_jarglist none;
    *out = (struct lb_jargs){0};
    if (!a && !caller)
        return;
    a = a ? a : &none;
    out->arg = all_args(e, a, &out->n);
    size_t n = a->kwarg.n;
    if (!n && !a->kwmore && !caller)
        return;
    struct lb_jkwarg *kwarg = lb_jrun_alloc(e->r, (n + 1) * sizeof *kwarg);
    if (!kwarg)
        return;
    for (size_t i = 0; i < n && !e->r->failed; i++)
        kwarg[i] = (struct lb_jkwarg){a->kwname[i], lb_jeval_node(e, a->kwarg.item[i])};
    if (caller)
        kwarg[n++] = (struct lb_jkwarg){lb_jtext_lend(e->r, "caller", 6), *caller};
    if (a->kwmore && !e->r->failed)
        more_kwargs(e, lb_jeval_node(e, a->kwmore), &kwarg, &n);
    out->kwarg = kwarg;
    out->n_kwarg = e->r->failed ? 0 : n;
    out->n = e->r->failed ? 0 : out->n;
}

/* ---- operators ---- */

static bool compare(struct lb_jeval *e, enum lb_jcmp op, struct lb_jval a, struct lb_jval b)
{
    struct lb_jrun *r = e->r;
    switch (op) {
    case LB_JC_EQ:
        return lb_jequal(r, a, b);
    case LB_JC_NE:
        return !lb_jequal(r, a, b);
    case LB_JC_IN:
        return lb_jcontains(r, b, a);
    case LB_JC_NOT_IN:
        return !lb_jcontains(r, b, a);
    case LB_JC_GT:
        return lb_jcompare(r, a, b, ">") == 1;
    case LB_JC_LT:
        return lb_jcompare(r, a, b, "<") == -1;
    case LB_JC_GE: {
        int c = lb_jcompare(r, a, b, ">=");
        return c == 0 || c == 1;
    }
    case LB_JC_LE: {
        int c = lb_jcompare(r, a, b, "<=");
        return c == 0 || c == -1;
    }
    }
    return false;
}

static struct lb_jval eval_compare(struct lb_jeval *e, const struct lb_jnodes *list)
{
    struct lb_jval left = lb_jeval_node(e, list->item[0]);
    bool holds = true;
    for (size_t i = 1; i < list->n && holds && !e->r->failed; i++) {
        struct lb_jval right = lb_jeval_node(e, list->item[i]->u.pair.left);
        holds = compare(e, list->item[i]->op, left, right);
        left = right;
    }
    return lb_jbool(holds);
}

static struct lb_jval eval_concat(struct lb_jeval *e, const struct lb_jnodes *list)
{
    size_t mark = lb_jscratch_begin(e->r);
    for (size_t i = 0; i < list->n && !e->r->failed; i++) {
        struct lb_jval v = lb_jeval_node(e, list->item[i]);
        if (lb_jroom(e->r, v.kind == LB_J_STR ? v.u.text->len : 0))
            lb_jput_str(e->r, &e->r->scratch, v);
    }
    return lb_jscratch_end(e->r, mark);
}

static struct lb_jval eval_items(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jnodes *list = &n->u.list;
    if (n->type == LB_JN_DICT) {
        struct lb_jval d = lb_jdict_new(e->r, LB_J_DICT);
        for (size_t i = 0; i + 1 < list->n && !e->r->failed; i += 2) {
            struct lb_jval key = lb_jeval_node(e, list->item[i]);
            lb_jdict_set(e->r, d, key, lb_jeval_node(e, list->item[i + 1]));
        }
        return d;
    }
    struct lb_jval v = lb_jlist_new(e->r, n->type == LB_JN_LIST ? LB_J_LIST : LB_J_TUPLE, list->n);
    for (size_t i = 0; i < list->n && !e->r->failed; i++)
        lb_jlist_push(e->r, v, lb_jeval_node(e, list->item[i]));
    return v;
}

static struct lb_jval eval_item(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jval x = lb_jeval_node(e, n->u.pair.left);
    const struct lb_jnode *key = n->u.pair.right;
    if (key->type != LB_JN_SLICE)
        return lb_jgetitem(e->r, x, lb_jeval_node(e, key));
    struct lb_jval from = key->u.cond.test ? lb_jeval_node(e, key->u.cond.test) : lb_jnone();
    struct lb_jval to = key->u.cond.yes ? lb_jeval_node(e, key->u.cond.yes) : lb_jnone();
    struct lb_jval step = key->u.cond.no ? lb_jeval_node(e, key->u.cond.no) : lb_jnone();
    return e->r->failed ? from : lb_jslice(e->r, x, from, to, step);
}

static struct lb_jval eval_cond(struct lb_jeval *e, const struct lb_jnode *n)
{
    if (lb_jtruth(e->r, lb_jeval_node(e, n->u.cond.test)))
        return lb_jeval_node(e, n->u.cond.yes);
    if (n->u.cond.no)
        return lb_jeval_node(e, n->u.cond.no);
    return lb_jeval_hint(e->r, "the inline if-expression evaluated to false and no else section was defined.");
}

static struct lb_jval eval_call(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jval callee = lb_jeval_node(e, n->u.apply.x);
    struct lb_jargs args;
    lb_jeval_args(e, n->u.apply.args, NULL, &args);
    return e->r->failed ? callee : lb_jcall_value(e->r, callee, &args);
}

static struct lb_jval eval_filter(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jfilter *f = n->u.apply.fn;
    struct lb_jval v = n->u.apply.x ? lb_jeval_node(e, n->u.apply.x) : e->captured;
    struct lb_jargs args;
    if (!f)
        return lb_jinja_fail(e->r, "there is no filter '%.*s'", (int)n->u.apply.name.u.text->len,
                             n->u.apply.name.u.text->data);
    lb_jeval_args(e, n->u.apply.args, NULL, &args);
    return e->r->failed ? v : f->fn(e->r, v, &args);
}

static struct lb_jval eval_test(struct lb_jeval *e, const struct lb_jnode *n)
{
    const struct lb_jtest *t = n->u.apply.fn;
    struct lb_jval v = lb_jeval_node(e, n->u.apply.x);
    struct lb_jargs args;
    if (!t)
        return lb_jinja_fail(e->r, "there is no test '%.*s'", (int)n->u.apply.name.u.text->len,
                             n->u.apply.name.u.text->data);
    lb_jeval_args(e, n->u.apply.args, NULL, &args);
    return lb_jbool(!e->r->failed && t->fn(e->r, v, &args));
}

static struct lb_jval eval_binary(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jval a = lb_jeval_node(e, n->u.pair.left);
    struct lb_jval b = lb_jeval_node(e, n->u.pair.right);
    return e->r->failed ? a : lb_jbinary(e->r, n->op, a, b);
}

static struct lb_jval eval_inner(struct lb_jeval *e, const struct lb_jnode *n)
{
    struct lb_jrun *r = e->r;
    struct lb_jval v;
    switch (n->type) {
    case LB_JN_TUPLE:
    case LB_JN_LIST:
    case LB_JN_DICT:
        return eval_items(e, n);
    case LB_JN_BINARY:
        return eval_binary(e, n);
    case LB_JN_NOT:
        return lb_jbool(!lb_jtruth(r, lb_jeval_node(e, n->u.pair.left)));
    case LB_JN_NEG:
        return lb_jnegative(r, lb_jeval_node(e, n->u.pair.left));
    case LB_JN_POS:
        return lb_jpositive(r, lb_jeval_node(e, n->u.pair.left));
    case LB_JN_AND:
        v = lb_jeval_node(e, n->u.pair.left);
        return lb_jtruth(r, v) ? lb_jeval_node(e, n->u.pair.right) : v;
    case LB_JN_OR:
        v = lb_jeval_node(e, n->u.pair.left);
        return lb_jtruth(r, v) ? v : lb_jeval_node(e, n->u.pair.right);
    case LB_JN_CONCAT:
        return eval_concat(e, &n->u.list);
    case LB_JN_COMPARE:
        return eval_compare(e, &n->u.list);
    case LB_JN_COND:
        return eval_cond(e, n);
    case LB_JN_ATTR:
        v = lb_jeval_node(e, n->u.attr.x);
        return lb_jgetattr(r, v, n->u.attr.name.u.text->data, n->u.attr.name.u.text->len);
    case LB_JN_ITEM:
        return eval_item(e, n);
    case LB_JN_CALL:
        return eval_call(e, n);
    case LB_JN_FILTER:
        return eval_filter(e, n);
    case LB_JN_TEST:
        return eval_test(e, n);
    default:
        return lb_jinja_fail(r, "an expression of unknown kind");
    }
}

struct lb_jval lb_jeval_node(struct lb_jeval *e, const struct lb_jnode *n)
{
    if (n->type == LB_JN_CONST)
        return n->u.constant;
    if (n->type == LB_JN_NAME)
        return variable(e, n);
    struct lb_jval v = {.kind = LB_J_UNDEFINED};
    if (lb_jeval_nest(e))
        v = eval_inner(e, n);
    e->nest--;
    return v;
}
