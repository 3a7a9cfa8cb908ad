/* What Python's str can do: search, strip, split, replace, pad. */
#define _GNU_SOURCE /* memmem, which finds in linear time */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

size_t lb_jfind_bytes(const char *text, size_t n, const char *needle, size_t m)
{
    if (m == 0)
        return 0;
    if (m > n)
        return n + 1;
    const char *at = memmem(text, n, needle, m);
    return at ? (size_t)(at - text) : n + 1;
}

/* Quadratic at worst, so that candidates are paid for. */
size_t lb_jrfind_bytes(struct lb_jrun *r, const char *text, size_t n, const char *needle, size_t m)
{
    if (m == 0)
        return n;
    for (size_t at = m <= n ? n - m + 1 : 0; at-- > 0;) {
        if (text[at] != needle[0] || text[at + m - 1] != needle[m - 1])
            continue;
        if (!lb_jrun_spend(r, m / 64 + 1))
            break;
        if (memcmp(text + at, needle, m) == 0)
            return at;
    }
    return n + 1;
}

struct lb_jval lb_jmark_safe(struct lb_jrun *r, struct lb_jval v, bool safe)
{
    if (v.kind != LB_J_STR || v.u.text->safe == safe)
        return v;
    struct lb_jval copy = lb_jtext_lend(r, v.u.text->data, v.u.text->len);
    if (copy.kind == LB_J_STR)
        copy.u.text->safe = safe;
    return copy;
}

static bool in_set(const struct lb_jtext *set, const char *c, size_t n)
{
    if (!set) {
        int bytes;
        return lb_juni_is(lb_utf8_decode(c, n, &bytes), LB_JUNI_SPACE);
    }
    if (n == 1)
        return memchr(set->data, *c, set->len) != NULL;
    return lb_jfind_bytes(set->data, set->len, c, n) <= set->len;
}

static size_t char_before(const char *text, size_t end)
{
    size_t n = 1;
    while (n < 4 && n < end && ((unsigned char)text[end - n] & 0xc0) == 0x80)
        n++;
    return n;
}

struct lb_jval lb_jstr_strip(struct lb_jrun *r, struct lb_jval s, struct lb_jval chars, int sides)
{
    const struct lb_jtext *t = s.u.text, *set = NULL;
    if (lb_jgiven(chars) && chars.kind != LB_J_NONE)
        set = lb_jarg_text(r, "strip", chars);
    size_t from = 0, to = t->len, n;
    int bytes;
    for (; (sides & 1) && from < to; from += n) {
        lb_utf8_decode(t->data + from, to - from, &bytes);
        n = (size_t)bytes;
        if (!in_set(set, t->data + from, n) || (set && set->len > 64 && !lb_jrun_spend(r, set->len / 64)))
            break;
    }
    for (; (sides & 2) && to > from; to -= n) {
        n = char_before(t->data, to);
        if (!in_set(set, t->data + to - n, n) || (set && set->len > 64 && !lb_jrun_spend(r, set->len / 64)))
            break;
    }
    lb_jscan(r, from + t->len - to);
    return r->failed ? lb_jnone() : from == 0 && to == t->len ? s : lb_jtext_part(r, t, from, to - from);
}

struct lb_jval lb_jstr_replace(struct lb_jrun *r, struct lb_jval s, struct lb_jval from, struct lb_jval to,
                               int64_t count)
{
    const struct lb_jtext *t = s.u.text, *x = lb_jarg_text(r, "replace", from), *y = lb_jarg_text(r, "replace", to);
    if (!lb_jroom(r, t->len) || !lb_jscan(r, t->len))
        return lb_jnone();
    size_t mark = lb_jscratch_begin(r), at = 0;
    for (; count != 0 && at <= t->len && !r->failed; count -= count > 0) {
        size_t hit = lb_jfind_bytes(t->data + at, t->len - at, x->data, x->len);
        if (hit > t->len - at || !lb_jroom(r, y->len))
            break;
        lb_str_put(&r->scratch, t->data + at, hit);
        lb_str_put(&r->scratch, y->data, y->len);
        at += hit + x->len;
        if (x->len == 0) { /* between characters, and at both ends */
            int bytes = 1;
            if (at < t->len)
                lb_utf8_decode(t->data + at, t->len - at, &bytes);
            if (at < t->len)
                lb_str_put(&r->scratch, t->data + at, (size_t)bytes);
            at += (size_t)bytes;
        }
    }
    if (at < t->len)
        lb_str_put(&r->scratch, t->data + at, t->len - at);
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), t->safe);
}

static size_t line_end(const char *text, size_t n)
{
    int bytes;
    uint32_t c = lb_utf8_decode(text, n, &bytes);
    if (c == '\r')
        return n > 1 && text[1] == '\n' ? 2 : 1;
    bool end = (c >= '\n' && c <= '\f') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    return end ? (size_t)bytes : 0;
}

struct lb_jval lb_jstr_splitlines(struct lb_jrun *r, struct lb_jval s, bool keep_ends)
{
    const struct lb_jtext *t = s.u.text;
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 8);
    size_t from = 0;
    for (size_t at = 0; at < t->len && lb_jrun_spend(r, (at & 7) == 0);) {
        unsigned char c = (unsigned char)t->data[at];
        size_t end = c < ' ' || c >= 0x80 ? line_end(t->data + at, t->len - at) : 0;
        if (end == 0) {
            at++;
            continue;
        }
        lb_jlist_push(r, list, lb_jtext_part(r, t, from, at - from + (keep_ends ? end : 0)));
        at += end;
        from = at;
        if (!lb_jrun_spend(r, 1))
            break;
    }
    if (from < t->len)
        lb_jlist_push(r, list, lb_jtext_part(r, t, from, t->len - from));
    return list;
}

