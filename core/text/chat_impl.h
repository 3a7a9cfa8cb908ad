/* Inside of chats: what chat_load.c (where templates and variables come from) and chat.c (rendering) share. */
#ifndef CORE_TEXT_CHAT_IMPL_H
#define CORE_TEXT_CHAT_IMPL_H

#include <jansson.h>

#include "core/text/chat.h"

struct lb_chat_template {
    struct lb_jinja *jinja;
    char *text; /* the source, owned, n_text bytes */
    size_t n_text;
    bool flat; /* cannot show content that is a list of parts: text parts are joined for it */
};

struct lb_chat {
    struct lb_chat_template main, tool_use; /* tool_use.jinja NULL: there is none */
    char *source;                           /* owned; NULL: the model has no template */
    char *broken;                           /* owned: why there is no main template, for the rows that need it */
    bool built_in, guess;
    json_t *special, *extra; /* objects: special tokens, --chat-template-kwargs */
    struct tm now;
};

/* Templates of published models whose checkpoints may carry none. */
struct lb_chat_builtin {
    const char *name, *text;
    bool guess; /* the same files are those of another model too */
};

/* The built-in template for a folder's tokenizer_config.json (an object, or NULL) and tokenizer; NULL: there is none.
 */
const struct lb_chat_builtin *lb_chat_builtin_find(const json_t *config, const struct lb_tok *tok);

/* Template and variables of one rendering; messages as the template shall see them. */
enum lb_status lb_chat_run(const struct lb_chat *c, const struct lb_chat_template *t, struct lb_jinja_ctx *ctx,
                           const struct lb_chat_row *row, struct lb_str *out, struct lb_err *err);

#endif
