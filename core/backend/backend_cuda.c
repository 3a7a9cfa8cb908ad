/* The CUDA backend: life cycle, memory, errors. */
#include "core/backend/backend_cuda_parts.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/backend/backend_cuda_open.h"
#include "core/base/mem.h"

#define PIECE_BYTES ((size_t)8 << 20) /* of device memory at a time, or what is asked for where that is much */
#define ALIGN ((size_t)256)
#define LEAST_WEIGHTS ((int64_t)1 << 18) /* of a matrix that cuBLASLt is tried for */
#define GRAPHS 64                        /* of decode steps, at most: each takes some hundred KB of the device */
#define LEAST_SHARED (99 * 1024)         /* of a block: what the kernels for attention need */

int64_t lb_cuda_grain(const struct lb_cuda *c, int64_t n_item, int64_t per_thread)
{
    int64_t grain = n_item / (c->base.n_thread * per_thread);
    return grain > 0 ? grain : 1;
}

/* ---- errors ---- */

static const char *error_name(int code)
{
    return cudaGetErrorName((cudaError_t)code);
}

enum lb_status lb_cuda_try(int code, const char *call, const char *what, struct lb_err *err)
{
    if (code == cudaSuccess)
        return LB_OK;
    cudaGetLastError(); /* what does not break the device is not to be found again by a later call */
    return lb_err_set(err, LB_E_DEVICE, "%s of %s: %s (%s)", call, what, error_name(code),
                      cudaGetErrorString((cudaError_t)code));
}

bool lb_cuda_ok(struct lb_cuda *c, int code, const char *call, const char *op)
{
    return lb_cuda_try(code, call, op, &c->err) == LB_OK;
}

/* Asks about the group's ranks until the stream is through, and tells them when it will not be. */
static void watch_peers(struct lb_cuda *c, const char *op)
{
    const struct timespec nap = {0, 20000};
    cudaError_t code = cudaEventRecord(c->end_event, c->stream);
    bool alive = true;
    if (code == cudaSuccess)
        while (alive && (code = cudaEventQuery(c->end_event)) == cudaErrorNotReady) {
            alive = c->base.alive(c->base.alive_ctx, false, &c->err);
            nanosleep(&nap, NULL);
        }
    if (!alive) /* what is enqueued ends now */
        code = cudaStreamSynchronize(c->stream);
    bool lost = !lb_cuda_ok(c, (int)code, "cudaEventQuery", op);
    c->base.alive(c->base.alive_ctx, lost, &c->err); /* what failed at once leaves nothing to wait for */
}

/* Waits behind a failure too: what was sent may still be read. */
bool lb_cuda_wait(struct lb_cuda *c, const char *op)
{
    if (c->base.alive)
        watch_peers(c, op);
    return lb_cuda_ok(c, (int)cudaStreamSynchronize(c->stream), "cudaStreamSynchronize", op) && c->err.status == LB_OK;
}

/* ---- memory ---- */

static void free_piece(struct lb_cuda_piece *p)
{
    if (p->place == LB_CUDA_DEVICE)
        cudaFree(p->data);
    else if (p->place == LB_CUDA_PINNED)
        cudaFreeHost(p->data);
    else
        lb_mem_free(p->data);
    lb_mem_free(p);
}

static enum lb_status new_piece(struct lb_cuda *c, enum lb_cuda_place place, size_t bytes, const char *what,
                                struct lb_err *err)
{
    struct lb_cuda_piece *p = lb_mem_new(1, sizeof *p);
    if (!p)
        return lb_err_memory(err, what, bytes);
    p->place = place;
    enum lb_status status = LB_OK;
    if (place == LB_CUDA_HOST) {
        p->data = lb_mem_new(bytes, 1);
        status = p->data ? LB_OK : lb_err_memory(err, what, bytes);
    } else {
        bool device = place == LB_CUDA_DEVICE;
        cudaError_t code = device ? cudaMalloc(&p->data, bytes) : cudaMallocHost(&p->data, bytes);
        if (code == cudaErrorMemoryAllocation) {
            cudaGetLastError();
            status = lb_err_set(err, LB_E_DEVICE, "out of %s memory (%zu bytes for %s)", device ? "device" : "pinned",
                                bytes, what);
        } else {
            status = lb_cuda_try((int)code, device ? "cudaMalloc" : "cudaMallocHost", what, err);
        }
    }
    if (status != LB_OK) {
        lb_mem_free(p);
        return status;
    }
    p->next = c->piece;
    c->piece = p;
    return LB_OK;
}

