/* Filters on sequences: order, selection by place, sums, joins; and the getters of attributes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define FILTER(fn) static struct lb_jval fn(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
#define NOTHING ((struct lb_jval){.kind = LB_J_UNDEFINED})

/* ---- attributes ---- */

/* Parts of digits are indices. */
static struct lb_jval part_of(struct lb_jrun *r, const struct lb_jtext *whole, size_t from, size_t n)
{
    struct lb_jval part = lb_jtext_part(r, whole, from, n);
    int64_t i;
    if (part.kind == LB_J_STR && lb_jstr_is(part.u.text, 'd') && lb_jparse_int(r, part.u.text, 10, &i))
        return lb_jint(i);
    return part;
}

bool lb_jgetter_init(struct lb_jrun *r, struct lb_jgetter *g, struct lb_jval attribute, bool fold)
{
    *g = (struct lb_jgetter){.otherwise = lb_jabsent(), .fold = fold};
    if (!lb_jgiven(attribute) || attribute.kind == LB_J_NONE)
        return true;
    if (attribute.kind != LB_J_STR) {
        g->path[g->n++] = attribute;
        return true;
    }
    const struct lb_jtext *t = attribute.u.text;
    for (size_t from = 0; from <= t->len && !r->failed;) {
        size_t dot = lb_jfind_bytes(t->data + from, t->len - from, ".", 1);
        if (dot > t->len - from)
            dot = t->len - from;
        if (g->n == sizeof g->path / sizeof *g->path) {
            lb_jinja_fail(r, "an attribute has more than %zu parts", g->n);
            return false;
        }
        g->path[g->n++] = part_of(r, t, from, dot);
        from += dot + 1;
    }
    return !r->failed;
}

struct lb_jval lb_jgetter_get(struct lb_jrun *r, const struct lb_jgetter *g, struct lb_jval x)
{
    for (size_t i = 0; i < g->n && !r->failed; i++) {
        x = lb_jgetitem(r, x, g->path[i]);
        if (x.kind == LB_J_UNDEFINED && lb_jgiven(g->otherwise) && g->otherwise.kind != LB_J_NONE)
            x = g->otherwise;
    }
    return !r->failed && g->fold && x.kind == LB_J_STR ? lb_jstr_case(r, x, 'l') : x;
}

static bool flag(struct lb_jrun *r, struct lb_jval v)
{
    return lb_jgiven(v) && lb_jtruth(r, v);
}

/* Python's sorted() wants an integer. */
static bool int_flag(struct lb_jrun *r, struct lb_jval v)
{
    return lb_jarg_int(r, v, 0) != 0;
}

/* ---- order ---- */

static void merge(struct lb_jrun *r, uint32_t *order, uint32_t *room, size_t n, const struct lb_jval *key)
{
    if (n < 2 || r->failed)
        return;
    size_t half = n / 2;
    merge(r, order, room, half, key);
    merge(r, order + half, room, n - half, key);
    memcpy(room, order, half * sizeof *room);
    size_t i = 0, k = half, to = 0;
    while (i < half && k < n && lb_jrun_spend(r, 1)) {
        bool less = lb_jcompare(r, key[order[k]], key[room[i]], "<") == -1;
        order[to++] = less ? order[k++] : room[i++];
    }
    while (i < half)
        order[to++] = room[i++];
}

static void flip(uint32_t *order, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        uint32_t x = order[i];
        order[i] = order[n - 1 - i];
        order[n - 1 - i] = x;
    }
}

