/* Inside of the Jinja language: tokens, syntax tree, where variables live.
 *
 * source --jinja_lex--> tokens --jinja_parse--> tree --jinja_scope--> tree with slots --jinja_eval--> text
 *
 * Variables follow Jinja2's compiler, which makes Python functions: the template itself, each macro, caller's block,
 * recursive loop and block is a function with local variables; a frame (loop body, with ...) inside of one has
 * variables of its own, which are set when it is entered and forgotten when it is left; inner functions see the
 * variables of outer ones as they are at the time of the call. A variable is `slot` in the activation that lies `hops`
 * functions outwards. The tree is immutable after compilation. */
#ifndef CORE_TEXT_JINJA_IMPL_H
#define CORE_TEXT_JINJA_IMPL_H

#include "core/text/jinja/jinja.h"
#include "core/text/jinja/jinja_value.h"

#define LB_JINJA_MAX_SOURCE ((size_t)1 << 20)
#define LB_JINJA_MAX_ARGS 1000 /* parameters of a macro, arguments by name of a call */

/* ---- tree ---- */

enum lb_jnode_type {
    /* expressions */
    LB_JN_CONST,   /* constant */
    LB_JN_NAME,    /* ref */
    LB_JN_NSREF,   /* ref and attr: target of an assignment */
    LB_JN_TUPLE,   /* list */
    LB_JN_LIST,    /* list */
    LB_JN_DICT,    /* list: key, value, key, value ... */
    LB_JN_BINARY,  /* pair; op: enum lb_jop */
    LB_JN_NOT,     /* pair.left */
    LB_JN_NEG,     /* pair.left */
    LB_JN_POS,     /* pair.left */
    LB_JN_AND,     /* pair */
    LB_JN_OR,      /* pair */
    LB_JN_CONCAT,  /* list */
    LB_JN_COMPARE, /* list: the first value, then OPERANDs */
    LB_JN_OPERAND, /* pair.left; op: enum lb_jcmp */
    LB_JN_COND,    /* cond */
    LB_JN_ATTR,    /* attr */
    LB_JN_ITEM,    /* pair: x[key] */
    LB_JN_SLICE,   /* cond: test, yes, no are from, to, step; only as an ITEM's right side */
    LB_JN_CALL,    /* apply */
    LB_JN_FILTER,  /* apply; x NULL: of a captured text */
    LB_JN_TEST,    /* apply */
    /* statements */
    LB_JN_DATA,     /* constant: a text */
    LB_JN_PRINT,    /* list */
    LB_JN_IF,       /* branch */
    LB_JN_FOR,      /* loop */
    LB_JN_SET,      /* pair: target, value */
    LB_JN_CAPTURE,  /* scope: set block; x target, y a filter or NULL */
    LB_JN_FILTERED, /* scope: filter block; y the filter */
    LB_JN_WITH,     /* scope: list of targets and values in turns */
    LB_JN_ESCAPE,   /* scope: autoescape block; y the option's value */
    LB_JN_MACRO,    /* macro; x the NAME that is set */
    LB_JN_CALLER,   /* macro: call block; x the CALL */
    LB_JN_GENERATE, /* macro: generation block, a caller's block that is called at once */
    LB_JN_BLOCK,    /* block */
    LB_JN_BREAK,
    LB_JN_CONTINUE,
    LB_JN_LOADER, /* constant: include, import, extends, which this environment cannot do */
};

enum lb_jcmp { LB_JC_EQ, LB_JC_NE, LB_JC_GT, LB_JC_GE, LB_JC_LT, LB_JC_LE, LB_JC_IN, LB_JC_NOT_IN };
enum lb_jref_use { LB_JREF_LOAD, LB_JREF_STORE, LB_JREF_PARAM };

struct lb_jnode;

struct lb_jnodes {
    struct lb_jnode **item; /* [n] */
    size_t n, cap;
};

struct lb_jarglist {
    struct lb_jnodes arg, kwarg;    /* kwarg: values */
    struct lb_jval *kwname;         /* [kwarg.n] */
    struct lb_jnode *more, *kwmore; /* *args and **kwargs, or NULL */
};

