#include "core/io/wfile.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/str.h"

#define SHOW_MAX 80 /* bytes of text shown before "..." */

void lb_wfile_close(struct lb_wfile *w)
{
    for (size_t i = 0; i < w->n_map; i++)
        lb_map_close(&w->map[i]);
    for (size_t i = 0; i < w->n_owned; i++)
        lb_mem_free(w->owned[i]);
    lb_mem_free(w->map);
    lb_mem_free(w->owned);
    lb_mem_free(w->tensor);
    *w = (struct lb_wfile){0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lb_wtensor *)a)->name, ((const struct lb_wtensor *)b)->name);
}

const struct lb_wtensor *lb_wfile_find(const struct lb_wfile *w, const char *name)
{
    struct lb_wtensor key = {.name = name};
    return w->n_tensor ? bsearch(&key, w->tensor, w->n_tensor, sizeof key, by_name) : NULL;
}

void lb_wfile_forget(const struct lb_wfile *w, const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < w->n_map; i++)
        lb_map_forget(&w->map[i], data, n);
}

const char *lb_wfile_show(char *out, const char *text, size_t n)
{
    size_t at = 0, len = 0;
    while (at < n) {
        int bytes;
        uint32_t cp = lb_utf8_decode(text + at, n - at, &bytes);
        if (len + (size_t)bytes > SHOW_MAX) {
            memcpy(out + len, "...", 3);
            len += 3;
            break;
        }
        /* controls, the line separators that some readers break lines at, and bytes that are no UTF-8 */
        bool bad =
            cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0x2028 || cp == 0x2029 || (cp == 0xFFFD && bytes == 1);
        if (bad) {
            out[len++] = '?';
        } else {
            memcpy(out + len, text + at, (size_t)bytes);
            len += (size_t)bytes;
        }
        at += (size_t)bytes;
    }
    out[len] = 0;
    return out;
}

enum lb_status lb_wfile_own(struct lb_wfile *w, void *p, struct lb_err *err)
{
    if (!p)
        return lb_err_memory(err, "the directory of a weights file", 0);
    void *list = w->owned;
    enum lb_status status = lb_mem_grow(&list, &w->cap_owned, w->n_owned + 1, sizeof *w->owned, "a list", err);
    w->owned = list;
    if (status != LB_OK) {
        lb_mem_free(p);
        return status;
    }
    w->owned[w->n_owned++] = p;
    return LB_OK;
}

enum lb_status lb_wfile_map(struct lb_wfile *w, const char *path, struct lb_map *m, struct lb_err *err)
{
    /* the list grows by one: there are few files, and struct lb_wfile keeps no capacity for it */
    size_t cap = 0;
    void *list = NULL;
    LB_TRY(lb_mem_grow(&list, &cap, w->n_map + 1, sizeof *w->map, "a list of files", err));
    if (w->n_map)
        memcpy(list, w->map, w->n_map * sizeof *w->map);
    lb_mem_free(w->map);
    w->map = list;
    LB_TRY(lb_map_open(m, path, err));
    w->map[w->n_map++] = *m;
    return LB_OK;
}

enum lb_status lb_wfile_sort(struct lb_wfile *w, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    if (w->n_tensor == 0)
        return LB_OK;
    qsort(w->tensor, w->n_tensor, sizeof *w->tensor, by_name);
    for (size_t i = 1; i < w->n_tensor; i++) {
        const struct lb_wtensor *a = &w->tensor[i - 1], *b = &w->tensor[i];
        if (strcmp(a->name, b->name) != 0)
            continue;
        lb_wfile_show(shown, b->name, strlen(b->name));
        if (a->file == b->file)
            return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is there twice", b->file, shown);
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is also in '%s'", b->file, shown, a->file);
    }
    return LB_OK;
}
