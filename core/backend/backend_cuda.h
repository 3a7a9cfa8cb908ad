/* Inside the CUDA backend: its state, shared by the files backend_cuda*.c. Nobody else includes it.
 *
 * Ops enqueue on one stream and wait for nothing; step_end waits. What the host writes for a step lies in one pinned
 * block that is filled while nothing reads it, and is copied in pieces to the same places of a block on the device.
 *
 * Two steps can be on their way. The stream orders what they do to the device's memory, which there is once; what the
 * host writes and reads for a step, while the device may do so too, there is twice (struct lb_cuda_flight). */
#ifndef CORE_BACKEND_BACKEND_CUDA_H
#define CORE_BACKEND_BACKEND_CUDA_H

#include <cuda_runtime_api.h>

#include "core/backend/backend.h"
#include "core/backend/head.h"
#include "core/backend/team.h"
#include "kernels/cuda/lk_cuda_attend.h"
#include "kernels/cuda/lk_cuda_ids.h"
#include "kernels/cuda/lk_cuda_lora.h"

#define LB_CUDA_NAME_BYTES 96

struct lb_matrix {
    void *w; /* device: [n_head * n_out, packed columns] */
    struct lk_cols cols;
    int64_t n_out;
    int64_t n_head;    /* matrices of this shape, one behind the other */
    size_t head_bytes; /* from one to the next */
    bool f32;
    struct lk_adapter *lora;     /* device: [adapters], NULL: none has anything for it */
    int64_t lora_n_u;            /* of the adapter that has most */
    struct lb_cuda_shape *shape; /* NULL: products are our own kernel's */
    struct lb_matrix *next;      /* of all that were loaded */
    char name[LB_CUDA_NAME_BYTES];
};

/* One row more than the vocabulary's part has: -0, for ids that are another rank's. */
struct lb_table {
    void *data; /* device: [n_row + 1, n_col] of the backend's type */
    int64_t first, n_row, n_col;
};

struct lb_cuda_lt; /* backend_cuda_lt.h */
struct lb_cuda_shape;
struct lb_cuda_index;  /* backend_cuda_index.c */
struct lb_cuda_moe;    /* backend_cuda_moe.c */
struct lb_cuda_graphs; /* backend_cuda_graph.c */

/* n_plane planes of pages, one behind the other. */
struct lb_cuda_planes {
    uint8_t *data;
    int64_t plane_bytes, page_bytes, n_plane;
};

struct lb_kv_mem {
    struct lb_kv_spec spec;
    uint8_t *k, *v;                     /* device: [n_layer, n_page, n_kv_head] pages */
    int64_t k_page_bytes, v_page_bytes; /* of one head */
    struct lb_cuda_index *index;        /* NULL without an indexer */
};

enum lb_cuda_place { LB_CUDA_HOST, LB_CUDA_PINNED, LB_CUDA_DEVICE };

/* Memory that close gives back. Device memory is taken from large pieces. */
struct lb_cuda_piece {
    struct lb_cuda_piece *next;
    void *data;
    enum lb_cuda_place place;
};

/* A step's attention for one window, of sequences from `seq` on as far as the states of split positions have room: what
 * lk_attn_plan_step made. */
struct lb_cuda_plan {
    struct lk_attn_plan plan; /* device addresses */
    int64_t window;           /* -1: it is not found again */
    int32_t seq;
};

#define LB_CUDA_PLANS 16 /* plans of a step that are kept */

/* Device addresses of a step's tables. */
struct lb_cuda_tables {
    int32_t *id, *pos, *tok_page, *rope_len, *page_start, *page, *out_tok;
    struct lk_attn_item *item; /* f32: [n_item] */
    int64_t n_item;
};

/* Pinned memory for the host's part of an LM head, and its twin on the device for `rows` rows at a time. */
struct lb_cuda_head {
    int64_t rows;
    float *logits; /* device: [rows, ld_logits] */
    struct lk_best *best;
    double *lse;
    int32_t *top_id;
    float *top_value;
    const float **row;       /* device: [rows] where logits lie, NULL where nothing was asked */
    const float **row_host;  /* pinned: [max_out] */
    int64_t *seg, *seg_host; /* device, pinned: [2, LK_MAX_SEG + 1] bounds of all segments, of those here */
    struct lk_cols own;
    int64_t own_first;
    bool own_known;
    struct lb_head_put put; /* what step_end has to write; out NULL: nothing */
    bool whole;             /* step_end has to reduce */
    int32_t *slot;          /* device: [max_out] ids of the newest step; NULL: none runs ahead */
};

/* What belongs to a step from its beginning to its end. The logits of `head`, and what is found of them, both flights
 * share: the older of two steps asks for none. */
struct lb_cuda_flight {
    const struct lb_step *step;
    struct lb_err err;
    uint8_t *block_host;
    struct lb_head head;
    int32_t *drawn;
    bool whole;
    cudaEvent_t end_event;
};

