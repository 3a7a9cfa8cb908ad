/* Statements of the Jinja language: the tags of Jinja2, break, continue and generation. */
#include <string.h>

#include "core/base/hash.h"
#include "core/text/jinja/jinja_help.h"
#include "core/text/jinja/jinja_parse.h"

#define MAX_BLOCKS 1000

/* Bodies. `until` holds the names that may end one, each with a space behind it. */

static bool one_of(const struct lb_jtoken *k, const char *names)
{
    for (const char *s = names; k->type == LB_JT_NAME && *s;) {
        const char *end = strchr(s, ' ');
        if ((size_t)(end - s) == k->n && !memcmp(s, k->text, k->n))
            return true;
        s = end + 1;
    }
    return false;
}

static void statement(struct lb_jparser *p, struct lb_jnodes *body);

/* Statements up to a tag named in `until`, which is left standing behind its "{%"; "": up to the template's end. */
static void statements(struct lb_jparser *p, struct lb_jnodes *body, const char *until)
{
    const char *outer = p->looking_for;
    p->looking_for = until;
    while (!p->failed) {
        const struct lb_jtoken *k = p->at;
        struct lb_jnode *n;
        switch (k->type) {
        case LB_JT_DATA:
            n = lb_jparse_node(p, LB_JN_DATA, k->line);
            n->u.constant = lb_jinja_constant(p->t, k->text, k->n);
            lb_jparse_push(p, body, n);
            lb_jparse_next(p);
            break;
        case LB_JT_PRINT_BEGIN:
            n = lb_jparse_node(p, LB_JN_PRINT, k->line);
            lb_jparse_next(p);
            lb_jparse_push(p, &n->u.list, lb_jparse_tuple(p, 0));
            lb_jparse_expect(p, LB_JT_PRINT_END);
            lb_jparse_push(p, body, n);
            break;
        case LB_JT_TAG_BEGIN:
            lb_jparse_next(p);
            if (one_of(p->at, until)) {
                p->looking_for = outer;
                return;
            }
            statement(p, body);
            lb_jparse_expect(p, LB_JT_TAG_END);
            break;
        default:
            if (*until)
                lb_jparse_fail(p, "the template ends where '%.*s' is expected", (int)strcspn(until, " "), until);
            p->looking_for = outer;
            return;
        }
    }
}

/* The rest of an opening tag, the body and the name of its end, which is returned. */
static const struct lb_jtoken *body_of(struct lb_jparser *p, struct lb_jnodes *body, const char *until)
{
    lb_jparse_skip(p, LB_JT_COLON);
    lb_jparse_expect(p, LB_JT_TAG_END);
    statements(p, body, until);
    const struct lb_jtoken *k = p->at;
    lb_jparse_next(p);
    return k;
}

static struct lb_jnode *parse_for(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_FOR, line);
    struct lb_jloop *f = lb_jparse_take(p, sizeof *f);
    if (!f)
        return n;
    n->u.loop = f;
    f->target = lb_jparse_target(p, 0, LB_JREF_STORE);
    if (!lb_jparse_skip_name(p, "in"))
        lb_jparse_fail(p, "expected 'in' in the for tag");
    f->iter = lb_jparse_tuple(p, LB_JTUPLE_NO_IF);
    if (lb_jparse_skip_name(p, "if"))
        f->test = lb_jparse_expression(p, true);
    f->recursive = lb_jparse_skip_name(p, "recursive");
    f->has_else = lb_jtoken_named(body_of(p, &f->body, "endfor else "), "else");
    if (f->has_else)
        body_of(p, &f->other, "endfor ");
    return n;
}

