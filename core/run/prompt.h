/* What the model sees of a row: text, ids or conversation -> token ids.
 *
 *     text   tokenized with what the tokenizer adds (--add-bos), never a second beginning
 *     ids    as they are
 *     chat   through the chat template, then tokenized with nothing added
 *
 * A beginning is what the tokenizer puts before a text: BOS, or [gMASK]<sop> of GLM. It is left out where the text has
 * it already, "[gMASK] <sop>" (as some decoders write it) included; a text that itself has it twice keeps both. */
#ifndef CORE_RUN_PROMPT_H
#define CORE_RUN_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/io/row.h"
#include "core/text/chat.h"
#include "core/text/tok.h"

/* What a row's prompt is made with; lent for a context's life. */
struct lb_prompter {
    const struct lb_tok *tok;
    const struct lb_chat *chat; /* NULL: no templates at all */
    enum lb_tok_add add;        /* of raw text */
};

/* What there is to say of a prompt (audit.h says it). */
enum lb_prompt_note {
    LB_NOTE_BEGUN = 1 << 0,     /* the raw text has the beginning already: none was added */
    LB_NOTE_TWICE = 1 << 1,     /* the ids begin with it twice */
    LB_NOTE_NOT_BEGUN = 1 << 2, /* the tokenizer has a beginning, the prompt does not */
    LB_NOTE_SPACE = 1 << 3,     /* raw text that ends in a token of spaces */
    LB_NOTE_RAW = 1 << 4,       /* raw text without any special token of its own, for a model with a chat template */
    LB_NOTE_TOOLS = 1 << 5,     /* tools that the chat template does not show */
    LB_NOTE_CHAT = 1 << 6,      /* the prompt was rendered */
};

/* Lent until the next call with the context, or by the row. */
struct lb_prompt {
    const int32_t *id; /* [n] */
    size_t n;
    const char *text; /* [n_text] the rendered chat or the raw text; NULL for ids */
    size_t n_text;
    size_t n_begin; /* of the first ids are the beginning; 0: it is not there */
    uint32_t notes; /* enum lb_prompt_note */
};

/* Memory of one thread that makes prompts. */
struct lb_prompt_ctx;
enum lb_status lb_prompt_ctx_new(struct lb_prompt_ctx **out, const struct lb_prompter *p, struct lb_err *err);
void lb_prompt_ctx_free(struct lb_prompt_ctx *c); /* NULL is allowed */

/* The prompt of a row that was read well. A row that cannot have one is failed (lb_row_fail); only memory and what is
 * wrong with the tokenizer itself fail the call. */
enum lb_status lb_prompt_make(struct lb_prompt_ctx *c, struct lb_row *row, struct lb_prompt *out, struct lb_err *err);

/* The ids that a text should begin with: the tokenizer's prefix, or [gMASK]<sop> where it has these tokens but adds
 * nothing. n ids, at most cap; 0: none. */
size_t lb_prompt_beginning(const struct lb_tok *tok, int32_t *id, size_t cap);

/* "[gMASK]<sop>": what is written for ids. */
void lb_prompt_put_ids(const struct lb_tok *tok, const int32_t *id, size_t n, struct lb_str *out);

#endif
