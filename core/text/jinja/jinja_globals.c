/* Global functions: range, dict, namespace, cycler, joiner, and transformers' raise_exception and strftime_now. */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define MAX_RANGE 100000 /* the sandbox's own bound */
#define GLOBAL(fn) static struct lb_jval fn(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
#define NOTHING ((struct lb_jval){.kind = LB_J_UNDEFINED})

GLOBAL(do_range)
{
    struct lb_jval a[3];
    (void)self;
    if (!lb_jargs_bind(r, "range", args, "/ start stop? step?", a))
        return NOTHING;
    struct lb_jrange *x = lb_jrun_alloc(r, sizeof *x);
    if (!x)
        return NOTHING;
    *x = (struct lb_jrange){.start = lb_jarg_int(r, a[0], 0), .stop = lb_jarg_int(r, a[1], 0), .step = 1};
    if (!lb_jgiven(a[1])) {
        x->stop = x->start;
        x->start = 0;
    }
    x->step = lb_jarg_int(r, a[2], 1);
    if (x->step == 0)
        return lb_jinja_fail(r, "range() arg 3 must not be zero");
    struct lb_jval v = {.kind = LB_J_RANGE, .u.range = x};
    int64_t n = lb_jlen(r, v);
    if (n > MAX_RANGE || n < 0)
        return lb_jinja_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", MAX_RANGE);
    return v;
}

/* dict(mapping or pairs, name=value ...) into made. */
static void fill_dict(struct lb_jrun *r, struct lb_jval made, const struct lb_jargs *args)
{
    struct lb_jiter it;
    struct lb_jval pair;
    if (args->n > 1)
        lb_jinja_fail(r, "dict expected at most 1 argument, got %zu", args->n);
    else if (args->n && (args->arg[0].kind == LB_J_DICT || args->arg[0].kind == LB_J_NAMESPACE)) {
        const struct lb_jdict *from = args->arg[0].u.dict;
        if (args->arg[0].kind == LB_J_NAMESPACE)
            lb_jinja_fail(r, "'Namespace' object is not iterable");
        for (size_t i = 0; i < from->n && lb_jrun_spend(r, 1); i++)
            lb_jdict_set(r, made, from->pair[i].key, from->pair[i].value);
    } else if (args->n && lb_jiter_init(r, &it, args->arg[0])) {
        for (int64_t i = 0; lb_jiter_next(r, &it, &pair); i++) {
            pair = lb_jlist_of(r, pair);
            if (!r->failed && pair.u.list->n != 2)
                lb_jinja_fail(r, "dictionary update sequence element #%lld has length %zu; 2 is required", (long long)i,
                              pair.u.list->n);
            if (!r->failed)
                lb_jdict_set(r, made, pair.u.list->item[0], pair.u.list->item[1]);
        }
    }
    for (size_t i = 0; i < args->n_kwarg && !r->failed; i++)
        lb_jdict_set(r, made, args->kwarg[i].name, args->kwarg[i].value);
}

GLOBAL(do_dict)
{
    struct lb_jval made = lb_jdict_new(r, LB_J_DICT);
    (void)self;
    fill_dict(r, made, args);
    return r->failed ? NOTHING : made;
}

GLOBAL(do_namespace)
{
    struct lb_jval made = lb_jdict_new(r, LB_J_NAMESPACE);
    (void)self;
    fill_dict(r, made, args);
    for (size_t i = 0; !r->failed && i < made.u.dict->n; i++) {
        struct lb_jval key = made.u.dict->pair[i].key;
        if (key.kind == LB_J_STR && key.u.text->len && key.u.text->data[0] == '_')
            lb_jinja_fail(r,
                          "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '%.*s'. "
                          "Please rename the attribute.",
                          (int)key.u.text->len, key.u.text->data);
    }
    return r->failed ? NOTHING : made;
}

/* ---- cycler, joiner ---- */

struct cycle {
    struct lb_jval items; /* TUPLE */
    size_t at;
};

GLOBAL(cycler_next)
{
    struct cycle *c = self.u.object->data;
    if (!lb_jargs_bind(r, "next", args, "/", NULL))
        return NOTHING;
    struct lb_jval v = c->items.u.list->item[c->at];
    c->at = (c->at + 1) % c->items.u.list->n;
    return v;
}

GLOBAL(cycler_reset)
{
    struct cycle *c = self.u.object->data;
    if (!lb_jargs_bind(r, "reset", args, "/", NULL))
        return NOTHING;
    c->at = 0;
    return lb_jnone();
}

static bool cycler_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    struct cycle *c = o->data;
    struct lb_jval self = {.kind = LB_J_OBJECT, .u.object = o};
    if (n == 4 && memcmp(name, "next", 4) == 0)
        *out = lb_jfunction(r, "next", cycler_next, self, NULL);
    else if (n == 5 && memcmp(name, "reset", 5) == 0)
        *out = lb_jfunction(r, "reset", cycler_reset, self, NULL);
    else if (n == 7 && memcmp(name, "current", 7) == 0)
        *out = c->items.u.list->item[c->at];
    else if (n == 3 && memcmp(name, "pos", 3) == 0)
        *out = lb_jint((int64_t)c->at);
    else if (n == 5 && memcmp(name, "items", 5) == 0)
        *out = c->items;
    else
        return false;
    return true;
}

