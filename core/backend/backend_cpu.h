/* Inside the CPU backend: its state, shared by the files backend_cpu*.c. Nobody else includes it. */
#ifndef CORE_BACKEND_BACKEND_CPU_H
#define CORE_BACKEND_BACKEND_CPU_H

#include "core/backend/backend.h"
#include "core/backend/head.h"
#include "core/backend/team.h"
#include "core/backend/tune.h"
#include "core/base/mem.h"
#include "kernels/cpu/lk_cpu.h"

struct lb_matrix {
    void *w;
    struct lk_packed q;
    bool packed; /* w is what pack_codes made, as q says */
    struct lk_cols cols;
    int64_t n_out;
    int64_t n_all;          /* rows of this and of those behind it */
    struct lb_matrix *next; /* the rows behind these, packed otherwise: products of one K into the same y */
    bool gate_up, int8;
    int64_t n_head;            /* matrices of this shape, one behind the other */
    size_t head_bytes;         /* from one to the next */
    const struct lk_cpu *lk;   /* the table that it was packed for */
    struct lk_lora_pair *lora; /* [adapters], NULL: none has anything for it */
};

/* Adapters, and the step's tokens that have one. */
struct lb_cpu_lora {
    int32_t n_adapter; /* 0: none was loaded */
    int64_t u_ld;      /* numbers of u that a token has at most */
    float *u;          /* [limit.n_tok, u_ld] of the product in progress */
    int32_t *of_row;   /* [limit.n_tok] adapter of a token, -1: none */
    int32_t *row;      /* [limit.n_tok] n_row tokens with an adapter, sorted by it */
    int32_t *at;       /* [n_adapter + 1] scratch of the sorting */
    int64_t n_row;
};

struct lb_table {
    const void *data; /* [n_row, n_col] of the backend's type, borrowed; NULL: rows are read as they are asked for */
    const struct lb_rows *rows;
    int64_t first, n_row, n_col;
};

struct lb_kv_mem {
    struct lb_arena arena;
    struct lb_kv_spec spec;
    uint8_t *k, *v;                     /* plane of layer il begins at il * plane bytes */
    int64_t k_page_bytes, v_page_bytes; /* of one head */
    struct lb_cpu_index *index;         /* NULL without an indexer */
    struct lb_kv_mem *next;
};

/* Memory is taken from large mappings one after another: of weights, so that small matrices share huge pages; then of
 * steps, in small pages, as steps are seldom as large as they may be. */
struct lb_cpu_chunk {
    struct lb_arena arena;
    struct lb_cpu_chunk *next;
};

/* Tokens that an attention item covers: of one sequence, or with n_shared > 0 one each of sequences from seq on. */
struct lb_cpu_piece {
    int32_t seq, tok, n_tok, bucket, n_shared;
    uint64_t cost; /* tokens times the positions that they read */
};

#define LB_CPU_BUCKETS 256
#define LB_CPU_SMALL 8 /* of small pieces a thread has as many at least */

struct lb_cpu_moe;    /* backend_cpu_moe.c */
struct lb_cpu_screen; /* backend_cpu_screen.c */

struct lb_cpu {
    struct lb_backend base;   /* first: a struct lb_backend * is this */
    struct lk_cpu lk, lk_f32; /* of the backend's type, and of f32 for routers */
    int64_t l2_bytes;
    struct lb_tunes near_rows; /* of products */
    struct lb_tunes soons;     /* whether products fetch the next layer's pages */
    struct lb_team *team;
    struct lb_cpu_chunk *chunk;
    struct lb_weight_mem *weight_mem; /* NULL: the chunks */
    struct lb_kv_mem *kv_list;