static struct lb_jnode *parse_if(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_IF, line);
    struct lb_jbranch **last = &n->u.branch;
    bool more = true;
    for (bool is_else = false; more && !p->failed;) {
        struct lb_jbranch *b = lb_jparse_take(p, sizeof *b);
        if (!b)
            break;
        *last = b;
        last = &b->next;
        if (!is_else)
            b->test = lb_jparse_tuple(p, LB_JTUPLE_NO_IF);
        const struct lb_jtoken *end = body_of(p, &b->body, is_else ? "endif " : "endif elif else ");
        is_else = lb_jtoken_named(end, "else");
        more = !lb_jtoken_named(end, "endif");
    }
    return n;
}

static void finish_scope(struct lb_jparser *p, struct lb_jnode *n, const struct lb_jscope *s)
{
    if (p->failed)
        return;
    n->u.scope = lb_jparse_take(p, sizeof *s);
    if (n->u.scope)
        *n->u.scope = *s;
}

static struct lb_jnode *parse_set(struct lb_jparser *p, int line)
{
    struct lb_jnode *target = lb_jparse_target(p, LB_JTUPLE_NAMESPACE, LB_JREF_STORE);
    if (lb_jparse_skip(p, LB_JT_ASSIGN)) {
        struct lb_jnode *n = lb_jparse_node(p, LB_JN_SET, line);
        n->u.pair.left = target;
        n->u.pair.right = lb_jparse_tuple(p, 0);
        return n;
    }
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_CAPTURE, line);
    struct lb_jscope s = {.x = target, .y = lb_jparse_filters(p, NULL, false)};
    body_of(p, &s.body, "endset ");
    finish_scope(p, n, &s);
    return n;
}

static struct lb_jnode *parse_filter(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_FILTERED, line);
    struct lb_jscope s = {.y = lb_jparse_filters(p, NULL, true)};
    body_of(p, &s.body, "endfilter ");
    finish_scope(p, n, &s);
    return n;
}

static struct lb_jnode *parse_with(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_WITH, line);
    struct lb_jscope s = {0};
    while (!lb_jparse_is(p, LB_JT_TAG_END) && !p->failed) {
        if (s.list.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        lb_jparse_push(p, &s.list, lb_jparse_target(p, 0, LB_JREF_PARAM));
        lb_jparse_expect(p, LB_JT_ASSIGN);
        lb_jparse_push(p, &s.list, lb_jparse_expression(p, true));
    }
    body_of(p, &s.body, "endwith ");
    finish_scope(p, n, &s);
    return n;
}

static struct lb_jnode *parse_autoescape(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_ESCAPE, line);
    struct lb_jscope s = {.y = lb_jparse_expression(p, true)};
    body_of(p, &s.body, "endautoescape ");
    finish_scope(p, n, &s);
    return n;
}

/* Parameters in parentheses. */
static void signature(struct lb_jparser *p, struct lb_jmacro *m)
{
    lb_jparse_expect(p, LB_JT_LPAREN);
    while (!lb_jparse_is(p, LB_JT_RPAREN) && !p->failed) {
        if (m->param.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        struct lb_jnode *name = lb_jparse_name(p, LB_JREF_PARAM);
        for (size_t i = 0; i < m->param.n; i++)
            if (m->param.item[i]->u.ref.name == name->u.ref.name)
                lb_jparse_fail(p, "a parameter's name is used twice");
        lb_jparse_push(p, &m->param, name);
        if (m->param.n > LB_JINJA_MAX_ARGS)
            lb_jparse_fail(p, "more than %d parameters", LB_JINJA_MAX_ARGS);
        if (lb_jparse_skip(p, LB_JT_ASSIGN))
            lb_jparse_push(p, &m->other, lb_jparse_expression(p, true));
        else if (m->other.n)
            lb_jparse_fail(p, "a parameter without a default value follows one that has one");
    }
    lb_jparse_expect(p, LB_JT_RPAREN);
}

static void finish_macro(struct lb_jparser *p, struct lb_jnode *n, const struct lb_jmacro *m)
{
    if (p->failed)
        return;
    n->u.macro = lb_jparse_take(p, sizeof *m);
    if (n->u.macro)
        *n->u.macro = *m;
}

static struct lb_jnode *parse_macro(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_MACRO, line);
    struct lb_jmacro m = {.x = lb_jparse_name(p, LB_JREF_STORE)};
    if (!p->failed) {
        const struct lb_jname *name = &p->t->name[m.x->u.ref.name];
        m.name = lb_jinja_constant(p->t, name->text, name->n);
    }
    signature(p, &m);
    body_of(p, &m.body, "endmacro ");
    finish_macro(p, n, &m);
    return n;
}

