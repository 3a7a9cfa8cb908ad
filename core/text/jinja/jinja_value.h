/* Values of the Jinja interpreter and everything that Python and Jinja2 define on them: text, repr, comparison,
 * arithmetic, indexing, methods, filters, tests, global functions. The language itself (jinja_lex, jinja_parse,
 * jinja_eval) is built on this and nothing else knows it.
 *
 * Memory: whatever a rendering makes lies in its arena (struct lb_jrun) and goes with it; nothing is freed singly.
 * Lists and dicts are changed only while the function that makes them fills them: the sandbox has no mutation, a
 * namespace apart. Failure is sticky: the first lb_jinja_fail wins, functions then return undefined (or false), and the
 * evaluator looks at run->failed after each step. */
#ifndef CORE_TEXT_JINJA_VALUE_H
#define CORE_TEXT_JINJA_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/base/err.h"
#include "core/base/str.h"

#define LB_JINJA_MAX_STEPS ((int64_t)8 << 20) /* nodes evaluated, items and bytes / 64 handled; on top for data: */
enum { LB_JINJA_STEPS_PER_NODE = 64, LB_JINJA_STEPS_PER_BYTE = 2 };
#define LB_JINJA_MAX_MEMORY ((size_t)512 << 20) /* bytes of one rendering's arena */
#define LB_JINJA_MAX_OUTPUT ((size_t)64 << 20)
#define LB_JINJA_MAX_DEPTH 200 /* nesting of expressions, blocks, macro calls, data */

enum lb_jkind {
    LB_J_UNDEFINED, /* prints as ""; undef says what is missing */
    LB_J_NONE,
    LB_J_BOOL,
    LB_J_INT,
    LB_J_FLOAT,
    LB_J_STR,
    LB_J_LIST,
    LB_J_TUPLE,
    LB_J_DICT,
    LB_J_NAMESPACE, /* dict whose members {% set ns.x = ... %} changes */
    LB_J_RANGE,
    LB_J_CALL,   /* function, bound method, macro, caller, cycler, joiner ... */
    LB_J_OBJECT, /* attributes by function: the `loop` object */
    LB_J_STREAM, /* a generator (map, select ...) or a view of a dict (keys, items) */
    LB_J_ABSENT, /* an argument that was not given; no template sees it */
};

/* Text is UTF-8. n_char is filled on demand; -1: not counted yet. n_char == len tells that it is ASCII. `safe` marks
 * Markup (the filters safe and escape): it prints as it is, but escapes what + and its methods put into it. */
struct lb_jtext {
    const char *data;
    size_t len;
    int64_t n_char;
    bool safe;
};

struct lb_jval {
    uint8_t kind; /* enum lb_jkind */
    union {
        bool b;
        int64_t i; /* Python's integers are unbounded; what leaves 64 bits here is a failure that says so */
        double f;
        struct lb_jtext *text;
        struct lb_jlist *list; /* LIST and TUPLE */
        struct lb_jdict *dict; /* DICT and NAMESPACE */
        const struct lb_jrange *range;
        struct lb_jcall *call;
        struct lb_jobject *object;
        struct lb_jundef *undef; /* NULL: nothing is known of it */
        struct lb_jstream *stream;
    } u;
};

struct lb_jlist {
    struct lb_jval *item; /* [n] */
    size_t n, cap;
    bool group; /* a pair that groupby makes: .grouper and .list */
};

struct lb_jpair {
    struct lb_jval key, value;
    uint64_t hash;
};

/* In order of insertion, as Python's; index is an open-addressing table over pair, NULL while n is small. */
struct lb_jdict {
    struct lb_jpair *pair; /* [n] */
    size_t n, cap;
    uint32_t *index;
    size_t index_mask;
};

struct lb_jrange {
    int64_t start, stop, step;
};

/* What an undefined value's message needs: a variable's name, the key that `owner` ("dict object") lacks, or a hint
 * that is the whole message. */
struct lb_jundef {
    const char *hint, *owner;
    struct lb_jval name;
};

/* The items are worked out at once where Python works them out one by one. A generator gives them once, is true even
 * when it has none and has no length; a view is as its dict. */
