#include "core/text/jinja/jinja_value.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/text/jinja/jinja_help.h"

#define BLOCK_BYTES ((size_t)64 << 10)
#define KEEP_BYTES ((size_t)1 << 20) /* a block up to this size outlives its rendering */
#define SMALL_DICT 8                 /* pairs that are searched one by one */

/* Blocks are chained through their first bytes. */
struct block {
    struct block *before;
    size_t bytes;
};

void lb_jrun_init(struct lb_jrun *r, const struct tm *now)
{
    *r = (struct lb_jrun){.now = now};
}

static void free_blocks(struct block *b)
{
    while (b) {
        struct block *before = b->before;
        lb_mem_free(b);
        b = before;
    }
}

/* Memory was handed out zeroed, so what was used is cleared here, once, instead of piece by piece. */
void lb_jrun_reset(struct lb_jrun *r)
{
    struct block *b = (struct block *)(void *)r->block;
    if (b && b->bytes > KEEP_BYTES) {
        free_blocks(b);
        r->block = NULL;
        r->block_cap = 0;
    } else if (b) {
        free_blocks(b->before);
        b->before = NULL;
        memset(r->block + sizeof(struct block), 0, r->block_used - sizeof(struct block));
    }
    r->block_used = r->block ? sizeof(struct block) : 0;
    r->total_bytes = r->block_cap;
    r->steps = 0;
    r->depth = r->line = 0;
    r->failed = false;
    r->status = LB_OK;
    r->message[0] = 0;
    if (r->scratch.cap > KEEP_BYTES)
        lb_str_release(&r->scratch);
    lb_str_clear(&r->scratch);
}

void lb_jrun_release(struct lb_jrun *r)
{
    free_blocks((struct block *)(void *)r->block);
    lb_str_release(&r->scratch);
    *r = (struct lb_jrun){0};
}

static void *fail_memory(struct lb_jrun *r, bool bound)
{
    if (bound)
        lb_jinja_fail(r, "the template needs more than %zu MiB of memory", LB_JINJA_MAX_MEMORY >> 20);
    else if (!r->failed) {
        lb_jinja_fail(r, "out of memory");
        r->status = LB_E_DEVICE;
    }
    return NULL;
}

void *lb_jrun_alloc(struct lb_jrun *r, size_t bytes)
{
    if (bytes > LB_JINJA_MAX_MEMORY)
        return fail_memory(r, true);
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > r->block_cap - r->block_used) {
        size_t want = r->block_cap < KEEP_BYTES && r->block_cap ? r->block_cap * 2 : BLOCK_BYTES;
        if (want < bytes + sizeof(struct block))
            want = bytes + sizeof(struct block);
        if (want > LB_JINJA_MAX_MEMORY - r->total_bytes)
            return fail_memory(r, true);
        struct block *b = lb_mem_new(want, 1);
        if (!b)
            return fail_memory(r, false);
        b->before = (struct block *)(void *)r->block;
        b->bytes = want;
        r->total_bytes += want;
        r->block = (uint8_t *)b;
        r->block_cap = want;
        r->block_used = sizeof(struct block);
    }
    void *p = r->block + r->block_used;
    r->block_used += bytes;
    return p;
}

bool lb_jrun_spend(struct lb_jrun *r, size_t steps)
{
    if (steps > (size_t)(LB_JINJA_MAX_STEPS - r->steps)) {
        lb_jinja_fail(r, "the template takes more than %lld steps", (long long)LB_JINJA_MAX_STEPS);
        return false;
    }
    r->steps += (int64_t)steps;
    return !r->failed;
}

bool lb_jrun_enter(struct lb_jrun *r)
{
    r->depth++;
    if (r->depth > LB_JINJA_MAX_DEPTH)
        lb_jinja_fail(r, "maximum recursion depth exceeded");
    return !r->failed;
}

void lb_jrun_leave(struct lb_jrun *r)
{
    r->depth--;
}

struct lb_jval lb_jinja_fail(struct lb_jrun *r, const char *fmt, ...)
{
    if (!r->failed) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(r->message, sizeof r->message, fmt, args);
        va_end(args);
        r->message[lb_utf8_valid_prefix(r->message, strlen(r->message))] = 0;
        r->failed = true;
        r->status = LB_E_INPUT;
    }
    return (struct lb_jval){.kind = LB_J_UNDEFINED};
}