/* What is done to a variable when its frame is entered. */
enum lb_jload_how {
    LB_JLOAD_ABSENT,  /* is set later; "x is undefined" until then. Parameters too. */
    LB_JLOAD_CONTEXT, /* from the template's variables and global functions */
    LB_JLOAD_OUTER,   /* from the variable of this name in an outer frame */
};

struct lb_jload {
    uint8_t how; /* enum lb_jload_how */
    int slot, name;
    int hops, outer; /* OUTER. CONTEXT inside a block: outer >= 0 is tried before it */
    int root;        /* CONTEXT inside a block: slot of the template's own variable of this name, or -1 */
};

struct lb_jframe {
    struct lb_jload *load; /* [n]; NULL where n is 0 */
    size_t n;
};

struct lb_jbranch {
    struct lb_jnode *test; /* NULL: else */
    struct lb_jnodes body;
    struct lb_jbranch *next;
};

struct lb_jloop {
    struct lb_jnode *target, *iter, *test; /* test: or NULL */
    struct lb_jnodes body, other;          /* other: the else branch */
    bool recursive, has_else;
    int loop_slot; /* -1: the body does not name `loop` */
    int n_slot;    /* recursive: of the function that it is */
    struct lb_jframe body_frame, test_frame, else_frame;
    struct lb_jnode *test_target; /* the target with the test's slots */
};

struct lb_jscope {
    struct lb_jnode *x, *y;
    struct lb_jnodes list, body;
    struct lb_jframe frame;
};

struct lb_jmacro {
    struct lb_jnode *x;
    struct lb_jval name;           /* NONE: a caller's block */
    struct lb_jnodes param, other; /* other: default values of the last parameters */
    struct lb_jnodes body;
    struct lb_jframe frame;
    int n_slot;
    int caller_slot, kwargs_slot, varargs_slot; /* -1: not used */
    bool names_caller;                          /* a parameter is called `caller` */
};

struct lb_jblock {
    struct lb_jval name;
    struct lb_jnodes body;
    struct lb_jframe frame;
    int n_slot, self_slot, super_slot; /* -1: not used */
    bool scoped, required;
    struct lb_jnode *next; /* the template's next BLOCK */
};

struct lb_jnode {
    uint8_t type; /* enum lb_jnode_type */
    uint8_t op;
    int line;
    union {
        struct lb_jval constant;
        struct {
            int name, hops, slot;
            uint8_t use;         /* enum lb_jref_use */
            struct lb_jval attr; /* NSREF */
        } ref;
        struct {
            struct lb_jnode *left, *right;
        } pair;
        struct lb_jnodes list;
        struct {
            struct lb_jnode *test, *yes, *no; /* no: or NULL */
        } cond;
        struct {
            struct lb_jnode *x;
            struct lb_jval name;
        } attr;
        struct {
            struct lb_jnode *x;
            const void *fn; /* struct lb_jfilter or struct lb_jtest; NULL: unknown, fails when reached */
            struct lb_jval name;
            struct lb_jarglist *args; /* NULL: none */
        } apply;
        struct lb_jbranch *branch;
        struct lb_jloop *loop;
        struct lb_jscope *scope;
        struct lb_jmacro *macro;
        struct lb_jblock *block;
    } u;
};

/* ---- a compiled template ---- */

/* Memory that is given back as a whole. */
struct lb_jpool {
    struct lb_jchunk *chunk;
    size_t used, cap;
};
void *lb_jpool_take(struct lb_jpool *p, size_t bytes); /* zeroed; NULL without memory */
void lb_jpool_release(struct lb_jpool *p);

struct lb_jname {
    const char *text;
    size_t n;
    struct lb_jval undefined; /* what the variable is when it is not set */
};

struct lb_jinja {
    struct lb_jpool pool;
    char *source; /* newlines normalized */
    size_t n_source;
    struct lb_jname *name; /* [n_name] variables by number */
    size_t n_name;
    struct lb_jnodes body;
    struct lb_jframe frame;
    int n_slot, self_slot;
    struct lb_jnode *blocks;
};

/* After lb_jinja_parse (jinja_parse.h). */
enum lb_status lb_jinja_resolve(struct lb_jinja *t, struct lb_err *err);
struct lb_jval lb_jinja_constant(struct lb_jinja *t, const char *text, size_t n); /* a text, lent; NONE: no memory */

#endif
