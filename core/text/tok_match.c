/* Hand-written matchers for the patterns that nearly all tokenizers have (models.md 3.5). Each finds what PCRE2 finds,
 * many times faster; test_text_tokmatch.c compares them. Character classes are asked of PCRE2 itself, once a process,
 * so that both have one version of Unicode.
 *
 * All of these patterns but \p{N} match at every character, so that matches follow one another without a gap. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_impl.h"

#define N_CODE 0x110000
#define N_SHORT 0x800      /* characters of one and two bytes */
#define N_LETTER 0x40000   /* planes above hold few characters that are in a class: */
#define TAGS_BEGIN 0xE0000 /* these */
#define TAGS_END 0xE0200
#define N_BLOCK 0x800 /* code points that are asked at once */

enum { LETTER = 1, NUMBER = 2, MARK = 4, SPACE = 8 };

static const struct {
    const char *pattern;
    unsigned char mark;
} known_class[] = {{"\\p{L}+", LETTER}, {"\\p{N}+", NUMBER}, {"\\p{M}+", MARK}, {"\\p{White_Space}+", SPACE}};
#define N_CLASS (sizeof known_class / sizeof known_class[0])

/* Longer characters are classed when the first one is met: many a text has none, and they are most of the time that a
 * process of a few tokens takes to begin. */
static unsigned char class_of[N_CODE];
static pcre2_code *class_re[N_CLASS];
static pcre2_match_data *class_match;
static struct lb_str class_text;
static bool classes_failed;
static atomic_bool longer_made;
static pthread_once_t classes_once = PTHREAD_ONCE_INIT, longer_once = PTHREAD_ONCE_INIT;

/* Marks the characters of class_text that class k has. */
static bool mark_class(size_t k)
{
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(class_match);
    const char *text = class_text.data;
    size_t n = class_text.len;
    int rc = 0;
    for (size_t from = 0; rc >= 0; from = range[1]) {
        rc = pcre2_match(class_re[k], (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, class_match, NULL);
        for (size_t i = range[0]; rc >= 0 && i < range[1];) {
            int len;
            class_of[lb_utf8_decode(text + i, n - i, &len)] |= known_class[k].mark;
            i += (size_t)len;
        }
    }
    return rc == PCRE2_ERROR_NOMATCH;
}

static bool mark_range(uint32_t from, uint32_t to)
{
    for (uint32_t begin = from; begin < to; begin += N_BLOCK) {
        if (begin >= 0xD800 && begin <= 0xDFFF)
            continue;
        lb_str_clear(&class_text);
        for (uint32_t cp = begin; cp < begin + N_BLOCK && cp < to; cp++)
            lb_str_put_codepoint(&class_text, cp);
        for (size_t k = 0; k < N_CLASS; k++)
            if (class_text.failed || !mark_class(k))
                return false;
    }
    return true;
}

static bool mark_longer(void)
{
    bool good = mark_range(N_SHORT, N_LETTER) && mark_range(TAGS_BEGIN, TAGS_END);
    atomic_store_explicit(&longer_made, true, memory_order_release);
    return good;
}

/* Cannot fail after make_classes, which had the memory for a block of the longest ones: compiled code takes no more. */
static void make_longer(void)
{
    (void)mark_longer();
}

static void make_classes(void)
{
    int code;
    PCRE2_SIZE at;
    bool jit = true;
    class_match = pcre2_match_data_create(1, NULL);
    classes_failed = !class_match;
    for (size_t k = 0; k < N_CLASS && !classes_failed; k++) {
        class_re[k] =
            pcre2_compile((PCRE2_SPTR)known_class[k].pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
        classes_failed = !class_re[k];
        jit = jit && class_re[k] && pcre2_jit_compile(class_re[k], PCRE2_JIT_COMPLETE) == 0; /* pcre2_match uses it */
    }
    classes_failed = classes_failed || !mark_range(0, N_SHORT) || !mark_range(0x10000, 0x10000 + N_BLOCK);
    if (!jit && !classes_failed) /* the interpreter may want memory that is not there later */
        classes_failed = !mark_longer();
}

enum lb_match_kind lb_match_find(const char *pattern)
{
    static const struct {
        const char *pattern;
        enum lb_match_kind kind;
    } known[] = {{lb_pattern_llama3, LB_MATCH_LLAMA3},
                 {lb_pattern_qwen2, LB_MATCH_QWEN2},
                 {lb_pattern_qwen35, LB_MATCH_QWEN35},
                 {lb_pattern_gpt2, LB_MATCH_GPT2},
                 {"\\p{N}", LB_MATCH_NUMBER}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].pattern, pattern) == 0) {
            pthread_once(&classes_once, make_classes);
            return classes_failed ? LB_MATCH_PCRE2 : known[i].kind;
        }
    }
    return LB_MATCH_PCRE2;
}

struct text {
    const unsigned char *p;
    size_t n;
};

