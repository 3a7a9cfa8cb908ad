#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/io/row_impl.h"

/* Every name of a setting and the bit of what it sets. */
static const struct name {
    const char *name;
    uint32_t bit;
} names[] = {
    {"max_tokens", LB_GEN_MAX_TOKENS},
    {"max_completion_tokens", LB_GEN_MAX_TOKENS},
    {"max_new_tokens", LB_GEN_MAX_TOKENS},
    {"temperature", LB_GEN_TEMPERATURE},
    {"top_p", LB_GEN_TOP_P},
    {"top_k", LB_GEN_TOP_K},
    {"min_p", LB_GEN_MIN_P},
    {"seed", LB_GEN_SEED},
    {"ignore_eos", LB_GEN_IGNORE_EOS},
    {"logprobs", LB_GEN_LOGPROBS},
    {"stop", LB_GEN_STOP},
    {"stop_token_ids", LB_GEN_STOP_IDS},
    {"skip_special_tokens", LB_GEN_SKIP_SPECIAL},
    {"n", LB_GEN_N},
    {"min_tokens", LB_GEN_MIN_TOKENS},
    {"repetition_penalty", LB_GEN_REPETITION},
    {"presence_penalty", LB_GEN_PRESENCE},
    {"frequency_penalty", LB_GEN_FREQUENCY},
    {"logit_bias", LB_GEN_BIAS},
    {"include_stop_str_in_output", LB_GEN_INCLUDE_STOP},
    {"prompt_logprobs", LB_GEN_PROMPT_LOGPROBS},
    {"prompt_logprobs_from", LB_GEN_PROMPT_FROM},
    {"lora", LB_GEN_LORA},
};

#define N_NAME (sizeof names / sizeof *names)

const char *lb_gen_name(size_t i)
{
    return i < N_NAME ? names[i].name : NULL;
}

static bool int_within(const char *name, int64_t v, int64_t least, int64_t most, char *message, size_t n)
{
    if (v >= least && v <= most)
        return true;
    snprintf(message, n, "%s must be from %lld to %lld, not %lld", name, (long long)least, (long long)most,
             (long long)v);
    return false;
}

static bool penalty_within(const char *name, double v, char *message, size_t n)
{
    if (v >= -LB_MAX_PENALTY && v <= LB_MAX_PENALTY)
        return true;
    snprintf(message, n, "%s must be from -%d to %d, not %.6g", name, LB_MAX_PENALTY, LB_MAX_PENALTY, v);
    return false;
}

static bool stops_ok(const struct lb_gen *g, const char *name, char *message, size_t n)
{
    if (g->n_stop > LB_MAX_STOP) {
        snprintf(message, n, "%s holds %zu strings; the most is %d", name, g->n_stop, LB_MAX_STOP);
        return false;
    }
    for (size_t i = 0; i < g->n_stop; i++) {
        size_t len = strlen(g->stop[i]);
        if (len == 0 || lb_utf8_valid_prefix(g->stop[i], len) != len) {
            snprintf(message, n, len ? "%s must be valid UTF-8" : "%s must not be an empty string", name);
            return false;
        }
    }
    return true;
}

