/* What the files of the Jinja library share among themselves: texts under construction, arguments by name, numbers
 * that are both int and bool, code points and their Unicode properties. The evaluator needs none of it. */
#ifndef CORE_TEXT_JINJA_HELP_H
#define CORE_TEXT_JINJA_HELP_H

#include "core/text/jinja/jinja_value.h"

#define LB_JINJA_MAX_VALUE (LB_JINJA_MAX_MEMORY / 4) /* bytes of one text or list */

/* A text under construction lies at the end of run->scratch: begin, put, end (copies it into the arena). Pairs nest. */
static inline size_t lb_jscratch_begin(struct lb_jrun *r)
{
    return r->scratch.len;
}
struct lb_jval lb_jscratch_end(struct lb_jrun *r, size_t mark);
/* Whether `more` bytes fit into one value, what the scratch holds included; failed where not. Spends steps for them. */
bool lb_jroom(struct lb_jrun *r, uint64_t more);

/* Pays for looking at each character of a text; false (and failed) where steps are used up. */
static inline bool lb_jscan(struct lb_jrun *r, size_t bytes)
{
    return lb_jrun_spend(r, bytes / 8 + 1);
}

static inline struct lb_jval lb_jabsent(void)
{
    return (struct lb_jval){.kind = LB_J_ABSENT};
}

static inline bool lb_jgiven(struct lb_jval v)
{
    return v.kind != LB_J_ABSENT;
}

/* Fills out[] with the arguments in the order of `spec`: names that spaces separate, "?" after one that may be absent.
 * "/" as the first word: none may be given by name. Fails with Python's words. */
bool lb_jargs_bind(struct lb_jrun *r, const char *fn, const struct lb_jargs *args, const char *spec,
                   struct lb_jval *out);
/* The argument as an integer (int or bool), its default where absent; fails for other kinds. */
int64_t lb_jarg_int(struct lb_jrun *r, struct lb_jval v, int64_t when_absent);
/* The argument's text; fails (and is "") where it is none. */
const struct lb_jtext *lb_jarg_text(struct lb_jrun *r, const char *fn, struct lb_jval v);

static inline bool lb_jis_int(struct lb_jval v)
{
    return v.kind == LB_J_INT || v.kind == LB_J_BOOL;
}

static inline int64_t lb_jint_of(struct lb_jval v)
{
    return v.kind == LB_J_BOOL ? v.u.b : v.u.i;
}

static inline bool lb_jis_number(struct lb_jval v)
{
    return lb_jis_int(v) || v.kind == LB_J_FLOAT;
}

static inline double lb_jdouble_of(struct lb_jval v)
{
    return v.kind == LB_J_FLOAT ? v.u.f : (double)lb_jint_of(v);
}

static inline bool lb_jis_list(struct lb_jval v)
{
    return v.kind == LB_J_LIST || v.kind == LB_J_TUPLE;
}

/* Text. lb_jtext_range: characters [from, to) of a text. lb_jtext_offset: the byte where the character stands. */
int64_t lb_jtext_chars(struct lb_jtext *t);
size_t lb_jtext_offset(struct lb_jtext *t, int64_t at_char);
struct lb_jval lb_jtext_part(struct lb_jrun *r, const struct lb_jtext *whole, size_t from, size_t n); /* bytes; lent */
static inline struct lb_jval lb_jtext_puts(struct lb_jrun *r, const char *literal)
{
    return lb_jtext_lend(r, literal, __builtin_strlen(literal));
}
/* Where needle begins first, in linear time; n + 1: nowhere. lb_jrfind_bytes: where it begins last. */
size_t lb_jfind_bytes(const char *text, size_t n, const char *needle, size_t m);
size_t lb_jrfind_bytes(struct lb_jrun *r, const char *text, size_t n, const char *needle, size_t m);
struct lb_jval lb_jmark_safe(struct lb_jrun *r, struct lb_jval v, bool safe); /* v as Markup, or not */
struct lb_jval lb_jescape(struct lb_jrun *r, struct lb_jval v);               /* Markup of it */
bool lb_jtext_equal(struct lb_jval a, struct lb_jval b);
void lb_jput_float(struct lb_str *out, double x); /* repr */
/* text "d.ddde+xx" as Python prints it: trailing zeros off, an exponent below 1e-4 and from 10**limit on, else ".0" */
void lb_jput_decimal(struct lb_str *out, const char *text, int limit);

/* The list of everything that v iterates. */
struct lb_jval lb_jlist_of(struct lb_jrun *r, struct lb_jval v);
struct lb_jval lb_jpair_of(struct lb_jrun *r, struct lb_jval a, struct lb_jval b); /* a tuple */
struct lb_jval lb_jstream_new(struct lb_jrun *r, const char *type_name, struct lb_jval items, bool view);
int lb_jcompare_numbers(struct lb_jval a, struct lb_jval b); /* exact, int against float too; 2: NaN */

/* ---- formatting (jinja_format.c, jinja_percent.c) ---- */

