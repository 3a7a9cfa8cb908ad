/* A directory of weight tensors in mapped files, the same for safetensors and GGUF. Names, shapes and data are lent
 * from the mappings or owned by the directory; everything is valid until lb_wfile_close. Every header field has been
 * checked: data .. data + n_bytes lies inside a mapping, and n_bytes is what type and shape ask for. */
#ifndef CORE_IO_WFILE_H
#define CORE_IO_WFILE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/file.h"

enum lb_wtype { LB_W_F32, LB_W_F16, LB_W_BF16, LB_W_Q8_0, LB_W_Q4_0, LB_W_Q4_1, LB_W_OTHER };

#define LB_W_MAX_DIM 4

struct lb_wtensor {
    const char *name;
    enum lb_wtype type;
    const char *type_name; /* as the file writes it: "BF16", "Q4_0", "I64" */
    int n_dim;
    int64_t dim[LB_W_MAX_DIM]; /* outermost first ([out, in] for a matrix), also for GGUF */
    const uint8_t *data;       /* may be unaligned */
    size_t n_bytes;
    const char *file;          /* path, for messages */
};

struct lb_wfile {
    struct lb_wtensor *tensor; /* [n_tensor], sorted by name */
    size_t n_tensor;
    struct lb_map *map; /* [n_map] */
    size_t n_map;
    void **owned; /* [n_owned] strings and tables, freed by close */
    size_t n_owned, cap_owned;
};

/* model.safetensors, or model.safetensors.index.json and its shards, of a Hugging Face directory. */
enum lb_status lb_safetensors_open(struct lb_wfile *w, const char *dir, struct lb_err *err);
void lb_wfile_close(struct lb_wfile *w);

/* NULL when there is no such tensor. */
const struct lb_wtensor *lb_wfile_find(const struct lb_wfile *w, const char *name);

#endif