/* Reversed order keeps equal items as they were: reversed before and after, as Python does it. */
void lb_jsort(struct lb_jrun *r, struct lb_jval list, struct lb_jval keys, bool reverse)
{
    if (r->failed)
        return;
    size_t n = list.u.list->n;
    uint32_t *order = lb_jrun_alloc(r, (n + 1) * sizeof *order), *room = lb_jrun_alloc(r, (n + 1) * sizeof *room);
    struct lb_jval *sorted = lb_jrun_alloc(r, (n + 1) * sizeof *sorted);
    if (!order || !room || !sorted)
        return;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    if (reverse)
        flip(order, n);
    merge(r, order, room, n, keys.u.list->item);
    if (reverse)
        flip(order, n);
    for (size_t i = 0; i < n; i++)
        sorted[i] = list.u.list->item[order[i]];
    if (n)
        memcpy(list.u.list->item, sorted, n * sizeof *sorted);
}

/* "a,b.c": a list of values to compare by. */
static struct lb_jval multi_keys(struct lb_jrun *r, struct lb_jval list, struct lb_jval attribute, bool fold)
{
    struct lb_jval names, keys = lb_jlist_new(r, LB_J_LIST, list.u.list->n);
    if (lb_jgiven(attribute) && attribute.kind == LB_J_STR)
        names = lb_jstr_split(r, attribute, lb_jtext_puts(r, ","), -1);
    else {
        names = lb_jlist_new(r, LB_J_LIST, 1);
        lb_jlist_push(r, names, lb_jgiven(attribute) ? attribute : lb_jnone());
    }
    if (r->failed)
        return NOTHING;
    size_t n_key = names.u.list->n;
    struct lb_jgetter *getter = lb_jrun_alloc(r, n_key * sizeof *getter);
    for (size_t k = 0; getter && k < n_key; k++)
        lb_jgetter_init(r, &getter[k], names.u.list->item[k], fold);
    for (size_t i = 0; i < list.u.list->n && !r->failed; i++) {
        struct lb_jval key = lb_jlist_new(r, LB_J_LIST, n_key);
        for (size_t k = 0; k < n_key; k++)
            lb_jlist_push(r, key, lb_jgetter_get(r, &getter[k], list.u.list->item[i]));
        lb_jlist_push(r, keys, key);
    }
    return keys;
}

FILTER(do_sort)
{
    struct lb_jval a[3];
    if (!lb_jargs_bind(r, "sort", args, "reverse? case_sensitive? attribute?", a))
        return NOTHING;
    struct lb_jval list = lb_jlist_of(r, v);
    if (r->failed)
        return NOTHING;
    lb_jsort(r, list, multi_keys(r, list, a[2], !flag(r, a[1])), int_flag(r, a[0]));
    return list;
}

FILTER(do_dictsort)
{
    struct lb_jval a[3];
    if (!lb_jargs_bind(r, "dictsort", args, "case_sensitive? by? reverse?", a))
        return NOTHING;
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    if (v.kind != LB_J_DICT)
        return lb_jinja_fail(r, "'%s' object has no attribute 'items'", lb_jtype_name(v));
    bool by_value = lb_jgiven(a[1]) && lb_jtext_equal(a[1], lb_jtext_puts(r, "value"));
    if (lb_jgiven(a[1]) && !by_value && !lb_jtext_equal(a[1], lb_jtext_puts(r, "key")))
        return lb_jinja_fail(r, "You can only sort by either \"key\" or \"value\"");
    const struct lb_jdict *d = v.u.dict;
    struct lb_jval pairs = lb_jlist_new(r, LB_J_LIST, d->n), keys = lb_jlist_new(r, LB_J_LIST, d->n);
    for (size_t i = 0; i < d->n && lb_jrun_spend(r, 1); i++) {
        struct lb_jval key = by_value ? d->pair[i].value : d->pair[i].key;
        lb_jlist_push(r, pairs, lb_jpair_of(r, d->pair[i].key, d->pair[i].value));
        lb_jlist_push(r, keys, key.kind == LB_J_STR && !flag(r, a[0]) ? lb_jstr_case(r, key, 'l') : key);
    }
    lb_jsort(r, pairs, keys, int_flag(r, a[2]));
    return pairs;
}