    /* fixed by reserve */
    bool reserving, reserved;
    struct lb_step_limits limit;
    int64_t max_out;
    int32_t *id;                /* [limit.n_tok] token ids with slots resolved */
    int32_t *slot;              /* [max_out] */
    struct lb_cpu_piece *piece; /* [limit.n_tok] */
    struct lb_step wanted;      /* tables of max_out */
    struct lb_head head;
    struct lb_cpu_moe *moe; /* NULL: no mixture of experts */
    void *int8;             /* [limit.n_tok] rows of int8_row_bytes */
    size_t int8_row_bytes;  /* of the widest input of an int8 matrix; 0: there are none */
    struct lb_cpu_lora lora;
    int screens;                  /* as in struct lb_backend_spec */
    struct lb_cpu_screen *screen; /* of the LM head; NULL: its logits are all computed */
    /* fixed by the first step */
    void *q;
    int64_t q_head, q_head_dim; /* what q was sized for */
    float *cos, *sin;           /* [limit.n_tok, n_rot / 2] */
    int64_t n_rot;              /* what cos and sin were sized for */
    struct lk_attn_item *item;  /* [item_room] */
    int64_t item_room;
    int64_t *item_range; /* [n_thread + 1] where a thread's items begin */

    /* the step in progress */
    const struct lb_step *step; /* the model's, or `wanted` once that is all that is kept of it; ops take its tokens */
    struct lb_kv_mem *kv;
    struct lk_soon soon;       /* what is left to be fetched of the next layer's pages */
    double attended;           /* when the last layer's attention ended */
    struct lb_tune *soon_tune; /* that waits for the next layer's attention; NULL: none does */
    int64_t n_item;
    bool in_ranges;    /* items lie as the sequences do, threads have ranges; else most work first, and one queue */
    struct lb_err err; /* first failure since step_begin */
};

static inline struct lb_cpu *lb_cpu_of(struct lb_backend *be)
{
    return (struct lb_cpu *)be;
}

/* The kernels that read and write these activations. */
static inline const struct lk_cpu *lb_cpu_table_of(const struct lb_cpu *c, const struct lb_actbuf *a)
{
    return a->f32 ? &c->lk_f32 : &c->lk;
}

static inline void lb_cpu_set_weights(struct lk_linear *product, const struct lb_matrix *m)
{
    product->w = m->w;
    product->q = m->packed ? &m->q : NULL;
    product->n_out = m->n_out;
}

static inline size_t lb_cpu_elem_bytes(const struct lb_cpu *c)
{
    return c->base.dtype == LB_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* Bytes from the chunks, 64-byte aligned, zeroed, touched when used; NULL (and err set) without memory. */
void *lb_cpu_take(struct lb_cpu *c, size_t n, size_t size, const char *what, struct lb_err *err);

/* Items a claim: about `per_thread` claims for each thread. */
int64_t lb_cpu_grain(const struct lb_cpu *c, int64_t n_item, int64_t per_thread);

/* Attention items into which the query heads of a KV head are cut for each of n_piece pieces of sequences. */
int64_t lb_cpu_attn_parts(const struct lb_cpu *c, int64_t group, int64_t n_piece);

/* Monotonic clock. */
double lb_cpu_now(void);

/* Nothing to do: the step failed, or has no tokens. */
static inline bool lb_cpu_idle(const struct lb_cpu *c)
{
    return c->err.status != LB_OK || c->step->n_tok == 0;
}

#define LB_CPU_CLAIMS 32 /* of a thread: many, so that the last ones are short, yet each is worth a claim */

enum lb_status lb_cpu_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);

/* backend_cpu_load.c */
bool lb_cpu_keeps(const struct lb_backend *be, const struct lk_packed *how, const struct lk_cols *cols, bool int8);
enum lb_status lb_cpu_matrix_new(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                 struct lb_err *err);
enum lb_status lb_cpu_heads_new(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                struct lb_matrix **out, struct lb_err *err);
enum lb_status lb_cpu_table_new(struct lb_backend *be, const struct lb_rows *rows, int64_t first, struct lb_table **out,
                                struct lb_err *err);
enum lb_status lb_cpu_vector_new(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                 struct lb_err *err);

/* backend_cpu_index.c */
size_t lb_cpu_index_page_bytes(const struct lb_cpu *c, const struct lb_kv_spec *spec);
/* kv's arena has room for the keys. */
enum lb_status lb_cpu_index_new(struct lb_cpu *c, struct lb_kv_mem *kv, struct lb_err *err);
/* The keys' part of the step's copies of pages. */
void lb_cpu_index_copy(struct lb_cpu_index *x, const struct lb_step *s);
/* Lists the step's tokens that see more than topk positions. */
void lb_cpu_index_begin(struct lb_cpu_index *x, const struct lb_step *s);
void lb_cpu_index(struct lb_backend *be, const struct lb_index_args *args);
/* Attention of those tokens; `all` is that of the others. */
void lb_cpu_attend_chosen(struct lb_cpu *c, struct lb_cpu_index *x, const struct lk_attend *all);