struct lb_jstream {
    const char *type_name; /* "generator", "dict_items" ... */
    struct lb_jval items;  /* LIST */
    size_t at;
    bool view;
};

struct lb_jkwarg {
    struct lb_jval name; /* LB_J_STR */
    struct lb_jval value;
};

struct lb_jargs {
    const struct lb_jval *arg; /* [n] */
    size_t n;
    const struct lb_jkwarg *kwarg; /* [n_kwarg] */
    size_t n_kwarg;
};

struct lb_jrun;

/* Something that can be called. `name` is what messages and repr call it. */
struct lb_jcall {
    const char *name;
    struct lb_jval (*fn)(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args);
    struct lb_jval self; /* what a bound method is bound to */
    void *data;          /* of the evaluator: a macro, a caller's block */
};

/* An object whose attributes are worked out on demand; false: there is no such attribute. */
struct lb_jobject {
    const char *type_name; /* for repr: "<LoopContext ...>" */
    bool (*get)(struct lb_jrun *r, struct lb_jobject *o, const char *name, size_t n, struct lb_jval *out);
    /* NULL: cannot be called (`loop` can, in recursive loops) */
    struct lb_jval (*call)(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args);
    void *data;
};

/* One rendering; the evaluator's own state is behind `eval`. */
struct lb_jrun {
    uint8_t *block; /* arena: chained blocks, freed or kept by the context */
    size_t block_used, block_cap, total_bytes;
    int64_t steps;
    int depth, line; /* line of the template that is being evaluated, kept by the evaluator */
    const struct tm *now;
    bool failed;
    enum lb_status status; /* LB_E_INPUT, or LB_E_DEVICE for want of memory */
    char message[512];     /* without the line */
    struct lb_str scratch; /* where texts are built, a stack: see jinja_help.h */
    void *eval;
};

void lb_jrun_init(struct lb_jrun *r, const struct tm *now);
void lb_jrun_reset(struct lb_jrun *r); /* forgets values and failure, keeps a moderate amount of memory */
void lb_jrun_release(struct lb_jrun *r);

/* Zeroed memory of the rendering; NULL (and failed) past LB_JINJA_MAX_MEMORY. */
void *lb_jrun_alloc(struct lb_jrun *r, size_t bytes);
bool lb_jrun_spend(struct lb_jrun *r, size_t steps); /* false (and failed) past LB_JINJA_MAX_STEPS */
__attribute__((format(printf, 2, 3))) struct lb_jval lb_jinja_fail(struct lb_jrun *r, const char *fmt, ...);
struct lb_jval lb_jinja_fail_undefined(struct lb_jrun *r, struct lb_jval v); /* "'x' is undefined" */
bool lb_jrun_enter(struct lb_jrun *r); /* one level deeper; false (and failed) past LB_JINJA_MAX_DEPTH */
void lb_jrun_leave(struct lb_jrun *r);

/* Making values. */
static inline struct lb_jval lb_jnone(void)
{
    return (struct lb_jval){.kind = LB_J_NONE};
}

static inline struct lb_jval lb_jbool(bool b)
{
    return (struct lb_jval){.kind = LB_J_BOOL, .u.b = b};
}

static inline struct lb_jval lb_jint(int64_t i)
{
    return (struct lb_jval){.kind = LB_J_INT, .u.i = i};
}

static inline struct lb_jval lb_jfloat(double f)
{
    return (struct lb_jval){.kind = LB_J_FLOAT, .u.f = f};
}

struct lb_jval lb_jundefined(struct lb_jrun *r, const char *name, size_t n); /* name may be NULL */
struct lb_jval lb_jtext_copy(struct lb_jrun *r, const char *data, size_t n);
struct lb_jval lb_jtext_lend(struct lb_jrun *r, const char *data, size_t n); /* data outlives the rendering */
struct lb_jval lb_jlist_new(struct lb_jrun *r, enum lb_jkind list_or_tuple, size_t cap);
void lb_jlist_push(struct lb_jrun *r, struct lb_jval list, struct lb_jval item);
struct lb_jval lb_jdict_new(struct lb_jrun *r, enum lb_jkind dict_or_namespace);
void lb_jdict_set(struct lb_jrun *r, struct lb_jval dict, struct lb_jval key, struct lb_jval value);
bool lb_jdict_get(struct lb_jrun *r, struct lb_jval dict, struct lb_jval key, struct lb_jval *value);
struct lb_jval lb_jfrom_json(struct lb_jrun *r, const json_t *v); /* strings are lent from v */
struct lb_jval lb_jfunction(struct lb_jrun *r, const char *name,
                            struct lb_jval (*fn)(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args),
                            struct lb_jval self, void *data);

