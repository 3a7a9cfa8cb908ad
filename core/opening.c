#define _GNU_SOURCE
#include "core/opening.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/run/settings.h"

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    if (strcmp(a, b) == 0)
        return true;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static enum lb_status check_folder(const struct lb_side_file *f, struct lb_err *err)
{
    const char *slash = strrchr(f->path, '/');
    char *folder =
        slash ? lb_mem_strndup(f->path, slash == f->path ? 1 : (size_t)(slash - f->path)) : lb_mem_strdup(".");
    if (!folder)
        return lb_err_memory(err, "a path", strlen(f->path));
    enum lb_status status = LB_OK;
    if (access(folder, W_OK) != 0)
        status = lb_err_set(err, LB_E_USAGE, "cannot write %s '%s': %s", f->option, f->path, strerror(errno));
    lb_mem_free(folder);
    return status;
}

enum lb_status lb_check_side_files(const struct lb_side_file *file, size_t n, const char *output,
                                   const char *const *inputs, size_t n_input, struct lb_err *err)
{
    for (const struct lb_side_file *f = file; f < file + n; f++) {
        if (!f->path)
            continue;
        for (size_t i = 0; i < n_input; i++)
            if (same_file(f->path, inputs[i]))
                return lb_err_set(err, LB_E_USAGE, "%s '%s' is an input", f->option, f->path);
        if (output && same_file(f->path, output))
            return lb_err_set(err, LB_E_USAGE, "%s '%s' is the output", f->option, f->path);
        for (const struct lb_side_file *g = file; g < f; g++)
            if (g->path && same_file(f->path, g->path))
                return lb_err_set(err, LB_E_USAGE, "%s '%s' is also that of %s", f->option, f->path, g->option);
        if (lb_file_is_dir(f->path))
            return lb_err_set(err, LB_E_USAGE, "%s '%s' is a directory", f->option, f->path);
        LB_TRY(check_folder(f, err));
    }
    return LB_OK;
}

int64_t lb_plain_bytes(const char *path, bool *stream)
{
    static const uint8_t gzip[] = {0x1f, 0x8b}, zstd[] = {0x28, 0xb5, 0x2f, 0xfd};
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : -1;
    struct stat st;
    if ((standard ? fstat(fd, &st) : stat(path, &st)) != 0 || !S_ISREG(st.st_mode)) {
        *stream = true;
        return -1;
    }
    uint8_t head[4] = {0};
    if (!standard)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, head, sizeof head, 0);
    if (!standard && fd >= 0)
        close(fd);
    if (got < 0 || memcmp(head, gzip, sizeof gzip) == 0 || memcmp(head, zstd, sizeof zstd) == 0)
        return -1;
    return (int64_t)st.st_size;
}

#define LOOK_BYTES ((size_t)1 << 20)
#define TEXT_BYTES 5.0 /* of a token's text, or of an id with its comma */
#define NEW_SHARE 0.5  /* of max_tokens that a row uses */

static double new_tokens(const struct lb_gen *gen, double most)
{
    return gen->set & LB_GEN_IGNORE_EOS && gen->ignore_eos ? most : NEW_SHARE * most;
}

static double most_new(const struct lb_gen *gen)
{
    return gen->set & LB_GEN_MAX_TOKENS ? (double)gen->max_tokens : LB_DEFAULT_MAX_TOKENS;
}

struct lb_expect lb_expect_of_prompt(const char *prompt, const struct lb_gen *gen)
{
    int64_t n = gen->set & LB_GEN_N ? gen->n : 1;
    double row = (double)strlen(prompt) / TEXT_BYTES + new_tokens(gen, most_new(gen));
    return (struct lb_expect){.n_row = n, .row_tokens = row, .work_tokens = row * (double)n};
}

/* Mean of the numbers behind a member's name; `none` where there are none. */
static double mean_of(const char *text, const char *name, double none)
{
    double sum = 0, n = 0;
    for (size_t len = strlen(name); (text = strstr(text, name)) != NULL; text += len) {
        sum += strtod(text + len, NULL);
        n++;
    }
    return n > 0 ? sum / n : none;
}

struct lb_expect lb_expect_of_inputs(const char *const *inputs, size_t n_input, int64_t input_bytes,
                                     const struct lb_gen *gen)
{
    struct lb_expect e = {0};
    char *text = input_bytes > 0 && n_input > 0 ? lb_mem_new(LOOK_BYTES + 1, 1) : NULL;
    int fd = text ? open(inputs[0], O_RDONLY | O_CLOEXEC) : -1;
    ssize_t got = fd < 0 ? -1 : pread(fd, text, LOOK_BYTES, 0);
    if (fd >= 0)
        close(fd);
    double n = 0;
    for (ssize_t i = 0; i < got; i++) {
        n += text[i] == '\n' || i + 1 == got;
        text[i] = text[i] ? text[i] : ' ';
    }
    if (n > 0) {
        double row_bytes = (double)got / n, n_row = (double)input_bytes / row_bytes;
        bool whole = input_bytes <= got, one = !strstr(text, "\"n\"") && !(gen->set & LB_GEN_N);
        e.n_row = whole && one ? (int64_t)n : 0;
        e.row_tokens = row_bytes / TEXT_BYTES + new_tokens(gen, mean_of(text, "\"max_tokens\":", most_new(gen)));
        e.work_tokens = n_row * e.row_tokens;
    }
    lb_mem_free(text);
    return e;
}

static void *open_tokenizer(void *arg)
{
    struct lb_tok_job *job = arg;
    job->status = job->dir ? lb_tok_open_dir(&job->tok, job->dir, &job->err)
                           : lb_tok_open_vocab(&job->tok, job->vocab, &job->err);
    job->status = lb_mem_blame(job->status, "opening the tokenizer", &job->err);
    return NULL;
}

void lb_tok_job_begin(struct lb_tok_job *job)
{
    job->started = pthread_create(&job->thread, NULL, open_tokenizer, job) == 0;
    if (!job->started)
        open_tokenizer(job);
}

enum lb_status lb_tok_job_end(struct lb_tok_job *job, struct lb_tok **out, struct lb_err *err)
{
    if (job->started)
        pthread_join(job->thread, NULL);
    *out = job->tok;
    return job->status == LB_OK ? LB_OK : lb_err_set(err, job->status, "%s", job->err.text);
}