bool lb_jroom(struct lb_jrun *r, uint64_t more)
{
    if (more > LB_JINJA_MAX_VALUE || more + r->scratch.len > LB_JINJA_MAX_VALUE) {
        lb_jinja_fail(r, "the template makes a value of more than %zu MiB", LB_JINJA_MAX_VALUE >> 20);
        return false;
    }
    return lb_jrun_spend(r, (size_t)(more >> 6) + 1);
}

struct lb_jval lb_jundefined(struct lb_jrun *r, const char *name, size_t n)
{
    struct lb_jundef *u = name ? lb_jrun_alloc(r, sizeof *u) : NULL;
    if (u)
        u->name = lb_jtext_copy(r, name, n);
    return (struct lb_jval){.kind = LB_J_UNDEFINED, .u.undef = u};
}

struct lb_jval lb_jinja_fail_undefined(struct lb_jrun *r, struct lb_jval v)
{
    const struct lb_jundef *u = v.u.undef;
    if (!u)
        return lb_jinja_fail(r, "None is undefined");
    if (u->hint)
        return lb_jinja_fail(r, "%s", u->hint);
    size_t mark = lb_jscratch_begin(r);
    lb_jput_repr(r, &r->scratch, u->name);
    const char *name = r->scratch.data ? r->scratch.data + mark : "";
    if (!u->owner)
        lb_jinja_fail(r, "%s is undefined", name);
    else if (u->name.kind != LB_J_STR)
        lb_jinja_fail(r, "%s has no element %s", u->owner, name);
    else
        lb_jinja_fail(r, "'%s' has no attribute %s", u->owner, name);
    r->scratch.len = mark;
    return v;
}

struct lb_jval lb_jtext_lend(struct lb_jrun *r, const char *data, size_t n)
{
    struct lb_jtext *t = lb_jrun_alloc(r, sizeof *t);
    if (!t)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    t->data = data;
    t->len = n;
    t->n_char = -1;
    return (struct lb_jval){.kind = LB_J_STR, .u.text = t};
}

struct lb_jval lb_jtext_copy(struct lb_jrun *r, const char *data, size_t n)
{
    char *copy = lb_jrun_alloc(r, n + 1);
    if (!copy)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    if (n)
        memcpy(copy, data, n);
    return lb_jtext_lend(r, copy, n);
}

struct lb_jval lb_jscratch_end(struct lb_jrun *r, size_t mark)
{
    if (r->scratch.failed)
        fail_memory(r, false);
    if (r->failed) {
        r->scratch.len = mark;
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    }
    struct lb_jval v = lb_jtext_copy(r, r->scratch.data ? r->scratch.data + mark : "", r->scratch.len - mark);
    r->scratch.len = mark;
    return v;
}

struct lb_jval lb_jfunction(struct lb_jrun *r, const char *name,
                            struct lb_jval (*fn)(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args),
                            struct lb_jval self, void *data)
{
    struct lb_jcall *c = lb_jrun_alloc(r, sizeof *c);
    if (!c)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    *c = (struct lb_jcall){.name = name, .fn = fn, .self = self, .data = data};
    return (struct lb_jval){.kind = LB_J_CALL, .u.call = c};
}

struct lb_jval lb_jlist_new(struct lb_jrun *r, enum lb_jkind list_or_tuple, size_t cap)
{
    if (cap > LB_JINJA_MAX_MEMORY / sizeof(struct lb_jval)) {
        fail_memory(r, true);
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    }
    struct lb_jlist *l = lb_jrun_alloc(r, sizeof *l + cap * sizeof(struct lb_jval));
    if (!l)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    l->item = (struct lb_jval *)(void *)(l + 1);
    l->cap = cap;
    return (struct lb_jval){.kind = (uint8_t)list_or_tuple, .u.list = l};
}

void lb_jlist_push(struct lb_jrun *r, struct lb_jval list, struct lb_jval item)
{
    if (r->failed || !lb_jis_list(list))
        return;
    struct lb_jlist *l = list.u.list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        if (cap > LB_JINJA_MAX_MEMORY / sizeof *l->item) {
            fail_memory(r, true);
            return;
        }
        struct lb_jval *wider = lb_jrun_alloc(r, cap * sizeof *wider);
        if (!wider)
            return;
        memcpy(wider, l->item, l->n * sizeof *wider);
        l->item = wider;
        l->cap = cap;
    }
    l->item[l->n++] = item;
}

