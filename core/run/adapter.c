#include "core/run/adapter.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/str.h"

static enum lb_status check_name(const struct lb_adapters *a, const char *text, const char *name, struct lb_err *err)
{
    size_t n = strlen(name);
    if (n == 0)
        return lb_err_set(err, LB_E_USAGE, "--lora '%s': the name before '=' is empty", text);
    if (lb_utf8_valid_prefix(name, n) != n)
        return lb_err_set(err, LB_E_USAGE, "--lora: a name is not valid UTF-8");
    if (lb_adapters_find(a, name) > 0)
        return lb_err_set(err, LB_E_USAGE, "--lora: the name '%s' is given twice", name);
    return LB_OK;
}

static enum lb_status take(struct lb_adapters *a, const char *text, struct lb_err *err)
{
    struct lb_lora_source *to = &a->item[a->n];
    const char *equals = strchr(text, '='), *slash = strchr(text, '/');
    bool named = equals && (!slash || slash > equals);
    *to = (struct lb_lora_source){"", named ? equals + 1 : text};
    if (!*to->dir)
        return lb_err_set(err, LB_E_USAGE, "--lora '%s': no directory is named", text);
    if (!named && a->all > 0)
        return lb_err_set(err, LB_E_USAGE, "--lora: '%s' and '%s' are both without a name: NAME=DIR gives one",
                          a->item[a->all - 1].dir, text);
    if (!named) {
        a->all = ++a->n;
        return LB_OK;
    }
    char *name = lb_mem_strndup(text, (size_t)(equals - text));
    if (!name)
        return lb_err_memory(err, "a name", strlen(text));
    a->text[a->n] = name;
    enum lb_status status = check_name(a, text, name, err);
    to->name = name;
    a->n++;
    return status;
}

enum lb_status lb_adapters_init(struct lb_adapters *a, const char *const *text, size_t n, struct lb_err *err)
{
    *a = (struct lb_adapters){0};
    if (n == 0)
        return LB_OK;
    if (n > LB_LORA_MAX_SET)
        return lb_err_set(err, LB_E_USAGE, "--lora is given %zu times; %d is the most", n, LB_LORA_MAX_SET);
    a->item = lb_mem_new(n, sizeof *a->item);
    a->text = lb_mem_new(n, sizeof *a->text);
    if (!a->item || !a->text) {
        lb_adapters_release(a);
        return lb_err_memory(err, "adapters", n * sizeof *a->item);
    }
    enum lb_status status = LB_OK;
    for (size_t i = 0; i < n && status == LB_OK; i++)
        status = take(a, text[i], err);
    if (status != LB_OK)
        lb_adapters_release(a);
    return status;
}

void lb_adapters_release(struct lb_adapters *a)
{
    for (int32_t i = 0; i < a->n; i++)
        lb_mem_free(a->text[i]);
    lb_mem_free(a->item);
    lb_mem_free(a->text);
    *a = (struct lb_adapters){0};
}

int32_t lb_adapters_find(const struct lb_adapters *a, const char *name)
{
    for (int32_t i = 0; i < a->n; i++)
        if (*a->item[i].name && strcmp(a->item[i].name, name) == 0)
            return i + 1;
    return 0;
}