FILTER(do_reverse)
{
    if (!lb_jargs_bind(r, "reverse", args, "", NULL))
        return NOTHING;
    if (v.kind == LB_J_STR)
        return lb_jslice(r, v, lb_jnone(), lb_jnone(), lb_jint(-1));
    struct lb_jval list = lb_jlist_of(r, v);
    for (size_t i = 0, k = r->failed ? 0 : list.u.list->n; i + 1 < k; i++) {
        struct lb_jval x = list.u.list->item[i];
        list.u.list->item[i] = list.u.list->item[--k];
        list.u.list->item[k] = x;
    }
    if (r->failed || (v.kind == LB_J_STREAM && !v.u.stream->view)) /* what Python cannot reverse becomes a list */
        return list;
    return lb_jstream_new(r, "list_reverseiterator", list, false);
}

static struct lb_jval extreme(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args, bool max)
{
    struct lb_jval a[2], item, best, best_key;
    struct lb_jgetter getter;
    struct lb_jiter it;
    if (!lb_jargs_bind(r, max ? "max" : "min", args, "case_sensitive? attribute?", a) ||
        !lb_jgetter_init(r, &getter, a[1], !flag(r, a[0])) || !lb_jiter_init(r, &it, v))
        return NOTHING;
    if (!lb_jiter_next(r, &it, &best))
        return lb_jempty(r, "No aggregated item, sequence was empty.");
    best_key = lb_jgetter_get(r, &getter, best);
    while (lb_jiter_next(r, &it, &item)) {
        struct lb_jval key = lb_jgetter_get(r, &getter, item);
        if (lb_jcompare(r, key, best_key, max ? ">" : "<") == (max ? 1 : -1)) {
            best = item;
            best_key = key;
        }
    }
    return r->failed ? NOTHING : best;
}

FILTER(do_min)
{
    return extreme(r, v, args, false);
}

FILTER(do_max)
{
    return extreme(r, v, args, true);
}

/* ---- by place ---- */

FILTER(do_first)
{
    struct lb_jiter it;
    struct lb_jval item;
    if (!lb_jargs_bind(r, "first", args, "", NULL) || !lb_jiter_init(r, &it, v))
        return NOTHING;
    return lb_jiter_next(r, &it, &item) ? item : lb_jempty(r, "No first item, sequence was empty.");
}

FILTER(do_last)
{
    if (!lb_jargs_bind(r, "last", args, "", NULL))
        return NOTHING;
    if (v.kind == LB_J_STR || lb_jis_list(v) || v.kind == LB_J_RANGE) {
        int64_t n = lb_jlen(r, v);
        return n ? lb_jgetitem(r, v, lb_jint(n - 1)) : lb_jempty(r, "No last item, sequence was empty.");
    }
    if (v.kind == LB_J_STREAM && !v.u.stream->view)
        return lb_jinja_fail(r, "'%s' object is not reversible", lb_jtype_name(v));
    v = lb_jlist_of(r, v);
    if (r->failed)
        return NOTHING;
    size_t n = v.u.list->n;
    return n ? v.u.list->item[n - 1] : lb_jempty(r, "No last item, sequence was empty.");
}

FILTER(do_list)
{
    return lb_jargs_bind(r, "list", args, "", NULL) ? lb_jlist_of(r, v) : NOTHING;
}

FILTER(do_items)
{
    if (!lb_jargs_bind(r, "items", args, "", NULL))
        return NOTHING;
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, v.kind == LB_J_DICT ? v.u.dict->n : 0);
    if (v.kind != LB_J_DICT && v.kind != LB_J_UNDEFINED)
        return lb_jinja_fail(r, "Can only get item pairs from a mapping.");
    for (size_t i = 0; v.kind == LB_J_DICT && i < v.u.dict->n && lb_jrun_spend(r, 1); i++)
        lb_jlist_push(r, list, lb_jpair_of(r, v.u.dict->pair[i].key, v.u.dict->pair[i].value));
    return lb_jstream_new(r, "generator", list, false);
}

