/* Expressions of the Jinja language, with Jinja2's precedence: if, or, and, not, comparisons, + -, ~, * / // %, **,
 * unary signs, postfix and filters. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text/jinja/jinja_parse.h"

void lb_jparse_fail(struct lb_jparser *p, const char *fmt, ...)
{
    if (!p->failed) {
        char text[512];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        lb_err_set(p->err, LB_E_INPUT, "line %d: %s", p->at->line, text);
    }
    p->failed = true;
    p->at = p->end;
}

void *lb_jparse_take(struct lb_jparser *p, size_t bytes)
{
    void *m = lb_jpool_take(&p->t->pool, bytes);
    if (!m) {
        lb_err_memory(p->err, "a template", bytes);
        p->failed = true;
        p->at = p->end;
    }
    return m;
}

struct lb_jnode *lb_jparse_node(struct lb_jparser *p, enum lb_jnode_type type, int line)
{
    struct lb_jnode *n = lb_jparse_take(p, sizeof *n);
    if (!n)
        n = &p->nowhere;
    n->type = (uint8_t)type;
    n->line = line;
    return n;
}

void lb_jparse_push(struct lb_jparser *p, struct lb_jnodes *list, struct lb_jnode *item)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 4;
        struct lb_jnode **grown = lb_jparse_take(p, cap * sizeof *grown);
        if (!grown)
            return;
        if (list->n)
            memcpy(grown, list->item, list->n * sizeof *grown);
        list->item = grown;
        list->cap = cap;
    }
    list->item[list->n++] = item;
}

bool lb_jparse_enter(struct lb_jparser *p)
{
    if (++p->depth > LB_JINJA_MAX_DEPTH)
        lb_jparse_fail(p, "the template is nested more than %d deep", LB_JINJA_MAX_DEPTH);
    return !p->failed;
}

bool lb_jtoken_named(const struct lb_jtoken *k, const char *name)
{
    return k->type == LB_JT_NAME && k->n == strlen(name) && !memcmp(k->text, name, k->n);
}

void lb_jparse_next(struct lb_jparser *p)
{
    if (p->at < p->end && p->at->type != LB_JT_END)
        p->at++;
}

bool lb_jparse_skip(struct lb_jparser *p, enum lb_jtok type)
{
    bool is = p->at->type == type;
    if (is)
        lb_jparse_next(p);
    return is;
}

bool lb_jparse_skip_name(struct lb_jparser *p, const char *name)
{
    bool is = lb_jtoken_named(p->at, name);
    if (is)
        lb_jparse_next(p);
    return is;
}

static const char *const token_text[] = {
    [LB_JT_END] = "end of the template",
    [LB_JT_DATA] = "text",
    [LB_JT_PRINT_BEGIN] = "{{",
    [LB_JT_PRINT_END] = "}}",
    [LB_JT_TAG_BEGIN] = "{%",
    [LB_JT_TAG_END] = "%}",
    [LB_JT_NAME] = "a name",
    [LB_JT_STRING] = "a string",
    [LB_JT_NUMBER] = "a number",
    [LB_JT_ADD] = "+",
    [LB_JT_SUB] = "-",
    [LB_JT_MUL] = "*",
    [LB_JT_DIV] = "/",
    [LB_JT_FLOORDIV] = "//",
    [LB_JT_MOD] = "%",
    [LB_JT_POW] = "**",
    [LB_JT_TILDE] = "~",
    [LB_JT_LBRACKET] = "[",
    [LB_JT_RBRACKET] = "]",
    [LB_JT_LPAREN] = "(",
    [LB_JT_RPAREN] = ")",
    [LB_JT_LBRACE] = "{",
    [LB_JT_RBRACE] = "}",
    [LB_JT_EQ] = "==",
    [LB_JT_NE] = "!=",
    [LB_JT_GT] = ">",
    [LB_JT_GE] = ">=",
    [LB_JT_LT] = "<",
    [LB_JT_LE] = "<=",
    [LB_JT_ASSIGN] = "=",
    [LB_JT_DOT] = ".",
    [LB_JT_COLON] = ":",
    [LB_JT_PIPE] = "|",
    [LB_JT_COMMA] = ",",
    [LB_JT_SEMICOLON] = ";",
};

/* "unexpected 'x'", with what was expected where that is known. */
static void unexpected(struct lb_jparser *p, const char *expected)
{
    const struct lb_jtoken *k = p->at;
    const char *got = token_text[k->type];
    int n = (int)strlen(got);
    if (k->type == LB_JT_NAME || k->type == LB_JT_STRING || k->type == LB_JT_NUMBER) {
        got = k->text;
        n = k->n > 40 ? (int)lb_utf8_valid_prefix(k->text, 40) : (int)k->n;
    }
    const char *quote = k->type == LB_JT_END || k->type == LB_JT_DATA ? "" : "'";
    const char *quote_expected = expected && strchr(expected, ' ') ? "" : "'";
    if (expected)
        lb_jparse_fail(p, "expected %s%s%s, got %s%.*s%s", quote_expected, expected, quote_expected, quote, n, got,
                       quote);
    else
        lb_jparse_fail(p, "unexpected %s%.*s%s", quote, n, got, quote);
}

