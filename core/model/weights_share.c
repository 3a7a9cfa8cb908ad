/* One packed copy of a slice for the ranks of a host that need the same. */
#include <string.h>

#include "core/base/hash.h"
#include "core/model/weights.h"

static uint64_t mix(uint64_t key, const void *data, size_t n)
{
    return lb_hash64(data, n, key);
}

/* What tells one packed slice from another: tensors as the file's header has them, slice, type and kernel set. */
static uint64_t key_of(const struct lb_weights_spec *spec)
{
    const struct lb_wfile *file = spec->file;
    const struct lb_slice *slice = &spec->cols->slice;
    const int64_t own[] = {slice->rank,           slice->tp,          slice->n_seg, spec->backend->dtype,
                           spec->backend->unpack, spec->backend->int8};
    uint64_t key = mix(1, own, sizeof own);
    key = mix(key, spec->backend->isa, strlen(spec->backend->isa));
    for (size_t i = 0; i < file->n_tensor; i++) {
        const struct lb_wtensor *t = &file->tensor[i];
        const int64_t bytes[] = {(int64_t)t->n_bytes, t->type};
        key = mix(key, t->name, strlen(t->name));
        key = mix(key, bytes, sizeof bytes);
        key = mix(key, t->dim, (size_t)t->n_dim * sizeof *t->dim);
    }
    return key != 0 ? key : 1;
}

enum lb_status lb_weights_share(struct lb_weights *w, const struct lb_weights_spec *spec, struct lb_world *world,
                                struct lb_shared *shared, struct lb_err *err)
{
    struct lb_weights_spec load = *spec;
    struct lb_weight_mem mem = {0};
    load.mem = &mem;
    load.log = NULL;
    enum lb_status status = lb_weights_load(w, &load, err);
    if (status == LB_OK)
        lb_weights_release(w);
    /* all ranks come here, so that none waits for one that has failed */
    struct lb_err of_share = LB_ERR_INIT;
    enum lb_status got = lb_world_share(world, status == LB_OK ? key_of(spec) : 0, mem.used, shared, &of_share);
    LB_TRY(status);
    if (got != LB_OK)
        return lb_err_set(err, got, "%s", of_share.text);
    mem = (struct lb_weight_mem){.data = shared->data, .bytes = shared->bytes, .reads = shared->owner};
    load.log = spec->log;
    status = lb_weights_load(w, &load, err);
    if (shared->owner)
        lb_shared_ready(world, shared, status == LB_OK);
    LB_TRY(status);
    LB_TRY(lb_shared_wait(world, shared, err));
    if (!shared->owner && spec->log)
        lb_log_put(spec->log, LB_LOG_INFO, "%.1f MiB of packed weights are shared with rank %d",
                   (double)shared->bytes / 1048576.0, shared->owner_rank);
    return LB_OK;
}
