/* The normalization of SentencePiece models: precompiled rules in a double array, spaces (models.md 3.7). */
#include <string.h>

#include <utf8proc.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_UNITS ((size_t)1 << 22)
#define MAX_GRAPHEME 6 /* bytes; the reference looks up shorter clusters as a whole */

/* Units of a double array as Darts-clone writes them. */
static bool has_leaf(uint32_t unit)
{
    return unit >> 8 & 1;
}

static uint32_t label(uint32_t unit)
{
    return unit & (1u << 31 | 0xFF);
}

static size_t offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

static uint32_t value(uint32_t unit)
{
    return unit & ((1u << 31) - 1);
}

/* Place of a node's children; the root has its own way in. */
static size_t children(const struct lb_charsmap *m, size_t node)
{
    return node ^ offset(m->unit[node]);
}

/* Looks at every node that a text can reach: a replacement must lie in the blob. */
static enum lb_status check_leaves(const struct lb_charsmap *m, uint32_t *queue, bool *seen, struct lb_err *err)
{
    size_t n = 0;
    queue[n++] = 0;
    seen[0] = true;
    for (size_t i = 0; i < n; i++) {
        size_t base = children(m, queue[i]);
        if (has_leaf(m->unit[queue[i]]) && (base >= m->n_unit || value(m->unit[base]) >= m->n_text))
            return lb_err_set(err, LB_E_INPUT, "precompiled_charsmap: node %u points outside", (unsigned)queue[i]);
        for (size_t c = 0; c < 256; c++) {
            size_t to = base ^ c;
            if (to < m->n_unit && !seen[to] && label(m->unit[to]) == c) {
                seen[to] = true;
                queue[n++] = (uint32_t)to;
            }
        }
    }
    return LB_OK;
}

static enum lb_status check_map(const struct lb_charsmap *m, struct lb_err *err)
{
    uint32_t *queue = lb_mem_new(m->n_unit, sizeof *queue);
    bool *seen = lb_mem_new(m->n_unit, sizeof *seen);
    enum lb_status status =
        queue && seen ? check_leaves(m, queue, seen, err) : lb_err_memory(err, "a charsmap", m->n_unit * sizeof *queue);
    lb_mem_free(queue);
    lb_mem_free(seen);
    return status;
}

static size_t load32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (size_t)b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16 | (size_t)b[3] << 24;
}

enum lb_status lb_charsmap_new(struct lb_charsmap **out, const char *blob, size_t n, struct lb_err *err)
{
    *out = NULL;
    size_t n_trie = n >= 4 ? load32(blob) : 0;
    if (n_trie == 0 || n_trie % 4 != 0 || n_trie > n - 4 || n_trie / 4 > MAX_UNITS)
        return lb_err_set(err, LB_E_INPUT, "precompiled_charsmap of %zu bytes: a trie of %zu does not fit", n, n_trie);
    struct lb_charsmap *m = lb_mem_new(1, sizeof *m);
    if (m) {
        m->n_unit = n_trie / 4;
        m->n_text = n - 4 - n_trie;
        m->unit = lb_mem_new(m->n_unit, sizeof *m->unit);
        m->text = lb_mem_strndup(blob + 4 + n_trie, m->n_text); /* a zero ends the last replacement */
    }
    if (!m || !m->unit || !m->text) {
        lb_charsmap_free(m);
        return lb_err_memory(err, "a charsmap", n);
    }
    for (size_t i = 0; i < m->n_unit; i++)
        m->unit[i] = (uint32_t)load32(blob + 4 + 4 * i);
    enum lb_status status = check_map(m, err);
    if (status != LB_OK)
        lb_charsmap_free(m);
    else
        *out = m;
    return status;
}

void lb_charsmap_free(struct lb_charsmap *m)
{
    if (!m)
        return;
    lb_mem_free(m->unit);
    lb_mem_free(m->text);
    lb_mem_free(m);
}

struct lb_bytes lb_charsmap_find(const struct lb_charsmap *m, struct lb_bytes text, bool longest, size_t *n_used)
{
    struct lb_bytes found = {NULL, 0};
    size_t base = children(m, 0);
    for (size_t i = 0; i < text.len; i++) {
        size_t node = base ^ (unsigned char)text.data[i];
        if (node >= m->n_unit || label(m->unit[node]) != (unsigned char)text.data[i])
            break;
        base = children(m, node);
        if (!has_leaf(m->unit[node]))
            continue;
        found.data = m->text + value(m->unit[base]);
        *n_used = i + 1;
        if (!longest)
            break;
    }
    found.len = found.data ? strlen(found.data) : 0;
    return found;
}

