/* Unicode normalization forms (UAX 15). utf8proc has the tables and the composition; canonical ordering is here,
 * because utf8proc's own is quadratic in the length of a run of combining marks. */
#include <string.h>

#include <utf8proc.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define SHORT_RUN 16

/* Characters that are in form C whatever stands beside them: their combining class is 0, NFC_Quick_Check is Yes and
 * nothing before composes with them. Ranges of common text, not the full property. */
static bool inert(uint32_t cp)
{
    static const uint32_t ranges[][2] = {{0x0000, 0x02FF}, {0x03A3, 0x0482}, {0x05D0, 0x05EA}, {0x061B, 0x064A},
                                         {0x0E01, 0x0E37}, {0x1E00, 0x1EF9}, {0x2010, 0x2064}, {0x20A0, 0x20BF},
                                         {0x2190, 0x2328}, {0x232B, 0x2426}, {0x2460, 0x2ADB}, {0x3000, 0x3029},
                                         {0x3041, 0x3096}, {0x309B, 0x30FF}, {0x3105, 0x312F}, {0x3131, 0x318E},
                                         {0x3220, 0xA48C}, {0xAC00, 0xD7A3}, {0xFF01, 0xFFBE}, {0x1F300, 0x1FAFF}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0] && cp >= ranges[i][0]; i++)
        if (cp <= ranges[i][1])
            return true;
    return false;
}

static size_t inert_prefix(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int len = 1;
        unsigned char c = (unsigned char)text[i];
        if (c >= 0xE4 && c <= 0xE9) /* U+4000 to U+9FFF: most of Chinese */
            len = 3;
        else if (c >= 0x80 && !inert(lb_utf8_decode(text + i, n - i, &len)))
            break;
        i += (size_t)len;
    }
    return i;
}

static int class_of(int32_t cp)
{
    return (int)utf8proc_get_property(cp)->combining_class;
}

/* Stable sort of a run of marks by combining class; tmp has room for n. */
static void order_marks(int32_t *cp, size_t n, int32_t *tmp)
{
    if (n <= SHORT_RUN) {
        for (size_t i = 1; i < n; i++) {
            int32_t v = cp[i];
            size_t j = i;
            for (; j > 0 && class_of(cp[j - 1]) > class_of(v); j--)
                cp[j] = cp[j - 1];
            cp[j] = v;
        }
        return;
    }
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[class_of(cp[i]) + 1]++;
    for (int k = 0; k < 256; k++)
        at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++)
        tmp[at[class_of(cp[i])]++] = cp[i];
    memcpy(cp, tmp, n * sizeof *cp);
}

static void order_all(int32_t *cp, size_t n, int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && class_of(cp[i]) != 0)
            i++;
        if (i - from > 1)
            order_marks(cp + from, i - from, tmp);
        if (i == from)
            i++;
    }
}

static utf8proc_option_t options_of(enum lb_norm_kind form)
{
    int compose = form == LB_NORM_NFC || form == LB_NORM_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    int compat = form == LB_NORM_NFKC || form == LB_NORM_NFKD ? UTF8PROC_COMPAT : 0;
    return (utf8proc_option_t)(UTF8PROC_STABLE | compose | compat);
}

static size_t ascii_prefix(struct lb_bytes in)
{
    size_t i = 0;
    while (i < in.len && (unsigned char)in.data[i] < 0x80)
        i++;
    return i;
}

enum lb_status lb_norm_form(struct lb_tok_ctx *c, enum lb_norm_kind form, struct lb_bytes in, struct lb_str *out,
                            bool *changed, struct lb_err *err)
{
    utf8proc_option_t options = options_of(form);
    size_t stays = form == LB_NORM_NFC ? inert_prefix(in.data, in.len) : ascii_prefix(in);
    *changed = stays != in.len;
    if (!*changed)
        return LB_OK;
    /* code points for a byte: 4 for 2 bytes, canonically; else 18 for the 3 bytes of U+FDFA */
    size_t m = 0, room = in.len * (options & UTF8PROC_COMPAT ? 6 : 2);
    LB_TRY(lb_mem_grow((void **)&c->code, &c->code_cap, 2 * room, sizeof *c->code, "a normalized text", err));
    for (size_t i = 0; i < in.len;) {
        int len, boundclass = UTF8PROC_BOUNDCLASS_START;
        uint32_t cp = lb_utf8_decode(in.data + i, in.len - i, &len);
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)cp, c->code + m, (utf8proc_ssize_t)(room - m),
                                                     options, &boundclass);
        if (k < 0 || (size_t)k > room - m)
            return lb_err_set(err, LB_E_INPUT, "cannot normalize a text: %s", utf8proc_errmsg(k));
        m += (size_t)k;
        i += (size_t)len;
    }
    order_all(c->code, m, c->code + room);
    if (options & UTF8PROC_COMPOSE) {
        utf8proc_ssize_t k = utf8proc_normalize_utf32(c->code, (utf8proc_ssize_t)m, options);
        if (k < 0)
            return lb_err_set(err, LB_E_INPUT, "cannot normalize a text: %s", utf8proc_errmsg(k));
        m = (size_t)k;
    }
    for (size_t i = 0; i < m; i++)
        lb_str_put_codepoint(out, (uint32_t)c->code[i]);
    return LB_OK;
}
