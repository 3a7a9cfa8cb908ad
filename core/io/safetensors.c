/* safetensors (huggingface/safetensors, README.md and safetensors/src/tensor.rs): 8 bytes of header length, a JSON
 * header, the tensors' bytes. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/io/wfile.h"

#define HEADER_MAX_BYTES UINT64_C(100000000)
#define INDEX_MAX_BYTES ((size_t)128 << 20)
#define MAX_SHARDS 10000

struct dtype {
    const char *name;
    int bits;
    enum lb_wtype type;
};

static const struct dtype dtypes[] = {
    {"F32", 32, LB_W_F32},          {"F16", 16, LB_W_F16},          {"BF16", 16, LB_W_BF16},
    {"BOOL", 8, LB_W_OTHER},        {"U8", 8, LB_W_OTHER},          {"I8", 8, LB_W_OTHER},
    {"F8_E5M2", 8, LB_W_OTHER},     {"F8_E4M3", 8, LB_W_OTHER},     {"F8_E8M0", 8, LB_W_OTHER},
    {"F8_E4M3FNUZ", 8, LB_W_OTHER}, {"F8_E5M2FNUZ", 8, LB_W_OTHER}, {"I16", 16, LB_W_OTHER},
    {"U16", 16, LB_W_OTHER},        {"I32", 32, LB_W_OTHER},        {"U32", 32, LB_W_OTHER},
    {"C64", 64, LB_W_OTHER},        {"F64", 64, LB_W_OTHER},        {"I64", 64, LB_W_OTHER},
    {"U64", 64, LB_W_OTHER},        {"F4", 4, LB_W_OTHER},          {"F6_E2M3", 6, LB_W_OTHER},
    {"F6_E3M2", 6, LB_W_OTHER},
};

struct reader {
    struct lb_wfile *w;
    size_t cap_tensor;
    const char *path;    /* of the file being read, owned by w */
    const uint8_t *data; /* its byte buffer */
    uint64_t data_bytes;
};

/* "PATH: tensor 'NAME': MESSAGE" */
__attribute__((format(printf, 4, 5))) static enum lb_status refuse(const struct reader *r, const char *name,
                                                                   struct lb_err *err, const char *fmt, ...)
{
    char text[256], shown[LB_SHOW_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    lb_wfile_show(shown, name, strlen(name));
    return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s': %s", r->path, shown, text);
}

static json_t *parse(const char *path, const char *what, const char *text, size_t n, struct lb_err *err)
{
    json_error_t je;
    char shown[LB_SHOW_BYTES];
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    if (!j)
        lb_err_set(err, LB_E_INPUT, "%s: %s is not valid JSON: %s (byte %d)", path, what,
                   lb_wfile_show(shown, je.text, strlen(je.text)), je.position);
    else if (!json_is_object(j))
        lb_err_set(err, LB_E_INPUT, "%s: %s is not a JSON object", path, what);
    if (json_is_object(j))
        return j;
    json_decref(j);
    return NULL;
}

static enum lb_status read_shape(const struct reader *r, const char *name, const json_t *shape, struct lb_wtensor *t,
                                 int64_t *n_elem, struct lb_err *err)
{
    if (!json_is_array(shape))
        return refuse(r, name, err, "shape is not a list");
    size_t n = json_array_size(shape), outer = n > LB_W_MAX_DIM ? n - LB_W_MAX_DIM : 0;
    *n_elem = 1;
    t->n_dim = (int)(n - outer);
    t->dim[0] = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return refuse(r, name, err, "shape[%zu] is not a whole number of 0 or more", i);
        int64_t v = json_integer_value(d);
        if (__builtin_mul_overflow(*n_elem, v, n_elem))
            return refuse(r, name, err, "the product of its shape overflows");
        if (i <= outer)
            t->dim[0] = *n_elem;
        else
            t->dim[i - outer] = v;
    }
    if (outer)
        t->type = LB_W_OTHER;
    return LB_OK;
}