/* Range of one setting that is set; `name` is what the message calls it. */
static bool check_one(const struct lb_gen *g, uint32_t bit, const char *name, char *message, size_t n)
{
    switch (bit) {
    case LB_GEN_MAX_TOKENS:
        return int_within(name, g->max_tokens, 0, INT32_MAX, message, n);
    case LB_GEN_LOGPROBS:
        return int_within(name, g->logprobs, 0, LB_MAX_LOGPROBS, message, n);
    case LB_GEN_PROMPT_LOGPROBS:
        return int_within(name, g->prompt_logprobs, 0, LB_MAX_LOGPROBS, message, n);
    case LB_GEN_PROMPT_FROM:
        return int_within(name, g->prompt_from, 0, INT32_MAX, message, n);
    case LB_GEN_N:
        return int_within(name, g->n, 1, LB_MAX_N, message, n);
    case LB_GEN_TOP_K:
        if (g->top_k >= -1 && g->top_k <= INT32_MAX)
            return true;
        snprintf(message, n, "%s must be 1 or more (0 or -1: off), not %lld", name, (long long)g->top_k);
        return false;
    case LB_GEN_TEMPERATURE:
        if (g->temperature >= 0 && isfinite(g->temperature))
            return true;
        snprintf(message, n, "%s must be 0 or more, not %.6g", name, g->temperature);
        return false;
    case LB_GEN_TOP_P:
        if (g->top_p > 0 && g->top_p <= 1)
            return true;
        snprintf(message, n, "%s must be above 0 and at most 1, not %.6g", name, g->top_p);
        return false;
    case LB_GEN_MIN_P:
        if (g->min_p >= 0 && g->min_p <= 1)
            return true;
        snprintf(message, n, "%s must be from 0 to 1, not %.6g", name, g->min_p);
        return false;
    case LB_GEN_REPETITION: /* it divides float32 numbers */
        if ((float)g->repetition > 0 && isfinite((float)g->repetition))
            return true;
        snprintf(message, n, "%s must be above 0 (1: off), not %.6g", name, g->repetition);
        return false;
    case LB_GEN_PRESENCE:
        return penalty_within(name, g->presence, message, n);
    case LB_GEN_FREQUENCY:
        return penalty_within(name, g->frequency, message, n);
    case LB_GEN_MIN_TOKENS:
        return int_within(name, g->min_tokens, 0, INT32_MAX, message, n);
    case LB_GEN_STOP:
        return stops_ok(g, name, message, n);
    case LB_GEN_STOP_IDS:
        for (size_t i = 0; i < g->n_stop_ids; i++)
            if (!int_within(name, g->stop_ids[i], 0, INT32_MAX, message, n))
                return false;
        return true;
    default:
        return true;
    }
}

enum lb_row_code lb_gen_check(const struct lb_gen *g, char *message, size_t n)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < N_NAME; i++) {
        uint32_t bit = names[i].bit;
        if ((g->set & bit) && !(seen & bit) && !check_one(g, bit, names[i].name, message, n))
            return LB_ROW_BAD_PARAM;
        seen |= bit;
    }
    const uint32_t both = LB_GEN_MIN_TOKENS | LB_GEN_MAX_TOKENS;
    if ((g->set & both) == both && g->min_tokens > g->max_tokens) {
        snprintf(message, n, "min_tokens (%lld) is above max_tokens (%lld)", (long long)g->min_tokens,
                 (long long)g->max_tokens);
        return LB_ROW_BAD_PARAM;
    }
    return LB_ROW_OK;
}

static void free_stops(struct lb_gen *g)
{
    for (size_t i = 0; i < g->n_stop; i++)
        lb_mem_free(g->stop[i]);
    lb_mem_free(g->stop);
    g->stop = NULL;
    g->n_stop = 0;
}

static void free_stop_ids(struct lb_gen *g)
{
    lb_mem_free(g->stop_ids);
    g->stop_ids = NULL;
    g->n_stop_ids = 0;
}

static void free_bias(struct lb_gen *g)
{
    lb_mem_free(g->bias);
    g->bias = NULL;
    g->n_bias = 0;
}

void lb_gen_release(struct lb_gen *g)
{
    free_stops(g);
    free_stop_ids(g);
    free_bias(g);
    lb_mem_free(g->lora);
    *g = (struct lb_gen){0};
}

/* Room for n strings in a setting that has none. */
static bool new_stops(struct lb_gen *g, size_t n)
{
    free_stops(g);
    g->stop = lb_mem_new(n, sizeof *g->stop);
    return g->stop != NULL;
}

static bool new_stop_ids(struct lb_gen *g, size_t n)
{
    free_stop_ids(g);
    g->stop_ids = lb_mem_new(n, sizeof *g->stop_ids);
    return g->stop_ids != NULL;
}

