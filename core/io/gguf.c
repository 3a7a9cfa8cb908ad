/* GGUF v2 and v3 (ggml docs/gguf.md and src/gguf.cpp): the walk over metadata and tensor infos, and the lookups. */
#include "core/io/gguf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

#define KV_MIN_BYTES (8 + 1 + 4 + 1)       /* key, type, value */
#define INFO_MIN_BYTES (8 + 1 + 4 + 4 + 8) /* name, n_dims, type, offset */
#define NAME_MAX_BYTES 63
#define MAX_DIMS 4

/* ggml types by number (ggml/include/ggml.h): elements and bytes of a block. */
struct ggml_type {
    uint32_t id;
    const char *name;
    uint32_t block, bytes;
    enum lb_wtype type;
};

static const struct ggml_type types[] = {
    {0, "F32", 1, 4, LB_W_F32},           {1, "F16", 1, 2, LB_W_F16},
    {2, "Q4_0", 32, 18, LB_W_Q4_0},       {3, "Q4_1", 32, 20, LB_W_Q4_1},
    {6, "Q5_0", 32, 22, LB_W_Q5_0},       {7, "Q5_1", 32, 24, LB_W_Q5_1},
    {8, "Q8_0", 32, 34, LB_W_Q8_0},       {9, "Q8_1", 32, 36, LB_W_OTHER},
    {10, "Q2_K", 256, 84, LB_W_Q2_K},     {11, "Q3_K", 256, 110, LB_W_Q3_K},
    {12, "Q4_K", 256, 144, LB_W_Q4_K},    {13, "Q5_K", 256, 176, LB_W_Q5_K},
    {14, "Q6_K", 256, 210, LB_W_Q6_K},    {15, "Q8_K", 256, 292, LB_W_OTHER},
    {16, "IQ2_XXS", 256, 66, LB_W_OTHER}, {17, "IQ2_XS", 256, 74, LB_W_OTHER},
    {18, "IQ3_XXS", 256, 98, LB_W_OTHER}, {19, "IQ1_S", 256, 50, LB_W_OTHER},
    {20, "IQ4_NL", 32, 18, LB_W_IQ4_NL},  {21, "IQ3_S", 256, 110, LB_W_OTHER},
    {22, "IQ2_S", 256, 82, LB_W_OTHER},   {23, "IQ4_XS", 256, 136, LB_W_IQ4_XS},
    {24, "I8", 1, 1, LB_W_OTHER},         {25, "I16", 1, 2, LB_W_OTHER},
    {26, "I32", 1, 4, LB_W_OTHER},        {27, "I64", 1, 8, LB_W_OTHER},
    {28, "F64", 1, 8, LB_W_OTHER},        {29, "IQ1_M", 256, 56, LB_W_OTHER},
    {30, "BF16", 1, 2, LB_W_BF16},        {34, "TQ1_0", 256, 54, LB_W_OTHER},
    {35, "TQ2_0", 256, 66, LB_W_OTHER},   {39, "MXFP4", 32, 17, LB_W_OTHER},
    {40, "NVFP4", 64, 36, LB_W_OTHER},    {41, "Q1_0", 128, 18, LB_W_OTHER},
};

/* Bytes of a value of each enum lb_gguf_type; 0: not of fixed size. */
static const uint8_t value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct cursor {
    const char *path;
    const uint8_t *data;
    size_t size, at;
};

static uint64_t load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static bool skip(struct cursor *c, uint64_t n)
{
    if (n > c->size - c->at)
        return false;
    c->at += (size_t)n;
    return true;
}

static bool take_u32(struct cursor *c, uint32_t *v)
{
    if (!skip(c, 4))
        return false;
    *v = (uint32_t)load(c->data + c->at - 4, 4);
    return true;
}

static bool take_u64(struct cursor *c, uint64_t *v)
{
    if (!skip(c, 8))
        return false;
    *v = load(c->data + c->at - 8, 8);
    return true;
}

static bool take_string(struct cursor *c, struct lb_bytes *s)
{
    uint64_t n;
    if (!take_u64(c, &n) || !skip(c, n))
        return false;
    *s = (struct lb_bytes){(const char *)c->data + c->at - n, (size_t)n};
    return true;
}

