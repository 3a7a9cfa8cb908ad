/* What tests of whole runs on the stand-ins share: the library's knobs, and a made model as a folder. Included behind
 * cmocka.h. */
#ifndef CORE_TESTS_CUDA_STANDINRUN_H
#define CORE_TESTS_CUDA_STANDINRUN_H

#include <dlfcn.h>

#include "core/base/file.h"
#include "core/llmbatch.h"
#include "core/tests/mademodel.h"
#include "core/tests/modelfiles.h"

/* The stand-ins' knobs (kernels/tests/standin/standins.h), found in the library. */
static struct {
    const char *path;
    void (*arm)(long n, bool dead);
    void (*arm_at)(const char *call, long n, bool dead); /* call NULL: any */
    long (*calls)(void);
    const char *(*failed)(void);
    const char *(*reports)(void);
    int (*end)(void);
    void (*forget)(void);
    void (*devices)(int n, size_t bytes);
} lib;

static inline void find(void *to, void *library, const char *name)
{
    void *p = dlsym(library, name);
    if (!p) {
        fprintf(stderr, "%s is not in the library\n", name);
        exit(1);
    }
    memcpy(to, &p, sizeof p);
}

static inline void find_all(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    lib.path = path;
    find(&lib.arm, library, "standin_fail");
    find(&lib.arm_at, library, "standin_fail_at");
    find(&lib.calls, library, "standin_calls");
    find(&lib.failed, library, "standin_failed");
    find(&lib.reports, library, "standin_reports");
    find(&lib.end, library, "standin_end");
    find(&lib.forget, library, "standin_forget");
    find(&lib.devices, library, "standin_devices");
}

static inline void keep(char *to, const char *name)
{
    snprintf(to, 512, "%s", scratch_path(name));
}

/* A made model as a folder: the scratch one. */
static inline void write_model(const char *config)
{
    struct made made;
    struct lb_str head = {0}, data = {0};
    made_open(&made, config, LB_W_F32, 7);
    for (size_t i = 0; i < made.file.n_tensor; i++) {
        const struct lb_wtensor *t = &made.file.tensor[i];
        int64_t n = 1;
        lb_str_putf(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", t->name);
        for (int d = 0; d < t->n_dim; d++) {
            lb_str_putf(&head, "%s%lld", d ? "," : "", (long long)t->dim[d]);
            n *= t->dim[d];
        }
        lb_str_putf(&head, "],\"data_offsets\":[%zu,", data.len);
        lb_str_put(&data, t->data, (size_t)n * sizeof(float));
        lb_str_putf(&head, "%zu]}", data.len);
    }
    lb_str_putc(&head, '}');
    scratch_safetensors("model.safetensors", head.data, data.data, data.len);
    scratch_text("config.json", config);
    lb_str_release(&head);
    lb_str_release(&data);
    made_close(&made);
}

static char in_path[512], out_path[512], partial_path[512], model_path[512];

/* A run of the model in model_path over in_path to out_path on the device, by itself and quiet. */
static inline void run_options(struct lb_options *o)
{
    static const char *inputs[1];
    inputs[0] = in_path;
    lb_options_init(o);
    o->model = model_path;
    o->inputs = inputs;
    o->n_input = 1;
    o->output = out_path;
    o->device = "cuda";
    o->cuda_library = lib.path;
    o->threads = 1;
    o->audit = LB_AUDIT_OFF;
}

static inline enum lb_status run_with(const struct lb_options *o, struct lb_stats *stats, int *code, struct lb_err *err)
{
    struct lb_llm *llm = NULL;
    *err = (struct lb_err)LB_ERR_INIT;
    enum lb_status status = lb_open(&llm, o, err);
    if (status == LB_OK)
        status = lb_run(llm, err);
    *code = lb_exit_code(llm, status);
    *stats = llm ? *lb_stats_of(llm) : (struct lb_stats){0};
    lb_close(llm);
    return status;
}

static inline void check_standin(const char *what)
{
    if (*lib.reports())
        fail_msg("%s: %s", what, lib.reports());
    if (lib.end() != 0)
        fail_msg("%s: left over: %s", what, lib.reports());
    lib.forget();
}

/* Finished rows of a partial file, in which a header stands before them; 0 where there is none. */
static inline int64_t kept_rows(const char *path)
{
    struct lb_str text = {0};
    struct lb_err err = LB_ERR_INIT;
    int64_t n = 0;
    if (lb_file_exists(path) && lb_file_read(path, 1 << 20, &text, &err) == LB_OK)
        for (size_t i = 0; i < text.len; i++)
            n += text.data[i] == '\n';
    lb_str_release(&text);
    return n > 0 ? n - 1 : 0;
}

#endif