static bool new_bias(struct lb_gen *g, size_t n)
{
    free_bias(g);
    g->bias = lb_mem_new(n, sizeof *g->bias);
    return g->bias != NULL;
}

static enum lb_status merge_lists(struct lb_gen *dst, const struct lb_gen *over, struct lb_err *err)
{
    if (over->set & LB_GEN_STOP) {
        if (!new_stops(dst, over->n_stop))
            return lb_err_memory(err, "stop strings", over->n_stop);
        for (; dst->n_stop < over->n_stop; dst->n_stop++)
            if (!(dst->stop[dst->n_stop] = lb_mem_strdup(over->stop[dst->n_stop])))
                return lb_err_memory(err, "stop strings", over->n_stop);
    }
    if (over->set & LB_GEN_STOP_IDS) {
        if (!new_stop_ids(dst, over->n_stop_ids))
            return lb_err_memory(err, "stop ids", over->n_stop_ids);
        dst->n_stop_ids = over->n_stop_ids;
        if (over->n_stop_ids)
            memcpy(dst->stop_ids, over->stop_ids, over->n_stop_ids * sizeof *over->stop_ids);
    }
    if (over->set & LB_GEN_BIAS) {
        if (!new_bias(dst, over->n_bias))
            return lb_err_memory(err, "biases", over->n_bias * sizeof *over->bias);
        dst->n_bias = over->n_bias;
        if (over->n_bias)
            memcpy(dst->bias, over->bias, over->n_bias * sizeof *over->bias);
    }
    return LB_OK;
}

static void merge_penalties(struct lb_gen *dst, const struct lb_gen *over)
{
    if (over->set & LB_GEN_REPETITION)
        dst->repetition = over->repetition;
    if (over->set & LB_GEN_PRESENCE)
        dst->presence = over->presence;
    if (over->set & LB_GEN_FREQUENCY)
        dst->frequency = over->frequency;
}

enum lb_status lb_gen_merge(struct lb_gen *dst, const struct lb_gen *over, struct lb_err *err)
{
    LB_TRY(merge_lists(dst, over, err));
    merge_penalties(dst, over);
    const uint32_t set = over->set;
    if (set & LB_GEN_MAX_TOKENS)
        dst->max_tokens = over->max_tokens;
    if (set & LB_GEN_MIN_TOKENS)
        dst->min_tokens = over->min_tokens;
    if (set & LB_GEN_TEMPERATURE)
        dst->temperature = over->temperature;
    if (set & LB_GEN_TOP_P)
        dst->top_p = over->top_p;
    if (set & LB_GEN_TOP_K)
        dst->top_k = over->top_k;
    if (set & LB_GEN_MIN_P)
        dst->min_p = over->min_p;
    if (set & LB_GEN_SEED)
        dst->seed = over->seed;
    if (set & LB_GEN_IGNORE_EOS)
        dst->ignore_eos = over->ignore_eos;
    if (set & LB_GEN_LOGPROBS)
        dst->logprobs = over->logprobs;
    if (set & LB_GEN_PROMPT_LOGPROBS)
        dst->prompt_logprobs = over->prompt_logprobs;
    if (set & LB_GEN_PROMPT_FROM)
        dst->prompt_from = over->prompt_from;
    if (set & LB_GEN_SKIP_SPECIAL)
        dst->skip_special = over->skip_special;
    if (set & LB_GEN_INCLUDE_STOP)
        dst->include_stop = over->include_stop;
    if (set & LB_GEN_N)
        dst->n = over->n;
    dst->set |= set;
    return LB_OK;
}

static enum lb_row_code bad_type(const char *name, const char *want, const json_t *v, char *message)
{
    char value[128];
    lb_json_show(value, sizeof value, v);
    snprintf(message, LB_ROW_MESSAGE_BYTES, "%s must be %s, not %s", name, want, value);
    return LB_ROW_BAD_PARAM;
}

