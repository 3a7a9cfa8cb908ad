/* Parts of lb_open that know nothing of the engine. */
#ifndef CORE_OPENING_H
#define CORE_OPENING_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/io/row.h"
#include "core/run/plan.h"
#include "core/text/tok.h"

/* A file that a run leaves beside OUT; path NULL: none. */
struct lb_side_file {
    const char *option, *path;
};

/* These files must not replace an input, OUT or each other, and their folders must be there when the run ends. */
enum lb_status lb_check_side_files(const struct lb_side_file *file, size_t n, const char *output,
                                   const char *const *inputs, size_t n_input, struct lb_err *err);

/* A plain file's size, for the progress; -1: not known. */
int64_t lb_plain_bytes(const char *path, bool *stream);

/* What the inputs tell of their rows without being parsed: the first part of the first one is looked at. Streams and
 * compressed files tell nothing. input_bytes: of all inputs, negative when not known. */
struct lb_expect lb_expect_of_inputs(const char *const *inputs, size_t n_input, int64_t input_bytes,
                                     const struct lb_gen *gen);
struct lb_expect lb_expect_of_prompt(const char *prompt, const struct lb_gen *gen);

/* Opening the tokenizer, which takes as long as packing a gigabyte of weights, goes on beside the weights. */
struct lb_tok_job {
    const char *dir; /* NULL: vocab */
    const struct lb_vocab *vocab;
    struct lb_tok *tok;
    enum lb_status status;
    struct lb_err err;
    pthread_t thread;
    bool started;
};

/* Without a thread to be had it is opened here and now. */
void lb_tok_job_begin(struct lb_tok_job *job);
enum lb_status lb_tok_job_end(struct lb_tok_job *job, struct lb_tok **out, struct lb_err *err);

#endif