/* Class of the character at t.p[at], and where the next one begins. The text is valid UTF-8. */
static inline unsigned class_at(struct text t, size_t at, size_t *next)
{
    const unsigned char *p = t.p + at;
    if (p[0] < 0x80) {
        *next = at + 1;
        return class_of[p[0]];
    }
    if (p[0] < 0xE0) {
        *next = at + 2;
        return class_of[(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu)];
    }
    if (!atomic_load_explicit(&longer_made, memory_order_acquire))
        pthread_once(&longer_once, make_longer);
    if (p[0] < 0xF0) {
        *next = at + 3;
        return class_of[(p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu)];
    }
    *next = at + 4;
    return class_of[(p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu)];
}

/* End of the run of characters from `at` on that are in one of the classes `in`. */
static inline size_t run_of(struct text t, size_t at, unsigned in)
{
    size_t next;
    while (at < t.n && (class_at(t, at, &next) & in) != 0)
        at = next;
    return at;
}

/* End of the run of characters from `at` on that are in none of the classes `out`. */
static inline size_t run_outside(struct text t, size_t at, unsigned out)
{
    size_t next;
    while (at < t.n && (class_at(t, at, &next) & out) == 0)
        at = next;
    return at;
}

/* End of a contraction whose apostrophe is at `at`, or `at` when there is none. */
static size_t contraction(struct text t, size_t at, bool any_case)
{
    unsigned fold = any_case ? 0x20 : 0;
    unsigned a = at + 1 < t.n ? t.p[at + 1] : 0, b = at + 2 < t.n ? t.p[at + 2] : 0;
    if (any_case && a == 0xC5 && b == 0xBF) /* U+017F is an s in any case */
        return at + 3;
    a |= fold;
    b |= fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return at + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return at + 3;
    return at;
}

/* \s+(?!\S)|\s+ at a space, whose run ends at `end`: its last character is left where another character follows. */
static size_t space_match(struct text t, size_t at, size_t end)
{
    size_t last = end;
    if (end == t.n)
        return end;
    do
        last--;
    while ((t.p[last] & 0xC0) == 0x80);
    return last > at ? last : end;
}

static bool is_newline(unsigned char c)
{
    return c == '\n' || c == '\r';
}

/* LLAMA3, QWEN2 and QWEN3.5: `word` are the classes of a word's characters, max_number how many digits stay together.
 */
static inline size_t match_words(struct text t, size_t at, unsigned word, int max_number)
{
    size_t next, after;
    unsigned char c = t.p[at];
    if (c == '\'') {
        size_t end = contraction(t, at, true);
        if (end > at)
            return end;
    }
    unsigned class = class_at(t, at, &next);
    if (class & word)
        return run_of(t, next, word);
    if (class & NUMBER) {
        for (int i = 1; i < max_number && next < t.n && (class_at(t, next, &after) & NUMBER); i++)
            next = after;
        return next;
    }
    unsigned follows = next < t.n ? class_at(t, next, &after) : SPACE;
    if ((follows & word) && !is_newline(c))
        return run_of(t, after, word);
    if (!(class & SPACE) || (c == ' ' && !(follows & (SPACE | NUMBER | word)))) {
        size_t end = run_outside(t, next, SPACE | NUMBER | word);
        while (end < t.n && is_newline(t.p[end]))
            end++;
        return end;
    }
    size_t end = run_of(t, next, SPACE);
    for (size_t i = end; i > at; i--)
        if (is_newline(t.p[i - 1]))
            return i;
    return space_match(t, at, end);
}

static size_t match_gpt2(struct text t, size_t at)
{
    size_t next, after;
    unsigned class;
    if (t.p[at] == '\'') {
        size_t end = contraction(t, at, false);
        if (end > at)
            return end;
    }
    class = class_at(t, at, &next);
    if (t.p[at] == ' ' && next < t.n && !(class_at(t, next, &after) & SPACE))
        class = class_at(t, next, &next);
    if (class & SPACE)
        return space_match(t, at, run_of(t, next, SPACE));
    if (class & (LETTER | NUMBER))
        return run_of(t, next, class);
    return run_outside(t, next, SPACE | LETTER | NUMBER);
}

/* The next piece for \p{N}: a number alone, or all up to the next one. */
static size_t match_number(struct text t, size_t at)
{
    size_t next;
    if (class_at(t, at, &next) & NUMBER)
        return next;
    return run_outside(t, next, NUMBER);
}

size_t lb_match_next(enum lb_match_kind kind, const char *text, size_t n, size_t at)
{
    struct text t = {(const unsigned char *)text, n};
    switch (kind) {
    case LB_MATCH_LLAMA3:
        return match_words(t, at, LETTER, 3);
    case LB_MATCH_QWEN2:
        return match_words(t, at, LETTER, 1);
    case LB_MATCH_QWEN35:
        return match_words(t, at, LETTER | MARK, 1);
    case LB_MATCH_GPT2:
        return match_gpt2(t, at);
    case LB_MATCH_NUMBER:
        return match_number(t, at);
    case LB_MATCH_PCRE2:
        break;
    }
    return n;
}
