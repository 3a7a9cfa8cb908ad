/* bench_jinja [--chat N] TEMPLATE.jinja...: what compiling a chat template and rendering a chat of N messages (10) with
 * it takes. bench_jinja.py times the same chat through Jinja2. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/file.h"
#include "core/text/jinja/jinja.h"

#define RUNS 30 /* of which the fastest counts */
#define RUN_SECONDS 0.02

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* A system message, then questions and answers in turns. bench_jinja.py makes the same. */
static json_t *chat(int n_message)
{
    static const char *const text[2] = {"Why is the sky blue, and why is it red in the evening?",
                                        "Small particles scatter blue light more than red light."};
    json_t *messages = json_array();
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", "Answer briefly."));
    for (int i = 1; i < n_message; i++)
        json_array_append_new(
            messages, json_pack("{s:s, s:s}", "role", i % 2 ? "user" : "assistant", "content", text[(i - 1) % 2]));
    return messages;
}

struct job {
    const struct lb_str *source;
    struct lb_jinja *t; /* NULL: compile */
    struct lb_jinja_ctx *c;
    struct lb_jinja_input in;
    struct lb_str out;
};

static enum lb_status once(struct job *j, struct lb_err *err)
{
    if (j->t) {
        lb_str_clear(&j->out);
        return lb_jinja_render(j->t, j->c, &j->in, &j->out, err);
    }
    struct lb_jinja *t = NULL;
    LB_TRY(lb_jinja_compile(&t, j->source->data, j->source->len, err));
    lb_jinja_free(t);
    return LB_OK;
}

/* Seconds of one call, the best of RUNS runs. */
static enum lb_status best_time(struct job *j, double *best, struct lb_err *err)
{
    *best = 1e9;
    for (int run = 0; run < RUNS; run++) {
        double begin = now(), end = begin;
        int n = 0;
        for (; end - begin < RUN_SECONDS; end = now(), n++)
            LB_TRY(once(j, err));
        *best = (end - begin) / n < *best ? (end - begin) / n : *best;
    }
    return LB_OK;
}

static enum lb_status bench(const char *path, struct job *j, struct lb_err *err)
{
    struct lb_str source = {0};
    enum lb_status status;
    double compile = 0, render = 0;
    LB_TRY_OUT(status, lb_file_read(path, (size_t)1 << 24, &source, err));
    j->source = &source;
    j->t = NULL;
    LB_TRY_OUT(status, best_time(j, &compile, err));
    LB_TRY_OUT(status, lb_jinja_compile(&j->t, source.data, source.len, err));
    LB_TRY_OUT(status, best_time(j, &render, err));
    const char *name = strrchr(path, '/');
    printf("%-48s compile %8.1f us  render %8.2f us  %zu bytes\n", name ? name + 1 : path, 1e6 * compile, 1e6 * render,
           j->out.len);
out:
    lb_jinja_free(j->t);
    lb_str_release(&source);
    return status;
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    int first = argc > 2 && !strcmp(argv[1], "--chat") ? 3 : 1;
    json_t *messages = chat(first == 3 ? atoi(argv[2]) : 10), *yes = json_true(), *none = json_null();
    json_t *bos = json_string("<s>"), *eos = json_string("</s>");
    const struct lb_jinja_var var[] = {{"messages", messages}, {"add_generation_prompt", yes},
                                       {"tools", none},        {"documents", none},
                                       {"bos_token", bos},     {"eos_token", eos}};
    time_t at = 1735786800;
    struct job j = {.in = {var, sizeof var / sizeof *var, gmtime(&at)}};
    enum lb_status status = lb_jinja_ctx_new(&j.c, &err);
    for (int i = first; i < argc && status == LB_OK; i++)
        status = bench(argv[i], &j, &err);
    if (status != LB_OK)
        fprintf(stderr, "bench_jinja: %s\n", err.text);
    lb_jinja_ctx_free(j.c);
    lb_str_release(&j.out);
    json_decref(messages);
    json_decref(bos);
    json_decref(eos);
    return status;
}