FILTER(do_batch)
{
    struct lb_jval a[2], list, row = NOTHING, item;
    if (!lb_jargs_bind(r, "batch", args, "linecount fill_with?", a))
        return NOTHING;
    struct lb_jiter it;
    list = lb_jlist_new(r, LB_J_LIST, 0);
    if (!lb_jiter_init(r, &it, v))
        return NOTHING;
    row = lb_jlist_new(r, LB_J_LIST, 0);
    while (!r->failed && lb_jiter_next(r, &it, &item)) {
        if (lb_jequal(r, lb_jint((int64_t)row.u.list->n), a[0])) {
            lb_jlist_push(r, list, row);
            row = lb_jlist_new(r, LB_J_LIST, 0);
        }
        lb_jlist_push(r, row, item);
    }
    if (!r->failed && row.u.list->n) {
        bool fill = lb_jgiven(a[1]) && a[1].kind != LB_J_NONE;
        int64_t more = fill ? lb_jarg_int(r, a[0], 0) - (int64_t)row.u.list->n : 0;
        if (more > 0 && lb_jroom(r, (uint64_t)more * sizeof item))
            for (; more > 0 && !r->failed; more--)
                lb_jlist_push(r, row, a[1]);
        lb_jlist_push(r, list, row);
    }
    return lb_jstream_new(r, "generator", list, false);
}

FILTER(do_slice)
{
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, "slice", args, "slices fill_with?", a))
        return NOTHING;
    struct lb_jval seq = lb_jlist_of(r, v);
    int64_t slices = lb_jarg_int(r, a[0], 1);
    if (r->failed)
        return NOTHING;
    if (slices == 0)
        return lb_jinja_fail(r, "integer division or modulo by zero");
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 0);
    int64_t n = (int64_t)seq.u.list->n, each = n / slices, extra = n % slices;
    size_t at = 0;
    for (int64_t s = 0; s < slices && lb_jrun_spend(r, 1); s++) {
        struct lb_jval part = lb_jlist_new(r, LB_J_LIST, (size_t)each + 1);
        for (int64_t i = 0; i < each + (s < extra) && !r->failed; i++)
            lb_jlist_push(r, part, seq.u.list->item[at++]);
        if (s >= extra && lb_jgiven(a[1]) && a[1].kind != LB_J_NONE)
            lb_jlist_push(r, part, a[1]);
        lb_jlist_push(r, list, part);
    }
    return lb_jstream_new(r, "generator", list, false);
}

/* ---- all of them ---- */

FILTER(do_join)
{
    struct lb_jval a[2], item;
    struct lb_jgetter getter;
    struct lb_jiter it;
    if (!lb_jargs_bind(r, "join", args, "d? attribute?", a) || !lb_jgetter_init(r, &getter, a[1], false) ||
        !lb_jiter_init(r, &it, v))
        return NOTHING;
    struct lb_jval sep = lb_jgiven(a[0]) ? lb_jstr(r, a[0]) : lb_jtext_puts(r, "");
    size_t mark = lb_jscratch_begin(r);
    for (bool first = true; lb_jiter_next(r, &it, &item); first = false) {
        item = lb_jgetter_get(r, &getter, item);
        if (r->failed || !lb_jroom(r, sep.u.text->len))
            break;
        if (!first)
            lb_jput_str(r, &r->scratch, sep);
        lb_jput_str(r, &r->scratch, item);
    }
    return lb_jscratch_end(r, mark);
}

FILTER(do_sum)
{
    struct lb_jval a[2], item;
    struct lb_jgetter getter;
    struct lb_jiter it;
    if (!lb_jargs_bind(r, "sum", args, "attribute? start?", a) || !lb_jgetter_init(r, &getter, a[0], false) ||
        !lb_jiter_init(r, &it, v))
        return NOTHING;
    struct lb_jval total = lb_jgiven(a[1]) ? a[1] : lb_jint(0);
    if (total.kind == LB_J_STR)
        return lb_jinja_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
    while (lb_jiter_next(r, &it, &item))
        total = lb_jbinary(r, LB_JOP_ADD, total, lb_jgetter_get(r, &getter, item));
    return r->failed ? NOTHING : total;
}

