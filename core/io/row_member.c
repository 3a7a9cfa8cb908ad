#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/io/row_impl.h"

/* Values at which a member changes nothing. */
enum neutral { NEVER, ALWAYS, NUMBER, FALSE_, TRUE_, EMPTY, TEXT_FORMAT, TEXT_ALONE, MEDIUM, NO_TOOL };

struct member {
    const char *name;
    enum neutral neutral;
    double number;    /* of NUMBER */
    const char *hint; /* what to use instead, or NULL */
};

/* Members of the contract that this version does not have yet, then those of OpenAI, vLLM, Transformers, llama.cpp,
 * Ollama, TGI and SGLang. A member that gets built leaves this table. */
static const struct member members[] = {
    {"documents", EMPTY, 0, NULL},
    {"tools", EMPTY, 0, NULL},
    {"chat_template", NEVER, 0, NULL},
    {"chat_template_kwargs", EMPTY, 0, NULL},
    {"add_generation_prompt", TRUE_, 0, NULL},
    {"continue_final_message", FALSE_, 0, NULL},

    {"best_of", ALWAYS, 0, NULL}, /* judged beside n */
    {"echo", FALSE_, 0, NULL},
    {"function_call", NO_TOOL, 0, NULL},
    {"functions", EMPTY, 0, NULL},
    {"parallel_tool_calls", ALWAYS, 0, NULL},
    {"reasoning_effort", NEVER, 0, NULL},
    {"response_format", TEXT_FORMAT, 0, NULL},
    {"stream", ALWAYS, 0, NULL},
    {"stream_options", ALWAYS, 0, NULL},
    {"suffix", EMPTY, 0, NULL},
    {"tool_choice", NO_TOOL, 0, NULL},
    {"top_logprobs", NUMBER, 0, "use logprobs"},

    {"add_special_tokens", TRUE_, 0, "use --add-bos"},
    {"allowed_token_ids", NEVER, 0, NULL},
    {"bad_words", EMPTY, 0, NULL},
    {"detokenize", TRUE_, 0, NULL},
    {"guided_choice", NEVER, 0, NULL},
    {"guided_decoding", NEVER, 0, NULL},
    {"guided_grammar", NEVER, 0, NULL},
    {"guided_json", NEVER, 0, NULL},
    {"guided_regex", NEVER, 0, NULL},
    {"length_penalty", NUMBER, 1, NULL},
    {"logits_processors", EMPTY, 0, NULL},
    {"multi_modal_data", EMPTY, 0, NULL},
    {"prompt_embeds", NEVER, 0, NULL},
    {"return_token_ids", FALSE_, 0, "use --token-ids"},
    {"structured_outputs", NEVER, 0, NULL},
    {"truncate_prompt_tokens", NEVER, 0, NULL},
    {"use_beam_search", FALSE_, 0, NULL},

    {"do_sample", NEVER, 0, "use temperature, 0 for greedy"},
    {"early_stopping", FALSE_, 0, NULL},
    {"encoder_repetition_penalty", NUMBER, 1, NULL},
    {"eos_token_id", NEVER, 0, "use stop_token_ids"},
    {"epsilon_cutoff", NUMBER, 0, NULL},
    {"eta_cutoff", NUMBER, 0, NULL},
    {"max_length", NEVER, 0, "use max_tokens"},
    {"min_length", NUMBER, 0, NULL},
    {"min_new_tokens", NUMBER, 0, "use min_tokens"},
    {"no_repeat_ngram_size", NUMBER, 0, NULL},
    {"num_beams", NUMBER, 1, NULL},
    {"num_return_sequences", NUMBER, 1, NULL},
    {"penalty_alpha", NUMBER, 0, NULL},
    {"stop_strings", EMPTY, 0, "use stop"},
    {"typical_p", NUMBER, 1, NULL},

    {"dry_multiplier", NUMBER, 0, NULL},
    {"ebnf", EMPTY, 0, NULL},
    {"grammar", EMPTY, 0, NULL},
    {"json_schema", EMPTY, 0, NULL},
    {"mirostat", NUMBER, 0, NULL},
    {"n_predict", NEVER, 0, "use max_tokens"},
    {"num_predict", NEVER, 0, "use max_tokens"},
    {"regex", EMPTY, 0, NULL},
    {"repeat_penalty", NUMBER, 1, NULL},
    {"stop_sequences", EMPTY, 0, "use stop"},
    {"tfs_z", NUMBER, 1, NULL},
    {"top_a", NUMBER, 0, NULL},
    {"xtc_probability", NUMBER, 0, NULL},
};