static enum lb_status read_offsets(const struct reader *r, const char *name, const json_t *offsets, uint64_t *begin,
                                   uint64_t *end, struct lb_err *err)
{
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return refuse(r, name, err, "data_offsets is not a list of two numbers");
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (!json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 || json_integer_value(e) < 0)
        return refuse(r, name, err, "data_offsets are not whole numbers of 0 or more");
    *begin = (uint64_t)json_integer_value(b);
    *end = (uint64_t)json_integer_value(e);
    if (*end < *begin)
        return refuse(r, name, err, "data_offsets end at %llu, before they begin at %llu", (unsigned long long)*end,
                      (unsigned long long)*begin);
    if (*end > r->data_bytes)
        return refuse(r, name, err, "data_offsets end at %llu, but the file holds %llu bytes of tensors",
                      (unsigned long long)*end, (unsigned long long)r->data_bytes);
    return LB_OK;
}

static enum lb_status read_tensor(const struct reader *r, const char *name, const json_t *entry, struct lb_wtensor *t,
                                  struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    if (!json_is_object(entry))
        return refuse(r, name, err, "its entry is not an object");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype)
        return refuse(r, name, err, "dtype is missing or not a string");
    const struct dtype *d = NULL;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes && !d; i++)
        if (strcmp(dtype, dtypes[i].name) == 0)
            d = &dtypes[i];
    if (!d)
        return refuse(r, name, err, "dtype '%s' is not known", lb_wfile_show(shown, dtype, strlen(dtype)));
    t->name = name;
    t->file = r->path;
    t->type = d->type;
    t->type_name = d->name;

    int64_t n_elem = 0, bits;
    uint64_t begin = 0, end = 0;
    LB_TRY(read_shape(r, name, json_object_get(entry, "shape"), t, &n_elem, err));
    LB_TRY(read_offsets(r, name, json_object_get(entry, "data_offsets"), &begin, &end, err));
    if (__builtin_mul_overflow(n_elem, (int64_t)d->bits, &bits) || bits % 8 != 0)
        return refuse(r, name, err, "its shape is not a whole number of bytes of %s", d->name);
    if ((uint64_t)(bits / 8) != end - begin)
        return refuse(r, name, err, "data_offsets hold %llu bytes, but its shape asks for %lld of %s",
                      (unsigned long long)(end - begin), (long long)(bits / 8), d->name);
    t->data = r->data + begin;
    t->n_bytes = (size_t)(end - begin);
    return LB_OK;
}

static int by_place(const void *pa, const void *pb)
{
    const struct lb_wtensor *a = pa, *b = pb;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return a->n_bytes < b->n_bytes ? -1 : a->n_bytes > b->n_bytes;
}

/* The tensors from `first` on fill the byte buffer without holes or overlap. */
static enum lb_status check_places(const struct reader *r, size_t first, struct lb_err *err)
{
    struct lb_wtensor *t = r->w->tensor;
    size_t n = r->w->n_tensor - first;
    uint64_t at = 0;
    if (n)
        qsort(t + first, n, sizeof *t, by_place);
    for (size_t i = first; i < first + n; i++) {
        uint64_t begin = (uint64_t)(t[i].data - r->data);
        if (begin != at)
            return refuse(r, t[i].name, err, "data_offsets begin at %llu, not at %llu where the tensor before it ends",
                          (unsigned long long)begin, (unsigned long long)at);
        at += t[i].n_bytes;
    }
    if (at != r->data_bytes)
        return lb_err_set(err, LB_E_INPUT, "%s: the tensors end at byte %llu of %llu", r->path, (unsigned long long)at,
                          (unsigned long long)r->data_bytes);
    return LB_OK;
}

static enum lb_status check_metadata(const struct reader *r, json_t *meta, struct lb_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(meta))
        return lb_err_set(err, LB_E_INPUT, "%s: __metadata__ is not an object", r->path);
    json_object_foreach(meta, key, value) if (!json_is_string(value)) return lb_err_set(
        err, LB_E_INPUT, "%s: __metadata__ holds something that is not a string", r->path);
    return LB_OK;
}