struct lb_jval lb_jformat(struct lb_jrun *r, struct lb_jval format, const struct lb_jargs *args); /* str.format */
void lb_jformat_value(struct lb_jrun *r, struct lb_str *out, struct lb_jval v, const char *spec, size_t n);
struct lb_jval lb_jpercent(struct lb_jrun *r, struct lb_jval format, struct lb_jval args); /* format % args */

/* A number as the format languages describe it. */
struct lb_jnumspec {
    char sign;      /* '-', '+', ' ' */
    char type;      /* d b o x X e E f F g G % n, 0: as str() does it */
    bool alternate; /* # */
    bool no_minus_zero;
    int precision; /* -1: none */
};
/* Sign and prefix ("-0x") to head, digits and what follows them to the scratch. */
void lb_jput_digits(struct lb_jrun *r, char head[4], struct lb_jval v, struct lb_jnumspec spec);

/* ---- methods (jinja_methods.c ...) ---- */

struct lb_jmethod {
    const char *name;
    struct lb_jval (*fn)(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args);
};
const struct lb_jmethod *lb_jfind_method(struct lb_jval x, const char *name, size_t n); /* NULL: there is none */
struct lb_jval lb_jstr_strip(struct lb_jrun *r, struct lb_jval s, struct lb_jval chars,
                             int sides); /* 1 left, 2 right */
struct lb_jval lb_jstr_replace(struct lb_jrun *r, struct lb_jval s, struct lb_jval from, struct lb_jval to,
                               int64_t count); /* count < 0: all */
struct lb_jval lb_jstr_splitlines(struct lb_jrun *r, struct lb_jval s, bool keep_ends);
struct lb_jval lb_jstr_pad(struct lb_jrun *r, struct lb_jval s, int64_t width, const struct lb_jtext *fill,
                           int side);                                       /* -1 ljust, 0 center, 1 rjust */
struct lb_jval lb_jstr_case(struct lb_jrun *r, struct lb_jval s, char how); /* 'u' 'l' 't' 'c' 's' 'f' */
/* 'u' isupper, 'l' islower, 't' istitle, 'a' isalpha, 'w' isalnum, 'd' isdigit, 'e' isdecimal, 'n' isnumeric,
 * 's' isspace, 'i' isidentifier, 'p' isprintable, '7' isascii */
bool lb_jstr_is(const struct lb_jtext *t, char what);
struct lb_jval lb_jstr_split(struct lb_jrun *r, struct lb_jval s, struct lb_jval sep, int64_t max); /* max < 0: all */
struct lb_jval lb_jstr_rsplit(struct lb_jrun *r, struct lb_jval s, struct lb_jval sep, int64_t max);
bool lb_jparse_int(struct lb_jrun *r, const struct lb_jtext *t, int64_t base, int64_t *out); /* int(text, base) */
bool lb_jparse_float(struct lb_jrun *r, const struct lb_jtext *t, double *out);              /* float(text) */

/* ---- filters (one table a file) ---- */

const struct lb_jfilter *lb_jfind_in(const struct lb_jfilter *table, const char *name, size_t n);
extern const struct lb_jfilter lb_jtext_filters[], lb_jseq_filters[], lb_jselect_filters[]; /* a NULL name ends each */
struct lb_jval lb_jfilter_tojson(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args);
struct lb_jval lb_jfilter_pprint(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args);
struct lb_jval lb_jfilter_wordwrap(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args);
struct lb_jval lb_jsoft_str(struct lb_jrun *r, struct lb_jval v); /* str(v), Markup kept */
struct lb_jval lb_jempty(struct lb_jrun *r, const char *hint);    /* undefined with a message of its own */
void lb_jput_strftime(struct lb_str *out, const struct lb_jtext *format, const struct tm *t);

/* A getter of attributes as filters name them, "a.b.0" or an index: lower-cases texts where fold, puts `otherwise` for
 * what is undefined where it is given. */
struct lb_jgetter {
    struct lb_jval path[16]; /* [n] */
    size_t n;
    struct lb_jval otherwise;
    bool fold;
};
bool lb_jgetter_init(struct lb_jrun *r, struct lb_jgetter *g, struct lb_jval attribute, bool fold);
struct lb_jval lb_jgetter_get(struct lb_jrun *r, const struct lb_jgetter *g, struct lb_jval x);
/* Sorts list by keys (LISTs of equal length), stable, as sorted() does. */
void lb_jsort(struct lb_jrun *r, struct lb_jval list, struct lb_jval keys, bool reverse);

/* ---- Unicode as Python's str sees it (jinja_unicode.c) ---- */

enum lb_juni {
    LB_JUNI_PRINT,
    LB_JUNI_SPACE,
    LB_JUNI_ALPHA,
    LB_JUNI_DECIMAL,
    LB_JUNI_DIGIT,
    LB_JUNI_NUMERIC,
    LB_JUNI_UPPER,
    LB_JUNI_LOWER,
    LB_JUNI_TITLE,
    LB_JUNI_ID_START,
    LB_JUNI_ID_CONTINUE,
    LB_JUNI_CASE_IGNORABLE,
};
bool lb_juni_is(uint32_t cp, enum lb_juni what);
int lb_juni_map(uint32_t cp, char how, uint32_t out[3]); /* 'u' 'l' 't' 'f'; how many code points it became */

#endif
