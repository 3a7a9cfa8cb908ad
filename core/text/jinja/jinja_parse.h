/* The parser's two halves: expressions (jinja_parse.c) and statements (jinja_parse_tag.c). A parser that failed stands
 * at the end of the tokens, where every loop ends; nodes are never NULL, so that nothing need be checked on the way. */
#ifndef CORE_TEXT_JINJA_PARSE_H
#define CORE_TEXT_JINJA_PARSE_H

#include "core/text/jinja/jinja_lex.h"

struct lb_jparser {
    struct lb_jinja *t;
    const struct lb_jtoken *at; /* ends with LB_JT_END */
    const struct lb_jtoken *end;
    int depth;
    bool failed;
    struct lb_err *err;
    struct lb_jnode nowhere;      /* stands for nodes that there is no memory for */
    const char *looking_for;      /* what ends the innermost open block */
    struct lb_jnode **last_block; /* where the next BLOCK is chained */
    uint32_t *name_index;         /* open addressing over the template's names */
    size_t name_mask, name_cap;
};

__attribute__((format(printf, 2, 3))) void lb_jparse_fail(struct lb_jparser *p, const char *fmt, ...);
struct lb_jnode *lb_jparse_node(struct lb_jparser *p, enum lb_jnode_type type, int line);
void *lb_jparse_take(struct lb_jparser *p, size_t bytes); /* zeroed; NULL (and failed) without memory */
void lb_jparse_push(struct lb_jparser *p, struct lb_jnodes *list, struct lb_jnode *item);
bool lb_jparse_enter(struct lb_jparser *p); /* one level deeper */

static inline bool lb_jparse_is(const struct lb_jparser *p, enum lb_jtok type)
{
    return p->at->type == type;
}

bool lb_jtoken_named(const struct lb_jtoken *k, const char *name); /* is it this NAME? */
bool lb_jparse_skip(struct lb_jparser *p, enum lb_jtok type);      /* takes it if it is there */
bool lb_jparse_skip_name(struct lb_jparser *p, const char *name);
const struct lb_jtoken *lb_jparse_expect(struct lb_jparser *p, enum lb_jtok type);
void lb_jparse_next(struct lb_jparser *p);

struct lb_jnode *lb_jparse_expression(struct lb_jparser *p, bool with_if);

enum lb_jtuple_flags {
    LB_JTUPLE_SIMPLE = 1,    /* names and literals alone: targets of assignments */
    LB_JTUPLE_NO_IF = 2,     /* no inline if */
    LB_JTUPLE_PARENS = 4,    /* in parentheses: may be empty */
    LB_JTUPLE_NAMESPACE = 8, /* ns.x is a target */
};
/* An expression, or a tuple when there are commas. */
struct lb_jnode *lb_jparse_tuple(struct lb_jparser *p, int flags);
struct lb_jnode *lb_jparse_target(struct lb_jparser *p, int flags, enum lb_jref_use use);
struct lb_jnode *lb_jparse_name(struct lb_jparser *p, enum lb_jref_use use);
struct lb_jnode *lb_jparse_filters(struct lb_jparser *p, struct lb_jnode *x, bool inline_start);
int lb_jparse_intern(struct lb_jparser *p, const char *text, size_t n);

/* tokens: as from lb_jinja_lex */
enum lb_status lb_jinja_parse(struct lb_jinja *t, const struct lb_jtoken *tokens, size_t n_tokens, struct lb_err *err);

#endif