const struct lb_jtoken *lb_jparse_expect(struct lb_jparser *p, enum lb_jtok type)
{
    if (p->at->type != type)
        unexpected(p, token_text[type]);
    const struct lb_jtoken *k = p->at;
    lb_jparse_next(p);
    return k;
}

static struct lb_jnode *binary(struct lb_jparser *p, enum lb_jnode_type type, struct lb_jnode *left,
                               struct lb_jnode *right)
{
    struct lb_jnode *n = lb_jparse_node(p, type, left->line);
    n->u.pair.left = left;
    n->u.pair.right = right;
    return n;
}

static struct lb_jnode *constant(struct lb_jparser *p, struct lb_jval v, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_CONST, line);
    n->u.constant = v;
    return n;
}

/* ---- literals and names ---- */

static struct lb_jnode *list_literal(struct lb_jparser *p)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_LIST, p->at->line);
    struct lb_jnodes items = {0};
    lb_jparse_next(p);
    while (!lb_jparse_is(p, LB_JT_RBRACKET) && !p->failed) {
        if (items.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        if (lb_jparse_is(p, LB_JT_RBRACKET))
            break;
        lb_jparse_push(p, &items, lb_jparse_expression(p, true));
    }
    lb_jparse_expect(p, LB_JT_RBRACKET);
    n->u.list = items;
    return n;
}

static struct lb_jnode *dict_literal(struct lb_jparser *p)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_DICT, p->at->line);
    struct lb_jnodes items = {0};
    lb_jparse_next(p);
    while (!lb_jparse_is(p, LB_JT_RBRACE) && !p->failed) {
        if (items.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        if (lb_jparse_is(p, LB_JT_RBRACE))
            break;
        lb_jparse_push(p, &items, lb_jparse_expression(p, true));
        lb_jparse_expect(p, LB_JT_COLON);
        lb_jparse_push(p, &items, lb_jparse_expression(p, true));
    }
    lb_jparse_expect(p, LB_JT_RBRACE);
    n->u.list = items;
    return n;
}

static struct lb_jnode *string_literal(struct lb_jparser *p)
{
    const struct lb_jtoken *first = p->at;
    size_t n = 0;
    for (; lb_jparse_is(p, LB_JT_STRING); lb_jparse_next(p))
        n += p->at->value.u.text->len;
    if (p->at == first + 1)
        return constant(p, first->value, first->line);
    char *text = lb_jparse_take(p, n + 1);
    if (!text)
        return &p->nowhere;
    size_t at = 0;
    for (const struct lb_jtoken *k = first; k < p->at; k++) {
        memcpy(text + at, k->value.u.text->data, k->value.u.text->len);
        at += k->value.u.text->len;
    }
    return constant(p, lb_jinja_constant(p->t, text, n), first->line);
}