/* "PATH: key 'KEY': MESSAGE" (or tensor) */
__attribute__((format(printf, 5, 6))) static enum lb_status
refuse(const struct cursor *c, const char *what, struct lb_bytes name, struct lb_err *err, const char *fmt, ...)
{
    char text[256], shown[LB_SHOW_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return lb_err_set(err, LB_E_INPUT, "%s: %s '%s': %s", c->path, what, lb_wfile_show(shown, name.data, name.len),
                      text);
}

static enum lb_status too_short(const struct cursor *c, const char *where, uint64_t i, uint64_t n, struct lb_err *err)
{
    return lb_err_set(err, LB_E_INPUT, "%s: file ends inside its %s (%llu of %llu)", c->path, where,
                      (unsigned long long)i + 1, (unsigned long long)n);
}

/* Bytes are only 0 or 1, as the format asks. */
static bool bools_valid(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1)
            return false;
    return true;
}

static enum lb_status read_array(struct cursor *c, struct lb_gguf_kv *kv, struct lb_err *err)
{
    uint32_t elem;
    if (!take_u32(c, &elem) || !take_u64(c, &kv->n))
        return refuse(c, "key", kv->key, err, "file ends inside its value");
    if (elem == LB_GGUF_ARRAY)
        return refuse(c, "key", kv->key, err, "arrays of arrays are not supported");
    if (elem > LB_GGUF_F64)
        return refuse(c, "key", kv->key, err, "%u is not a type of GGUF", elem);
    kv->elem = (enum lb_gguf_type)elem;
    kv->data = c->data + c->at;
    uint64_t n = kv->n, left = c->size - c->at, one = elem == LB_GGUF_STRING ? 8 : value_bytes[elem];
    if (n > left / one)
        return refuse(c, "key", kv->key, err, "an array of %llu elements is longer than the file",
                      (unsigned long long)n);
    if (elem != LB_GGUF_STRING) {
        skip(c, n * one);
        if (elem == LB_GGUF_BOOL && !bools_valid(kv->data, n))
            return refuse(c, "key", kv->key, err, "a bool is neither 0 nor 1");
        return LB_OK;
    }
    for (uint64_t i = 0; i < n; i++) {
        struct lb_bytes s;
        if (!take_string(c, &s))
            return refuse(c, "key", kv->key, err, "string %llu of %llu is longer than the file", (unsigned long long)i,
                          (unsigned long long)n);
    }
    return LB_OK;
}

static enum lb_status read_kv(struct cursor *c, struct lb_gguf_kv *kv, uint64_t i, uint64_t n, struct lb_err *err)
{
    uint32_t type;
    struct lb_bytes s;
    if (!take_string(c, &kv->key) || !take_u32(c, &type))
        return too_short(c, "metadata", i, n, err);
    if (kv->key.len == 0)
        return lb_err_set(err, LB_E_INPUT, "%s: key %llu of %llu is empty", c->path, (unsigned long long)i + 1,
                          (unsigned long long)n);
    if (type > LB_GGUF_F64)
        return refuse(c, "key", kv->key, err, "%u is not a type of GGUF", type);
    kv->type = (enum lb_gguf_type)type;
    kv->n = 1;
    if (type == LB_GGUF_ARRAY)
        return read_array(c, kv, err);
    kv->elem = kv->type;
    kv->data = c->data + c->at;
    if (type == LB_GGUF_STRING ? !take_string(c, &s) : !skip(c, value_bytes[type]))
        return refuse(c, "key", kv->key, err, "file ends inside its value");
    if (type == LB_GGUF_BOOL && !bools_valid(kv->data, 1))
        return refuse(c, "key", kv->key, err, "a bool is neither 0 nor 1");
    return LB_OK;
}