/* Adapters: memory for a step, and its tiles. */
struct lb_cuda_lora {
    int32_t n_adapter;
    int64_t u_ld;
    float *u;     /* device: [limit.n_tok, u_ld] */
    int32_t *at;  /* host: [n_adapter + 1] */
    int32_t *row; /* device, of the step in progress: lk_adapt's */
    struct lk_adapt_tile *tile;
    int64_t n_tile;
};

struct lb_cuda {
    struct lb_backend base; /* first: a struct lb_backend * is this */
    int device;
    char name[256];
    size_t shared_bytes, most_pitch;
    cudaStream_t stream, load_stream;
    cudaEvent_t end_event;     /* of the newest step */
    cudaEvent_t load_event[2]; /* a buffer of loading was copied */
    uint8_t *load_buffer[2];   /* pinned, NULL: nothing was loaded */
    int load_next;
    bool loads; /* something may be on its way on load_stream */
    struct lb_team *team;
    const struct lb_log *log;
    struct lb_cuda_piece *piece;
    uint8_t *room; /* device: what is left of the piece that small allocations are taken from */
    size_t room_bytes;
    struct lb_table *table;
    struct lb_matrix *matrix;
    struct lb_cuda_lt *lt;
    int64_t lt_weights; /* of a matrix, from which on cuBLASLt is tried */

    /* fixed by reserve */
    bool reserved;
    struct lb_step_limits limit;
    int64_t max_out;
    int32_t *slot; /* host: [max_out] */
    struct lb_head head;
    struct lb_cuda_head dev_head;
    int32_t *drawn;              /* pinned: [max_out] ids of outputs that draw; NULL: none runs ahead */
    uint8_t *block_host, *block; /* pinned, device: tables and plans of a step */
    size_t block_bytes, block_used;
    struct lk_attn_seq *seq;           /* host: [limit.n_seq] or one a token, whichever is more */
    float *scratch;                    /* device: sums of products, scratch_bytes */
    size_t scratch_bytes, row_scratch; /* row_scratch: what a row of the largest matrix needs */
    struct lb_cuda_moe *moe;
    struct lb_cuda_graphs *graphs;
    struct lb_cuda_lora lora;

    /* fixed by the first step */
    void *q;
    int64_t q_head, q_head_dim;
    float *cos, *sin, *inv_freq;
    int64_t n_rot;
    float *state;
    int64_t n_slot, state_head, state_dim;
    struct lk_attn_shape shape[LB_CUDA_PLANS]; /* of the model's windows, as steps come to know them */
    int n_shape;

    /* the newest step; the other one is the step before while its `step` is set, else what the next one takes */
    struct lb_cuda_flight other;
    const struct lb_step *step; /* NULL: none is on its way */
    struct lb_kv_mem *kv;
    struct lb_cuda_tables t;
    struct lb_cuda_plan plan[LB_CUDA_PLANS];
    int n_plan;
    size_t plan_base;   /* of the block: where plans begin */
    bool forgets;       /* plans were more than are kept */
    struct lb_err err;  /* first failure since step_begin */
    struct lb_err late; /* one behind a step's end */
};

static inline struct lb_cuda *lb_cuda_of(struct lb_backend *be)
{
    return (struct lb_cuda *)be;
}

static inline enum lk_type lb_cuda_type(const struct lb_cuda *c)
{
    return (enum lk_type)c->base.dtype;
}

static inline size_t lb_cuda_type_bytes(bool f32)
{
    return f32 ? sizeof(float) : sizeof(uint16_t);
}

static inline size_t lb_cuda_elem_bytes(const struct lb_cuda *c)
{
    return lb_cuda_type_bytes(c->base.dtype == LB_F32);
}

static inline size_t lb_cuda_act_elem(const struct lb_cuda *c, const struct lb_actbuf *a)
{
    return lb_cuda_type_bytes(a->f32 || c->base.dtype == LB_F32);
}

/* Nothing to do: the step failed, or has no tokens. */
static inline bool lb_cuda_idle(const struct lb_cuda *c)
{
    return c->err.status != LB_OK || c->step->n_tok == 0;
}

/* ---- backend_cuda.c ---- */

/* True where a call of the runtime, or a kernel, went well; else the step's error names call and op. */
bool lb_cuda_ok(struct lb_cuda *c, int code, const char *call, const char *op);

/* Exchanges the newest step's flight and the other one. */
void lb_cuda_swap(struct lb_cuda *c);

/* Waits for what was enqueued, and asks meanwhile whether the ranks that it may wait for are there; false: the step
 * failed, now or before. */
bool lb_cuda_wait(struct lb_cuda *c, const char *op);

/* lb_cuda_ok outside of a step. */
enum lb_status lb_cuda_try(int code, const char *call, const char *what, struct lb_err *err);

/* Memory until close: host zeroed, device aligned to 256 bytes and not zeroed. NULL (and err set) without it. */
void *lb_cuda_take(struct lb_cuda *c, enum lb_cuda_place place, size_t n, size_t size, const char *what,
                   struct lb_err *err);

/* Items a claim of the team: about `per_thread` claims for each thread. */
int64_t lb_cuda_grain(const struct lb_cuda *c, int64_t n_item, int64_t per_thread);

#endif
