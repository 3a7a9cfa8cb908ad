/* Input rows: one JSON object a line, as llmbatch-jsonl(5) says. A row that cannot be used carries an error code and a
 * message and travels on as an error row; reading a row never fails the run (memory aside). */
#ifndef CORE_IO_ROW_H
#define CORE_IO_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum lb_row_code {
    LB_ROW_OK,
    LB_ROW_BAD_JSON,
    LB_ROW_BAD_UTF8,
    LB_ROW_BAD_ROW,
    LB_ROW_BAD_PARAM,
    LB_ROW_BAD_TEMPLATE,
    LB_ROW_BAD_TOKEN,
    LB_ROW_EMPTY_PROMPT,
    LB_ROW_TOO_LONG,
    LB_ROW_NO_MEMORY,
    LB_ROW_UNSUPPORTED,
    LB_ROW_NOT_FINITE,
    LB_N_ROW_CODE,
};

const char *lb_row_code_name(enum lb_row_code code); /* "bad_json", ...; "" for LB_ROW_OK */

/* Generation settings with a mark for each that was given. Resolving: row over command line over model. */
enum lb_gen_bit {
    LB_GEN_MAX_TOKENS = 1 << 0,
    LB_GEN_TEMPERATURE = 1 << 1,
    LB_GEN_TOP_P = 1 << 2,
    LB_GEN_TOP_K = 1 << 3,
    LB_GEN_MIN_P = 1 << 4,
    LB_GEN_SEED = 1 << 5,
    LB_GEN_IGNORE_EOS = 1 << 6,
    LB_GEN_LOGPROBS = 1 << 7,
    LB_GEN_STOP = 1 << 8,
    LB_GEN_STOP_IDS = 1 << 9,
    LB_GEN_SKIP_SPECIAL = 1 << 10,
    LB_GEN_N = 1 << 11,
    LB_GEN_MIN_TOKENS = 1 << 12,
    LB_GEN_REPETITION = 1 << 13,
    LB_GEN_PRESENCE = 1 << 14,
    LB_GEN_FREQUENCY = 1 << 15,
    LB_GEN_BIAS = 1 << 16,
    LB_GEN_INCLUDE_STOP = 1 << 17,
    LB_GEN_PROMPT_LOGPROBS = 1 << 18,
    LB_GEN_PROMPT_FROM = 1 << 19,
    LB_GEN_LORA = 1 << 20,
};

/* A token's bias: what is added to its logit. */
struct lb_bias {
    int32_t id;
    float value; /* -LB_MAX_BIAS..LB_MAX_BIAS */
};

struct lb_gen {
    uint32_t set;                   /* enum lb_gen_bit */
    int64_t max_tokens, min_tokens; /* max_tokens 0: the prompt is scored, nothing is generated */
    double temperature, top_p, min_p;
    double repetition, presence, frequency; /* penalties; off: 1, 0, 0 */
    int64_t top_k;                          /* 0 or -1: off */
    int64_t seed;
    bool ignore_eos, skip_special, include_stop;
    int64_t logprobs, prompt_logprobs; /* K, 0..LB_MAX_LOGPROBS */
    int64_t prompt_from;               /* position of the first prompt token that has them */
    int64_t n;                         /* samples, 1..LB_MAX_N */
    char **stop;                       /* [n_stop] owned, valid UTF-8, not empty */
    size_t n_stop;
    int32_t *stop_ids; /* [n_stop_ids] owned */
    size_t n_stop_ids;
    struct lb_bias *bias; /* [n_bias] owned, ids all different, not yet checked against the vocabulary */
    size_t n_bias;
    char *lora; /* name of an adapter, owned; rows alone */
};

#define LB_MAX_PENALTY 2 /* presence and frequency, either side of 0 */
#define LB_MAX_BIAS 100
#define LB_MAX_LOGPROBS 20
#define LB_MAX_STOP 64
#define LB_MAX_N 128
#define LB_MAX_CHOICES 2048 /* samples of all prompts of one request */

/* Range checks of what is set, shared by the command line and rows: LB_ROW_OK, or LB_ROW_BAD_PARAM with a message that
 * names the setting as a row does ("temperature must be 0 or more, not -1"). */
enum lb_row_code lb_gen_check(const struct lb_gen *g, char *message, size_t n);

/* dst takes from over what over has set; dst owns copies. Fails for want of memory alone; dst can then only be
 * released. */
enum lb_status lb_gen_merge(struct lb_gen *dst, const struct lb_gen *over, struct lb_err *err);
void lb_gen_release(struct lb_gen *g);

enum lb_row_form { LB_FORM_TEXT, LB_FORM_IDS, LB_FORM_CHAT };

