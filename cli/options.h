/* The command line: what options.def lists, read into the library's options. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/llmbatch.h"

enum lb_progress_mode { LB_PROGRESS_AUTO, LB_PROGRESS_ON, LB_PROGRESS_OFF };

/* Lists that grow while the command line is read; items are lent from argv unless said otherwise. */
struct lb_texts {
    char **item; /* [n] */
    size_t n;
};

struct lb_ids {
    int32_t *item; /* [n] */
    size_t n;
};

/* run points into argv and into the lists here: the struct must stay where it is while run is used. */
struct lb_cli {
    struct lb_options run;
    struct lb_texts inputs, stop, lora;
    struct lb_texts keep; /* items lie in keep_text */
    char *keep_text;
    struct lb_ids stop_ids;
    struct lb_str command;
    int order, add_bos, overflow, audit, format, progress, log_level, completions;
    int64_t rank_timeout_s;
    const char *shard;
    char *output_text, *stats_text, *report_text, *trace_text; /* with %s filled in, owned */
    bool version, help, no_mpi, merge;
};

/* Reads argv (lent for the struct's life). LB_E_USAGE: one line that names option and value and says what is allowed.
 * Where --help or --version is given, what is missing is no error. Release also after a failure. */
enum lb_status lb_cli_parse(struct lb_cli *c, int argc, char **argv, struct lb_err *err);
void lb_cli_release(struct lb_cli *c);

/* The text of --help, 80 columns wide at most. Memory failures stick in out. */
void lb_cli_help(struct lb_str *out);

#endif