void *lb_cuda_take(struct lb_cuda *c, enum lb_cuda_place place, size_t n, size_t size, const char *what,
                   struct lb_err *err)
{
    if (size != 0 && n > SIZE_MAX / 2 / size) {
        lb_err_memory(err, what, SIZE_MAX);
        return NULL;
    }
    size_t bytes = n * size > 0 ? (n * size + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
    if (place != LB_CUDA_DEVICE || bytes > PIECE_BYTES / 4)
        return new_piece(c, place, bytes, what, err) == LB_OK ? c->piece->data : NULL;
    if (c->room_bytes < bytes) {
        if (new_piece(c, place, PIECE_BYTES, what, err) != LB_OK)
            return NULL;
        c->room = c->piece->data;
        c->room_bytes = PIECE_BYTES;
    }
    void *taken = c->room;
    c->room += bytes;
    c->room_bytes -= bytes;
    return taken;
}

/* ---- life cycle ---- */

static void cuda_close(struct lb_backend *be)
{
    struct lb_cuda *c = lb_cuda_of(be);
    cudaSetDevice(c->device);
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    if (c->load_stream)
        cudaStreamSynchronize(c->load_stream);
    for (int i = 0; i < 2; i++)
        if (c->load_event[i])
            cudaEventDestroy(c->load_event[i]);
    lb_cuda_layers_forget(be);
    lb_cuda_lt_close(c);
    if (c->end_event)
        cudaEventDestroy(c->end_event);
    if (c->other.end_event)
        cudaEventDestroy(c->other.end_event);
    while (c->piece) {
        struct lb_cuda_piece *next = c->piece->next;
        free_piece(c->piece);
        c->piece = next;
    }
    if (c->stream)
        cudaStreamDestroy(c->stream);
    if (c->load_stream)
        cudaStreamDestroy(c->load_stream);
    if (c->team)
        lb_team_free(c->team);
    lb_head_release(&c->head);
    lb_mem_free(c);
}

/* Slices of weights are not shared with other processes: nothing is ever to be measured. */
static void cuda_weight_mem(struct lb_backend *be, struct lb_weight_mem *mem)
{
    (void)be;
    (void)mem;
}

/* ---- memory of the step ---- */

/* What the largest product needs for all rows of a step where that is little, else for some of them. */
static size_t scratch_bytes(const struct lb_cuda *c)
{
    size_t n_tok = (size_t)c->limit.n_tok, all = n_tok * c->row_scratch, most = (size_t)256 << 20;
    size_t some = (n_tok < 128 ? n_tok : 128) * c->row_scratch;
    return all <= most ? all : some > most ? some : most;
}

static enum lb_status cuda_reserve(struct lb_backend *be, struct lb_step_limits limit, int32_t max_out,
                                   const struct lk_cols *vocab, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (limit.n_tok < 1 || limit.n_seq < 1 || limit.n_page < 1 || max_out < 1 || vocab->n_col < 1 ||
        vocab->n_col > INT32_MAX)
        return lb_err_set(err, LB_E_USAGE, "a step of %d tokens, %d sequences, %d outputs cannot be reserved",
                          limit.n_tok, limit.n_seq, max_out);
    LB_TRY(lb_cuda_loaded(c, err));
    c->limit = limit;
    c->max_out = max_out;
    size_t n_seq = (size_t)(limit.n_tok > limit.n_seq ? limit.n_tok : limit.n_seq);
    c->scratch_bytes = scratch_bytes(c);
    if ((c->slot = lb_cuda_take(c, LB_CUDA_HOST, (size_t)max_out, sizeof *c->slot, "sample slots", err)) == NULL ||
        (c->seq = lb_cuda_take(c, LB_CUDA_HOST, n_seq, sizeof *c->seq, "sequences", err)) == NULL ||
        (c->scratch = lb_cuda_take(c, LB_CUDA_DEVICE, c->scratch_bytes, 1, "sums of products", err)) == NULL)
        return LB_E_DEVICE;
    LB_TRY(lb_cuda_lora_reserve(c, err));
    LB_TRY(lb_cuda_lt_choose(c, err));
    LB_TRY(lb_head_reserve(&c->head, max_out, vocab, err));
    LB_TRY(lb_cuda_head_reserve(c, vocab, err));
    c->reserved = true;
    return LB_OK;
}

static enum lb_status cuda_buf_new(struct lb_backend *be, int64_t width, struct lb_buf *out, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    *out = (struct lb_buf){.width = width};
    size_t n = (size_t)c->limit.n_tok * (size_t)width;
    out->data = lb_cuda_take(c, LB_CUDA_DEVICE, n, sizeof(float), "rows of a step", err);
    return out->data ? LB_OK : LB_E_DEVICE;
}

static enum lb_status cuda_head_acts_new(struct lb_backend *be, struct lb_actbuf *out, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    size_t n_head = out->n_head > 0 ? (size_t)out->n_head : 1;
    size_t n = (size_t)c->limit.n_tok * (size_t)out->cols.packed[out->cols.n_seg] * n_head;
    out->data = lb_cuda_take(c, LB_CUDA_DEVICE, n, lb_cuda_act_elem(c, out), "activations of a step", err);
    return out->data ? LB_OK : LB_E_DEVICE;
}

static enum lb_status cuda_act_new(struct lb_backend *be, const struct lk_cols *cols, struct lb_actbuf *out,
                                   struct lb_err *err)
{
    *out = (struct lb_actbuf){.cols = *cols};
    return cuda_head_acts_new(be, out, err);
}

static size_t cuda_kv_page_bytes(const struct lb_backend *be, const struct lb_kv_spec *spec)
{
    const struct lb_cuda *c = (const struct lb_cuda *)be;
    size_t n = (size_t)spec->n_layer * (size_t)spec->n_kv_head * (size_t)(spec->head_dim + spec->v_dim);
    return n * LK_PAGE_TOKENS * lb_cuda_elem_bytes(c) + lb_cuda_index_page_bytes(c, spec);
}

static enum lb_status cuda_kv_new(struct lb_backend *be, const struct lb_kv_spec *spec, struct lb_kv_mem **out,
                                  struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    *out = NULL;
    if (spec->head_dim % 8 != 0 || spec->v_dim % 8 != 0)
        return lb_err_set(err, LB_E_INPUT, "heads of %lld and %lld dimensions: on CUDA they are multiples of 8",
                          (long long)spec->head_dim, (long long)spec->v_dim);
    if (spec->n_page < 1 || spec->n_page > INT32_MAX)
        return lb_err_memory(err, "the KV cache", SIZE_MAX);
    struct lb_kv_mem *kv = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *kv, "the KV cache", err);
    if (!kv)
        return LB_E_DEVICE;
    kv->spec = *spec;
    kv->k_page_bytes = LK_PAGE_TOKENS * spec->head_dim * (int64_t)lb_cuda_elem_bytes(c);
    kv->v_page_bytes = LK_PAGE_TOKENS * spec->v_dim * (int64_t)lb_cuda_elem_bytes(c);
    size_t planes = (size_t)spec->n_layer * (size_t)spec->n_page * (size_t)spec->n_kv_head;
    if ((kv->k = lb_cuda_take(c, LB_CUDA_DEVICE, planes, (size_t)kv->k_page_bytes, "the KV cache", err)) == NULL ||
        (kv->v = lb_cuda_take(c, LB_CUDA_DEVICE, planes, (size_t)kv->v_page_bytes, "the KV cache", err)) == NULL)
        return LB_E_DEVICE;
    if (spec->index.n_plane > 0)
        LB_TRY(lb_cuda_index_new(c, kv, err));
    *out = kv;
    return LB_OK;
}