/* ---- split ---- */

static size_t skip_space(const struct lb_jtext *t, size_t at, bool space)
{
    while (at < t->len) {
        int bytes;
        uint32_t c = lb_utf8_decode(t->data + at, t->len - at, &bytes);
        if (lb_juni_is(c, LB_JUNI_SPACE) != space)
            break;
        at += (size_t)bytes;
    }
    return at;
}

static struct lb_jval split_space(struct lb_jrun *r, const struct lb_jtext *t, int64_t max)
{
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 8);
    size_t at = skip_space(t, 0, true);
    for (; at < t->len && max != 0 && lb_jrun_spend(r, 1); max -= max > 0) {
        size_t end = skip_space(t, at, false);
        lb_jlist_push(r, list, lb_jtext_part(r, t, at, end - at));
        at = skip_space(t, end, true);
    }
    if (at < t->len)
        lb_jlist_push(r, list, lb_jtext_part(r, t, at, t->len - at));
    return list;
}

static size_t skip_back(const struct lb_jtext *t, size_t at, bool space)
{
    while (at > 0) {
        size_t n = char_before(t->data, at);
        int bytes;
        if (lb_juni_is(lb_utf8_decode(t->data + at - n, n, &bytes), LB_JUNI_SPACE) != space)
            break;
        at -= n;
    }
    return at;
}

static void reverse(struct lb_jval list)
{
    struct lb_jlist *l = list.u.list;
    for (size_t i = 0, k = l->n; i + 1 < k; i++) {
        k--;
        struct lb_jval x = l->item[i];
        l->item[i] = l->item[k];
        l->item[k] = x;
    }
}

static struct lb_jval rsplit_space(struct lb_jrun *r, const struct lb_jtext *t, int64_t max)
{
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 8);
    size_t end = skip_back(t, t->len, true);
    for (; end > 0 && max != 0 && lb_jrun_spend(r, 1); max -= max > 0) {
        size_t from = skip_back(t, end, false);
        lb_jlist_push(r, list, lb_jtext_part(r, t, from, end - from));
        end = skip_back(t, from, true);
    }
    if (end > 0)
        lb_jlist_push(r, list, lb_jtext_part(r, t, 0, end));
    if (!r->failed)
        reverse(list);
    return list;
}

/* NULL: white space; failed where it is no separator. */
static const struct lb_jtext *separator(struct lb_jrun *r, const struct lb_jtext *t, struct lb_jval sep)
{
    lb_jscan(r, t->len);
    if (!lb_jgiven(sep) || sep.kind == LB_J_NONE)
        return NULL;
    const struct lb_jtext *x = lb_jarg_text(r, "split", sep);
    if (x->len == 0)
        lb_jinja_fail(r, "empty separator");
    return x;
}

struct lb_jval lb_jstr_split(struct lb_jrun *r, struct lb_jval s, struct lb_jval sep, int64_t max)
{
    const struct lb_jtext *t = s.u.text, *x = separator(r, t, sep);
    if (r->failed)
        return lb_jnone();
    if (!x)
        return split_space(r, t, max);
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 4);
    size_t at = 0;
    for (; max != 0 && lb_jrun_spend(r, 1); max -= max > 0) {
        size_t hit = lb_jfind_bytes(t->data + at, t->len - at, x->data, x->len);
        if (hit > t->len - at)
            break;
        lb_jlist_push(r, list, lb_jtext_part(r, t, at, hit));
        at += hit + x->len;
    }
    lb_jlist_push(r, list, lb_jtext_part(r, t, at, t->len - at));
    return list;
}

struct lb_jval lb_jstr_rsplit(struct lb_jrun *r, struct lb_jval s, struct lb_jval sep, int64_t max)
{
    const struct lb_jtext *t = s.u.text, *x = separator(r, t, sep);
    if (r->failed)
        return lb_jnone();
    if (!x)
        return rsplit_space(r, t, max);
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, 4);
    size_t end = t->len;
    for (; max != 0 && lb_jrun_spend(r, 1); max -= max > 0) {
        size_t hit = lb_jrfind_bytes(r, t->data, end, x->data, x->len);
        if (hit > end)
            break;
        lb_jlist_push(r, list, lb_jtext_part(r, t, hit + x->len, end - hit - x->len));
        end = hit;
    }
    lb_jlist_push(r, list, lb_jtext_part(r, t, 0, end));
    if (!r->failed)
        reverse(list);
    return list;
}

/* ---- width ---- */

static void put_fill(struct lb_jrun *r, const struct lb_jtext *fill, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        lb_str_put(&r->scratch, fill->data, fill->len);
}

struct lb_jval lb_jstr_pad(struct lb_jrun *r, struct lb_jval s, int64_t width, const struct lb_jtext *fill, int side)
{
    struct lb_jtext *t = s.u.text;
    int64_t n = lb_jtext_chars(t), more = width - n;
    if (width <= n)
        return s;
    if (!lb_jroom(r, t->len + (uint64_t)more * (fill->len ? fill->len : 1)))
        return lb_jnone();
    int64_t left = side < 0 ? 0 : side > 0 ? more : more / 2 + (more & width & 1);
    size_t mark = lb_jscratch_begin(r);
    put_fill(r, fill, left);
    lb_str_put(&r->scratch, t->data, t->len);
    put_fill(r, fill, more - left);
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), t->safe);
}
