/* Chat templates of a model: which one is taken, the variables it sees, and the text it gives (models.md 5.1).
 *
 * Immutable after it is opened; rendering happens in a context of the caller's thread. */
#ifndef CORE_TEXT_CHAT_H
#define CORE_TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/base/err.h"
#include "core/base/str.h"
#include "core/base/vocab.h"
#include "core/text/jinja/jinja.h"
#include "core/text/tok.h"

struct lb_chat;

/* Where templates come from; all lent for the call to lb_chat_open. The first source that has one wins: file, then
 * dir/chat_template.jinja (with dir/additional_chat_templates/NAME.jinja), then chat_template of
 * dir/tokenizer_config.json (a text or a list of {name, template}), then the GGUF file's, then what is built in. */
struct lb_chat_spec {
    const char *file;         /* --chat-template, or NULL */
    const char *dir;          /* Hugging Face folder, or NULL */
    const struct lb_vocab *v; /* of a GGUF file, or NULL */
    const struct lb_tok *tok; /* tells the model whose template is built in; may be NULL */
    const char *kwargs;       /* --chat-template-kwargs: the text of a JSON object, or NULL */
    struct tm now;            /* strftime_now */
};

/* LB_E_USAGE: kwargs is no JSON object. A template that does not compile fails where it is `file` (LB_E_USAGE); the
 * model's own fails the rows that need it. */
enum lb_status lb_chat_open(struct lb_chat **out, const struct lb_chat_spec *spec, struct lb_err *err);
void lb_chat_free(struct lb_chat *c); /* NULL is allowed */

/* Where the template came from, for messages and the audit ("tokenizer_config.json", "built in: Llama 2"); NULL: the
 * model has none. */
const char *lb_chat_source(const struct lb_chat *c);
bool lb_chat_built_in(const struct lb_chat *c);
bool lb_chat_is_guess(const struct lb_chat *c); /* built in, but the checkpoint may be of another model */

/* The template's text, "" when there is none. */
struct lb_bytes lb_chat_text(const struct lb_chat *c);

/* True when the template that a conversation with (without) tools gets names this variable. */
bool lb_chat_names(const struct lb_chat *c, bool tools, const char *variable);

/* One conversation. Values are jansson's, lent; NULL where the row has none. */
struct lb_chat_row {
    const struct json_t *messages;  /* array of objects */
    const struct json_t *tools;     /* array */
    const struct json_t *documents; /* array */
    const struct json_t *kwargs;    /* object: wins over --chat-template-kwargs and special tokens */
    bool add_generation_prompt, continue_final_message;
    /* A request of the OpenAI API, which vLLM turns so: arguments of tool calls, JSON as text there, become objects,
     * and lists of text parts one text where the template would show a list as Python does. */
    bool api;
};

/* Appends the prompt's text. LB_E_INPUT: the row's fault or the template's (bad_template, the text says which);
 * out is then as it was. */
enum lb_status lb_chat_render(const struct lb_chat *c, struct lb_jinja_ctx *ctx, const struct lb_chat_row *row,
                              struct lb_str *out, struct lb_err *err);

/* The same for n turns of plain text, for the audit's probes. */
struct lb_chat_turn {
    const char *role, *content;
};
enum lb_status lb_chat_render_turns(const struct lb_chat *c, struct lb_jinja_ctx *ctx, const struct lb_chat_turn *turn,
                                    size_t n, bool add_generation_prompt, struct lb_str *out, struct lb_err *err);

#endif