/* Names move to one block, since they outlive the header's JSON. */
static enum lb_status read_entries(struct reader *r, json_t *header, struct lb_err *err)
{
    const char *key;
    json_t *value;
    size_t n_bytes = 0, n = 0, first = r->w->n_tensor;
    json_object_foreach(header, key, value)
    {
        n_bytes += strlen(key) + 1;
        n++;
    }
    char *names = lb_mem_new(n_bytes, 1);
    LB_TRY(lb_wfile_own(r->w, names, err));
    void *list = r->w->tensor;
    enum lb_status status = lb_mem_grow(&list, &r->cap_tensor, first + n, sizeof *r->w->tensor, "tensors", err);
    r->w->tensor = list;
    LB_TRY(status);
    json_object_foreach(header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            LB_TRY(check_metadata(r, value, err));
            continue;
        }
        if (!*key)
            return lb_err_set(err, LB_E_INPUT, "%s: a tensor has an empty name", r->path);
        size_t len = strlen(key) + 1;
        memcpy(names, key, len);
        struct lb_wtensor t = {0};
        LB_TRY(read_tensor(r, names, value, &t, err));
        r->w->tensor[r->w->n_tensor++] = t;
        names += len;
    }
    return check_places(r, first, err);
}

/* Takes path. */
static enum lb_status read_file(struct reader *r, char *path, struct lb_err *err)
{
    struct lb_map m;
    LB_TRY(lb_wfile_own(r->w, path, err));
    LB_TRY(lb_wfile_map(r->w, path, &m, err));
    r->path = path;
    if (m.size_bytes < 8)
        return lb_err_set(err, LB_E_INPUT, "%s: not a safetensors file: only %zu bytes long", path, m.size_bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | m.data[i];
    if (n > HEADER_MAX_BYTES)
        return lb_err_set(err, LB_E_INPUT, "%s: not a safetensors file: a header of %llu bytes is too long", path,
                          (unsigned long long)n);
    if (n > m.size_bytes - 8)
        return lb_err_set(err, LB_E_INPUT, "%s: file is shorter than its header says: %zu bytes, header of %llu", path,
                          m.size_bytes, (unsigned long long)n);
    const char *text = (const char *)m.data + 8;
    if (n == 0 || text[0] != '{')
        return lb_err_set(err, LB_E_INPUT, "%s: not a safetensors file: the header does not begin with '{'", path);
    json_t *header = parse(path, "the header", text, (size_t)n, err);
    if (!header)
        return err->status;
    r->data = m.data + 8 + n;
    r->data_bytes = m.size_bytes - 8 - n;
    enum lb_status status = read_entries(r, header, err);
    json_decref(header);
    return status;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Each file of the index once, by name. */
static enum lb_status read_shards(struct reader *r, const char *dir, const char *index, const char **files, size_t n,
                                  struct lb_err *err)
{
    size_t n_shard = 0;
    qsort(files, n, sizeof *files, by_text);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(files[i], files[i - 1]) == 0)
            continue;
        if (++n_shard > MAX_SHARDS)
            return lb_err_set(err, LB_E_INPUT, "%s: more than %d files", index, MAX_SHARDS);
        if (read_file(r, lb_path_join(dir, files[i]), err) != LB_OK)
            return lb_err_where(err, "%s", index);
    }
    return LB_OK;
}

static enum lb_status check_map(const struct lb_wfile *w, const char *index, json_t *map, struct lb_err *err)
{
    const char *name;
    json_t *value;
    char a[LB_SHOW_BYTES], b[LB_SHOW_BYTES];
    json_object_foreach(map, name, value)
    {
        const char *file = json_string_value(value);
        const struct lb_wtensor *t = lb_wfile_find(w, name);
        if (!t || strcmp(strrchr(t->file, '/') + 1, file) != 0)
            return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is not in '%s'", index,
                              lb_wfile_show(a, name, strlen(name)), lb_wfile_show(b, file, strlen(file)));
    }
    return LB_OK;
}

