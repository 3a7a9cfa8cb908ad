#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/str.h"
#include "core/io/gguf.h"
#include "core/io/wfile.h"
#include "core/tests/golden/golden.h"

/* An adapter on its way to a file, and what it makes of the model. */
struct making {
    const struct golden_adapter *a;
    uint32_t state;
    struct lb_str header, data; /* of adapter_model.safetensors */
    uint8_t *merged;            /* the model's file with merged weights */
    size_t n_merged;
    int64_t head_dim; /* of GGUF's Q and K */
    int n_module;
};

static float draw(struct making *m)
{
    m->state = m->state * 1664525u + 1013904223u;
    return (float)(m->state >> 8) / 8388608.0f - 1;
}

/* Adds a tensor of the adapter, rounded to bf16 where it is asked for: x becomes what the file says. */
static void add_tensor(struct making *m, const char *path, const char *ab, const int64_t dim[2], float *x)
{
    int64_t n = dim[0] * dim[1];
    size_t begin = m->data.len;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u = m->a->bf16 ? u & 0xffff0000u : u;
        memcpy(&x[i], &u, sizeof u);
        if (m->a->bf16)
            lb_str_put(&m->data, (char *)&u + 2, 2);
        else
            lb_str_put(&m->data, &u, 4);
    }
    lb_str_putf(&m->header,
                "%s\"base_model.model.%s.lora_%s.weight\":{\"dtype\":\"%s\",\"shape\":[%lld,%lld],\"data_offsets\":"
                "[%zu,%zu]}",
                m->header.len > 1 ? "," : "", path, ab, m->a->bf16 ? "BF16" : "F32", (long long)dim[0],
                (long long)dim[1], begin, m->data.len);
}

/* GGUF keeps the rows of a head of Q and K in pairs: where Hugging Face's row i stands. */
static int64_t stored_row(const struct making *m, const char *path, int64_t i)
{
    int64_t half = m->head_dim / 2, in = m->head_dim > 0 ? i % m->head_dim : 0;
    if (m->head_dim == 0 || (!strstr(path, "q_proj") && !strstr(path, "k_proj")))
        return i;
    return i - in + 2 * (in % half) + in / half;
}

static void merge(struct making *m, const char *path, const struct lb_wtensor *t, const float *a, const float *b)
{
    int64_t n_row = t->dim[0], n_col = t->dim[1], r = m->a->rank;
    double scale = m->a->alpha / (m->a->rslora ? sqrt((double)r) : (double)r);
    size_t at = (size_t)(t->data - m->merged);
    uint8_t *to = m->merged + at;
    for (int64_t i = 0; i < n_row; i++) {
        uint8_t *row = to + (size_t)(stored_row(m, path, i) * n_col) * sizeof(float);
        for (int64_t k = 0; k < n_col; k++) {
            float w;
            double sum = 0;
            memcpy(&w, row + (size_t)k * sizeof w, sizeof w);
            for (int64_t j = 0; j < r; j++)
                sum += (double)b[i * r + j] * (double)a[j * n_col + k];
            w = (float)((double)w + scale * sum);
            memcpy(row + (size_t)k * sizeof w, &w, sizeof w);
        }
    }
}

static void add_module(struct making *m, const char *path, const struct lb_wtensor *t)
{
    int64_t r = m->a->rank, dim_a[2] = {r, t->dim[1]}, dim_b[2] = {t->dim[0], r};
    float *a = malloc((size_t)(r * t->dim[1]) * sizeof *a), *b = malloc((size_t)(r * t->dim[0]) * sizeof *b);
    for (int64_t i = 0; i < r * t->dim[1]; i++)
        a[i] = draw(m) / sqrtf((float)t->dim[1]);
    for (int64_t i = 0; i < r * t->dim[0]; i++)
        b[i] = draw(m) * 0.5f;
    add_tensor(m, path, "A", dim_a, a);
    add_tensor(m, path, "B", dim_b, b);
    if (m->merged)
        merge(m, path, t, a, b);
    m->n_module++;
    free(a);
    free(b);
}