static enum lb_row_code read_int(int64_t *out, const char *name, const json_t *v, char *message)
{
    return lb_json_int(v, out) ? LB_ROW_OK : bad_type(name, "an integer", v, message);
}

static enum lb_row_code read_real(double *out, const char *name, const json_t *v, char *message)
{
    if (!json_is_number(v))
        return bad_type(name, "a number", v, message);
    *out = json_number_value(v);
    return LB_ROW_OK;
}

static enum lb_row_code read_bool(bool *out, const char *name, const json_t *v, char *message)
{
    if (!json_is_boolean(v))
        return bad_type(name, "true or false", v, message);
    *out = json_is_true(v);
    return LB_ROW_OK;
}

/* The limit has several names; those that a row uses must agree. */
static enum lb_row_code read_max_tokens(struct lb_gen *g, const char *name, const json_t *v, char *message)
{
    int64_t x;
    enum lb_row_code code = read_int(&x, name, v, message);
    if (code != LB_ROW_OK)
        return code;
    if ((g->set & LB_GEN_MAX_TOKENS) && g->max_tokens != x) {
        snprintf(message, LB_ROW_MESSAGE_BYTES, "%s is %lld, but another name for max_tokens in this row says %lld",
                 name, (long long)x, (long long)g->max_tokens);
        return LB_ROW_BAD_PARAM;
    }
    g->max_tokens = x;
    return LB_ROW_OK;
}

static enum lb_row_code read_stop(struct lb_gen *g, const char *name, const json_t *v, char *message)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > LB_MAX_STOP) {
        snprintf(message, LB_ROW_MESSAGE_BYTES, "%s holds %zu strings; the most is %d", name, n, LB_MAX_STOP);
        return LB_ROW_BAD_PARAM;
    }
    if (!new_stops(g, n))
        return LB_ROW_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        const char *text = json_string_value(item);
        if (!text)
            return bad_type(name, "a string or a list of strings", item, message);
        if (strlen(text) != json_string_length(item))
            return bad_type(name, "without NUL characters", item, message);
        if (!(g->stop[i] = lb_mem_strdup(text)))
            return LB_ROW_NO_MEMORY;
        g->n_stop = i + 1;
    }
    return LB_ROW_OK;
}

static enum lb_row_code read_stop_ids(struct lb_gen *g, const char *name, const json_t *v, char *message)
{
    if (!json_is_array(v))
        return bad_type(name, "a list of token ids", v, message);
    size_t n = json_array_size(v);
    if (!new_stop_ids(g, n))
        return LB_ROW_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        int64_t x;
        if (!lb_json_int(json_array_get(v, i), &x) || x < 0 || x > INT32_MAX)
            return bad_type(name, "a list of token ids", json_array_get(v, i), message);
        g->stop_ids[i] = (int32_t)x;
    }
    g->n_stop_ids = n;
    return LB_ROW_OK;
}

/* A token id as decimals, in the one way to write it: each id then has one member. */
static bool id_of(const char *text, int32_t *id)
{
    int64_t x = 0;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 10 || text[n] || (text[0] == '0' && n > 1))
        return false;
    for (size_t i = 0; i < n; i++)
        x = 10 * x + (text[i] - '0');
    *id = (int32_t)x;
    return x <= INT32_MAX;
}

static enum lb_row_code read_bias(struct lb_gen *g, const char *name, const json_t *v, char *message)
{
    if (!json_is_object(v))
        return bad_type(name, "an object of token ids and numbers", v, message);
    if (!new_bias(g, json_object_size(v)))
        return LB_ROW_NO_MEMORY;
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        int32_t id;
        if (!id_of(key, &id)) {
            snprintf(message, LB_ROW_MESSAGE_BYTES, "%s: \"%.40s\" is no token id", name, key);
            return LB_ROW_BAD_PARAM;
        }
        if (!json_is_number(item))
            return bad_type(name, "an object of token ids and numbers", item, message);
        double x = json_number_value(item);
        x = x > LB_MAX_BIAS ? LB_MAX_BIAS : x < -LB_MAX_BIAS ? -LB_MAX_BIAS : x;
        g->bias[g->n_bias++] = (struct lb_bias){id, (float)x};
    }
    return LB_ROW_OK;
}

