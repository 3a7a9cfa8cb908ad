/* The filters wordwrap and pprint: Python's textwrap.wrap, and pprint.pformat of what fits into a line. */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

/* One line in code points, cut into chunks: runs of white space, words, parts of words that hyphens end, dashes. */
struct wrap {
    struct lb_jrun *r;
    const char *data;
    uint32_t *cp;    /* [n] */
    uint32_t *start; /* [n + 1] the byte where each begins */
    uint32_t *end;   /* [n_chunk] */
    size_t n, n_chunk;
    int64_t width;
    bool break_long, hyphens;
};

static bool is_blank(uint32_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(uint32_t c)
{
    return c == '_' || lb_juni_is(c, LB_JUNI_ALPHA) || lb_juni_is(c, LB_JUNI_NUMERIC);
}

static bool is_letter_at(const struct wrap *w, size_t at)
{
    return at < w->n && is_word(w->cp[at]) && !lb_juni_is(w->cp[at], LB_JUNI_DECIMAL);
}

static bool is_dash_at(const struct wrap *w, size_t at)
{
    return at < w->n && w->cp[at] == '-';
}

/* Two or more dashes between words begin here: what is before may end a word, what follows begins one. */
static size_t long_dash(const struct wrap *w, size_t at)
{
    size_t end = at;
    while (is_dash_at(w, end))
        end++;
    if (end - at < 2 || at == 0 || end == w->n || !is_word(w->cp[end]))
        return 0;
    uint32_t before = w->cp[at - 1];
    return is_word(before) || (before < 0x80 && before && strchr("!\"'&.,?", (int)before)) ? end : 0;
}

/* A word may be cut behind the hyphen at `at`: two letters stand on each side, or letters and hyphens in turn. */
static bool cuts_after(const struct wrap *w, size_t at)
{
    bool before = (at >= 2 && is_letter_at(w, at - 1) && is_letter_at(w, at - 2)) ||
                  (at >= 3 && is_letter_at(w, at - 1) && is_dash_at(w, at - 2) && is_letter_at(w, at - 3));
    return before && is_letter_at(w, at + 1) &&
           (is_letter_at(w, at + 2) || (is_dash_at(w, at + 2) && is_letter_at(w, at + 3)));
}

static size_t chunk_end(const struct wrap *w, size_t at)
{
    size_t end = at;
    if (is_blank(w->cp[at])) {
        while (end < w->n && is_blank(w->cp[end]))
            end++;
        return end;
    }
    if (w->hyphens && (end = long_dash(w, at)) != 0)
        return end;
    for (end = at + 1; end < w->n && !is_blank(w->cp[end]); end++) {
        if (!w->hyphens || w->cp[end] != '-')
            continue;
        if (cuts_after(w, end))
            return end + 1;
        /* only the first dash of a run can begin a long one: what is before it decides */
        if (w->cp[end - 1] != '-' && long_dash(w, end))
            return end;
    }
    return end;
}

static bool blank_part(const struct wrap *w, size_t from, size_t to)
{
    for (; from < to; from++)
        if (!lb_juni_is(w->cp[from], LB_JUNI_SPACE))
            return false;
    return true;
}

/* How much of a word that is wider than a line goes onto this one. */
static size_t long_part(const struct wrap *w, size_t from, size_t to, size_t room)
{
    if (!w->hyphens || to - from <= room)
        return room;
    size_t hyphen = from + room;
    while (hyphen > from && w->cp[hyphen - 1] != '-')
        hyphen--;
    for (size_t i = from; hyphen > from + 1 && i < hyphen - 1; i++)
        if (w->cp[i] != '-')
            return hyphen - from;
    return room;
}

static void put_lines(struct wrap *w, const struct lb_jtext *newline)
{
    size_t c = 0, at = 0, width = (size_t)w->width;
    for (bool any = false; c < w->n_chunk && lb_jroom(w->r, newline->len);) {
        if (any && blank_part(w, at, w->end[c]))
            at = w->end[c++];
        size_t from = at, last = at;
        int pieces = 0;
        for (; c < w->n_chunk && w->end[c] - from <= width; pieces++) {
            last = at;
            at = w->end[c++];
        }
        if (c < w->n_chunk && w->end[c] - at > width && (w->break_long || !pieces)) {
            last = at;
            at = w->break_long ? at + long_part(w, at, w->end[c], width - (at - from)) : w->end[c++];
            pieces++;
        }
        if (pieces && blank_part(w, last, at))
            pieces--;
        else
            last = at;
        if (!pieces)
            continue;
        if (any)
            lb_str_put(&w->r->scratch, newline->data, newline->len);
        lb_str_put(&w->r->scratch, w->data + w->start[from], w->start[last] - w->start[from]);
        any = true;
    }
}

static void wrap_line(struct wrap *w, const struct lb_jtext *line, const struct lb_jtext *newline)
{
    size_t n = line->len;
    w->cp = lb_jrun_alloc(w->r, (n + 1) * sizeof *w->cp);
    w->start = lb_jrun_alloc(w->r, (n + 1) * sizeof *w->start);
    w->end = lb_jrun_alloc(w->r, (n + 1) * sizeof *w->end);
    if (!w->cp || !w->start || !w->end || n > UINT32_MAX || !lb_jscan(w->r, n))
        return;
    w->data = line->data;
    w->n = w->n_chunk = 0;
    int bytes;
    for (size_t at = 0; at < n; at += (size_t)bytes) {
        w->start[w->n] = (uint32_t)at;
        w->cp[w->n++] = lb_utf8_decode(line->data + at, n - at, &bytes);
    }
    w->start[w->n] = (uint32_t)n;
    for (size_t at = 0; at < w->n;)
        w->end[w->n_chunk++] = (uint32_t)(at = chunk_end(w, at));
    put_lines(w, newline);
}

struct lb_jval lb_jfilter_wordwrap(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    static const struct lb_jtext newline = {.data = "\n", .len = 1};
    struct lb_jval a[4];
    if (!lb_jargs_bind(r, "wordwrap", args, "width? break_long_words? wrapstring? break_on_hyphens?", a))
        return lb_jnone();
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    if (v.kind != LB_J_STR)
        return lb_jinja_fail(r, "'%s' object has no attribute 'splitlines'", lb_jtype_name(v));
    bool given = lb_jgiven(a[2]) && a[2].kind != LB_J_NONE;
    const struct lb_jtext *between = given ? lb_jarg_text(r, "wordwrap", a[2]) : &newline;
    struct wrap w = {.r = r,
                     .width = lb_jarg_int(r, a[0], 79),
                     .break_long = !lb_jgiven(a[1]) || lb_jtruth(r, a[1]),
                     .hyphens = !lb_jgiven(a[3]) || lb_jtruth(r, a[3])};
    struct lb_jval lines = lb_jstr_splitlines(r, v, false);
    if (!r->failed && w.width <= 0 && lines.u.list->n)
        lb_jinja_fail(r, "invalid width %lld (must be > 0)", (long long)w.width);
    size_t mark = lb_jscratch_begin(r);
    for (size_t i = 0; !r->failed && i < lines.u.list->n; i++) {
        if (i)
            lb_str_put(&r->scratch, between->data, between->len);
        wrap_line(&w, lines.u.list->item[i].u.text, between);
    }
    return lb_jscratch_end(r, mark);
}

/* ---- pprint ---- */

#define PPRINT_WIDTH 80

/* Dicts in the order of their keys, all through. */
static struct lb_jval in_order(struct lb_jrun *r, struct lb_jval v)
{
    if ((!lb_jis_list(v) && v.kind != LB_J_DICT) || !lb_jrun_spend(r, 1))
        return v;
    struct lb_jval out = v;
    if (lb_jrun_enter(r) && v.kind == LB_J_DICT) {
        struct lb_jval keys = lb_jlist_of(r, v), sorted = lb_jlist_of(r, v), value;
        lb_jsort(r, sorted, keys, false);
        out = lb_jdict_new(r, LB_J_DICT);
        for (size_t i = 0; !r->failed && i < sorted.u.list->n; i++)
            if (lb_jdict_get(r, v, sorted.u.list->item[i], &value))
                lb_jdict_set(r, out, sorted.u.list->item[i], in_order(r, value));
    } else if (!r->failed) {
        out = lb_jlist_new(r, (enum lb_jkind)v.kind, v.u.list->n);
        for (size_t i = 0; !r->failed && i < v.u.list->n; i++)
            lb_jlist_push(r, out, in_order(r, v.u.list->item[i]));
    }
    lb_jrun_leave(r);
    return out;
}

struct lb_jval lb_jfilter_pprint(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    if (!lb_jargs_bind(r, "pprint", args, "", NULL))
        return lb_jnone();
    size_t mark = lb_jscratch_begin(r);
    lb_jput_repr(r, &r->scratch, in_order(r, v));
    struct lb_jval out = lb_jscratch_end(r, mark);
    bool breaks = v.kind == LB_J_STR || lb_jis_list(v) || v.kind == LB_J_DICT;
    if (!r->failed && breaks && lb_jtext_chars(out.u.text) > PPRINT_WIDTH)
        return lb_jinja_fail(r, "pprint of more than a line of %d characters is not supported", PPRINT_WIDTH);
    return out;
}
