#include "core/run/settings.h"

#include <stdarg.h>
#include <stdio.h>

static void overlay_penalty(struct lb_penalty *p, const struct lb_gen *g)
{
    if (g->set & LB_GEN_REPETITION)
        p->repetition = (float)g->repetition;
    if (g->set & LB_GEN_PRESENCE)
        p->presence = (float)g->presence;
    if (g->set & LB_GEN_FREQUENCY)
        p->frequency = (float)g->frequency;
    if (g->set & LB_GEN_BIAS) {
        p->bias = g->bias;
        p->n_bias = g->n_bias;
    }
}

static void overlay(struct lb_settings *s, const struct lb_gen *g)
{
    overlay_penalty(&s->penalty, g);
    if (g->set & LB_GEN_MAX_TOKENS) {
        s->max_tokens = g->max_tokens;
        s->max_given = true;
    }
    if (g->set & LB_GEN_MIN_TOKENS)
        s->min_tokens = g->min_tokens;
    if (g->set & LB_GEN_TEMPERATURE) {
        s->sampling.temperature = g->temperature;
        s->sampling.greedy = false; /* told apart at the end */
    }
    if (g->set & LB_GEN_TOP_P)
        s->sampling.top_p = g->top_p;
    if (g->set & LB_GEN_TOP_K)
        s->sampling.top_k = g->top_k > 0 ? g->top_k : 0;
    if (g->set & LB_GEN_MIN_P)
        s->sampling.min_p = g->min_p;
    if (g->set & LB_GEN_SEED)
        s->seed = (uint64_t)g->seed;
    if (g->set & LB_GEN_IGNORE_EOS)
        s->ignore_eos = g->ignore_eos;
    if (g->set & LB_GEN_SKIP_SPECIAL)
        s->skip_special = g->skip_special;
    if (g->set & LB_GEN_INCLUDE_STOP)
        s->include_stop = g->include_stop;
    if (g->set & LB_GEN_LOGPROBS)
        s->logprobs = g->logprobs;
    if (g->set & LB_GEN_PROMPT_LOGPROBS)
        s->prompt_logprobs = g->prompt_logprobs;
    if (g->set & LB_GEN_PROMPT_FROM)
        s->prompt_from = g->prompt_from;
    if (g->set & LB_GEN_N)
        s->n = g->n;
    if (g->set & LB_GEN_STOP) {
        s->stop = g->stop;
        s->n_stop = g->n_stop;
    }
    if (g->set & LB_GEN_STOP_IDS) {
        s->stop_ids = g->stop_ids;
        s->n_stop_ids = g->n_stop_ids;
    }
}

void lb_settings_resolve(struct lb_settings *s, const struct lb_gen_defaults *model, const struct lb_gen *command,
                         const struct lb_gen *row)
{
    *s = (struct lb_settings){.sampling = {.greedy = true, .temperature = 1, .top_p = 1},
                              .penalty = {.repetition = 1},
                              .max_tokens = LB_DEFAULT_MAX_TOKENS,
                              .skip_special = true,
                              .logprobs = -1,
                              .prompt_logprobs = -1,
                              .n = 1};
    if (model->do_sample) {
        s->sampling.greedy = false;
        if (model->has_temperature)
            s->sampling.temperature = model->temperature;
        if (model->has_top_p)
            s->sampling.top_p = model->top_p;
        if (model->has_top_k && model->top_k > 0)
            s->sampling.top_k = model->top_k;
        if (model->has_min_p)
            s->sampling.min_p = model->min_p;
        if (model->has_repetition)
            s->penalty.repetition = (float)model->repetition;
    }
    overlay(s, command);
    if (row)
        overlay(s, row);
    if (!(s->sampling.temperature >= LB_GREEDY_BELOW))
        s->sampling.greedy = true;
}

__attribute__((format(printf, 4, 5))) static void describe(struct lb_stats *stats, const char *name, const char *origin,
                                                           const char *fmt, ...)
{
    if (stats->n_setting == LB_MAX_SETTING)
        return;
    struct lb_setting *s = &stats->setting[stats->n_setting++];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->value, sizeof s->value, fmt, ap);
    va_end(ap);
    s->name = name;
    s->origin = origin;
}

/* Penalties are told where somebody set them. */
static void describe_penalty(struct lb_stats *stats, const struct lb_settings *s, const struct lb_gen_defaults *model,
                             uint32_t set)
{
    const char *cl = "command line";
    if ((set & LB_GEN_REPETITION) || (model->do_sample && model->has_repetition))
        describe(stats, "repetition_penalty", set & LB_GEN_REPETITION ? cl : "model", "%.6g",
                 (double)s->penalty.repetition);
    if (set & LB_GEN_PRESENCE)
        describe(stats, "presence_penalty", cl, "%.6g", (double)s->penalty.presence);
    if (set & LB_GEN_FREQUENCY)
        describe(stats, "frequency_penalty", cl, "%.6g", (double)s->penalty.frequency);
}

void lb_settings_describe(struct lb_stats *stats, const struct lb_gen_defaults *model, const struct lb_gen *command)
{
    struct lb_settings s;
    lb_settings_resolve(&s, model, command, NULL);
    uint32_t set = command->set;
    const char *cl = "command line", *def = "default";
    const char *t = set & LB_GEN_TEMPERATURE ? cl : model->do_sample ? "model" : def;
    describe(stats, "greedy", t, "%s", s.sampling.greedy ? "true" : "false");
    if (!s.sampling.greedy) {
        bool m = model->do_sample;
        describe(stats, "temperature", t, "%.6g", s.sampling.temperature);
        describe(stats, "top_p",
                 set & LB_GEN_TOP_P      ? cl
                 : m && model->has_top_p ? "model"
                                         : def,
                 "%.6g", s.sampling.top_p);
        describe(stats, "top_k",
                 set & LB_GEN_TOP_K      ? cl
                 : m && model->has_top_k ? "model"
                                         : def,
                 "%lld", (long long)s.sampling.top_k);
        describe(stats, "min_p",
                 set & LB_GEN_MIN_P      ? cl
                 : m && model->has_min_p ? "model"
                                         : def,
                 "%.6g", s.sampling.min_p);
    }
    describe_penalty(stats, &s, model, set);
    describe(stats, "seed", set & LB_GEN_SEED ? cl : def, "%lld", (long long)(int64_t)s.seed);
    describe(stats, "max_tokens", set & LB_GEN_MAX_TOKENS ? cl : def, "%lld", (long long)s.max_tokens);
    if (s.min_tokens > 0)
        describe(stats, "min_tokens", cl, "%lld", (long long)s.min_tokens);
    describe(stats, "ignore_eos", set & LB_GEN_IGNORE_EOS ? cl : def, "%s", s.ignore_eos ? "true" : "false");
    if (s.n > 1)
        describe(stats, "n", cl, "%lld", (long long)s.n);
    if (s.logprobs >= 0)
        describe(stats, "logprobs", cl, "%lld", (long long)s.logprobs);
    if (s.prompt_logprobs >= 0)
        describe(stats, "prompt_logprobs", cl, "%lld", (long long)s.prompt_logprobs);
    if (s.include_stop)
        describe(stats, "include_stop_str_in_output", cl, "true");
}