/* What a row is written as: the native form, or a response of an endpoint of the OpenAI API (LB_API_OPENAI: a request
 * that failed before its endpoint was known). */
enum lb_row_api { LB_API_NATIVE, LB_API_OPENAI, LB_API_CHAT, LB_API_COMPLETION };

struct json_t; /* jansson's */

/* A conversation (LB_FORM_CHAT). Values are owned references into the parsed row, NULL where the row has none;
 * core/text/chat.h renders them. `content` of messages is as the row has it (text or list of parts). */
struct lb_row_chat {
    struct json_t *messages;  /* array of objects, not empty */
    struct json_t *tools;     /* array */
    struct json_t *documents; /* array */
    struct json_t *kwargs;    /* chat_template_kwargs: object */
    bool add_generation_prompt, continue_final_message;
};

/* A further prompt of a request that has several. */
struct lb_row_prompt {
    char *text; /* LB_FORM_TEXT, owned */
    size_t n_text;
    int32_t *ids; /* LB_FORM_IDS, owned */
    size_t n_ids;
};

struct lb_row {
    int64_t index;      /* row number over all inputs, from 0 */
    uint64_t line_hash; /* XXH3-64 of the line without its line ending */
    uint64_t key;       /* keys the row's random numbers: XXH3-64 of the type-tagged id, or of the row number */
    char *id_json;      /* the id as JSON ("\"a17\"", "16"), owned; "null" where the line is no JSON object */
    bool has_id;        /* of its own, not its number */
    enum lb_row_api api;
    bool unread;      /* the line is no JSON object, so that it does not say what it is written as */
    char *model_json; /* of an OpenAI request: its "model" as JSON, owned; NULL: none */
    char *param;      /* of a failed OpenAI request: the parameter at fault, owned; NULL: none */
    bool echo;        /* the prompt's text goes before the new text */
    enum lb_row_form form;
    char *text; /* LB_FORM_TEXT, owned */
    size_t n_text;
    int32_t *ids; /* LB_FORM_IDS, owned; not yet checked against the vocabulary */
    size_t n_ids;
    struct lb_row_chat chat;    /* LB_FORM_CHAT */
    struct lb_row_prompt *more; /* [n_more] LB_FORM_TEXT or LB_FORM_IDS, owned: prompts behind the first */
    size_t n_more;
    struct lb_gen gen;
    char *kept_json; /* object of the members that --keep asks for, in the row's order, owned; NULL when not asked and
                        in rows that failed while they were read */
    enum lb_row_code code;
    char *message; /* of a failed row, owned */
};

enum lb_row_format { LB_FORMAT_AUTO, LB_FORMAT_NATIVE, LB_FORMAT_OPENAI };

/* What the command line says of reading rows. */
struct lb_row_spec {
    const char *input_key; /* member that holds the prompt, a text or a conversation; NULL: "prompt" */
    enum lb_row_format format;
    bool chat;          /* a native prompt of text becomes one user message */
    const char *system; /* valid UTF-8: first message of conversations that have no system message; NULL: none */
    char *const *keep;  /* [n_keep] member names */
    size_t n_keep;
    bool keep_all; /* every member as it is, prompt and id included */
    /* Called (any thread that parses) once for each unknown member that is close to a known name which the row does not
     * have, with both names; of the first 256 unknown members of a row. NULL: nobody wants to know. */
    void (*close_name)(void *ctx, int64_t index, const char *member, const char *known);
    void *ctx;
};

/* Parses one line (without line ending). Only memory can fail; the row is then empty. Integers beyond 64 bits in
 * members that are merely kept become reals, as in jq; a row with null members is read as if they were not there. */
enum lb_status lb_row_parse(struct lb_row *row, const struct lb_row_spec *spec, int64_t index, const char *line,
                            size_t n, struct lb_err *err);

/* What keys a row's random numbers, of an id's text with a tag of its type, so that 1 and "1" differ: 's', 'i', or 'r'
 * for the row's number. n at most LB_SHORT_KEY. */
#define LB_SHORT_KEY 126
uint64_t lb_row_key(char tag, const char *data, size_t n);

/* The hash of all rows up to one, given that of those before it (0 for none) and the line's. */
uint64_t lb_row_chain(uint64_t before, uint64_t line_hash);

/* Makes a failed row of a row: frees its prompts, sets code and message. */
__attribute__((format(printf, 3, 4))) void lb_row_fail(struct lb_row *row, enum lb_row_code code, const char *fmt, ...);

/* Frees the prompt (text, ids, conversation), once its token ids were made; further prompts stay. */
void lb_row_drop_prompt(struct lb_row *row);

/* Makes the i-th further prompt the row's prompt; the one that it had is freed. */
void lb_row_take_prompt(struct lb_row *row, size_t i);
void lb_row_release(struct lb_row *row);

#endif