static bool named_constant(const struct lb_jtoken *k, struct lb_jval *out)
{
    if (lb_jtoken_named(k, "true") || lb_jtoken_named(k, "True"))
        *out = lb_jbool(true);
    else if (lb_jtoken_named(k, "false") || lb_jtoken_named(k, "False"))
        *out = lb_jbool(false);
    else if (lb_jtoken_named(k, "none") || lb_jtoken_named(k, "None"))
        *out = lb_jnone();
    else
        return false;
    return true;
}

static struct lb_jnode *name_node(struct lb_jparser *p, const struct lb_jtoken *k, enum lb_jref_use use)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_NAME, k->line);
    n->u.ref.name = lb_jparse_intern(p, k->text, k->n);
    n->u.ref.use = (uint8_t)use;
    return n;
}

static struct lb_jnode *primary(struct lb_jparser *p, bool with_namespace)
{
    const struct lb_jtoken *k = p->at;
    struct lb_jval v;
    struct lb_jnode *n;
    switch (k->type) {
    case LB_JT_NAME:
        lb_jparse_next(p);
        if (named_constant(k, &v))
            return constant(p, v, k->line);
        n = name_node(p, k, LB_JREF_LOAD);
        if (with_namespace && lb_jparse_skip(p, LB_JT_DOT)) {
            const struct lb_jtoken *attr = lb_jparse_expect(p, LB_JT_NAME);
            n->type = LB_JN_NSREF;
            n->u.ref.attr = lb_jinja_constant(p->t, attr->text, attr->n);
        }
        return n;
    case LB_JT_STRING:
        return string_literal(p);
    case LB_JT_NUMBER:
        lb_jparse_next(p);
        return constant(p, k->value, k->line);
    case LB_JT_LPAREN:
        lb_jparse_next(p);
        n = lb_jparse_tuple(p, LB_JTUPLE_PARENS);
        lb_jparse_expect(p, LB_JT_RPAREN);
        return n;
    case LB_JT_LBRACKET:
        return list_literal(p);
    case LB_JT_LBRACE:
        return dict_literal(p);
    default:
        unexpected(p, NULL);
        return &p->nowhere;
    }
}

struct lb_jnode *lb_jparse_tuple(struct lb_jparser *p, int flags)
{
    int line = p->at->line;
    struct lb_jnodes items = {0};
    bool is_tuple = false;
    while (!p->failed) {
        if (items.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        if (lb_jparse_is(p, LB_JT_PRINT_END) || lb_jparse_is(p, LB_JT_TAG_END) || lb_jparse_is(p, LB_JT_RPAREN))
            break;
        lb_jparse_push(p, &items,
                       flags & LB_JTUPLE_SIMPLE ? primary(p, flags & LB_JTUPLE_NAMESPACE)
                                                : lb_jparse_expression(p, !(flags & LB_JTUPLE_NO_IF)));
        if (!lb_jparse_is(p, LB_JT_COMMA))
            break;
        is_tuple = true;
    }
    if (!is_tuple && items.n)
        return items.item[0];
    if (!is_tuple && !(flags & LB_JTUPLE_PARENS))
        unexpected(p, "an expression");
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_TUPLE, line);
    n->u.list = items;
    return n;
}

/* Makes a target of what was parsed as an expression; false: it cannot be one. */
static bool assign_to(struct lb_jnode *n, enum lb_jref_use use)
{
    if (n->type == LB_JN_NAME)
        n->u.ref.use = (uint8_t)use;
    if (n->type == LB_JN_TUPLE)
        for (size_t i = 0; i < n->u.list.n; i++)
            if (!assign_to(n->u.list.item[i], use))
                return false;
    return n->type == LB_JN_NAME || n->type == LB_JN_NSREF || n->type == LB_JN_TUPLE;
}

struct lb_jnode *lb_jparse_target(struct lb_jparser *p, int flags, enum lb_jref_use use)
{
    struct lb_jnode *n = lb_jparse_tuple(p, flags | LB_JTUPLE_SIMPLE);
    if (!p->failed && !assign_to(n, use))
        lb_jparse_fail(p, "this cannot be assigned to");
    return n;
}

