/* Templates and renderings from the outside. */
#include "core/text/jinja/jinja.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/text/jinja/jinja_eval.h"
#include "core/text/jinja/jinja_parse.h"

#define CHUNK_BYTES ((size_t)16 << 10)

struct lb_jchunk {
    struct lb_jchunk *before;
    size_t bytes;
};

struct lb_jinja_ctx {
    struct lb_jrun run;
    int64_t spent; /* steps that a rendering begins with */
};

void *lb_jpool_take(struct lb_jpool *p, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > p->cap - p->used) {
        size_t want = bytes + sizeof(struct lb_jchunk) > CHUNK_BYTES ? bytes + sizeof(struct lb_jchunk) : CHUNK_BYTES;
        struct lb_jchunk *c = lb_mem_new(want, 1);
        if (!c)
            return NULL;
        c->before = p->chunk;
        c->bytes = want;
        p->chunk = c;
        p->cap = want;
        p->used = sizeof *c;
    }
    void *m = (uint8_t *)p->chunk + p->used;
    p->used += bytes;
    return m;
}

void lb_jpool_release(struct lb_jpool *p)
{
    while (p->chunk) {
        struct lb_jchunk *before = p->chunk->before;
        lb_mem_free(p->chunk);
        p->chunk = before;
    }
    *p = (struct lb_jpool){0};
}

/* Its characters are counted at once: several threads read it, none may write to it. */
struct lb_jval lb_jinja_constant(struct lb_jinja *t, const char *text, size_t n)
{
    struct lb_jtext *c = lb_jpool_take(&t->pool, sizeof *c);
    if (!c)
        return lb_jnone();
    *c = (struct lb_jtext){.data = text, .len = n};
    for (size_t i = 0; i < n; i++)
        c->n_char += ((uint8_t)text[i] & 0xC0) != 0x80;
    return (struct lb_jval){.kind = LB_J_STR, .u.text = c};
}

/* Newlines are "\n", and the last one is dropped. */
static enum lb_status take_source(struct lb_jinja *t, const char *source, size_t n, struct lb_err *err)
{
    if (n > LB_JINJA_MAX_SOURCE)
        return lb_err_set(err, LB_E_INPUT, "the template is longer than %zu MiB", LB_JINJA_MAX_SOURCE >> 20);
    size_t valid = lb_utf8_valid_prefix(source, n);
    if (valid < n)
        return lb_err_set(err, LB_E_INPUT, "the template is not UTF-8 at byte %zu", valid);
    t->source = lb_jpool_take(&t->pool, n + 1);
    if (!t->source)
        return lb_err_memory(err, "a template", n);
    for (size_t i = 0; i < n; i++) {
        bool is_cr = source[i] == '\r';
        t->source[t->n_source++] = is_cr ? '\n' : source[i];
        i += is_cr && i + 1 < n && source[i + 1] == '\n';
    }
    t->n_source -= t->n_source && t->source[t->n_source - 1] == '\n';
    return LB_OK;
}

enum lb_status lb_jinja_compile(struct lb_jinja **out, const char *source, size_t n, struct lb_err *err)
{
    struct lb_jtoken *tokens = NULL;
    size_t n_tokens = 0;
    enum lb_status status;
    struct lb_jinja *t = lb_mem_new(1, sizeof *t);
    if (!t)
        return lb_err_memory(err, "a template", sizeof *t);
    LB_TRY_OUT(status, take_source(t, source, n, err));
    LB_TRY_OUT(status, lb_jinja_lex(t, &tokens, &n_tokens, err));
    LB_TRY_OUT(status, lb_jinja_parse(t, tokens, n_tokens, err));
    LB_TRY_OUT(status, lb_jinja_resolve(t, err));
    *out = t;
    t = NULL;
out:
    lb_mem_free(tokens);
    lb_jinja_free(t);
    return status;
}

void lb_jinja_free(struct lb_jinja *t)
{
    if (!t)
        return;
    lb_jpool_release(&t->pool);
    lb_mem_free(t);
}

static int find_name(const struct lb_jinja *t, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < t->n_name; i++)
        if (t->name[i].n == n && !memcmp(t->name[i].text, name, n))
            return (int)i;
    return -1;
}

bool lb_jinja_names(const struct lb_jinja *t, const char *variable)
{
    return find_name(t, variable) >= 0;
}

enum lb_status lb_jinja_ctx_new(struct lb_jinja_ctx **out, struct lb_err *err)
{
    struct lb_jinja_ctx *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a rendering", sizeof *c);
    lb_jrun_init(&c->run, NULL);
    *out = c;
    return LB_OK;
}

void lb_jinja_ctx_limit(struct lb_jinja_ctx *c, int64_t steps)
{
    c->spent = steps < LB_JINJA_MAX_STEPS ? LB_JINJA_MAX_STEPS - steps : 0;
}

void lb_jinja_ctx_free(struct lb_jinja_ctx *c)
{
    if (!c)
        return;
    lb_jrun_release(&c->run);
    lb_mem_free(c);
}

static void run_template(struct lb_jeval *e, const struct lb_jinja_input *in)
{
    e->variable = lb_jrun_alloc(e->r, (e->t->n_name + 1) * sizeof *e->variable);
    e->root = e->act = lb_jeval_act(e, NULL, e->t->n_slot);
    if (!e->variable || !e->root)
        return;
    for (size_t i = 0; i < in->n_var; i++) {
        int name = find_name(e->t, in->var[i].name);
        if (name >= 0)
            e->variable[name].given = &in->var[i];
    }
    lb_jeval_enter(e, &e->t->frame);
    if (e->t->self_slot >= 0)
        e->root->slot[e->t->self_slot] = lb_jself_new(e);
    lb_jexec(e, &e->t->body);
}

enum lb_status lb_jinja_render(const struct lb_jinja *t, struct lb_jinja_ctx *c, const struct lb_jinja_input *in,
                               struct lb_str *out, struct lb_err *err)
{
    struct lb_jrun *r = &c->run;
    struct lb_jeval e = {.r = r, .t = t, .out = out, .base = out->len};
    if (out->failed)
        return lb_err_memory(err, "a rendering", out->len);
    r->now = in->now;
    r->steps = c->spent;
    r->eval = &e;
    run_template(&e, in);
    enum lb_status status = LB_OK;
    if (r->failed) {
        status = lb_err_set(err, r->status, "line %d: %s", r->line, r->message);
        out->failed = false;
        out->len = e.base;
        if (out->data)
            out->data[e.base] = 0;
    }
    lb_jrun_reset(r);
    return status;
}
