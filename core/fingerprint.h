/* The fingerprint of a run: a JSON object of everything outside the rows that changes a byte of an output row. Equal
 * fingerprints mean that rows of one run may join those of another. Paths, file times and what changes speed alone
 * (threads, batching, memory) are left out; so are the rows themselves, whose hashes stand in OUT.partial. */
#ifndef CORE_FINGERPRINT_H
#define CORE_FINGERPRINT_H

#include "core/io/gguf.h"
#include "core/io/wfile.h"
#include "core/llmbatch.h"
#include "core/run/adapter.h"

/* All lent. */
struct lb_fingerprint_spec {
    const struct lb_options *o;
    const struct lb_gen *gen; /* what the command line sets */
    const char *const *inputs;
    size_t n_input;
    const char *dir;                /* the model's folder, or NULL */
    const struct lb_gguf *gguf;     /* or its file */
    const struct lb_wfile *weights; /* NULL: none are read */
    const struct lb_adapters *adapters;
    const struct lb_lora_set *lora;   /* their files; NULL, or empty: none are read */
    const char *device, *dtype, *isa; /* device NULL: no model runs; isa NULL: the device has none */
    int ring_ranks;                   /* ranks of a run whose devices add up in a ring (nccl_ring); else 0 */
    const char *arch, *build;         /* of a device, see struct lb_backend; NULL: the processor */
    const char *quantization;         /* NULL: none */
};

/* Appends the object. LB_E_INPUT: a file of the model cannot be read. */
enum lb_status lb_fingerprint_make(const struct lb_fingerprint_spec *spec, struct lb_str *out, struct lb_err *err);

/* The part of it that tells the inputs: their sizes. */
void lb_fingerprint_put_inputs(const struct lb_fingerprint_spec *spec, struct lb_str *out);

/* The clock of templates in a fingerprint; false: it has none that is a time. */
bool lb_fingerprint_clock(const char *fingerprint, struct tm *now);

#endif