struct lb_jnode *lb_jparse_name(struct lb_jparser *p, enum lb_jref_use use)
{
    struct lb_jval v;
    if (named_constant(p->at, &v))
        lb_jparse_fail(p, "'%.*s' cannot be assigned to", (int)p->at->n, p->at->text);
    return name_node(p, lb_jparse_expect(p, LB_JT_NAME), use);
}

/* ---- postfix ---- */

/* One index between brackets, or a slice. */
static struct lb_jnode *subscript(struct lb_jparser *p)
{
    int line = p->at->line;
    struct lb_jnode *part[3] = {NULL, NULL, NULL};
    if (!lb_jparse_is(p, LB_JT_COLON)) {
        part[0] = lb_jparse_expression(p, true);
        if (!lb_jparse_is(p, LB_JT_COLON))
            return part[0];
    }
    for (int i = 1; i < 3 && lb_jparse_skip(p, LB_JT_COLON); i++)
        if (!lb_jparse_is(p, LB_JT_COLON) && !lb_jparse_is(p, LB_JT_RBRACKET) && !lb_jparse_is(p, LB_JT_COMMA))
            part[i] = lb_jparse_expression(p, true);
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_SLICE, line);
    n->u.cond.test = part[0];
    n->u.cond.yes = part[1];
    n->u.cond.no = part[2];
    return n;
}

static struct lb_jnode *index_of(struct lb_jparser *p, struct lb_jnode *x)
{
    struct lb_jnodes items = {0};
    int line = p->at->line;
    bool slices = false;
    lb_jparse_next(p);
    while (!lb_jparse_is(p, LB_JT_RBRACKET) && !p->failed) {
        if (items.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        struct lb_jnode *item = subscript(p);
        slices = slices || item->type == LB_JN_SLICE;
        lb_jparse_push(p, &items, item);
    }
    lb_jparse_expect(p, LB_JT_RBRACKET);
    if (slices && items.n > 1)
        lb_jparse_fail(p, "a slice cannot stand in a tuple");
    struct lb_jnode *key;
    if (items.n == 1) {
        key = items.item[0];
    } else {
        key = lb_jparse_node(p, LB_JN_TUPLE, line);
        key->u.list = items;
    }
    struct lb_jnode *n = binary(p, LB_JN_ITEM, x, key);
    n->line = line;
    return n;
}

static struct lb_jnode *member(struct lb_jparser *p, struct lb_jnode *x)
{
    int line = p->at->line;
    lb_jparse_next(p);
    const struct lb_jtoken *k = p->at;
    lb_jparse_next(p);
    if (k->type == LB_JT_NUMBER && k->value.kind == LB_J_INT)
        return binary(p, LB_JN_ITEM, x, constant(p, k->value, k->line));
    if (k->type != LB_JT_NAME) {
        lb_jparse_fail(p, "expected a name or a number after '.'");
        return x;
    }
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_ATTR, line);
    n->u.attr.x = x;
    n->u.attr.name = lb_jinja_constant(p->t, k->text, k->n);
    return n;
}

static void keyword(struct lb_jparser *p, struct lb_jarglist *a)
{
    const struct lb_jtoken *k = p->at;
    for (size_t i = 0; i < a->kwarg.n; i++)
        if (a->kwname[i].u.text->len == k->n && !memcmp(a->kwname[i].u.text->data, k->text, k->n))
            lb_jparse_fail(p, "argument '%.*s' is given twice", (int)k->n, k->text);
    if (a->kwarg.n == LB_JINJA_MAX_ARGS)
        lb_jparse_fail(p, "more than %d arguments by name", LB_JINJA_MAX_ARGS);
    lb_jparse_next(p);
    lb_jparse_next(p);
    size_t cap = a->kwarg.cap;
    lb_jparse_push(p, &a->kwarg, lb_jparse_expression(p, true));
    if (a->kwarg.cap != cap) {
        struct lb_jval *grown = lb_jparse_take(p, a->kwarg.cap * sizeof *grown);
        if (!grown)
            return;
        if (a->kwarg.n > 1)
            memcpy(grown, a->kwname, (a->kwarg.n - 1) * sizeof *grown);
        a->kwname = grown;
    }
    if (!p->failed)
        a->kwname[a->kwarg.n - 1] = lb_jinja_constant(p->t, k->text, k->n);
}