/* Of the bodies of OpenAI requests alone. */
static const struct member request_members[] = {
    {"audio", NEVER, 0, NULL},
    {"modalities", TEXT_ALONE, 0, NULL},
    {"return_tokens_as_token_ids", FALSE_, 0, NULL},
    {"verbosity", MEDIUM, 0, NULL},
    {"web_search_options", NEVER, 0, NULL},
};

#define N_REQUEST (sizeof request_members / sizeof *request_members)
#define N_MEMBER (sizeof members / sizeof *members)

/* Names with another meaning in the row reader that a slip of the pen may have aimed at. */
static const char *const others[] = {"id", "prompt", "prompt_token_ids", "messages"};

#define N_OTHER (sizeof others / sizeof *others)

static bool is_neutral(const struct member *m, const json_t *v)
{
    const char *text = json_string_value(v);
    switch (m->neutral) {
    case NEVER:
        return false;
    case ALWAYS:
        return true;
    case NUMBER:
        return json_is_number(v) && json_number_value(v) == m->number;
    case FALSE_:
        return json_is_false(v);
    case TRUE_:
        return json_is_true(v);
    case EMPTY:
        return (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0) ||
               (text && json_string_length(v) == 0);
    case TEXT_FORMAT:
        text = json_string_value(json_object_get(v, "type"));
        return text && strcmp(text, "text") == 0;
    case TEXT_ALONE:
        text = json_string_value(json_array_get(v, 0));
        return text && json_array_size(v) == 1 && strcmp(text, "text") == 0;
    case MEDIUM:
        return text && strcmp(text, "medium") == 0;
    case NO_TOOL:
        return text && (strcmp(text, "none") == 0 || strcmp(text, "auto") == 0);
    }
    return false;
}

static const struct member *find(const struct member *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, list[i].name) == 0)
            return &list[i];
    return NULL;
}

enum lb_row_code lb_member_check(const char *name, const json_t *v, bool request, bool *known, char *message)
{
    const struct member *m = find(members, N_MEMBER, name);
    if (!m && request)
        m = find(request_members, N_REQUEST, name);
    *known = m != NULL;
    if (!m || is_neutral(m, v))
        return LB_ROW_OK;
    char value[128];
    lb_json_show(value, sizeof value, v);
    snprintf(message, LB_ROW_MESSAGE_BYTES, "%s (%s) is not supported by this version%s%s", name, value,
             m->hint ? ": " : "", m->hint ? m->hint : "");
    return LB_ROW_UNSUPPORTED;
}

static const char *known_name(size_t i)
{
    if (i < N_OTHER)
        return others[i];
    i -= N_OTHER;
    return i < N_MEMBER ? members[i].name : lb_gen_name(i - N_MEMBER);
}

const char *lb_member_close(const char *name)
{
    enum { LONGEST = 32 };
    char lower[LONGEST];
    size_t n = strlen(name);
    if (n >= LONGEST)
        return NULL;
    for (size_t i = 0; i <= n; i++)
        lower[i] = (char)tolower((unsigned char)name[i]);
    const char *best = NULL, *known;
    int best_distance = 3;
    for (size_t i = 0; (known = known_name(i)); i++) {
        size_t m = strlen(known);
        /* Two slips make another word of a short name, and one slip of a very short one. */
        int allowed = m >= 7 ? 2 : m >= 4 ? 1 : 0;
        if ((m > n ? m - n : n - m) > (size_t)allowed)
            continue;
        int distance = lb_edit_distance(lower, known);
        if (distance <= allowed && distance < best_distance) {
            best = known;
            best_distance = distance;
        }
    }
    return best;
}