/* What Python says of values. */
bool lb_jtruth(struct lb_jrun *r, struct lb_jval v);
void lb_jput_str(struct lb_jrun *r, struct lb_str *out, struct lb_jval v);  /* str(v): what {{ v }} prints */
void lb_jput_repr(struct lb_jrun *r, struct lb_str *out, struct lb_jval v); /* repr(v) */
struct lb_jval lb_jstr(struct lb_jrun *r, struct lb_jval v);                /* str(v) as a value */
const char *lb_jtype_name(struct lb_jval v);                                /* "str", "list", ... */
bool lb_jequal(struct lb_jrun *r, struct lb_jval a, struct lb_jval b);      /* ==; 1 == 1.0 == True */
int lb_jcompare(struct lb_jrun *r, struct lb_jval a, struct lb_jval b, const char *op); /* -1 0 1; 2: unordered (NaN) */
bool lb_jcontains(struct lb_jrun *r, struct lb_jval container, struct lb_jval item);    /* `in` */
int64_t lb_jlen(struct lb_jrun *r, struct lb_jval v);                                   /* fails where Python does */

enum lb_jop { LB_JOP_ADD, LB_JOP_SUB, LB_JOP_MUL, LB_JOP_DIV, LB_JOP_FLOORDIV, LB_JOP_MOD, LB_JOP_POW };
struct lb_jval lb_jbinary(struct lb_jrun *r, enum lb_jop op, struct lb_jval a, struct lb_jval b);
struct lb_jval lb_jnegative(struct lb_jrun *r, struct lb_jval v);
struct lb_jval lb_jpositive(struct lb_jrun *r, struct lb_jval v);

/* x.name and x[key] as Jinja2's environment looks them up (getattr, getitem): attribute first or item first, undefined
 * where there is neither, methods bound to x. Names that the sandbox hides ("__class__") are undefined; methods that it
 * forbids (append, update, pop ...) fail when called, with its words. */
struct lb_jval lb_jgetattr(struct lb_jrun *r, struct lb_jval x, const char *name, size_t n);
struct lb_jval lb_jgetitem(struct lb_jrun *r, struct lb_jval x, struct lb_jval key);
struct lb_jval lb_jslice(struct lb_jrun *r, struct lb_jval x, struct lb_jval from, struct lb_jval to,
                         struct lb_jval step); /* NONE where absent */

struct lb_jval lb_jcall_value(struct lb_jrun *r, struct lb_jval callee, const struct lb_jargs *args);

/* Iteration over anything that Python iterates: lists, tuples, dicts (keys), text (characters), ranges, undefined
 * (nothing), streams (a generator is used up by it). false from init: not iterable (and failed). */
struct lb_jiter {
    struct lb_jval over;
    size_t at;
    int64_t n; /* how many items, known for every kind */
};
bool lb_jiter_init(struct lb_jrun *r, struct lb_jiter *it, struct lb_jval over);
bool lb_jiter_next(struct lb_jrun *r, struct lb_jiter *it, struct lb_jval *item);

/* Filters, tests, globals by name (NULL: there is none). value is the filter's first argument, or what is tested. */
struct lb_jfilter {
    const char *name;
    struct lb_jval (*fn)(struct lb_jrun *r, struct lb_jval value, const struct lb_jargs *args);
};
struct lb_jtest {
    const char *name;
    bool (*fn)(struct lb_jrun *r, struct lb_jval value, const struct lb_jargs *args);
};
const struct lb_jfilter *lb_jinja_find_filter(const char *name, size_t n);
const struct lb_jtest *lb_jinja_find_test(const char *name, size_t n);
bool lb_jinja_find_global(struct lb_jrun *r, const char *name, size_t n, struct lb_jval *out);

#endif
