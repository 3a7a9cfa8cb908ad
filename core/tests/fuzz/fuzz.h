/* Shared by the fuzz targets (README.md here): a target is one file fuzz_<target>.c that defines
 * LLVMFuzzerTestOneInput. libFuzzer calls it with inputs of its own, replay.c with those of corpus/<target>. */
#ifndef CORE_TESTS_FUZZ_FUZZ_H
#define CORE_TESTS_FUZZ_FUZZ_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold for every input; a failure ends the program, which the fuzzer counts as a finding. */
#define FUZZ_REQUIRE(condition)                                                     \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

/* Of one rendering of a template: what a sanitized program does in a second or so. */
#define FUZZ_STEPS 300000

/* A call that may refuse its input, but must then say why and nothing else: memory does not run out here. */
static inline bool fuzz_ok(enum lb_status status, const struct lb_err *err)
{
    FUZZ_REQUIRE(status == err->status);
    if (status != LB_OK && (status != LB_E_INPUT || !err->text[0]))
        fprintf(stderr, "status %d: %s\n", (int)status, err->text);
    FUZZ_REQUIRE(status == LB_OK || (status == LB_E_INPUT && err->text[0]));
    return status == LB_OK;
}

/* Cuts the next part, which ends at a zero byte, off an input of several texts. *part is lent and not terminated. */
static inline size_t fuzz_part(const uint8_t **data, size_t *size, const char **part)
{
    const uint8_t *end = *size ? memchr(*data, 0, *size) : NULL;
    size_t n = end ? (size_t)(end - *data) : *size, step = end ? n + 1 : n;
    *part = (const char *)*data;
    *data += step;
    *size -= step;
    return n;
}

/* ---- files, for what opens nothing else: in a folder of this process, in memory where the system has /dev/shm ---- */

static char fuzz_dir[64];

static inline const char *fuzz_path(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir, name);
    return path;
}

static const char *const fuzz_file_names[] = {"tokenizer.json",    "tokenizer_config.json",
                                              "tokenizer.model",   "chat_template.jinja",
                                              "model.gguf",        "config.json",
                                              "a.safetensors",     "generation_config.json",
                                              "model.safetensors", "model.safetensors.index.json",
                                              "b.safetensors"};

static inline void fuzz_files_remove(void)
{
    for (size_t i = 0; i < sizeof fuzz_file_names / sizeof *fuzz_file_names; i++)
        unlink(fuzz_path(fuzz_file_names[i]));
    rmdir(fuzz_dir);
}

/* Makes the folder at the first call. */
static inline const char *fuzz_files(void)
{
    if (fuzz_dir[0])
        return fuzz_dir;
    snprintf(fuzz_dir, sizeof fuzz_dir, "%s/llmbatch-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    FUZZ_REQUIRE(mkdtemp(fuzz_dir));
    atexit(fuzz_files_remove);
    return fuzz_dir;
}

/* Writes one of fuzz_file_names; data NULL: there is no such file. */
static inline void fuzz_file(const char *name, const void *data, size_t n)
{
    fuzz_files();
    if (!data) {
        unlink(fuzz_path(name));
        return;
    }
    int fd = open(fuzz_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    FUZZ_REQUIRE(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
}

#endif
