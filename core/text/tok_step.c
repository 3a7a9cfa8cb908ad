/* Pre-tokenizer steps that are no patterns: Metaspace, and ByteLevel's characters for bytes (models.md 3.4). */
#include <string.h>

#include "core/text/tok_kind.h"

static void put_marked(const struct lb_step *s, bool first, struct lb_bytes text, struct lb_str *out)
{
    int len;
    uint32_t cp = lb_utf8_decode(text.data, text.len, &len);
    bool marked = cp == ' ' || cp == s->space;
    if (!marked && (s->prepend == LB_PREPEND_ALWAYS || (s->prepend == LB_PREPEND_FIRST && first)))
        lb_str_put_codepoint(out, s->space);
    for (size_t i = 0; i < text.len;) {
        const char *space = memchr(text.data + i, ' ', text.len - i);
        size_t stop = space ? (size_t)(space - text.data) : text.len;
        lb_str_put(out, text.data + i, stop - i);
        if (space)
            lb_str_put_codepoint(out, s->space);
        i = stop + (space != NULL);
    }
}

/* Each mark begins a piece. */
static enum lb_status walk_marked(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                                  struct lb_ids *out, struct lb_err *err)
{
    size_t from = 0;
    int len = 1;
    for (size_t i = 0; i < text.len; i += (size_t)len) {
        uint32_t cp = lb_utf8_decode(text.data + i, text.len - i, &len);
        if (cp != t->step[step].space || i == from)
            continue;
        LB_TRY(lb_split_walk(t, c, step + 1, (struct lb_bytes){text.data + from, i - from}, out, err));
        from = i;
    }
    return lb_split_walk(t, c, step + 1, (struct lb_bytes){text.data + from, text.len - from}, out, err);
}

enum lb_status lb_step_walk(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                            struct lb_ids *out, struct lb_err *err)
{
    const struct lb_step *s = &t->step[step];
    struct lb_str *own = &c->spaced[step];
    bool first = text.data == c->first;
    lb_str_clear(own);
    if (s->kind == LB_STEP_BYTES)
        lb_put_byte_chars(own, text);
    else
        put_marked(s, first, text, own);
    if (own->failed)
        return lb_err_memory(err, "a text", text.len);
    struct lb_bytes piece = {own->data, own->len};
    c->first = first ? own->data : NULL;
    if (s->kind == LB_STEP_METASPACE && s->cut)
        return walk_marked(t, c, step, piece, out, err);
    return lb_split_walk(t, c, step + 1, piece, out, err);
}