/* The module of a tensor, in Hugging Face's words; false: the adapter has none for it. */
static bool module_of(const struct golden_adapter *a, const char *name, char *path, size_t n)
{
    static const char *const gguf[][2] = {{"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
                                          {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"},
                                          {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
                                          {"ffn_down", "mlp.down_proj"}};
    int layer;
    char word[32];
    if (sscanf(name, "blk.%d.%31[a-z_].weight", &layer, word) == 2) {
        size_t i = 0;
        while (i < 7 && strcmp(word, gguf[i][0]) != 0)
            i++;
        if (i == 7)
            return false;
        snprintf(path, n, "model.layers.%d.%s", layer, gguf[i][1]);
    } else {
        size_t len = strlen(name);
        if (len < 7 || strcmp(name + len - 7, ".weight") != 0)
            return false;
        snprintf(path, n, "%.*s", (int)(len - 7), name);
        const char *at = strstr(path, "layers.");
        if (!at || sscanf(at, "layers.%d.", &layer) != 1)
            return false;
    }
    for (const char *const *t = a->target; *t; t++) {
        size_t len = strlen(*t), all = strlen(path);
        if (layer < a->n_layer && all > len && strcmp(path + all - len, *t) == 0 && path[all - len - 1] == '.')
            return true;
    }
    return false;
}

static void put_file(const char *dir, const char *name, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path); /* may be a link to the model's */
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static void put_adapter(const struct making *m)
{
    const struct golden_adapter *a = m->a;
    struct lb_str config = {0}, file = {0};
    lb_str_putf(&config, "{\"peft_type\":\"LORA\",\"r\":%lld,\"lora_alpha\":%g,\"use_rslora\":%s,\"bias\":\"none\",",
                (long long)(a->patterned ? 1 : a->rank), a->patterned ? 1.0 : a->alpha, a->rslora ? "true" : "false");
    if (a->patterned)
        lb_str_putf(&config,
                    "\"rank_pattern\":{\"never\":3,\".*[a-z]\":%lld},\"alpha_pattern\":{"
                    "\".*\":%g},",
                    (long long)a->rank, a->alpha);
    lb_str_puts(&config, "\"target_modules\":[");
    for (const char *const *t = a->target; *t; t++)
        lb_str_putf(&config, "%s\"%s\"", t == a->target ? "" : ",", *t);
    lb_str_puts(&config, "]}");
    uint64_t n = m->header.len;
    lb_str_put(&file, &n, sizeof n);
    lb_str_put(&file, m->header.data, m->header.len);
    lb_str_put(&file, m->data.data, m->data.len);
    put_file(a->into, "adapter_config.json", config.data, config.len);
    put_file(a->into, "adapter_model.safetensors", file.data, file.len);
    lb_str_release(&config);
    lb_str_release(&file);
}

/* The model's whole file, to be changed in place; w's tensors then lie in it. */
static void take_file(struct making *m, struct lb_wfile *w)
{
    if (w->n_map != 1)
        abort();
    m->n_merged = w->map[0].size_bytes;
    m->merged = malloc(m->n_merged);
    memcpy(m->merged, w->map[0].data, m->n_merged);
    for (size_t i = 0; i < w->n_tensor; i++)
        w->tensor[i].data = m->merged + (w->tensor[i].data - w->map[0].data);
}

int golden_adapter(const struct golden_adapter *a)
{
    struct making m = {.a = a, .state = a->seed};
    struct lb_err err = LB_ERR_INIT;
    struct lb_gguf g = {0};
    struct lb_wfile file = {0}, *w = &file;
    char path[256];
    bool is_gguf = strlen(a->model) > 5 && strcmp(a->model + strlen(a->model) - 5, ".gguf") == 0;
    if ((is_gguf ? lb_gguf_open(&g, a->model, &err) : lb_safetensors_open(&file, a->model, &err)) != LB_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    w = is_gguf ? &g.w : w;
    m.head_dim = is_gguf ? a->head_dim : 0;
    if (a->merged)
        take_file(&m, w);
    lb_str_puts(&m.header, "{");
    for (size_t i = 0; i < w->n_tensor; i++)
        if (w->tensor[i].n_dim == 2 && module_of(a, w->tensor[i].name, path, sizeof path))
            add_module(&m, path, &w->tensor[i]);
    lb_str_puts(&m.header, "}");
    put_adapter(&m);
    if (a->merged)
        put_file(a->merged, is_gguf ? "merged.gguf" : "model.safetensors", m.merged, m.n_merged);
    lb_str_release(&m.header);
    lb_str_release(&m.data);
    free(m.merged);
    if (is_gguf)
        lb_gguf_close(&g);
    else
        lb_wfile_close(&file);
    return m.n_module;
}