FILTER(do_unique)
{
    struct lb_jval a[2], item, list = lb_jlist_new(r, LB_J_LIST, 0), seen = lb_jdict_new(r, LB_J_DICT);
    struct lb_jgetter getter;
    struct lb_jiter it;
    if (!lb_jargs_bind(r, "unique", args, "case_sensitive? attribute?", a) ||
        !lb_jgetter_init(r, &getter, a[1], !flag(r, a[0])) || !lb_jiter_init(r, &it, v))
        return NOTHING;
    while (lb_jiter_next(r, &it, &item)) {
        struct lb_jval key = lb_jgetter_get(r, &getter, item), before;
        if (r->failed || lb_jdict_get(r, seen, key, &before))
            continue;
        lb_jdict_set(r, seen, key, lb_jnone());
        lb_jlist_push(r, list, item);
    }
    return lb_jstream_new(r, "generator", list, false);
}

FILTER(do_groupby)
{
    struct lb_jval a[3];
    struct lb_jgetter by, shown;
    if (!lb_jargs_bind(r, "groupby", args, "attribute default? case_sensitive?", a) ||
        !lb_jgetter_init(r, &by, a[0], !flag(r, a[2])) || !lb_jgetter_init(r, &shown, a[0], false))
        return NOTHING;
    by.otherwise = shown.otherwise = a[1];
    struct lb_jval list = lb_jlist_of(r, v), keys = lb_jlist_new(r, LB_J_LIST, 0), out = lb_jlist_new(r, LB_J_LIST, 0);
    for (size_t i = 0; !r->failed && i < list.u.list->n; i++)
        lb_jlist_push(r, keys, lb_jgetter_get(r, &by, list.u.list->item[i]));
    lb_jsort(r, list, keys, false);
    struct lb_jval key = NOTHING, group = NOTHING;
    for (size_t i = 0; !r->failed && i < list.u.list->n; i++) {
        struct lb_jval item = list.u.list->item[i], its = lb_jgetter_get(r, &by, item);
        if (i == 0 || !lb_jequal(r, key, its)) {
            key = its;
            group = lb_jlist_new(r, LB_J_LIST, 0);
            struct lb_jval pair = lb_jpair_of(r, lb_jgetter_get(r, &shown, item), group);
            if (r->failed)
                break;
            pair.u.list->group = true;
            lb_jlist_push(r, out, pair);
        }
        lb_jlist_push(r, group, item);
    }
    return r->failed ? NOTHING : out;
}

FILTER(do_attr)
{
    struct lb_jval name, out;
    if (!lb_jargs_bind(r, "attr", args, "name", &name))
        return NOTHING;
    const struct lb_jtext *t = lb_jarg_text(r, "attr", name);
    if (r->failed)
        return NOTHING;
    if (v.kind != LB_J_DICT)
        return lb_jgetattr(r, v, t->data, t->len);
    /* what a dict holds is no attribute of it */
    struct lb_jval bare = lb_jdict_new(r, LB_J_DICT);
    out = lb_jgetattr(r, bare, t->data, t->len);
    return out.kind == LB_J_UNDEFINED ? out : lb_jgetattr(r, v, t->data, t->len);
}

const struct lb_jfilter lb_jseq_filters[] = {
    {"join", do_join},
    {"list", do_list},
    {"first", do_first},
    {"last", do_last},
    {"items", do_items},
    {"sort", do_sort},
    {"dictsort", do_dictsort},
    {"reverse", do_reverse},
    {"min", do_min},
    {"max", do_max},
    {"sum", do_sum},
    {"unique", do_unique},
    {"groupby", do_groupby},
    {"batch", do_batch},
    {"slice", do_slice},
    {"attr", do_attr},
    {NULL, NULL},
};