/* NULL: none at all. */
static struct lb_jarglist *arguments(struct lb_jparser *p)
{
    struct lb_jarglist a = {0};
    bool again = false;
    lb_jparse_expect(p, LB_JT_LPAREN);
    while (!lb_jparse_is(p, LB_JT_RPAREN) && !p->failed) {
        if (again) {
            lb_jparse_expect(p, LB_JT_COMMA);
            if (lb_jparse_is(p, LB_JT_RPAREN))
                break;
        }
        again = true;
        bool is_keyword = lb_jparse_is(p, LB_JT_NAME) && p->at[1].type == LB_JT_ASSIGN, bad;
        if (lb_jparse_is(p, LB_JT_MUL)) {
            bad = a.more || a.kwmore;
            lb_jparse_next(p);
            a.more = lb_jparse_expression(p, true);
        } else if (lb_jparse_is(p, LB_JT_POW)) {
            bad = a.kwmore;
            lb_jparse_next(p);
            a.kwmore = lb_jparse_expression(p, true);
        } else if (is_keyword) {
            bad = a.kwmore;
            keyword(p, &a);
        } else {
            bad = a.more || a.kwmore || a.kwarg.n;
            lb_jparse_push(p, &a.arg, lb_jparse_expression(p, true));
        }
        if (bad)
            lb_jparse_fail(p, "arguments of a call are out of order");
    }
    lb_jparse_expect(p, LB_JT_RPAREN);
    if (!a.arg.n && !a.kwarg.n && !a.more && !a.kwmore)
        return NULL;
    struct lb_jarglist *kept = lb_jparse_take(p, sizeof *kept);
    if (kept)
        *kept = a;
    return kept;
}

static struct lb_jnode *call_of(struct lb_jparser *p, struct lb_jnode *x)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_CALL, p->at->line);
    n->u.apply.args = arguments(p);
    n->u.apply.x = x;
    return n;
}

static struct lb_jnode *postfix(struct lb_jparser *p, struct lb_jnode *x)
{
    for (;;) {
        if (lb_jparse_is(p, LB_JT_DOT))
            x = member(p, x);
        else if (lb_jparse_is(p, LB_JT_LBRACKET))
            x = index_of(p, x);
        else if (lb_jparse_is(p, LB_JT_LPAREN))
            x = call_of(p, x);
        else
            return x;
    }
}

/* A filter's or a test's name, which may have dots. */
static struct lb_jval dotted_name(struct lb_jparser *p)
{
    const struct lb_jtoken *k = lb_jparse_expect(p, LB_JT_NAME);
    size_t n = k->n;
    while (lb_jparse_skip(p, LB_JT_DOT)) {
        const struct lb_jtoken *more = lb_jparse_expect(p, LB_JT_NAME);
        n = p->failed ? n : (size_t)(more->text + more->n - k->text);
    }
    return lb_jinja_constant(p->t, k->text, n);
}

struct lb_jnode *lb_jparse_filters(struct lb_jparser *p, struct lb_jnode *x, bool inline_start)
{
    while (inline_start || lb_jparse_is(p, LB_JT_PIPE)) {
        if (!inline_start)
            lb_jparse_next(p);
        inline_start = false;
        struct lb_jnode *n = lb_jparse_node(p, LB_JN_FILTER, p->at->line);
        struct lb_jval name = dotted_name(p);
        if (p->failed)
            break;
        n->u.apply.x = x;
        n->u.apply.name = name;
        n->u.apply.fn = lb_jinja_find_filter(name.u.text->data, name.u.text->len);
        n->u.apply.args = lb_jparse_is(p, LB_JT_LPAREN) ? arguments(p) : NULL;
        x = n;
    }
    return x;
}