static struct lb_jnode *parse_call(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_CALLER, line);
    struct lb_jmacro m = {.name = lb_jnone()};
    if (lb_jparse_is(p, LB_JT_LPAREN))
        signature(p, &m);
    m.x = lb_jparse_expression(p, true);
    if (m.x->type != LB_JN_CALL)
        lb_jparse_fail(p, "a call block needs a call");
    body_of(p, &m.body, "endcall ");
    finish_macro(p, n, &m);
    return n;
}

static struct lb_jnode *parse_generation(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_GENERATE, line);
    struct lb_jmacro m = {.name = lb_jnone()};
    body_of(p, &m.body, "endgeneration ");
    finish_macro(p, n, &m);
    return n;
}

static struct lb_jnode *parse_block(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_BLOCK, line);
    const struct lb_jtoken *name = lb_jparse_expect(p, LB_JT_NAME);
    struct lb_jblock b = {.name = lb_jinja_constant(p->t, name->text, name->n)};
    b.scoped = lb_jparse_skip_name(p, "scoped");
    b.required = lb_jparse_skip_name(p, "required");
    body_of(p, &b.body, "endblock ");
    for (size_t i = 0; b.required && i < b.body.n && !p->failed; i++)
        if (b.body.item[i]->type != LB_JN_DATA)
            lb_jparse_fail(p, "a required block holds nothing but space and comments");
    if (p->failed)
        return n;
    if (p->at->type == LB_JT_NAME && p->at->n == name->n && !memcmp(p->at->text, name->text, name->n))
        lb_jparse_next(p);
    size_t n_blocks = 1;
    for (struct lb_jnode *other = p->t->blocks; other; other = other->u.block->next, n_blocks++)
        if (lb_jtext_equal(other->u.block->name, b.name))
            lb_jparse_fail(p, "block '%.*s' is defined twice", (int)name->n, name->text);
    if (n_blocks > MAX_BLOCKS)
        lb_jparse_fail(p, "more than %d blocks", MAX_BLOCKS);
    n->u.block = lb_jparse_take(p, sizeof b);
    if (n->u.block) {
        *n->u.block = b;
        n->u.block->next = p->t->blocks;
        p->t->blocks = n;
    }
    return n;
}

/* {% print a, b %} */
static struct lb_jnode *parse_print(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_PRINT, line);
    while (!lb_jparse_is(p, LB_JT_TAG_END) && !p->failed) {
        if (n->u.list.n)
            lb_jparse_expect(p, LB_JT_COMMA);
        lb_jparse_push(p, &n->u.list, lb_jparse_expression(p, true));
    }
    return n;
}

/* include, import, from, extends: there is nothing to load from, which matters only when they are reached. */
static struct lb_jnode *parse_loader(struct lb_jparser *p, int line)
{
    struct lb_jnode *n = lb_jparse_node(p, LB_JN_LOADER, line);
    n->u.constant = lb_jinja_constant(p->t, p->at[-1].text, p->at[-1].n);
    lb_jparse_expression(p, true);
    while (!lb_jparse_is(p, LB_JT_TAG_END) && !p->failed) {
        if (!lb_jparse_is(p, LB_JT_NAME) && !lb_jparse_is(p, LB_JT_COMMA))
            lb_jparse_expect(p, LB_JT_TAG_END);
        lb_jparse_next(p);
    }
    return n;
}

static struct lb_jnode *parse_break(struct lb_jparser *p, int line)
{
    return lb_jparse_node(p, LB_JN_BREAK, line);
}