void lb_cuda_swap(struct lb_cuda *c)
{
    struct lb_cuda_flight was = {c->step, c->err, c->block_host, c->head, c->drawn, c->dev_head.whole, c->end_event};
    const struct lb_cuda_flight *now = &c->other;
    c->step = now->step;
    c->err = now->err;
    c->block_host = now->block_host;
    c->head = now->head;
    c->drawn = now->drawn;
    c->dev_head.whole = now->whole;
    c->end_event = now->end_event;
    c->other = was;
}

/* A step that has another one behind it ends at its event; behind a failure there may be none. */
static bool wait_older(struct lb_cuda *c)
{
    if (c->err.status != LB_OK)
        return lb_cuda_wait(c, "a step");
    return lb_cuda_ok(c, (int)cudaEventSynchronize(c->end_event), "cudaEventSynchronize", "a step");
}

static enum lb_status cuda_step_end(struct lb_backend *be, const struct lb_cand **cand, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    bool two = c->other.step != NULL;
    if (two)
        lb_cuda_swap(c);
    *cand = c->head.cand;
    if (two ? wait_older(c) : lb_cuda_wait(c, "a step"))
        lb_cuda_head_end(c);
    if (c->err.status != LB_OK)
        lb_cuda_graphs_stop(c);
    c->step = NULL;
    struct lb_err how = c->err;
    if (two) {
        lb_cuda_swap(c);
        if (how.status != LB_OK && c->err.status != LB_OK)
            how = c->err; /* it came first: the older step was on its way then */
        c->err = c->err.status == LB_OK ? how : c->err;
    }
    return how.status == LB_OK ? LB_OK : lb_err_set(err, how.status, "%s", how.text);
}

