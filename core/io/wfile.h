/* A directory of weight tensors in mapped files, the same for safetensors and GGUF. Names, shapes and data are lent
 * from the mappings or owned by the directory; everything is valid until lb_wfile_close. Every header field has been
 * checked: data .. data + n_bytes lies inside a mapping, and n_bytes is what type and shape ask for. */
#ifndef CORE_IO_WFILE_H
#define CORE_IO_WFILE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/file.h"

#define LB_SHOW_BYTES 96

/* Plain types first, then ggml's blocks of 32 and of 256. */
enum lb_wtype {
    LB_W_F32,
    LB_W_F16,
    LB_W_BF16,
    LB_W_Q8_0,
    LB_W_Q4_0,
    LB_W_Q4_1,
    LB_W_Q5_0,
    LB_W_Q5_1,
    LB_W_IQ4_NL,
    LB_W_Q2_K,
    LB_W_Q3_K,
    LB_W_Q4_K,
    LB_W_Q5_K,
    LB_W_Q6_K,
    LB_W_IQ4_XS,
    LB_W_PACKED, /* made of several tensors: lb_wtensor.pack reads it, and data and n_bytes are the largest's */
    LB_W_OTHER,
};

#define LB_W_MAX_DIM 4

struct lb_wpack; /* core/model/pack.h */

struct lb_wtensor {
    const char *name;
    enum lb_wtype type;
    const char *type_name; /* as the file writes it: "BF16", "Q4_0", "I64" */
    int n_dim;
    int64_t dim[LB_W_MAX_DIM]; /* outermost first ([out, in] for a matrix), also for GGUF. More dimensions than these:
                                  type is LB_W_OTHER and dim[0] the product of the outer ones */
    const uint8_t *data;       /* may be unaligned */
    size_t n_bytes;
    const char *file; /* path, for messages */
    const struct lb_wpack *pack;
};

/* Elements of a tensor; their number has been checked to fit. */
static inline int64_t lb_wtensor_elements(const struct lb_wtensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < t->n_dim; d++)
        n *= t->dim[d];
    return n;
}

struct lb_wfile {
    struct lb_wtensor *tensor; /* [n_tensor], sorted by name */
    size_t n_tensor;
    struct lb_map *map; /* [n_map] */
    size_t n_map;
    void **owned; /* [n_owned] strings and tables, freed by close */
    size_t n_owned, cap_owned;
};

/* model.safetensors, or else model.safetensors.index.json and its shards, of a Hugging Face directory, checked as the
 * format's reference parser does (safetensors/src/tensor.rs: offsets without holes or overlap, sizes exact, no trailing
 * bytes). LB_E_INPUT names the file and, where there is one, the tensor. */
enum lb_status lb_safetensors_open(struct lb_wfile *w, const char *dir, struct lb_err *err);
/* One such file. */
enum lb_status lb_safetensors_open_file(struct lb_wfile *w, const char *path, struct lb_err *err);
void lb_wfile_close(struct lb_wfile *w); /* also after a failed open */

/* NULL when there is no such tensor. */
const struct lb_wtensor *lb_wfile_find(const struct lb_wfile *w, const char *name);

/* Lets go of the mapped pages of data .. data + n, which has been read for now. Data elsewhere is left alone. */
void lb_wfile_forget(const struct lb_wfile *w, const uint8_t *data, size_t n);

/* Makes text from a file fit for a one-line message: at most 80 bytes of it, controls and invalid UTF-8 as '?'. Returns
 * out, LB_SHOW_BYTES large. */
const char *lb_wfile_show(char *out, const char *text, size_t n);

/* For the readers of formats. */

/* The file takes p, which is freed with lb_mem_free at close; at once when this fails. p NULL: LB_E_DEVICE. */
enum lb_status lb_wfile_own(struct lb_wfile *w, void *p, struct lb_err *err);

/* Maps path and adds the mapping; *m is a copy of it. */
enum lb_status lb_wfile_map(struct lb_wfile *w, const char *path, struct lb_map *m, struct lb_err *err);

/* Sorts the tensors by name; two of the same name are LB_E_INPUT. */
enum lb_status lb_wfile_sort(struct lb_wfile *w, struct lb_err *err);

#endif