static int compare(struct lb_bytes a, struct lb_bytes b)
{
    int c = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int by_key(const void *a, const void *b)
{
    return compare(((const struct lb_gguf_kv *)a)->key, ((const struct lb_gguf_kv *)b)->key);
}

static enum lb_status read_kvs(struct lb_gguf *g, struct cursor *c, uint64_t n, struct lb_err *err)
{
    size_t cap = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct lb_gguf_kv kv = {0};
        void *list = g->kv;
        LB_TRY(read_kv(c, &kv, i, n, err));
        enum lb_status status = lb_mem_grow(&list, &cap, g->n_kv + 1, sizeof kv, "GGUF metadata", err);
        g->kv = list;
        LB_TRY(status);
        g->kv[g->n_kv++] = kv;
    }
    if (n)
        qsort(g->kv, g->n_kv, sizeof *g->kv, by_key);
    for (size_t i = 1; i < g->n_kv; i++)
        if (by_key(&g->kv[i - 1], &g->kv[i]) == 0)
            return refuse(c, "key", g->kv[i].key, err, "is there twice");
    return LB_OK;
}

/* Reads one tensor info; its data is found later, when all infos have been read and their end is known. */
static enum lb_status read_info(struct cursor *c, struct lb_wtensor *t, struct lb_bytes *name, uint64_t *offset,
                                struct lb_err *err)
{
    uint32_t n_dims, type;
    uint64_t ne[MAX_DIMS] = {1, 1, 1, 1};
    if (!take_string(c, name) || !take_u32(c, &n_dims))
        return LB_E_INPUT;
    if (name->len == 0 || name->len > NAME_MAX_BYTES || memchr(name->data, 0, name->len))
        return refuse(c, "tensor", *name, err, "a name has 1 to %d bytes, none of them 0", NAME_MAX_BYTES);
    if (n_dims > MAX_DIMS)
        return refuse(c, "tensor", *name, err, "%u dimensions are more than %d", n_dims, MAX_DIMS);
    int64_t n_elem = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (!take_u64(c, &ne[i]))
            return LB_E_INPUT;
        if (ne[i] > INT64_MAX)
            return refuse(c, "tensor", *name, err, "dimension %u is negative", i);
        if (__builtin_mul_overflow(n_elem, (int64_t)ne[i], &n_elem))
            return refuse(c, "tensor", *name, err, "the product of its dimensions overflows");
        t->dim[n_dims - 1 - i] = (int64_t)ne[i];
    }
    if (!take_u32(c, &type) || !take_u64(c, offset))
        return LB_E_INPUT;
    const struct ggml_type *y = NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types && !y; i++)
        if (types[i].id == type)
            y = &types[i];
    if (!y)
        return refuse(c, "tensor", *name, err, "ggml type %u is not known", type);
    if (ne[0] % y->block)
        return refuse(c, "tensor", *name, err, "rows of %llu elements are no multiple of the %u of a block of %s",
                      (unsigned long long)ne[0], y->block, y->name);
    int64_t bytes;
    if (__builtin_mul_overflow(n_elem / y->block, (int64_t)y->bytes, &bytes))
        return refuse(c, "tensor", *name, err, "its size in bytes overflows");
    t->type = y->type;
    t->type_name = y->name;
    t->n_dim = (int)n_dims;
    t->n_bytes = (size_t)bytes;
    t->file = c->path;
    return LB_OK;
}

/* Checks offsets against the running sum of padded sizes and gives each tensor its data. c stands behind the infos. */
static enum lb_status place_tensors(struct lb_gguf *g, const struct cursor *c, const uint64_t *offset, uint64_t align,
                                    struct lb_err *err)
{
    uint64_t at = 0, start = (c->at + align - 1) / align * align;
    if (g->w.n_tensor && start > c->size)
        return lb_err_set(err, LB_E_INPUT, "%s: file ends before its tensor data at byte %llu", c->path,
                          (unsigned long long)start);
    uint64_t room = c->size - start;
    for (size_t i = 0; i < g->w.n_tensor; i++) {
        struct lb_wtensor *t = &g->w.tensor[i];
        struct lb_bytes name = {t->name, strlen(t->name)};
        if (offset[i] != at)
            return refuse(c, "tensor", name, err,
                          "offset %llu is not %llu, where the tensor before it ends (aligned to %llu)",
                          (unsigned long long)offset[i], (unsigned long long)at, (unsigned long long)align);
        if (at > room || t->n_bytes > room - at)
            return refuse(c, "tensor", name, err,
                          "file is shorter than its header says: %llu bytes at %llu, file of %zu",
                          (unsigned long long)t->n_bytes, (unsigned long long)(start + at), c->size);
        t->data = c->data + start + at;
        at += (t->n_bytes + align - 1) / align * align;
    }
    return LB_OK;
}