static enum lb_row_code read_lora(struct lb_gen *g, const char *name, const json_t *v, char *message)
{
    const char *text = json_string_value(v);
    if (!text || strlen(text) != json_string_length(v))
        return bad_type(name, "the name of an adapter", v, message);
    lb_mem_free(g->lora);
    g->lora = lb_mem_strdup(text);
    return g->lora ? LB_ROW_OK : LB_ROW_NO_MEMORY;
}

static enum lb_row_code read_value(struct lb_gen *g, uint32_t bit, const char *name, const json_t *v, char *message)
{
    switch (bit) {
    case LB_GEN_MAX_TOKENS:
        return read_max_tokens(g, name, v, message);
    case LB_GEN_TEMPERATURE:
        return read_real(&g->temperature, name, v, message);
    case LB_GEN_TOP_P:
        return read_real(&g->top_p, name, v, message);
    case LB_GEN_TOP_K:
        return read_int(&g->top_k, name, v, message);
    case LB_GEN_MIN_P:
        return read_real(&g->min_p, name, v, message);
    case LB_GEN_SEED:
        return read_int(&g->seed, name, v, message);
    case LB_GEN_N:
        return read_int(&g->n, name, v, message);
    case LB_GEN_IGNORE_EOS:
        return read_bool(&g->ignore_eos, name, v, message);
    case LB_GEN_LOGPROBS:
        g->logprobs = 0;
        return json_is_true(v) ? LB_ROW_OK : read_int(&g->logprobs, name, v, message);
    case LB_GEN_PROMPT_LOGPROBS:
        g->prompt_logprobs = 0;
        return json_is_true(v) ? LB_ROW_OK : read_int(&g->prompt_logprobs, name, v, message);
    case LB_GEN_PROMPT_FROM:
        return read_int(&g->prompt_from, name, v, message);
    case LB_GEN_MIN_TOKENS:
        return read_int(&g->min_tokens, name, v, message);
    case LB_GEN_REPETITION:
        return read_real(&g->repetition, name, v, message);
    case LB_GEN_PRESENCE:
        return read_real(&g->presence, name, v, message);
    case LB_GEN_FREQUENCY:
        return read_real(&g->frequency, name, v, message);
    case LB_GEN_BIAS:
        return read_bias(g, name, v, message);
    case LB_GEN_INCLUDE_STOP:
        return read_bool(&g->include_stop, name, v, message);
    case LB_GEN_STOP:
        return read_stop(g, name, v, message);
    case LB_GEN_STOP_IDS:
        return read_stop_ids(g, name, v, message);
    case LB_GEN_LORA:
        return read_lora(g, name, v, message);
    default:
        return read_bool(&g->skip_special, name, v, message);
    }
}

enum lb_row_code lb_gen_read(struct lb_gen *g, const char *name, const json_t *v, bool *known, char *message)
{
    uint32_t bit = 0;
    for (size_t i = 0; i < N_NAME && !bit; i++)
        if (strcmp(name, names[i].name) == 0)
            bit = names[i].bit;
    *known = bit != 0;
    if (!bit || ((bit & (LB_GEN_LOGPROBS | LB_GEN_PROMPT_LOGPROBS)) && json_is_false(v)))
        return LB_ROW_OK;
    enum lb_row_code code = read_value(g, bit, name, v, message);
    if (code != LB_ROW_OK)
        return code;
    if (!check_one(g, bit, name, message, LB_ROW_MESSAGE_BYTES))
        return LB_ROW_BAD_PARAM;
    g->set |= bit;
    return LB_ROW_OK;
}
