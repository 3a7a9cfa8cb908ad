/* Added tokens in text: leftmost-longest matching and the flags around it (models.md 3.2). */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

enum lb_status lb_added_put(struct lb_added_set *set, const struct lb_added *a, struct lb_err *err)
{
    if (a->len == 0)
        return LB_OK;
    LB_TRY(lb_mem_grow((void **)&set->item, &set->cap, set->n + 1, sizeof *a, "added tokens", err));
    char *text = lb_mem_strndup(a->text, a->len);
    if (!text)
        return lb_err_memory(err, "added tokens", a->len);
    set->item[set->n] = *a;
    set->item[set->n++].text = text;
    return LB_OK;
}

static int by_text(const void *x, const void *y)
{
    const struct lb_added *a = x, *b = y;
    size_t n = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->text, b->text, n);
    if (order != 0)
        return order;
    return (a->len > b->len) - (a->len < b->len);
}

void lb_added_sort(struct lb_added_set *set)
{
    if (set->n > 1)
        qsort(set->item, set->n, sizeof *set->item, by_text);
    for (size_t i = 0; i < set->n; i++)
        set->first[(unsigned char)set->item[i].text[0]] = true;
    set->one_first = set->n > 0 && set->item[0].text[0] == set->item[set->n - 1].text[0];
}

void lb_added_release(struct lb_added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        lb_mem_free(set->item[i].text);
    lb_mem_free(set->item);
    *set = (struct lb_added_set){0};
}

/* First item of item[lo, hi), which share their first `depth` bytes, whose byte at `depth` is at least `byte`. An item
 * that ends at `depth` sorts before all others. */
static size_t lower(const struct lb_added_set *set, size_t lo, size_t hi, size_t depth, unsigned byte)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct lb_added *a = &set->item[mid];
        if (a->len <= depth || (unsigned char)a->text[depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct lb_added *lb_added_longest(const struct lb_added_set *set, const char *text, size_t n)
{
    const struct lb_added *best = NULL;
    size_t lo = 0, hi = set->n;
    for (size_t depth = 0; lo < hi; depth++) {
        if (set->item[lo].len == depth)
            best = &set->item[lo];
        if (depth == n)
            break;
        unsigned byte = (unsigned char)text[depth];
        lo = lower(set, lo, hi, depth, byte);
        hi = lower(set, lo, hi, depth, byte + 1);
    }
    return best;
}

const struct lb_added *lb_added_find(const struct lb_added_set *set, const char *text, size_t n)
{
    const struct lb_added *a = lb_added_longest(set, text, n);
    return a && a->len == n ? a : NULL;
}

/* \w of Unicode (UTS 18, annex C): alphabetic, marks, decimal numbers, connectors, join controls. The ranges are
 * symbols that are alphabetic: circled and squared letters. */
static bool word_char(uint32_t cp)
{
    if (cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
        (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189))
        return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* White_Space of Unicode (PropList.txt). */
bool lb_space_char(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

/* Start of the character that ends at `end` > 0. */
static size_t char_before(const char *text, size_t end)
{
    size_t i = end - 1;
    while (i > 0 && ((unsigned char)text[i] & 0xC0) == 0x80)
        i--;
    return i;
}

static bool stands_alone(const char *text, size_t n, size_t start, size_t stop)
{
    int len;
    if (start > 0) {
        size_t before = char_before(text, start);
        if (word_char(lb_utf8_decode(text + before, start - before, &len)))
            return false;
    }
    return stop == n || !word_char(lb_utf8_decode(text + stop, n - stop, &len));
}

static size_t skip_space_left(const char *text, size_t start)
{
    while (start > 0) {
        int len;
        size_t before = char_before(text, start);
        if (!lb_space_char(lb_utf8_decode(text + before, start - before, &len)))
            break;
        start = before;
    }
    return start;
}

static size_t skip_space_right(const char *text, size_t n, size_t stop)
{
    while (stop < n) {
        int len;
        if (!lb_space_char(lb_utf8_decode(text + stop, n - stop, &len)))
            break;
        stop += (size_t)len;
    }
    return stop;
}

/* Next place at or after i < n where an item can begin, or n. */
static size_t next_first(const struct lb_added_set *set, const char *text, size_t n, size_t i)
{
    if (set->one_first) {
        const char *p = memchr(text + i, set->item[0].text[0], n - i);
        return p ? (size_t)(p - text) : n;
    }
    while (i < n && !set->first[(unsigned char)text[i]])
        i++;
    return i;
}

enum lb_status lb_added_split(const struct lb_added_set *set, const char *text, size_t n,
                              const struct lb_added_sink *sink, struct lb_err *err)
{
    size_t done = 0;
    for (size_t i = 0; i < n && set->n > 0;) {
        i = next_first(set, text, n, i);
        const struct lb_added *a = i < n ? lb_added_longest(set, text + i, n - i) : NULL;
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, stop = i + a->len;
        i = stop;
        if ((sink->skip_special && a->special) || (a->single_word && !stands_alone(text, n, start, stop)))
            continue;
        if (a->lstrip) {
            size_t left = skip_space_left(text, start);
            start = left > done ? left : done;
        }
        if (a->rstrip)
            stop = skip_space_right(text, n, stop);
        if (start >= stop) /* the token before took its text as space */
            continue;
        if (done < start)
            LB_TRY(sink->found(sink->arg, -1, text + done, start - done, err));
        LB_TRY(sink->found(sink->arg, a->id, text + start, stop - start, err));
        done = stop;
    }
    if (done < n)
        LB_TRY(sink->found(sink->arg, -1, text + done, n - done, err));
    return LB_OK;
}