static enum lb_status read_tensors(struct lb_gguf *g, struct cursor *c, uint64_t n, uint64_t align, struct lb_err *err)
{
    size_t cap = 0, cap_offset = 0;
    void *offset = NULL, *list = NULL;
    enum lb_status status = LB_OK;
    for (uint64_t i = 0; i < n; i++) {
        struct lb_wtensor t = {0};
        struct lb_bytes name;
        uint64_t at = 0;
        status = read_info(c, &t, &name, &at, err);
        if (status != LB_OK) {
            status = too_short(c, "tensor list", i, n, err); /* kept back where read_info has said more */
            goto out;
        }
        char *own = lb_mem_strndup(name.data, name.len);
        LB_TRY_OUT(status, lb_wfile_own(&g->w, own, err));
        t.name = own;
        status = lb_mem_grow(&list, &cap, g->w.n_tensor + 1, sizeof t, "tensors", err);
        g->w.tensor = list;
        if (status != LB_OK)
            goto out;
        LB_TRY_OUT(status, lb_mem_grow(&offset, &cap_offset, g->w.n_tensor + 1, sizeof at, "tensors", err));
        ((uint64_t *)offset)[g->w.n_tensor] = at;
        g->w.tensor[g->w.n_tensor++] = t;
    }
    LB_TRY_OUT(status, place_tensors(g, c, offset, align, err));
    status = lb_wfile_sort(&g->w, err);
out:
    lb_mem_free(offset);
    return status;
}

static enum lb_status read_alignment(const struct lb_gguf *g, uint64_t *align, struct lb_err *err)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, "general.alignment");
    *align = 32;
    if (!kv)
        return LB_OK;
    *align = kv->type == LB_GGUF_U32 ? load(kv->data, 4) : 0;
    if (*align == 0 || (*align & (*align - 1)) != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: key 'general.alignment': not a u32 that is a power of two", g->path);
    return LB_OK;
}

static enum lb_status check_split(const struct lb_gguf *g, struct lb_err *err)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, "split.count");
    int64_t n = 0;
    if (!kv)
        return LB_OK;
    if (!lb_gguf_i64(g, "split.count", &n) || n < 0)
        return lb_err_set(err, LB_E_INPUT, "%s: key 'split.count': not a whole number of 0 or more", g->path);
    if (n > 1)
        return lb_err_set(err, LB_E_INPUT,
                          "%s: one of %lld parts of a split GGUF: split files are not supported yet; merge them "
                          "(llama-gguf-split --merge)",
                          g->path, (long long)n);
    return LB_OK;
}

