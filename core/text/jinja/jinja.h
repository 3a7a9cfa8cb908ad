/* Jinja templates as transformers renders chats with them (models.md 5): Jinja2 3.1's language in an immutable sandbox,
 * trim_blocks and lstrip_blocks on, loop controls, the `generation` block, tojson without HTML escaping,
 * raise_exception, strftime_now.
 *
 * A compiled template is immutable and may be rendered by several threads, each with a context of its own. Templates
 * and data are hostile input: steps, depth, memory and output of one rendering are bounded. */
#ifndef CORE_TEXT_JINJA_H
#define CORE_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/base/err.h"
#include "core/base/str.h"

struct json_t; /* jansson's */
struct lb_jinja;
struct lb_jinja_ctx;

/* Compiles a template. LB_E_INPUT: "line 12: unexpected '}'". What Jinja2 finds only when it is reached (an unknown
 * filter in a branch) is found only then here too. source (UTF-8) is copied. */
enum lb_status lb_jinja_compile(struct lb_jinja **out, const char *source, size_t n, struct lb_err *err);
void lb_jinja_free(struct lb_jinja *t); /* NULL is allowed */

/* Memory that one thread renders in, kept from one rendering to the next. */
enum lb_status lb_jinja_ctx_new(struct lb_jinja_ctx **out, struct lb_err *err);
void lb_jinja_ctx_free(struct lb_jinja_ctx *c);

/* Lowers the bound on the steps of one rendering, for callers that render more than one can wait for. */
void lb_jinja_ctx_limit(struct lb_jinja_ctx *c, int64_t steps);

/* A variable of the template; of equal names the last wins. */
struct lb_jinja_var {
    const char *name;
    const struct json_t *value; /* NULL: undefined */
};

struct lb_jinja_input {
    const struct lb_jinja_var *var; /* [n_var] */
    size_t n_var;
    const struct tm *now; /* what strftime_now formats */
};

/* Appends the rendered text to out. LB_E_INPUT: the template or its data failed ("line 7: Conversation roles must
 * alternate ..."; raise_exception's own message stands alone after the line), or a bound was met; out is then as it was
 * before. LB_E_DEVICE: out of memory. All is lent for the call. */
enum lb_status lb_jinja_render(const struct lb_jinja *t, struct lb_jinja_ctx *c, const struct lb_jinja_input *in,
                               struct lb_str *out, struct lb_err *err);

/* True when the template's source names this variable anywhere: the audit asks whether a template uses `tools`, or
 * depends on the day. */
bool lb_jinja_names(const struct lb_jinja *t, const char *variable);

#endif
