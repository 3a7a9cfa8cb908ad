#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/report.h"

static volatile sig_atomic_t lb_stop, lb_interrupts;

static void on_signal(int number)
{
    lb_stop = 1;
    if (number == SIGINT && ++lb_interrupts > 1)
        _exit(LB_E_INTERRUPTED);
}

/* SIGINT is caught even where the parent ignores it (a shell does for its background jobs): who sends it means it. A
 * closed pipe and a file-size limit are errors of the write, not the program's end. */
static void catch_signals(void)
{
    static const int stops[] = {SIGINT, SIGTERM, SIGUSR1}, ignored[] = {SIGPIPE, SIGXFSZ};
    struct sigaction act = {.sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    act.sa_handler = on_signal;
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
        sigaction(stops[i], &act, NULL);
    act.sa_handler = SIG_IGN;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        sigaction(ignored[i], &act, NULL);
}

/* A standard stream that is closed would give its number to the next file. What stands in fails on use. */
static void fill_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            _exit(LB_E_DEVICE);
}

static long long number_in(const char *name)
{
    const char *text = getenv(name);
    return text ? strtoll(text, NULL, 10) : 0;
}

/* Tasks that a launcher started, as far as its variables say: 0 or 1 is alone. *name: the variable that said it. */
static long long launched_tasks(const char **name)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (number_in(*name = sizes[i]) > 1)
            return number_in(*name);
    /* A batch script has SLURM_PROCID and SLURM_NTASKS too, but is no step. */
    if (getenv("SLURM_PROCID")) {
        if (getenv("SLURM_STEP_NUM_TASKS"))
            return number_in(*name = "SLURM_STEP_NUM_TASKS");
        if (getenv("SLURM_STEP_ID") || getenv("SLURM_STEPID"))
            return number_in(*name = "SLURM_NTASKS");
    }
    /* PMIx names no size, but a rank above 0 is not alone. */
    *name = "PMIX_RANK";
    return number_in(*name) > 0 ? number_in(*name) + 1 : 0;
}

static enum lb_status check_alone(struct lb_err *err)
{
    const char *name;
    long long n = launched_tasks(&name);
    if (n <= 1)
        return LB_OK;
    return lb_err_set(err, LB_E_USAGE,
                      "a launcher started %s%lld tasks (%s), but this version runs alone: start one task, or run it "
                      "without mpirun or srun (env -u %s llmbatch ...)",
                      strcmp(name, "PMIX_RANK") == 0 ? "at least " : "", n, name, name);
}

static enum lb_status print(struct lb_str *text, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    if (text->failed)
        status = lb_err_memory(err, "the text", text->len);
    else if (fwrite(text->data, 1, text->len, stdout) != text->len || fflush(stdout) != 0) {
        if (errno != EPIPE)
            status = lb_err_set(err, LB_E_DEVICE, "cannot write to standard output: %s", strerror(errno));
    }
    lb_str_release(text);
    return status;
}

static enum lb_status print_help(struct lb_err *err)
{
    struct lb_str text = {0};
    lb_cli_help(&text);
    return print(&text, err);
}

static enum lb_status print_version(struct lb_err *err)
{
    struct lb_str text = {0};
    lb_str_putf(&text, "llmbatch %s\nkernel sets on this processor: %s\n", lb_version(), lb_isa_list());
    return print(&text, err);
}

static enum lb_status print_plan(const struct lb_llm *llm, struct lb_err *err)
{
    struct lb_str text = {0};
    lb_str_puts(&text, lb_plan_text(llm));
    return print(&text, err);
}

/* Seconds of the epoch that a reproducible run is given in place of the time (0 where there are none), and the clock of
 * templates: that time in UTC, or local time as it is now. */
static enum lb_status read_clock(int64_t *created, struct tm *now, struct lb_err *err)
{
    const char *text = getenv("SOURCE_DATE_EPOCH");
    size_t n = text ? strlen(text) : 0;
    time_t t = time(NULL);
    *created = 0;
    if (n == 0) {
        localtime_r(&t, now);
        return LB_OK;
    }
    if (n <= 18 && strspn(text, "0123456789") == n)
        *created = t = (time_t)strtoll(text, NULL, 10);
    if (n > 18 || strspn(text, "0123456789") != n || !gmtime_r(&t, now))
        return lb_err_set(err, LB_E_USAGE, "SOURCE_DATE_EPOCH must be seconds since 1970, not '%.40s'", text);
    return LB_OK;
}

static void say_complete(struct lb_report *report, const char *output)
{
    struct lb_str text = {0};
    lb_str_putf(&text, "'%s' is already complete", output);
    lb_report_message(report, LB_LOG_INFO, text.failed ? "already complete" : text.data);
    lb_str_release(&text);
}

static enum lb_status run(struct lb_cli *cli, struct lb_report *report, int *code, struct lb_err *err)
{
    struct lb_llm *llm = NULL;
    enum lb_status status;
    cli->run.log = (struct lb_log){(enum lb_log_level)cli->log_level, lb_report_message, report};
    cli->run.progress = cli->progress == LB_PROGRESS_OFF ? NULL : lb_report_progress;
    cli->run.progress_ctx = report;
    cli->run.stop = &lb_stop;
    LB_TRY_OUT(status, check_alone(err));
    LB_TRY_OUT(status, read_clock(&cli->run.created, &cli->run.now, err));
    if (!cli->run.prompt && cli->run.n_input == 0 && isatty(STDIN_FILENO)) {
        status = lb_err_set(err, LB_E_USAGE,
                            "no input: llmbatch -m MODEL -i prompts.jsonl -o out.jsonl, or rows on standard input "
                            "(--help lists the options)");
        goto out;
    }
    LB_TRY_OUT(status, lb_open(&llm, &cli->run, err));
    const char *complete = lb_complete_output(llm);
    status = lb_run(llm, err);
    lb_report_end(report);
    if (complete) {
        say_complete(report, complete);
        goto out;
    }
    if (status == LB_OK && cli->run.plan)
        status = print_plan(llm, err);
    else if (cli->progress != LB_PROGRESS_OFF)
        lb_report_summary(report, lb_stats_of(llm));
out:
    *code = lb_exit_code(llm, status);
    lb_close(llm);
    return status;
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_cli cli;
    struct lb_report report;
    fill_standard_streams();
    catch_signals();
    enum lb_status status = lb_cli_parse(&cli, argc, argv, &err);
    int code = (int)status;
    lb_report_init(&report, cli.progress);
    if (status == LB_OK && cli.help)
        code = (int)(status = print_help(&err));
    else if (status == LB_OK && cli.version)
        code = (int)(status = print_version(&err));
    else if (status == LB_OK)
        status = run(&cli, &report, &code, &err);
    if (status != LB_OK)
        lb_report_message(&report, status == LB_E_INTERRUPTED ? LB_LOG_WARN : LB_LOG_ERROR, err.text);
    lb_report_release(&report);
    lb_cli_release(&cli);
    return code;
}