static int32_t *cuda_slots(struct lb_backend *be)
{
    return lb_cuda_of(be)->slot;
}

static void cuda_parallel(struct lb_backend *be, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                          int64_t n_item)
{
    struct lb_cuda *c = lb_cuda_of(be);
    lb_team_run(c->team, fn, ctx, n_item, lb_cuda_grain(c, n_item, 16));
}

static const struct lb_backend_ops cuda_ops = {
    .close = cuda_close,
    .weight_mem = cuda_weight_mem,
    .matrix_new = lb_cuda_matrix_new,
    .heads_new = lb_cuda_heads_new,
    .table_new = lb_cuda_table_new,
    .vector_new = lb_cuda_vector_new,
    .lora_new = lb_cuda_lora_new,
    .reserve = cuda_reserve,
    .buf_new = cuda_buf_new,
    .act_new = cuda_act_new,
    .head_acts_new = cuda_head_acts_new,
    .kv_page_bytes = cuda_kv_page_bytes,
    .kv_new = cuda_kv_new,
    .moe_reserve = lb_cuda_moe_reserve,
    .step_begin = lb_cuda_step_begin,
    .layers_begin = lb_cuda_layers_begin,
    .layers_end = lb_cuda_layers_end,
    .layers_forget = lb_cuda_layers_forget,
    .embed = lb_cuda_embed,
    .norm = lb_cuda_norm,
    .norm_add = lb_cuda_norm_add,
    .linear = lb_cuda_linear,
    .finish = lb_cuda_finish,
    .linear_heads = lb_cuda_linear_heads,
    .round = lb_cuda_round,
    .latent = lb_cuda_latent,
    .index = lb_cuda_index,
    .attend = lb_cuda_attend,
    .moe = lb_cuda_moe,
    .head = lb_cuda_head,
    .head_part = lb_cuda_head_part,
    .step_end = cuda_step_end,
    .head_merge = lb_cuda_head_merge,
    .part_logits = lb_cuda_part_logits,
    .slots = cuda_slots,
    .read_rows = lb_cuda_read_rows,
    .read_act = lb_cuda_read_act,
    .parallel = cuda_parallel,
};

/* ---- opening ---- */

/* A device for the rank: those of a host take turns. What stands in the way is said with what to do about it. */
static enum lb_status choose_device(struct lb_cuda *c, int local_rank, struct lb_err *err)
{
    int n = 0, driver = 0, runtime = 0;
    int code = (int)cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver || code == cudaErrorSystemDriverMismatch) {
        cudaGetLastError();
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        if (driver == 0)
            return lb_err_set(err, LB_E_DEVICE, "no CUDA driver: install NVIDIA's driver, or use --device cpu");
        return lb_err_set(err, LB_E_DEVICE,
                          "the CUDA driver is for CUDA %d.%d, this program for %d.%d: install a newer driver, or use "
                          "--device cpu",
                          driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0)) {
        cudaGetLastError();
        return lb_err_set(err, LB_E_DEVICE,
                          "the CUDA driver finds no device: see what nvidia-smi and CUDA_VISIBLE_DEVICES say, or use "
                          "--device cpu");
    }
    LB_TRY(lb_cuda_try(code, "cudaGetDeviceCount", "this host", err));
    if (local_rank >= n)
        return lb_err_set(err, LB_E_DEVICE,
                          "this host has %d CUDA devices, and rank %d of it has none left: start one rank a device", n,
                          local_rank);
    c->device = local_rank;
    return lb_cuda_try(cudaSetDevice(c->device), "cudaSetDevice", "the device", err);
}