static struct lb_jnode *test_of(struct lb_jparser *p, struct lb_jnode *x)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_TEST, p->at->line);
    lb_jparse_next(p);
    bool negated = lb_jparse_skip_name(p, "not");
    struct lb_jval name = dotted_name(p);
    if (p->failed)
        return x;
    n->u.apply.x = x;
    n->u.apply.name = name;
    n->u.apply.fn = lb_jinja_find_test(name.u.text->data, name.u.text->len);
    const struct lb_jtoken *a = p->at;
    if (a->type == LB_JT_LPAREN) {
        n->u.apply.args = arguments(p);
    } else if ((a->type == LB_JT_NAME || a->type == LB_JT_STRING || a->type == LB_JT_NUMBER ||
                a->type == LB_JT_LBRACKET || a->type == LB_JT_LBRACE) &&
               !lb_jtoken_named(a, "else") && !lb_jtoken_named(a, "or") && !lb_jtoken_named(a, "and")) {
        if (lb_jtoken_named(a, "is"))
            lb_jparse_fail(p, "tests cannot be chained with 'is'");
        struct lb_jarglist *args = lb_jparse_take(p, sizeof *args);
        struct lb_jnode *value = postfix(p, primary(p, false));
        if (args)
            lb_jparse_push(p, &args->arg, value);
        n->u.apply.args = args;
    }
    if (!negated)
        return n;
    struct lb_jnode *not = lb_jparse_node(p, LB_JN_NOT, n->line);
    not ->u.pair.left = n;
    return not ;
}

/* ---- operators, from the tightest on ---- */

static struct lb_jnode *unary(struct lb_jparser *p, bool with_filter)
{
    struct lb_jnode *n;
    if (lb_jparse_is(p, LB_JT_SUB) || lb_jparse_is(p, LB_JT_ADD)) {
        n = lb_jparse_node(p, lb_jparse_is(p, LB_JT_SUB) ? LB_JN_NEG : LB_JN_POS, p->at->line);
        lb_jparse_next(p);
        if (!lb_jparse_enter(p))
            return n;
        n->u.pair.left = unary(p, false);
        p->depth--;
    } else {
        n = primary(p, false);
    }
    n = postfix(p, n);
    while (with_filter) {
        if (lb_jparse_is(p, LB_JT_PIPE))
            n = lb_jparse_filters(p, n, false);
        else if (lb_jtoken_named(p->at, "is"))
            n = test_of(p, n);
        else if (lb_jparse_is(p, LB_JT_LPAREN))
            n = call_of(p, n);
        else
            break;
    }
    return n;
}

static struct lb_jnode *arithmetic(struct lb_jparser *p, enum lb_jop op, struct lb_jnode *left, struct lb_jnode *right)
{
    struct lb_jnode *n = binary(p, LB_JN_BINARY, left, right);
    n->op = (uint8_t)op;
    return n;
}

static struct lb_jnode *power(struct lb_jparser *p)
{
    struct lb_jnode *left = unary(p, true);
    while (lb_jparse_skip(p, LB_JT_POW))
        left = arithmetic(p, LB_JOP_POW, left, unary(p, true));
    return left;
}

static struct lb_jnode *product(struct lb_jparser *p)
{
    struct lb_jnode *left = power(p);
    for (;;) {
        enum lb_jop op;
        if (lb_jparse_skip(p, LB_JT_MUL))
            op = LB_JOP_MUL;
        else if (lb_jparse_skip(p, LB_JT_DIV))
            op = LB_JOP_DIV;
        else if (lb_jparse_skip(p, LB_JT_FLOORDIV))
            op = LB_JOP_FLOORDIV;
        else if (lb_jparse_skip(p, LB_JT_MOD))
            op = LB_JOP_MOD;
        else
            return left;
        left = arithmetic(p, op, left, power(p));
    }
}