/* The name of a file in the same folder: no separators, and nothing that would break a message's line. */
static bool is_file_name(const char *name)
{
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7F)
            return false;
    return *name != 0;
}

static enum lb_status read_map(struct reader *r, const char *dir, const char *index, json_t *map, struct lb_err *err)
{
    const char *name;
    json_t *value;
    char a[LB_SHOW_BYTES], b[LB_SHOW_BYTES];
    size_t n = 0;
    const char **files = lb_mem_new(json_object_size(map), sizeof *files);
    if (!files)
        return lb_err_memory(err, index, json_object_size(map) * sizeof *files);
    enum lb_status status = LB_OK;
    json_object_foreach(map, name, value)
    {
        const char *file = json_string_value(value);
        lb_wfile_show(a, name, strlen(name));
        if (!file) {
            status = lb_err_set(err, LB_E_INPUT, "%s: the file of tensor '%s' is not a string", index, a);
            goto out;
        }
        if (!is_file_name(file)) {
            status = lb_err_set(err, LB_E_INPUT, "%s: tensor '%s': '%s' is not the name of a file beside the index",
                                index, a, lb_wfile_show(b, file, strlen(file)));
            goto out;
        }
        files[n++] = file;
    }
    LB_TRY_OUT(status, read_shards(r, dir, index, files, n, err));
    LB_TRY_OUT(status, lb_wfile_sort(r->w, err));
    status = check_map(r->w, index, map, err);
out:
    lb_mem_free(files);
    return status;
}

static enum lb_status read_index(struct reader *r, const char *dir, const char *path, struct lb_err *err)
{
    struct lb_str text = {0};
    json_t *index = NULL;
    enum lb_status status;
    LB_TRY_OUT(status, lb_file_read(path, INDEX_MAX_BYTES, &text, err));
    index = parse(path, "the index", text.data ? text.data : "", text.len, err);
    if (!index) {
        status = err->status;
        goto out;
    }
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(json_object_get(index, "metadata")))
        status = lb_err_set(err, LB_E_INPUT, "%s: metadata is missing or not an object", path);
    else if (!json_is_object(map) || json_object_size(map) == 0)
        status = lb_err_set(err, LB_E_INPUT, "%s: weight_map is missing, empty or not an object", path);
    else
        status = read_map(r, dir, path, map, err);
out:
    json_decref(index);
    lb_str_release(&text);
    return status;
}

enum lb_status lb_safetensors_open(struct lb_wfile *w, const char *dir, struct lb_err *err)
{
    *w = (struct lb_wfile){0};
    struct reader r = {.w = w};
    char *single = lb_path_join(dir, "model.safetensors"), *index = lb_path_join(dir, "model.safetensors.index.json");
    enum lb_status status;
    if (!single || !index) {
        status = lb_err_memory(err, dir, strlen(dir));
    } else if (lb_file_exists(single)) {
        status = read_file(&r, single, err);
        single = NULL;
        if (status == LB_OK)
            status = lb_wfile_sort(w, err);
    } else if (lb_file_exists(index)) {
        status = read_index(&r, dir, index, err);
    } else {
        status = lb_err_set(err, LB_E_INPUT,
                            "%s: no model.safetensors and no model.safetensors.index.json; other weight files are not "
                            "read",
                            dir);
    }
    lb_mem_free(single);
    lb_mem_free(index);
    if (status != LB_OK)
        lb_wfile_close(w);
    return status;
}

enum lb_status lb_safetensors_open_file(struct lb_wfile *w, const char *path, struct lb_err *err)
{
    *w = (struct lb_wfile){0};
    struct reader r = {.w = w};
    char *copy = lb_mem_strdup(path);
    if (!copy)
        return lb_err_memory(err, path, strlen(path));
    enum lb_status status = read_file(&r, copy, err);
    if (status == LB_OK)
        status = lb_wfile_sort(w, err);
    if (status != LB_OK)
        lb_wfile_close(w);
    return status;
}