GLOBAL(do_cycler)
{
    struct cycle *c = lb_jrun_alloc(r, sizeof *c);
    struct lb_jobject *o = lb_jrun_alloc(r, sizeof *o);
    (void)self;
    if (args->n_kwarg)
        return lb_jinja_fail(r, "Cycler() takes no keyword arguments");
    if (args->n == 0)
        return lb_jinja_fail(r, "at least one item has to be provided");
    if (!c || !o)
        return NOTHING;
    c->items = lb_jlist_new(r, LB_J_TUPLE, args->n);
    for (size_t i = 0; i < args->n; i++)
        lb_jlist_push(r, c->items, args->arg[i]);
    *o = (struct lb_jobject){.type_name = "Cycler", .get = cycler_get, .data = c};
    return r->failed ? NOTHING : (struct lb_jval){.kind = LB_J_OBJECT, .u.object = o};
}

struct join {
    struct lb_jval sep;
    bool used;
};

GLOBAL(joiner_call)
{
    struct join *j = self.u.object->data;
    if (!lb_jargs_bind(r, "Joiner", args, "/", NULL))
        return NOTHING;
    bool first = !j->used;
    j->used = true;
    return first ? lb_jtext_puts(r, "") : j->sep;
}

static bool joiner_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    struct join *j = o->data;
    (void)r;
    if (n == 3 && memcmp(name, "sep", 3) == 0)
        *out = j->sep;
    else if (n == 4 && memcmp(name, "used", 4) == 0)
        *out = lb_jbool(j->used);
    else
        return false;
    return true;
}

GLOBAL(do_joiner)
{
    struct join *j = lb_jrun_alloc(r, sizeof *j);
    struct lb_jobject *o = lb_jrun_alloc(r, sizeof *o);
    struct lb_jval sep;
    (void)self;
    if (!lb_jargs_bind(r, "Joiner", args, "sep?", &sep) || !j || !o)
        return NOTHING;
    j->sep = lb_jgiven(sep) ? sep : lb_jtext_puts(r, ", ");
    *o = (struct lb_jobject){.type_name = "Joiner", .get = joiner_get, .call = joiner_call, .data = j};
    return (struct lb_jval){.kind = LB_J_OBJECT, .u.object = o};
}

/* ---- of transformers ---- */

GLOBAL(do_raise)
{
    struct lb_jval message;
    (void)self;
    if (!lb_jargs_bind(r, "raise_exception", args, "message", &message))
        return NOTHING;
    message = lb_jstr(r, message);
    return r->failed ? NOTHING : lb_jinja_fail(r, "%.*s", (int)message.u.text->len, message.u.text->data);
}

GLOBAL(do_strftime)
{
    struct lb_jval format;
    (void)self;
    if (!lb_jargs_bind(r, "strftime_now", args, "format", &format))
        return NOTHING;
    const struct lb_jtext *t = lb_jarg_text(r, "strftime_now", format);
    if (!r->now)
        return lb_jinja_fail(r, "strftime_now: there is no clock");
    if (r->failed || !lb_jroom(r, t->len * 32))
        return NOTHING;
    size_t mark = lb_jscratch_begin(r);
    lb_jput_strftime(&r->scratch, t, r->now);
    return lb_jscratch_end(r, mark);
}

GLOBAL(do_lipsum)
{
    (void)self;
    (void)args;
    return lb_jinja_fail(r, "lipsum() is not supported: chats must render the same every time");
}

static bool dict_object_get(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out)
{
    (void)o;
    if (n != 8 || memcmp(name, "fromkeys", 8) != 0)
        return false;
    struct lb_jval empty = lb_jdict_new(r, LB_J_DICT);
    *out = lb_jgetattr(r, empty, name, n);
    return true;
}

static struct lb_jobject dict_object = {.type_name = "TemplateDict", .get = dict_object_get, .call = do_dict};

bool lb_jinja_find_global(struct lb_jrun *r, const char *name, size_t n, struct lb_jval *out)
{
    static struct lb_jcall calls[] = {
        {.name = "raise_exception", .fn = do_raise}, {.name = "namespace", .fn = do_namespace},
        {.name = "range", .fn = do_range},           {.name = "strftime_now", .fn = do_strftime},
        {.name = "cycler", .fn = do_cycler},         {.name = "joiner", .fn = do_joiner},
        {.name = "lipsum", .fn = do_lipsum},
    };
    (void)r;
    if (n == 4 && memcmp(name, "dict", 4) == 0) {
        *out = (struct lb_jval){.kind = LB_J_OBJECT, .u.object = &dict_object};
        return true;
    }
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strlen(calls[i].name) != n || memcmp(calls[i].name, name, n) != 0)
            continue;
        *out = (struct lb_jval){.kind = LB_J_CALL, .u.call = &calls[i]};
        return true;
    }
    return false;
}
