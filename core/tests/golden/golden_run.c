#define _GNU_SOURCE
#include "core/tests/golden/golden.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/hardware.h"
#include "core/tests/whole.h"

static void print_log(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    if (level <= LB_LOG_ERROR)
        fprintf(stderr, "log: %s\n", text);
}

const char *golden_without, *golden_cuda;

static const char *const *sets_of(bool f32)
{
    static struct {
        char list[128]; /* what the names point into */
        const char *set[16];
    } kept[2];
    const char **set = kept[f32].set;
    char *list = kept[f32].list, *rest = list;
    size_t n = 0;
    snprintf(list, sizeof kept->list, "%s", golden_cuda ? "cuda" : lb_isa_list());
    for (char *name = strtok_r(list, " ", &rest); name && n < 15; name = strtok_r(NULL, " ", &rest))
        if ((!golden_without || strcmp(name, golden_without) != 0) && !(f32 && golden_falls_back(name)))
            set[n++] = name;
    set[n] = NULL;
    return set;
}

const char *const *golden_sets(void)
{
    return sets_of(false);
}

const char *const *golden_f32_sets(void)
{
    return sets_of(true);
}

bool golden_falls_back(const char *isa)
{
    return !golden_cuda && !hardware_covers_f32(isa);
}

enum golden_extent golden_extent(void)
{
    if (is_whole())
        return EXTENT_FULL;
    if (golden_cuda || is_sanitized()) /* each thread of a device is modeled */
        return EXTENT_SANITIZED;
    return golden_without ? EXTENT_MODEL : EXTENT_SAMPLE;
}

const char *const *golden_lora;
size_t golden_n_lora;

void golden_options(struct lb_options *o, const char *model)
{
    lb_options_init(o);
    o->lora = golden_lora;
    o->n_lora = golden_n_lora;
    o->model = model;
    o->dtype = "f32";
    o->threads = 2;
    o->screens = 1;
    o->token_ids = true;
    o->gen.set = LB_GEN_TEMPERATURE; /* greedy, whatever generation_config.json says: so were the goldens made */
    o->gen.temperature = 0;
    o->log = (struct lb_log){.level = LB_LOG_ERROR, .emit = print_log};
}

json_t *golden_read(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    json_t *rows = json_array();
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0) {
        json_error_t error;
        json_t *row = json_loads(line, JSON_ALLOW_NUL, &error);
        if (!row) {
            fprintf(stderr, "%s: %s\n", path, error.text);
            abort();
        }
        json_array_append_new(rows, row);
    }
    free(line);
    fclose(f);
    return rows;
}

json_t *golden_id_row(const json_t *golden, const char *id_suffix, json_int_t max_tokens)
{
    char id[128];
    snprintf(id, sizeof id, "%s%s", json_string_value(json_object_get(golden, "id")), id_suffix);
    return json_pack("{s:s,s:O,s:I}", "id", id, "prompt_token_ids", json_object_get(golden, "prompt_token_ids"),
                     "max_tokens", max_tokens);
}

void golden_thin(json_t *rows, size_t step)
{
    for (size_t i = json_array_size(rows); i-- > 0;)
        if (i % step != step - 1)
            json_array_remove(rows, i);
}

void golden_shorten(json_t *rows, size_t n)
{
    static const char *const lists[] = {"greedy_ids", "logprobs", "step_top8"};
    json_t *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        for (int k = 0; k < 3; k++) {
            json_t *list = json_object_get(row, lists[k]);
            while (json_array_size(list) > n)
                json_array_remove(list, json_array_size(list) - 1);
        }
    }
}

static char *read_all(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f)
        abort();
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *text = calloc(n + 1, 1);
    if (fread(text, 1, n, f) != n)
        abort();
    fclose(f);
    return text;
}

void golden_run(struct lb_options *o, const json_t *rows, struct golden_out *out)
{
    struct lb_err err = LB_ERR_INIT;
    if (golden_try(o, rows, out, &err) == LB_OK)
        return;
    fprintf(stderr, "run of %s failed: %s\n", o->model, err.text);
    abort();
}

enum lb_status golden_try(struct lb_options *o, const json_t *rows, struct golden_out *out, struct lb_err *err)
{
    char dir[] = "/tmp/lb-golden-XXXXXX", in[64], path[64], stats[64];
    if (!mkdtemp(dir))
        abort();
    snprintf(in, sizeof in, "%s/in.jsonl", dir);
    snprintf(path, sizeof path, "%s/out.jsonl", dir);
    snprintf(stats, sizeof stats, "%s/out.jsonl.stats.json", dir);
    FILE *f = fopen(in, "w");
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        char *text = json_dumps(row, JSON_COMPACT);
        fprintf(f, "%s\n", text);
        free(text);
    }
    fclose(f);
    const char *inputs[] = {in};
    o->inputs = inputs;
    o->n_input = 1;
    o->output = path;
    if (golden_cuda && !(o->isa && strcmp(o->isa, "ref") == 0)) {
        o->device = "cuda";
        o->cuda_library = golden_cuda;
        o->isa = NULL;
    }
    struct lb_llm *llm = NULL;
    enum lb_status status = lb_open(&llm, o, err);
    if (status == LB_OK)
        status = lb_run(llm, err);
    *out = (struct golden_out){.exit_code = (int)status};
    if (status == LB_OK) {
        out->exit_code = lb_exit_code(llm, status);
        out->stats = *lb_stats_of(llm);
    }
    lb_close(llm);
    if (status == LB_OK) {
        out->text = read_all(path);
        out->rows = golden_read(path);
    }
    unlink(in);
    unlink(path);
    unlink(stats);
    rmdir(dir);
    return status;
}

void golden_out_release(struct golden_out *out)
{
    free(out->text);
    json_decref(out->rows);
    *out = (struct golden_out){0};
}

void golden_bend(const char *dir, const char *into, const json_t *change)
{
    char from[512], to[512];
    const char *key;
    json_t *value;
    DIR *d = opendir(dir);
    if (!d)
        abort();
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(from, sizeof from, "%s/%s", dir, e->d_name);
        snprintf(to, sizeof to, "%s/%s", into, e->d_name);
        unlink(to);
        if (e->d_name[0] != '.' && strcmp(e->d_name, "config.json") != 0 && symlink(from, to) != 0)
            abort();
    }
    closedir(d);
    snprintf(from, sizeof from, "%s/config.json", dir);
    snprintf(to, sizeof to, "%s/config.json", into);
    json_t *config = json_load_file(from, 0, NULL);
    if (!config || json_object_update(config, (json_t *)(uintptr_t)change) != 0)
        abort();
    json_object_foreach((json_t *)(uintptr_t)change, key, value)
    {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "(absent)") == 0)
            json_object_del(config, key);
    }
    if (json_dump_file(config, to, 0) != 0)
        abort();
    json_decref(config);
}
