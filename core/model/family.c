#include "core/model/family.h"

#include <stdio.h>
#include <string.h>

#define NAME(role, text) [LB_R_##role] = text,
#define LB_FAMILY(name_, arch, type, gguf, hf_tensors, gguf_tensors, ...) \
    {.name = name_,                                                       \
     .hf_arch = arch,                                                     \
     .hf_type = type,                                                     \
     .gguf_arch = gguf,                                                   \
     .hf_tensor = {hf_tensors(NAME)},                                     \
     .gguf_tensor = {gguf_tensors(NAME)},                                 \
     __VA_ARGS__},

const struct lb_family lb_families[] = {
#include "core/model/family.def"
};

const size_t lb_n_family = sizeof lb_families / sizeof *lb_families;

const struct lb_family *lb_family_by_hf(const char *architecture, const char *model_type)
{
    for (size_t i = 0; i < lb_n_family; i++) {
        const struct lb_family *f = &lb_families[i];
        bool arch = !architecture || strcmp(architecture, f->hf_arch) == 0;
        bool type = !model_type || strcmp(model_type, f->hf_type) == 0;
        if (arch && type && (architecture || model_type))
            return f;
    }
    return NULL;
}

const struct lb_family *lb_family_by_gguf(const char *architecture, size_t n)
{
    for (size_t i = 0; i < lb_n_family; i++) {
        const char *name = lb_families[i].gguf_arch;
        if (name && strlen(name) == n && memcmp(name, architecture, n) == 0)
            return &lb_families[i];
    }
    return NULL;
}

void lb_family_list(int gguf, char *out, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < lb_n_family && at < n; i++) {
        const char *name = gguf ? lb_families[i].gguf_arch : lb_families[i].hf_arch;
        if (!name)
            continue;
        int len = snprintf(out + at, n - at, "%s%s", at ? ", " : "", name);
        at += len > 0 ? (size_t)len : 0;
    }
}

/* The pattern with its first "%d" replaced by `layer`, the second one by `expert`. */
static struct lb_tensor_name fill(const char *pattern, int layer, int expert, const char *suffix)
{
    struct lb_tensor_name name = {""};
    const int number[] = {layer, expert};
    size_t n = 0;
    for (int i = 0; i <= 2 && n < sizeof name.text; i++) {
        const char *at = i < 2 ? strstr(pattern, "%d") : NULL;
        int len = at ? snprintf(name.text + n, sizeof name.text - n, "%.*s%d", (int)(at - pattern), pattern, number[i])
                     : snprintf(name.text + n, sizeof name.text - n, "%s%s", pattern, suffix);
        n += len > 0 ? (size_t)len : 0;
        if (!at)
            break;
        pattern = at + 2;
    }
    return name;
}

struct lb_tensor_name lb_family_tensor(const struct lb_family *f, int gguf, enum lb_role role, int layer,
                                       const char *suffix)
{
    const char *pattern = gguf ? f->gguf_tensor[role] : f->hf_tensor[role];
    return pattern ? fill(pattern, layer, 0, suffix) : (struct lb_tensor_name){""};
}

struct lb_tensor_name lb_family_expert_tensor(const struct lb_family *f, int gguf, enum lb_role role, int layer,
                                              int expert)
{
    const char *pattern = gguf ? f->gguf_tensor[role] : f->hf_tensor[role];
    return pattern ? fill(pattern, layer, expert, ".weight") : (struct lb_tensor_name){""};
}

int64_t lb_family_layer_of(const struct lb_family *f, int gguf, const char *name)
{
    const char *pattern = (gguf ? f->gguf_tensor : f->hf_tensor)[LB_R_ATTN_NORM];
    size_t n = (size_t)(strstr(pattern, "%d") - pattern);
    if (strncmp(name, pattern, n) != 0)
        return -1;
    int64_t layer = 0;
    size_t at = n;
    for (; name[at] >= '0' && name[at] <= '9'; at++)
        if (layer <= INT32_MAX)
            layer = 10 * layer + (name[at] - '0');
    return at > n && name[at] == '.' ? layer : -1;
}