/* One piece of a text that the reference looks up by itself; true when a rule replaced it. */
static bool replace_whole(const struct lb_norm *o, struct lb_bytes piece, struct lb_str *out)
{
    size_t n_used;
    struct lb_bytes to = lb_charsmap_find(o->map, piece, false, &n_used);
    if (to.data)
        lb_str_put(out, to.data, to.len);
    return to.data != NULL;
}

/* The normalizer Precompiled of tokenizer.json: short grapheme clusters as a whole, else each character; the shortest
 * rule that begins the piece replaces all of it. */
void lb_norm_charsmap(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out)
{
    for (size_t i = 0; i < in.len;) {
        int len;
        utf8proc_int32_t state = 0;
        uint32_t cp = lb_utf8_decode(in.data + i, in.len - i, &len);
        size_t end = i + (size_t)len;
        while (end < in.len) {
            uint32_t next = lb_utf8_decode(in.data + end, in.len - end, &len);
            if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state))
                break;
            cp = next;
            end += (size_t)len;
        }
        if (end - i >= MAX_GRAPHEME || !replace_whole(o, (struct lb_bytes){in.data + i, end - i}, out)) {
            for (size_t k = i; k < end; k += (size_t)len) {
                lb_utf8_decode(in.data + k, in.len - k, &len);
                if (!replace_whole(o, (struct lb_bytes){in.data + k, (size_t)len}, out))
                    lb_str_put(out, in.data + k, (size_t)len);
            }
        }
        i = end;
    }
}

/* What the first characters of text become, and how many bytes they are. */
static struct lb_bytes next_part(const struct lb_norm *o, struct lb_bytes text, size_t *n_used)
{
    const struct lb_added *user = NULL;
    if (o->user.n > 0 && o->user.first[(unsigned char)text.data[0]])
        user = lb_added_longest(&o->user, text.data, text.len);
    if (user) {
        *n_used = user->len;
        return (struct lb_bytes){text.data, user->len};
    }
    if (o->map) {
        struct lb_bytes to = lb_charsmap_find(o->map, text, true, n_used);
        if (to.data)
            return to;
    }
    int len;
    lb_utf8_decode(text.data, text.len, &len);
    *n_used = (size_t)len;
    return (struct lb_bytes){text.data, (size_t)len};
}

static void put_space(const struct lb_norm *o, struct lb_str *out)
{
    lb_str_puts(out, o->escape ? LB_SPACE_MARK : " ");
}

static void put_escaped(const struct lb_norm *o, struct lb_bytes part, struct lb_str *out)
{
    for (size_t i = 0; i < part.len; i++) {
        if (part.data[i] == ' ')
            put_space(o, out);
        else
            lb_str_putc(out, part.data[i]);
    }
}

static bool is_space(struct lb_bytes b)
{
    return b.len == 1 && b.data[0] == ' ';
}

void lb_norm_sentence(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out)
{
    size_t i = 0, n_used;
    while (o->squeeze && i < in.len) {
        if (!is_space(next_part(o, (struct lb_bytes){in.data + i, in.len - i}, &n_used)))
            break;
        i += n_used;
    }
    if (i == in.len)
        return;
    if (o->dummy_prefix && !o->at_end)
        put_space(o, out);
    bool after_space = o->squeeze;
    while (i < in.len) {
        struct lb_bytes part = next_part(o, (struct lb_bytes){in.data + i, in.len - i}, &n_used);
        i += n_used;
        while (after_space && part.len > 0 && part.data[0] == ' ')
            part = (struct lb_bytes){part.data + 1, part.len - 1};
        if (part.len > 0) {
            put_escaped(o, part, out);
            after_space = o->squeeze && part.data[part.len - 1] == ' ';
        }
    }
    const char *space = o->escape ? LB_SPACE_MARK : " ";
    size_t n = strlen(space);
    while (o->squeeze && !out->failed && out->len >= n && memcmp(out->data + out->len - n, space, n) == 0)
        out->len -= n;
    if (o->dummy_prefix && o->at_end)
        put_space(o, out);
}