static struct lb_jnode *concatenation(struct lb_jparser *p)
{
    struct lb_jnode *first = product(p);
    if (!lb_jparse_is(p, LB_JT_TILDE))
        return first;
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_CONCAT, first->line);
    struct lb_jnodes items = {0};
    lb_jparse_push(p, &items, first);
    while (lb_jparse_skip(p, LB_JT_TILDE))
        lb_jparse_push(p, &items, product(p));
    n->u.list = items;
    return n;
}

static struct lb_jnode *sum(struct lb_jparser *p)
{
    struct lb_jnode *left = concatenation(p);
    for (;;) {
        if (lb_jparse_skip(p, LB_JT_ADD))
            left = arithmetic(p, LB_JOP_ADD, left, concatenation(p));
        else if (lb_jparse_skip(p, LB_JT_SUB))
            left = arithmetic(p, LB_JOP_SUB, left, concatenation(p));
        else
            return left;
    }
}

static bool comparison_operator(struct lb_jparser *p, enum lb_jcmp *op)
{
    static const uint8_t of_token[] = {
        [LB_JT_EQ] = 1 + LB_JC_EQ, [LB_JT_NE] = 1 + LB_JC_NE, [LB_JT_GT] = 1 + LB_JC_GT,
        [LB_JT_GE] = 1 + LB_JC_GE, [LB_JT_LT] = 1 + LB_JC_LT, [LB_JT_LE] = 1 + LB_JC_LE,
    };
    if (p->at->type < sizeof of_token && of_token[p->at->type]) {
        *op = of_token[p->at->type] - 1;
        lb_jparse_next(p);
        return true;
    }
    *op = LB_JC_IN;
    if (lb_jparse_skip_name(p, "in"))
        return true;
    if (!lb_jtoken_named(p->at, "not") || !lb_jtoken_named(p->at + 1, "in"))
        return false;
    *op = LB_JC_NOT_IN;
    lb_jparse_next(p);
    lb_jparse_next(p);
    return true;
}

static struct lb_jnode *comparison(struct lb_jparser *p)
{
    struct lb_jnode *first = sum(p);
    struct lb_jnodes operands = {0};
    enum lb_jcmp op;
    while (comparison_operator(p, &op)) {
        if (!operands.n)
            lb_jparse_push(p, &operands, first);
        struct lb_jnode *operand = lb_jparse_node(p, LB_JN_OPERAND, p->at->line);
        operand->op = (uint8_t)op;
        operand->u.pair.left = sum(p);
        lb_jparse_push(p, &operands, operand);
    }
    if (!operands.n)
        return first;
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_COMPARE, first->line);
    n->u.list = operands;
    return n;
}

static struct lb_jnode *negation(struct lb_jparser *p)
{
    if (!lb_jtoken_named(p->at, "not"))
        return comparison(p);
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_NOT, p->at->line);
    lb_jparse_next(p);
    if (!lb_jparse_enter(p))
        return n;
    n->u.pair.left = negation(p);
    p->depth--;
    return n;
}

static struct lb_jnode *conjunction(struct lb_jparser *p)
{
    struct lb_jnode *left = negation(p);
    while (lb_jparse_skip_name(p, "and"))
        left = binary(p, LB_JN_AND, left, negation(p));
    return left;
}

static struct lb_jnode *disjunction(struct lb_jparser *p)
{
    struct lb_jnode *left = conjunction(p);
    while (lb_jparse_skip_name(p, "or"))
        left = binary(p, LB_JN_OR, left, conjunction(p));
    return left;
}

struct lb_jnode *lb_jparse_expression(struct lb_jparser *p, bool with_if)
{
    if (!lb_jparse_enter(p))
        return &p->nowhere;
    struct lb_jnode *n = disjunction(p);
    while (with_if && lb_jparse_skip_name(p, "if")) {
        struct lb_jnode *cond = lb_jparse_node(p, LB_JN_COND, n->line);
        cond->u.cond.test = disjunction(p);
        cond->u.cond.yes = n;
        cond->u.cond.no = lb_jparse_skip_name(p, "else") ? lb_jparse_expression(p, true) : NULL;
        n = cond;
    }
    p->depth--;
    return n;
}
