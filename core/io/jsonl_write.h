/* Output rows in the native form of llmbatch-jsonl(5): members in the contract's order, absent when they do not apply.
 */
#ifndef CORE_IO_JSONL_WRITE_H
#define CORE_IO_JSONL_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/str.h"
#include "core/io/row.h"

struct lb_logprob_top {
    int32_t id;
    float logprob;
};

struct lb_logprob {
    int32_t id;
    float logprob;
    int64_t rank;                     /* tokens whose value is >= this one's, itself included */
    const struct lb_logprob_top *top; /* [n_top] best first */
    size_t n_top;
};

struct lb_timing {
    double queue_s, prefill_s, decode_s, first_token_s, total_s;
    int rank;
    int64_t steps;
};

enum lb_finish { LB_FINISH_STOP, LB_FINISH_LENGTH, LB_FINISH_ERROR };

/* A finished row; everything is lent. */
struct lb_result {
    const char *id_json;
    int64_t index;
    enum lb_finish finish;
    const char *text; /* NULL: absent (no tokenizer); any bytes, invalid UTF-8 becomes U+FFFD */
    size_t n_text;
    bool has_stop_id; /* stop_reason is stop_id ... */
    int32_t stop_id;
    const char *stop_string; /* ... or this, or absent when NULL */
    int64_t prompt_tokens, completion_tokens;
    const int32_t *prompt_ids;         /* NULL: absent */
    const int32_t *ids;                /* NULL: absent */
    const struct lb_logprob *logprobs; /* [completion_tokens] or NULL: absent */
    /* Of the prompt's tokens from position prompt_first (1 or more) on, [prompt_tokens - prompt_first] where that is
     * above 0; NULL: absent. */
    const struct lb_logprob *prompt_logprobs;
    int64_t prompt_first;
    const int32_t *echo_ids; /* [prompt_tokens] whose text goes before the new text; with logprobs alone, else NULL */
    const char *cut_policy;  /* how prompt or max_tokens were made shorter, by cut_tokens; NULL: absent */
    int64_t cut_tokens;
    const struct lb_timing *timing; /* NULL: absent */
    const char *kept_json;          /* NULL: absent */
    /* Several samples: what each of them gave, where text, finish, stop_*, completion_tokens, ids and logprobs of the
     * row itself do not count (finish tells a failed row all the same). NULL: the row is its one sample. */
    const struct lb_result *choice; /* [n_choice] */
    size_t n_choice;
    enum lb_row_code code; /* LB_FINISH_ERROR */
    const char *message;
};

/* Appends the row as one line of JSON without line ending. Memory failures stick in out. A failed row has id, index,
 * finish_reason and error alone; "top" is absent where n_top is 0; a time that is not finite is absent. */
void lb_jsonl_put_result(struct lb_str *out, const struct lb_result *r);

/* Sum of -logprob of the prompt's tokens that have one. */
double lb_result_nll(const struct lb_result *r);

/* The members "cut", "timing" and "kept" of a row, as far as it has them, each with a comma before it. */
void lb_jsonl_put_extras(struct lb_str *out, const struct lb_result *r);

#endif