struct lb_jval lb_jpair_of(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    struct lb_jval pair = lb_jlist_new(r, LB_J_TUPLE, 2);
    lb_jlist_push(r, pair, a);
    lb_jlist_push(r, pair, b);
    return pair;
}

struct lb_jval lb_jstream_new(struct lb_jrun *r, const char *type_name, struct lb_jval items, bool view)
{
    struct lb_jstream *s = items.kind == LB_J_LIST ? lb_jrun_alloc(r, sizeof *s) : NULL;
    if (!s)
        return (struct lb_jval){.kind = LB_J_UNDEFINED};
    *s = (struct lb_jstream){.type_name = type_name, .items = items, .view = view};
    return (struct lb_jval){.kind = LB_J_STREAM, .u.stream = s};
}

/* ---- dicts ---- */

struct lb_jval lb_jdict_new(struct lb_jrun *r, enum lb_jkind dict_or_namespace)
{
    struct lb_jdict *d = lb_jrun_alloc(r, sizeof *d);
    return d ? (struct lb_jval){.kind = (uint8_t)dict_or_namespace, .u.dict = d}
             : (struct lb_jval){.kind = LB_J_UNDEFINED};
}

/* Equal keys have equal hashes: 1, 1.0 and True are one key. */
static uint64_t hash_of(struct lb_jrun *r, struct lb_jval v)
{
    if (v.kind == LB_J_STR) {
        lb_jrun_spend(r, v.u.text->len / 1024);
        return lb_hash64(v.u.text->data, v.u.text->len, 0);
    }
    if (lb_jis_number(v)) {
        double f = lb_jdouble_of(v) + 0.0; /* one zero */
        return lb_hash64(&f, sizeof f, 1);
    }
    uint64_t h = v.kind;
    if (v.kind == LB_J_TUPLE && lb_jrun_enter(r)) {
        for (size_t i = 0; i < v.u.list->n && lb_jrun_spend(r, 1); i++) {
            uint64_t pair[2] = {h, hash_of(r, v.u.list->item[i])};
            h = lb_hash64(pair, sizeof pair, 2);
        }
    }
    if (v.kind == LB_J_TUPLE)
        lb_jrun_leave(r);
    return h;
}

static bool hashable(struct lb_jrun *r, struct lb_jval key)
{
    if (key.kind == LB_J_LIST || key.kind == LB_J_DICT) {
        lb_jinja_fail(r, "unhashable type: '%s'", lb_jtype_name(key));
        return false;
    }
    if (key.kind != LB_J_TUPLE)
        return true;
    bool ok = lb_jrun_enter(r);
    for (size_t i = 0; ok && i < key.u.list->n; i++)
        ok = lb_jrun_spend(r, 1) && hashable(r, key.u.list->item[i]);
    lb_jrun_leave(r);
    return ok;
}

static bool same_key(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    if (a.kind == LB_J_STR && a.u.text->len < 1024)
        return lb_jtext_equal(a, b);
    return lb_jequal(r, a, b);
}

/* The place of the key in pair, or n. Hostile keys may collide: what is looked at is paid for. */
static size_t find_pair(struct lb_jrun *r, const struct lb_jdict *d, struct lb_jval key)
{
    if (!d->index) {
        size_t i = 0;
        while (i < d->n && !same_key(r, key, d->pair[i].key))
            i++;
        return i;
    }
    uint64_t hash = hash_of(r, key);
    for (size_t at = hash & d->index_mask, tries = 0;; at = (at + 1) & d->index_mask, tries++) {
        uint32_t place = d->index[at];
        if (!place || (tries > 8 && !lb_jrun_spend(r, 1)))
            return d->n;
        if (d->pair[place - 1].hash == hash && same_key(r, key, d->pair[place - 1].key))
            return place - 1;
    }
}

static void enter_pair(struct lb_jdict *d, size_t i)
{
    size_t at = d->pair[i].hash & d->index_mask;
    while (d->index[at])
        at = (at + 1) & d->index_mask;
    d->index[at] = (uint32_t)i + 1;
}