static enum lb_status read_counts(struct cursor *c, uint64_t *n_tensor, uint64_t *n_kv, struct lb_err *err)
{
    uint32_t version;
    if (c->size < 4 || memcmp(c->data, "GGUF", 4) != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: not a GGUF file: it does not begin with 'GGUF'", c->path);
    c->at = 4;
    if (!take_u32(c, &version) || !take_u64(c, n_tensor) || !take_u64(c, n_kv))
        return lb_err_set(err, LB_E_INPUT, "%s: file ends inside its header: only %zu bytes long", c->path, c->size);
    if (version && (version & 0xFFFF) == 0)
        return lb_err_set(err, LB_E_INPUT, "%s: a big-endian GGUF file; only little-endian ones are read", c->path);
    if (version != 2 && version != 3)
        return lb_err_set(err, LB_E_INPUT, "%s: GGUF version %u is not supported; supported: 2, 3", c->path, version);
    size_t left = c->size - c->at;
    if (*n_kv > left / KV_MIN_BYTES)
        return lb_err_set(err, LB_E_INPUT, "%s: %llu metadata keys do not fit into a file of %zu bytes", c->path,
                          (unsigned long long)*n_kv, c->size);
    if (*n_tensor > left / INFO_MIN_BYTES)
        return lb_err_set(err, LB_E_INPUT, "%s: %llu tensors do not fit into a file of %zu bytes", c->path,
                          (unsigned long long)*n_tensor, c->size);
    return LB_OK;
}

enum lb_status lb_gguf_open(struct lb_gguf *g, const char *path, struct lb_err *err)
{
    *g = (struct lb_gguf){.vocab = {.bos = -1, .eos = -1, .eot = -1, .eom = -1, .unk = -1, .pad = -1}};
    struct lb_map m;
    uint64_t n_tensor = 0, n_kv = 0, align = 0;
    enum lb_status status;
    char *own = lb_mem_strdup(path);
    LB_TRY_OUT(status, lb_wfile_own(&g->w, own, err));
    g->path = own;
    LB_TRY_OUT(status, lb_wfile_map(&g->w, path, &m, err));
    struct cursor c = {own, m.data, m.size_bytes, 0};
    LB_TRY_OUT(status, read_counts(&c, &n_tensor, &n_kv, err));
    LB_TRY_OUT(status, read_kvs(g, &c, n_kv, err));
    LB_TRY_OUT(status, check_split(g, err));
    LB_TRY_OUT(status, read_alignment(g, &align, err));
    LB_TRY_OUT(status, read_tensors(g, &c, n_tensor, align, err));
    status = lb_gguf_read_vocab(g, err);
out:
    if (status != LB_OK)
        lb_gguf_close(g);
    return status;
}

void lb_gguf_close(struct lb_gguf *g)
{
    lb_gguf_drop_vocab(g);
    lb_mem_free(g->kv);
    lb_wfile_close(&g->w);
    *g = (struct lb_gguf){0};
}

const struct lb_gguf_kv *lb_gguf_find(const struct lb_gguf *g, const char *key)
{
    struct lb_gguf_kv want = {.key = {key, strlen(key)}};
    return g->n_kv ? bsearch(&want, g->kv, g->n_kv, sizeof want, by_key) : NULL;
}

bool lb_gguf_f64(const struct lb_gguf *g, const char *key, double *out)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    if (!kv)
        return false;
    if (kv->type == LB_GGUF_F32) {
        uint32_t bits = (uint32_t)load(kv->data, 4);
        float v;
        memcpy(&v, &bits, sizeof v);
        *out = (double)v;
        return true;
    }
    if (kv->type == LB_GGUF_F64) {
        uint64_t bits = load(kv->data, 8);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (kv->type == LB_GGUF_U64) {
        *out = (double)load(kv->data, 8);
        return true;
    }
    int64_t v;
    if (!lb_gguf_i64(g, key, &v))
        return false;
    *out = (double)v;
    return true;
}

bool lb_gguf_i64(const struct lb_gguf *g, const char *key, int64_t *out)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    double real;
    if (!kv)
        return false;
    uint64_t v = kv->type == LB_GGUF_STRING || kv->type == LB_GGUF_ARRAY ? 0 : load(kv->data, value_bytes[kv->type]);
    switch (kv->type) {
    case LB_GGUF_I8:
        *out = (int8_t)v;
        return true;
    case LB_GGUF_I16:
        *out = (int16_t)v;
        return true;
    case LB_GGUF_I32:
        *out = (int32_t)v;
        return true;
    case LB_GGUF_I64:
        *out = (int64_t)v;
        return true;
    case LB_GGUF_U8:
    case LB_GGUF_U16:
    case LB_GGUF_U32:
    case LB_GGUF_BOOL:
    case LB_GGUF_U64:
        if (v > INT64_MAX)
            return false;
        *out = (int64_t)v;
        return true;
    case LB_GGUF_F32:
    case LB_GGUF_F64:
        if (!lb_gguf_f64(g, key, &real) || !(fabs(real) < 0x1p53) || real != floor(real))
            return false;
        *out = (int64_t)real;
        return true;
    case LB_GGUF_STRING:
    case LB_GGUF_ARRAY:
        return false;
    }
    return false;
}

bool lb_gguf_str(const struct lb_gguf *g, const char *key, struct lb_bytes *out)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    if (!kv || kv->type != LB_GGUF_STRING)
        return false;
    *out = (struct lb_bytes){(const char *)kv->data + 8, (size_t)load(kv->data, 8)};
    return true;
}
