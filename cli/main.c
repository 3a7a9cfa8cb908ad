#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/complete.h"
#include "cli/html.h"
#include "cli/launch.h"
#include "cli/options.h"
#include "cli/report.h"

static volatile sig_atomic_t lb_stop, lb_interrupts;

static void on_signal(int number)
{
    lb_stop = 1;
    if (number == SIGINT && ++lb_interrupts > 1)
        _exit(LB_E_INTERRUPTED);
}

/* A page of a mapped file is not there: the file became shorter, or could not be read. */
static void on_bad_page(int number, siginfo_t *why, void *context)
{
    static const char text[] =
        "llmbatch: error: a mapped file of the model became shorter or could not be read: put it back and "
        "start again, finished rows are kept\n";
    (void)context;
    if (why->si_code == BUS_ADRERR) {
        ssize_t n = write(2, text, sizeof text - 1);
        (void)n;
        _exit(LB_E_INPUT);
    }
    signal(number, SIG_DFL); /* anything else ends the program where it comes again */
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
    struct sigaction bus = {.sa_flags = SA_SIGINFO, .sa_sigaction = on_bad_page};
    sigemptyset(&bus.sa_mask);
    sigaction(SIGBUS, &bus, NULL);
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

static bool asks_for(const char *name)
{
    const char *text = getenv(name);
    return text && *text && strcmp(text, "0") != 0;
}

/* 0: nothing was asked for. */
static int screens_asked(void)
{
    const char *text = getenv("LLMBATCH_SCREEN");
    if (!text || !*text)
        return 0;
    return strcmp(text, "0") == 0 ? -1 : 1;
}

/* 0: nothing was asked for. */
static int graphs_asked(void)
{
    const char *text = getenv("LLMBATCH_CUDA_GRAPHS");
    if (!text || !*text)
        return 0;
    long n = strtol(text, NULL, 10);
    return n <= 0 ? -1 : n < 4096 ? (int)n : 4096;
}

static void say_complete(struct lb_report *report, const char *output)
{
    struct lb_str text = {0};
    lb_str_putf(&text, "'%s' is already complete", output);
    lb_report_message(report, LB_LOG_INFO, text.failed ? "already complete" : text.data);
    lb_str_release(&text);
}

/* Where the process stands: alone, or one of a launcher's ranks. */
struct place {
    struct lb_launched by;
    struct lb_world *world; /* NULL: alone */
    struct lb_report *report;
    atomic_bool told; /* people know why all ranks end */
};

/* Rank 0 speaks for all. */
static bool speaks(const struct place *p)
{
    return p->by.rank <= 0;
}

static void on_late(void *ctx, const char *text, bool tell)
{
    struct place *p = ctx;
    if (tell && !atomic_exchange(&p->told, true))
        lb_report_message(p->report, LB_LOG_ERROR, text);
    atomic_store(&p->told, true);
}

/* What every rank has to say would be said many times: others than rank 0 tell of it to who debugs. */
static void set_log(struct lb_cli *cli, const struct place *p)
{
    enum lb_log_level level = (enum lb_log_level)cli->log_level;
    if (!speaks(p) && level != LB_LOG_DEBUG)
        level = LB_LOG_ERROR;
    cli->run.log = (struct lb_log){level, lb_report_message, p->report};
}

/* Joins the other ranks, and takes their word for how it went so far. */
static enum lb_status join(struct place *p, const struct lb_cli *cli, enum lb_status status, struct lb_err *err)
{
    struct lb_launch l = {.n_task = p->by.n_task,
                          .timeout_s = (double)cli->rank_timeout_s,
                          .log = &cli->run.log,
                          .late = on_late,
                          .ctx = p};
    if (p->by.strangers && status == LB_OK) /* Open MPI would end the program inside MPI_Init, with words of its own */
        status =
            lb_err_set(err, LB_E_USAGE,
                       "Slurm started %d tasks, and MPI cannot find them: pass --mpi=pmix to srun; --no-mpi runs each "
                       "task alone",
                       p->by.n_task);
    if (p->by.strangers)
        return status;
    lb_launch_prepare();
    struct lb_err why = LB_ERR_INIT;
    enum lb_status joined = lb_join(&p->world, &l, &why);
    if (joined != LB_OK)
        return lb_err_set(err, joined, "%s", why.text);
    struct lb_rank_place at = lb_rank_of(p->world);
    if (at.size == 1 && p->by.rank > 0 && status == LB_OK)
        status = lb_err_set(err, LB_E_USAGE,
                            "the launcher calls this task %d, but MPI sees 1 task: with srun pass --mpi=pmix; --no-mpi "
                            "runs each task alone",
                            p->by.rank);
    p->by.rank = at.rank;
    if (at.size > 1)
        lb_report_place(p->report, at.rank, at.host);
    return lb_agree(p->world, status, err);
}

static enum lb_status check_input(const struct lb_cli *cli, struct lb_err *err)
{
    if (cli->run.prompt || cli->run.n_input > 0 || !isatty(STDIN_FILENO))
        return LB_OK;
    return lb_err_set(err, LB_E_USAGE,
                      "no input: llmbatch -m MODEL -i prompts.jsonl -o out.jsonl, or rows on standard input "
                      "(--help lists the options)");
}

static enum lb_status check(struct lb_cli *cli, const struct place *p, struct lb_err *err)
{
    const char *library = getenv("LLMBATCH_CUDA_LIBRARY");
    const char *ring = getenv("LLMBATCH_NCCL_RING");
    cli->run.cuda_library = library && library[0] ? library : NULL;
    cli->run.nccl_ring = ring && strcmp(ring, "1") == 0;
    LB_TRY(read_clock(&cli->run.created, &cli->run.now, err));
    cli->run.unpack = asks_for("LLMBATCH_UNPACK");
    cli->run.no_ahead = asks_for("LLMBATCH_NO_AHEAD");
    cli->run.graphs = graphs_asked();
    cli->run.screens = screens_asked();
    return speaks(p) ? check_input(cli, err) : LB_OK;
}

static void report(struct lb_report *report, const struct lb_cli *cli, const struct lb_llm *llm)
{
    lb_report_end(report);
    if (lb_complete_output(llm))
        say_complete(report, lb_complete_output(llm));
    else if (cli->progress != LB_PROGRESS_OFF && !cli->run.plan)
        lb_report_summary(report, lb_stats_of(llm));
}

static enum lb_status run(struct lb_cli *cli, struct place *p, int *code, struct lb_err *err)
{
    struct lb_llm *llm = NULL;
    cli->run.world = p->world;
    cli->run.progress = cli->progress == LB_PROGRESS_OFF || !speaks(p) ? NULL : lb_report_progress;
    cli->run.progress_ctx = p->report;
    cli->run.page = lb_html_page;
    cli->run.stop = &lb_stop;
    enum lb_status status = check(cli, p, err);
    if (p->world)
        status = lb_agree(p->world, status, err);
    if (status == LB_OK && cli->merge) {
        status = speaks(p) ? lb_merge(&cli->run, err) : LB_OK;
        if (p->world)
            status = lb_agree(p->world, status, err);
        *code = (int)status;
        return status;
    }
    if (status == LB_OK)
        status = lb_open(&llm, &cli->run, err);
    if (status == LB_OK) {
        status = lb_run(llm, err);
        if (speaks(p))
            report(p->report, cli, llm);
        if (speaks(p) && cli->run.plan) {
            struct lb_err of_print = LB_ERR_INIT;
            enum lb_status printed = print_plan(llm, &of_print);
            if (status == LB_OK && printed != LB_OK)
                status = lb_err_set(err, printed, "%s", of_print.text);
        }
    }
    *code = lb_exit_code(llm, status);
    lb_close(llm);
    return status;
}

static enum lb_status print_completions(enum lb_shell shell, struct lb_err *err)
{
    struct lb_str text = {0};
    lb_complete_script(shell, &text);
    return print(&text, err);
}

/* Not for the other ranks: --help, --version and --completions. */
static enum lb_status print_about(const struct lb_cli *cli, const struct place *p, struct lb_err *err)
{
    if (!speaks(p))
        return LB_OK;
    if (cli->completions)
        return print_completions((enum lb_shell)cli->completions, err);
    return cli->help ? print_help(err) : print_version(err);
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_cli cli;
    struct lb_report rep;
    struct place p = {.report = &rep, .by = {.rank = -1}};
    fill_standard_streams();
    catch_signals();
    enum lb_status status = lb_cli_parse(&cli, argc, argv, &err);
    bool about = status == LB_OK && (cli.help || cli.version || cli.completions);
    if (!cli.no_mpi)
        p.by = lb_launched();
    lb_report_init(&rep, cli.progress);
    set_log(&cli, &p);
    if (p.by.by_launcher && !about)
        status = join(&p, &cli, status, &err);
    int code = (int)status;
    if (about)
        code = (int)(status = print_about(&cli, &p, &err));
    else if (status == LB_OK)
        status = run(&cli, &p, &code, &err);
    if (status != LB_OK && speaks(&p) && !atomic_load(&p.told))
        lb_report_message(&rep, status == LB_E_INTERRUPTED ? LB_LOG_WARN : LB_LOG_ERROR, err.text);
    if (p.world)
        lb_leave(p.world, code);
    lb_report_release(&rep);
    lb_cli_release(&cli);
    return code;
}