static bool widen_dict(struct lb_jrun *r, struct lb_jdict *d, size_t cap)
{
    if (cap > UINT32_MAX / 4) {
        fail_memory(r, true);
        return false;
    }
    struct lb_jpair *wider = lb_jrun_alloc(r, cap * sizeof *wider);
    if (!wider)
        return false;
    if (d->n)
        memcpy(wider, d->pair, d->n * sizeof *wider);
    d->pair = wider;
    d->cap = cap;
    if (cap <= SMALL_DICT)
        return true;
    size_t slots = 16;
    while (slots < cap * 2)
        slots *= 2;
    bool hashed = d->index != NULL;
    uint32_t *index = lb_jrun_alloc(r, slots * sizeof *index);
    if (!index)
        return false;
    d->index = index;
    d->index_mask = slots - 1;
    for (size_t i = 0; i < d->n; i++) {
        if (!hashed)
            d->pair[i].hash = hash_of(r, d->pair[i].key);
        enter_pair(d, i);
    }
    return true;
}

static void append_pair(struct lb_jrun *r, struct lb_jdict *d, struct lb_jval key, struct lb_jval value)
{
    if (d->n == d->cap && !widen_dict(r, d, d->cap ? d->cap * 2 : 4))
        return;
    d->pair[d->n] = (struct lb_jpair){.key = key, .value = value};
    if (d->index) {
        d->pair[d->n].hash = hash_of(r, key);
        enter_pair(d, d->n);
    }
    d->n++;
}

void lb_jdict_set(struct lb_jrun *r, struct lb_jval dict, struct lb_jval key, struct lb_jval value)
{
    if (r->failed || (dict.kind != LB_J_DICT && dict.kind != LB_J_NAMESPACE) || !hashable(r, key))
        return;
    struct lb_jdict *d = dict.u.dict;
    size_t at = find_pair(r, d, key);
    if (at < d->n)
        d->pair[at].value = value;
    else
        append_pair(r, d, key, value);
}

bool lb_jdict_get(struct lb_jrun *r, struct lb_jval dict, struct lb_jval key, struct lb_jval *value)
{
    if (r->failed || !hashable(r, key))
        return false;
    const struct lb_jdict *d = dict.u.dict;
    size_t at = find_pair(r, d, key);
    if (at >= d->n)
        return false;
    *value = d->pair[at].value;
    return true;
}

/* ---- from JSON ---- */

static struct lb_jval dict_from_json(struct lb_jrun *r, json_t *object)
{
    struct lb_jval dict = lb_jdict_new(r, LB_J_DICT);
    size_t n = json_object_size(object);
    if (dict.kind != LB_J_DICT || (n && !widen_dict(r, dict.u.dict, n)))
        return dict;
    for (void *it = json_object_iter(object); it && !r->failed; it = json_object_iter_next(object, it)) {
        struct lb_jval key = lb_jtext_lend(r, json_object_iter_key(it), json_object_iter_key_len(it));
        struct lb_jval value = lb_jfrom_json(r, json_object_iter_value(it));
        if (!r->failed)
            append_pair(r, dict.u.dict, key, value);
    }
    return dict;
}

/* json_t's accessors want a mutable object, though they change nothing. */
struct lb_jval lb_jfrom_json(struct lb_jrun *r, const json_t *v)
{
    if (!v)
        return lb_jundefined(r, NULL, 0);
    struct lb_jval out = {.kind = LB_J_UNDEFINED};
    r->steps -= LB_JINJA_STEPS_PER_NODE;
    switch (json_typeof(v)) {
    case JSON_NULL:
        return lb_jnone();
    case JSON_TRUE:
    case JSON_FALSE:
        return lb_jbool(json_is_true(v));
    case JSON_INTEGER:
        return lb_jint(json_integer_value(v));
    case JSON_REAL:
        return lb_jfloat(json_real_value(v));
    case JSON_STRING:
        r->steps -= LB_JINJA_STEPS_PER_BYTE * (int64_t)json_string_length(v);
        return lb_jtext_lend(r, json_string_value(v), json_string_length(v));
    case JSON_ARRAY:
        if (lb_jrun_enter(r)) {
            out = lb_jlist_new(r, LB_J_LIST, json_array_size(v));
            for (size_t i = 0; i < json_array_size(v) && !r->failed; i++)
                lb_jlist_push(r, out, lb_jfrom_json(r, json_array_get(v, i)));
        }
        lb_jrun_leave(r);
        return out;
    case JSON_OBJECT:
        if (lb_jrun_enter(r))
            out = dict_from_json(r, (json_t *)(uintptr_t)v);
        lb_jrun_leave(r);
        return out;
    }
    return out;
}
