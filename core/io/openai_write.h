/* Output rows as the OpenAI batch format has them, llmbatch-jsonl(5): a response whose body is a chat.completion or a
 * text_completion of that API, or its error. */
#ifndef CORE_IO_OPENAI_WRITE_H
#define CORE_IO_OPENAI_WRITE_H

#include "core/base/vocab.h"
#include "core/io/jsonl_write.h"

/* What a response says beside its result; everything is lent. */
struct lb_openai {
    enum lb_row_api api;
    const char *model_json; /* NULL: "" */
    const char *param;      /* of an error; NULL: null */
    int64_t created;        /* seconds of the epoch */
    /* Bytes of a token, for log-probabilities. */
    struct lb_bytes (*piece)(const void *ctx, int32_t id);
    const void *ctx;
    bool prompt_logprobs; /* those of results are written as vLLM has them */
    /* [n_choice][completion_tokens] characters of the choice's text before each token, those of echo_ids first; of a
     * text_completion with log-probabilities, else NULL. */
    int64_t *const *text_offset;
};

/* Appends the row as one line of JSON without line ending; r has choices, unless it failed. Prompts of several are
 * told apart by their choices, whose prompt_ids and prompt_tokens count with --token-ids. Memory failures stick in out.
 */
void lb_openai_put_result(struct lb_str *out, const struct lb_openai *o, const struct lb_result *r);

#endif
