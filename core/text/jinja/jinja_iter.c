/* Iteration, truth, length: what Python asks of every value. */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

static int64_t range_len(const struct lb_jrange *x)
{
    if (x->step > 0)
        return x->start >= x->stop ? 0
                                   : (int64_t)(((uint64_t)x->stop - (uint64_t)x->start - 1) / (uint64_t)x->step) + 1;
    if (x->start <= x->stop)
        return 0;
    return (int64_t)(((uint64_t)x->start - (uint64_t)x->stop - 1) / (0 - (uint64_t)x->step)) + 1;
}

const char *lb_jtype_name(struct lb_jval v)
{
    static const char *const names[] = {
        [LB_J_UNDEFINED] = "Undefined", [LB_J_NONE] = "NoneType",
        [LB_J_BOOL] = "bool",           [LB_J_INT] = "int",
        [LB_J_FLOAT] = "float",         [LB_J_STR] = "str",
        [LB_J_LIST] = "list",           [LB_J_TUPLE] = "tuple",
        [LB_J_DICT] = "dict",           [LB_J_NAMESPACE] = "Namespace",
        [LB_J_RANGE] = "range",         [LB_J_CALL] = "function",
        [LB_J_OBJECT] = "object",       [LB_J_STREAM] = "object",
        [LB_J_ABSENT] = "NoneType",
    };
    if (v.kind == LB_J_OBJECT)
        return v.u.object->type_name;
    if (v.kind == LB_J_STREAM)
        return v.u.stream->type_name;
    if (v.kind == LB_J_STR && v.u.text->safe)
        return "Markup";
    return v.kind < sizeof names / sizeof *names ? names[v.kind] : "object";
}

bool lb_jtruth(struct lb_jrun *r, struct lb_jval v)
{
    (void)r;
    switch ((enum lb_jkind)v.kind) {
    case LB_J_UNDEFINED:
    case LB_J_NONE:
    case LB_J_ABSENT:
        return false;
    case LB_J_BOOL:
        return v.u.b;
    case LB_J_INT:
        return v.u.i != 0;
    case LB_J_FLOAT:
        return v.u.f != 0;
    case LB_J_STR:
        return v.u.text->len != 0;
    case LB_J_LIST:
    case LB_J_TUPLE:
        return v.u.list->n != 0;
    case LB_J_DICT:
        return v.u.dict->n != 0;
    case LB_J_RANGE:
        return range_len(v.u.range) != 0;
    case LB_J_STREAM:
        return !v.u.stream->view || v.u.stream->items.u.list->n != 0;
    case LB_J_NAMESPACE:
    case LB_J_CALL:
    case LB_J_OBJECT:
        return true;
    }
    return true;
}

/* -1: it has none. */
static int64_t length_of(struct lb_jval v)
{
    switch ((enum lb_jkind)v.kind) {
    case LB_J_UNDEFINED:
        return 0;
    case LB_J_STR:
        return lb_jtext_chars(v.u.text);
    case LB_J_LIST:
    case LB_J_TUPLE:
        return (int64_t)v.u.list->n;
    case LB_J_DICT:
        return (int64_t)v.u.dict->n;
    case LB_J_RANGE:
        return range_len(v.u.range);
    case LB_J_STREAM:
        return v.u.stream->view ? (int64_t)v.u.stream->items.u.list->n : -1;
    default:
        return -1;
    }
}

int64_t lb_jlen(struct lb_jrun *r, struct lb_jval v)
{
    int64_t n = length_of(v);
    if (n < 0)
        lb_jinja_fail(r, "object of type '%s' has no len()", lb_jtype_name(v));
    return n < 0 ? 0 : n;
}

bool lb_jiter_init(struct lb_jrun *r, struct lb_jiter *it, struct lb_jval over)
{
    *it = (struct lb_jiter){.over = over};
    if (over.kind == LB_J_STREAM) {
        struct lb_jstream *s = over.u.stream;
        it->over = s->items;
        it->at = s->at;
        it->n = (int64_t)(s->items.u.list->n - s->at);
        if (!s->view)
            s->at = s->items.u.list->n;
        return !r->failed;
    }
    it->n = length_of(over);
    if (it->n < 0) {
        lb_jinja_fail(r, "'%s' object is not iterable", lb_jtype_name(over));
        it->n = 0;
    }
    return !r->failed;
}

static struct lb_jval next_char(struct lb_jrun *r, struct lb_jiter *it)
{
    const struct lb_jtext *t = it->over.u.text;
    int bytes;
    lb_utf8_decode(t->data + it->at, t->len - it->at, &bytes);
    struct lb_jval c = lb_jtext_lend(r, t->data + it->at, (size_t)bytes); /* no Markup, whatever the text is */
    it->at += (size_t)bytes;
    return c;
}

/* The step paid here bounds loops over everything. */
bool lb_jiter_next(struct lb_jrun *r, struct lb_jiter *it, struct lb_jval *item)
{
    if (!lb_jrun_spend(r, 1))
        return false;
    size_t at = it->at;
    switch ((enum lb_jkind)it->over.kind) {
    case LB_J_LIST:
    case LB_J_TUPLE:
        if (at >= it->over.u.list->n)
            return false;
        *item = it->over.u.list->item[at];
        break;
    case LB_J_DICT:
        if (at >= it->over.u.dict->n)
            return false;
        *item = it->over.u.dict->pair[at].key;
        break;
    case LB_J_STR:
        if (at >= it->over.u.text->len)
            return false;
        *item = next_char(r, it);
        return !r->failed;
    case LB_J_RANGE:
        if ((int64_t)at >= it->n)
            return false;
        *item = lb_jint((int64_t)((uint64_t)it->over.u.range->start + (uint64_t)at * (uint64_t)it->over.u.range->step));
        break;
    default:
        return false;
    }
    it->at = at + 1;
    return true;
}

struct lb_jval lb_jlist_of(struct lb_jrun *r, struct lb_jval v)
{
    struct lb_jiter it;
    if (!lb_jiter_init(r, &it, v))
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, (size_t)it.n), item;
    while (!r->failed && lb_jiter_next(r, &it, &item))
        lb_jlist_push(r, list, item);
    return list;
}