/* Outlives the backend, as names of kernel sets do; a process has one kind of device. */
static char arch[16], build[320];

static enum lb_status describe_device(struct lb_cuda *c, struct lb_backend_memory *memory, struct lb_err *err)
{
    struct cudaDeviceProp prop;
    LB_TRY(lb_cuda_try(cudaGetDeviceProperties(&prop, c->device), "cudaGetDeviceProperties", "the device", err));
    LB_TRY(lb_cuda_try(cudaMemGetInfo(&memory->free_bytes, &memory->total_bytes), "cudaMemGetInfo", "the device", err));
    snprintf(c->name, sizeof c->name, "%s", prop.name);
    snprintf(arch, sizeof arch, "sm_%d%d", prop.major, prop.minor);
    snprintf(build, sizeof build, "%s, cuBLASLt %zu", prop.name, lb_cuda_lt_version());
    c->shared_bytes = prop.sharedMemPerBlockOptin;
    c->most_pitch = prop.memPitch;
    if (prop.major < 8 || c->shared_bytes < LEAST_SHARED)
        return lb_err_set(err, LB_E_DEVICE,
                          "%s has compute capability %d.%d, and at least 8.0 is needed (Ampere or newer): use --device "
                          "cpu",
                          c->name, prop.major, prop.minor);
    return LB_OK;
}

static enum lb_status open_streams(struct lb_cuda *c, struct lb_err *err)
{
    LB_TRY(lb_cuda_try(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags",
                       "the device", err));
    LB_TRY(lb_cuda_try(cudaStreamCreateWithFlags(&c->load_stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags",
                       "loading", err));
    LB_TRY(lb_cuda_try(cudaEventCreateWithFlags(&c->end_event, cudaEventDisableTiming), "cudaEventCreateWithFlags",
                       "a step", err));
    LB_TRY(lb_cuda_try(cudaEventCreateWithFlags(&c->other.end_event, cudaEventDisableTiming),
                       "cudaEventCreateWithFlags", "a step", err));
    for (int i = 0; i < 2; i++)
        LB_TRY(lb_cuda_try(cudaEventCreateWithFlags(&c->load_event[i], cudaEventDisableTiming),
                           "cudaEventCreateWithFlags", "loading", err));
    return LB_OK;
}

static enum lb_status open_device(struct lb_cuda *c, const struct lb_backend_spec *spec, struct lb_err *err)
{
    LB_TRY(lb_team_new(&c->team, spec->n_thread, err));
    LB_TRY(choose_device(c, spec->local_rank, err));
    LB_TRY(describe_device(c, &c->base.memory, err));
    LB_TRY(open_streams(c, err));
    LB_TRY(lb_cuda_lt_open(c, err));
    LB_TRY(lb_cuda_graphs_init(c, spec->graphs == 0 ? GRAPHS : spec->graphs, err));
    c->base.ops = &cuda_ops;
    c->base.dtype = spec->dtype;
    c->base.device = "cuda";
    c->base.unpack = true;
    c->base.arch = arch;
    c->base.build = build;
    c->base.stream = c->stream;
    c->base.n_thread = lb_team_size(c->team);
    c->base.n_ahead = spec->no_ahead ? 0 : 1;
    if (spec->log)
        lb_log_put(spec->log, LB_LOG_INFO, "cuda: device %d, %s, %s, %.1f of %.1f GiB free", c->device, c->name, arch,
                   (double)c->base.memory.free_bytes / 1073741824.0, (double)c->base.memory.total_bytes / 1073741824.0);
    return LB_OK;
}

enum lb_status lb_cuda_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    *out = NULL;
    if (spec->isa)
        return lb_err_set(err, LB_E_USAGE, "--isa chooses the processor's kernels, and the CUDA device has its own");
    if (spec->int8)
        return lb_err_set(err, LB_E_USAGE, "--quantize is for the CPU: the CUDA device multiplies in bf16 or f32");
    struct lb_cuda *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "the CUDA backend", sizeof *c);
    c->log = spec->log;
    c->lt_weights = spec->lt_weights > 0 ? spec->lt_weights : LEAST_WEIGHTS;
    enum lb_status status = open_device(c, spec, err);
    if (status != LB_OK) {
        cuda_close(&c->base);
        return status;
    }
    *out = &c->base;
    return LB_OK;
}