/* backend_cpu_lora.c */
enum lb_status lb_cpu_lora_new(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                               struct lb_err *err);
enum lb_status lb_cpu_lora_reserve(struct lb_cpu *c, struct lb_err *err);
enum lb_status lb_cpu_lora_begin(struct lb_cpu *c, const struct lb_step *s, struct lb_err *err);
/* Strips of one matrix of those that make a fused one. */
int64_t lb_cpu_lora_strips(const struct lb_matrix *m);
/* Makes u of a product of m with these activations, and tells the product of it. false: it needs none. */
bool lb_cpu_lora_down(struct lb_cpu *c, const struct lk_act *a, const struct lb_matrix *m, struct lk_lora *out);

/* backend_cpu_step.c */
void lb_cpu_step_begin(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                       const struct lb_rope_args *rope, int64_t n_head);
void lb_cpu_make_items(struct lb_cpu *c, int64_t n_head); /* cuts the step into attention items */

/* backend_cpu_ops.c */
/* A product of the backend's type or, with a matrix in int8, in int8, all its items; the hints are filled in. */
void lb_cpu_run_product(struct lb_cpu *c, struct lk_linear *args, bool int8);
void lb_cpu_embed(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table);
void lb_cpu_norm(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                 bool wanted);
void lb_cpu_norm_add(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps);
void lb_cpu_linear(struct lb_backend *be, const struct lb_linear_args *args);
void lb_cpu_finish(struct lb_backend *be, struct lb_buf *y, const struct lb_buf *part, const float *bias,
                   enum lb_epilogue epilogue);
void lb_cpu_linear_heads(struct lb_backend *be, const struct lb_heads_args *args);
void lb_cpu_round(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step);
void lb_cpu_latent(struct lb_backend *be, const struct lb_latent_args *args);
void lb_cpu_attend(struct lb_backend *be, const struct lb_attend_args *args);
void lb_cpu_rope_kv(struct lb_cpu *c, const struct lb_attend_args *args); /* attend's first part */

/* backend_cpu_wanted.c */
enum lb_status lb_cpu_wanted_reserve(struct lb_cpu *c, struct lb_err *err);
void lb_cpu_keep_wanted(struct lb_backend *be, struct lb_buf *x, const struct lb_attend_args *before);

/* backend_cpu_head.c */
void lb_cpu_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w);
void lb_cpu_head_part(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                      void *out);
const struct lb_cand *lb_cpu_head_merge(struct lb_backend *be, const struct lb_step *step,
                                        const struct lb_head_part *part, int n_part);
float *lb_cpu_part_logits(struct lb_backend *be, int64_t j);

/* backend_cpu_screen.c */
/* pack_s: that m took to be packed */
enum lb_status lb_cpu_screen_offer(struct lb_cpu *c, const struct lb_matrix_spec *spec, const struct lb_matrix *m,
                                   double pack_s, struct lb_err *err);
void lb_cpu_screen_reserve(struct lb_cpu *c); /* part of reserve; without memory nothing is screened */
/* Whether screening reads the rows of this table, too, and again and again. */
bool lb_cpu_screen_reads(const struct lb_cpu *c, const struct lb_table *table);
/* Whether the step's rows can be screened in the head w, sooner or later: if so, how long they took is to be said. */
bool lb_cpu_screens(const struct lb_cpu *c, const struct lb_matrix *w);
/* Fills head.best of the step's rows; false: all logits are needed, or faster. */
bool lb_cpu_screen(struct lb_cpu *c, const struct lk_act *a);
void lb_cpu_screen_took(struct lb_cpu *c, int64_t n_row, double seconds);

/* backend_cpu_moe.c */
enum lb_status lb_cpu_moe_reserve(struct lb_backend *be, const struct lb_moe_shape *shape,
                                  const struct lb_moe_leaves *leaves, int64_t dim, struct lb_err *err);
void lb_cpu_moe(struct lb_backend *be, const struct lb_moe_args *args);

#endif