static struct lb_jnode *parse_continue(struct lb_jparser *p, int line)
{
    return lb_jparse_node(p, LB_JN_CONTINUE, line);
}

static void statement(struct lb_jparser *p, struct lb_jnodes *body)
{
    static const struct {
        const char *name;
        struct lb_jnode *(*parse)(struct lb_jparser *p, int line);
    } table[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call},
        {"filter", parse_filter},
        {"with", parse_with},
        {"block", parse_block},
        {"print", parse_print},
        {"generation", parse_generation},
        {"break", parse_break},
        {"continue", parse_continue},
        {"include", parse_loader},
        {"import", parse_loader},
        {"from", parse_loader},
        {"extends", parse_loader},
        {"autoescape", parse_autoescape},
    };
    const struct lb_jtoken *k = p->at;
    if (k->type != LB_JT_NAME) {
        lb_jparse_fail(p, "expected a tag's name");
        return;
    }
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!lb_jtoken_named(k, table[i].name))
            continue;
        if (!lb_jparse_enter(p))
            return;
        lb_jparse_next(p);
        lb_jparse_push(p, body, table[i].parse(p, k->line));
        p->depth--;
        return;
    }
    if (p->looking_for && *p->looking_for)
        lb_jparse_fail(p, "unknown tag '%.*s' where '%.*s' is still to come", (int)k->n, k->text,
                       (int)strcspn(p->looking_for, " "), p->looking_for);
    else
        lb_jparse_fail(p, "unknown tag '%.*s'", (int)k->n, k->text);
}

/* ---- names of variables ---- */

static bool grow_names(struct lb_jparser *p)
{
    size_t cap = p->name_cap ? p->name_cap * 2 : 64;
    struct lb_jname *grown = lb_jparse_take(p, cap * sizeof *grown);
    uint32_t *table = lb_jparse_take(p, cap * 2 * sizeof *table);
    if (!grown || !table)
        return false;
    if (p->t->n_name)
        memcpy(grown, p->t->name, p->t->n_name * sizeof *grown);
    p->t->name = grown;
    p->name_index = table;
    p->name_mask = cap * 2 - 1;
    p->name_cap = cap;
    for (size_t i = 0; i < p->t->n_name; i++) {
        size_t at = (size_t)lb_hash64(grown[i].text, grown[i].n, 0) & p->name_mask;
        while (table[at])
            at = (at + 1) & p->name_mask;
        table[at] = (uint32_t)i + 1;
    }
    return true;
}

int lb_jparse_intern(struct lb_jparser *p, const char *text, size_t n)
{
    if (p->t->n_name == p->name_cap && !grow_names(p))
        return 0;
    size_t at = (size_t)lb_hash64(text, n, 0) & p->name_mask;
    for (; p->name_index[at]; at = (at + 1) & p->name_mask) {
        const struct lb_jname *name = &p->t->name[p->name_index[at] - 1];
        if (name->n == n && !memcmp(name->text, text, n))
            return (int)p->name_index[at] - 1;
    }
    struct lb_jval key = lb_jinja_constant(p->t, text, n);
    struct lb_jundef *undef = lb_jparse_take(p, sizeof *undef);
    if (!undef || key.kind != LB_J_STR)
        return 0;
    undef->name = key;
    p->t->name[p->t->n_name] = (struct lb_jname){text, n, {.kind = LB_J_UNDEFINED, .u.undef = undef}};
    p->name_index[at] = (uint32_t)++p->t->n_name;
    return (int)p->t->n_name - 1;
}

enum lb_status lb_jinja_parse(struct lb_jinja *t, const struct lb_jtoken *tokens, size_t n_tokens, struct lb_err *err)
{
    struct lb_jparser p = {.t = t, .at = tokens, .end = tokens + n_tokens - 1, .err = err};
    statements(&p, &t->body, "");
    return p.failed ? err->status : LB_OK;
}
