/* A backend: memory for weights, cache and activations, and the ops of a forward pass, as a table of functions.
 *
 * One thread (the forward thread) calls a backend. Between step_begin and step_end the first failure sticks and later
 * ops do nothing; step_end reports it. Ops take device buffers; only step_end and the read functions give host
 * memory. Everything a backend hands out is freed by close.
 *
 * Where n_ahead is 1, step_begin of one more step may come before the step_end of the one before: then two are on their
 * way, a step_end ends the older one, and `~j` of the newer one is found where it is computed: the id that output j
 * draws (LB_OUT_DRAW), else its best, the lowest of equals, whatever the host will make of it (some id where the logits
 * are no numbers). The older one may ask for no logits. What a step fails with is told by its own step_end, and ends
 * the step behind it too. */
#ifndef CORE_BACKEND_BACKEND_H
#define CORE_BACKEND_BACKEND_H

#include "core/backend/op_args.h"
#include "core/backend/step.h"
#include "core/base/err.h"
#include "core/base/log.h"

struct lb_backend_counts {
    int64_t product_rows;                      /* rows that entered layer products, one count a product */
    int64_t token_rows;                        /* tokens that those products were asked for */
    int64_t weight_bytes;                      /* packed matrices */
    int64_t screened_rows, exact_logits;       /* rows whose head was screened, and logits computed of them */
    double attend_s, linear_s, norm_s, head_s; /* seconds by kind of op, whole run */
};

struct lb_backend;

struct lb_backend_ops {
    void (*close)(struct lb_backend *be);

    /* loading; weights may be read by several threads of the backend's team. mem is lent until the next call, NULL: the
     * backend's own memory, as from the beginning */
    void (*weight_mem)(struct lb_backend *be, struct lb_weight_mem *mem);
    /* Whether products take weights packed like this as they are; NULL: none */
    bool (*keeps)(const struct lb_backend *be, const struct lk_packed *how, const struct lk_cols *cols, bool int8);
    enum lb_status (*matrix_new)(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                 struct lb_err *err);
    /* n_head matrices of the same shape, whose rows stand one behind the other in spec->rows */
    enum lb_status (*heads_new)(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                struct lb_matrix **out, struct lb_err *err);
    /* rows `first` and those behind it of the vocabulary; lent as long as the backend lives: they are read where the
     * file lies, by several threads at once */
    enum lb_status (*table_new)(struct lb_backend *be, const struct lb_rows *rows, int64_t first, struct lb_table **out,
                                struct lb_err *err);
    enum lb_status (*vector_new)(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                 struct lb_err *err);
    /* What an adapter adds to the products of `linear` with m, for sequences whose number in the step is adapter + 1;
     * before reserve */
    enum lb_status (*lora_new)(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                               struct lb_err *err);

    /* memory of the step; max_row is fixed by reserve, called once after loading. vocab: the whole vocabulary, cut into
     * the contract's segments */
    enum lb_status (*reserve)(struct lb_backend *be, struct lb_step_limits limit, int32_t max_out,
                              const struct lk_cols *vocab, struct lb_err *err);
    enum lb_status (*buf_new)(struct lb_backend *be, int64_t width, struct lb_buf *out, struct lb_err *err);
    enum lb_status (*act_new)(struct lb_backend *be, const struct lk_cols *cols, struct lb_actbuf *out,
                              struct lb_err *err);
    /* out's cols, n_head and f32 are set */
    enum lb_status (*head_acts_new)(struct lb_backend *be, struct lb_actbuf *out, struct lb_err *err);
    size_t (*kv_page_bytes)(const struct lb_backend *be, const struct lb_kv_spec *spec);
    enum lb_status (*kv_new)(struct lb_backend *be, const struct lb_kv_spec *spec, struct lb_kv_mem **out,
                             struct lb_err *err);
    enum lb_status (*moe_reserve)(struct lb_backend *be, const struct lb_moe_shape *shape,
                                  const struct lb_moe_leaves *leaves, int64_t dim, struct lb_err *err); /* of `moe` */

    /* the forward pass */
    /* step is lent until its step_end */
    void (*step_begin)(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                       const struct lb_rope_args *rope, int64_t n_head);
    /* Around embed and all layers with the last norm, where the model runs them whole and unobserved; NULL: none.
     * layers_begin: true, they are queued already, as they were recorded in an earlier step of this shape, and are left
     * out. layers_end: true, nothing of them is queued and they are to run once more. Ranks of a group need not agree:
     * recorded or not, after a failure too, a step queues the same collectives in the same order. layers_forget: what
     * is recorded goes, no step is under way; before what layers use does, the communicator too. */
    bool (*layers_begin)(struct lb_backend *be);
    bool (*layers_end)(struct lb_backend *be);
    void (*layers_forget)(struct lb_backend *be);
    /* Ids that the table does not hold give -0, so that the sum of all ranks' rows is the row of the one that does. */
    void (*embed)(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table);
    /* The step is its out_tok tokens alone from here on, in their order, for all ops until step_end; x keeps their
     * rows. before: what `attend` is called with next, in front of which the others' K and V are stored; NULL: no
     * attention follows, nor may it. Not where attention chooses positions. NULL: all tokens stay. */
    void (*keep_wanted)(struct lb_backend *be, struct lb_buf *x, const struct lb_attend_args *before);
    /* wanted: only the step's out_tok rows, in their order */
    void (*norm)(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                 bool wanted);
    /* x += norm(y), f32 rows: a norm before the residual */
    void (*norm_add)(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps);
    void (*linear)(struct lb_backend *be, const struct lb_linear_args *args);
    /* What LB_ADD and LB_STORE do behind a product, for one whose sum came from several ranks: y += part + bias, or y =
     * part + bias, where y may be part. bias may be NULL. */
    void (*finish)(struct lb_backend *be, struct lb_buf *y, const struct lb_buf *part, const float *bias,
                   enum lb_epilogue epilogue);
    void (*linear_heads)(struct lb_backend *be, const struct lb_heads_args *args);
    /* y = columns x_col ... of x, rounded; where y has heads, those of head h are h * x_step columns further on */
    void (*round)(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step);
    void (*latent)(struct lb_backend *be, const struct lb_latent_args *args);
    void (*index)(struct lb_backend *be, const struct lb_index_args *args);
    void (*attend)(struct lb_backend *be, const struct lb_attend_args *args);
    /* x += mixture of experts of norm(x): leaves and tree as struct lk_combine has them */
    void (*moe)(struct lb_backend *be, const struct lb_moe_args *args);
    /* the product behind the last norm: candidates for each wanted token */
    void (*head)(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w);
    /* the same with a head that holds w's rows of the vocabulary from `first` on, whole segments: out takes
     * lb_head_part_bytes, and is written when step_end is back */
    void (*head_part)(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                      void *out);
    /* waits for the oldest pass on its way; *cand is [step->n_out], lent until the next step_begin */
    enum lb_status (*step_end)(struct lb_backend *be, const struct lb_cand **cand, struct lb_err *err);
    /* After step_end: the step's candidates from the parts of a whole vocabulary, in its order, as `head` gives them.
     */
    const struct lb_cand *(*head_merge)(struct lb_backend *be, const struct lb_step *step,
                                        const struct lb_head_part *part, int n_part);

    /* After head_part and step_end: the logits of output j that are here, in host memory, the caller may change them;
     * where `first` is 0 the row has room for the others behind them. NULL where none were asked for. Valid until the
     * next step_begin. */
    float *(*part_logits)(struct lb_backend *be, int64_t j);

    /* Samples of the step just ended: slot j is what `~j` in the next step's tok means. [n_out], host-writable. */
    int32_t *(*slots)(struct lb_backend *be);

    /* tests: during a step; after a failure they write nothing */
    void (*read_rows)(struct lb_backend *be, const struct lb_buf *x, int64_t n_row, float *host);
    void (*read_act)(struct lb_backend *be, const struct lb_actbuf *a, int64_t n_row, float *host);

    /* Runs fn(ctx, begin, end) over [0, n_item) on the backend's threads: host work of the forward thread, such as
     * sampling. */
    void (*parallel)(struct lb_backend *be, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                     int64_t n_item);
};

/* Of a device with memory of its own, when it was opened. */
struct lb_backend_memory {
    size_t free_bytes, total_bytes; /* 0: the host's memory is used */
};

struct lb_backend {
    const struct lb_backend_ops *ops;
    enum lb_dtype dtype;
    bool int8;          /* it was opened for matrices in int8 */
    bool w4a8;          /* and those of 4 bits stay packed (kernels/args_w4a8.h) */
    const char *device; /* "cpu", "cuda", "null" */
    const char *isa;    /* kernel set in use: "ref", "avx512bf16"; NULL: the device has none */
    const char *arch;   /* of a device, "sm_90"; NULL: the processor */
    const char *build;  /* what else decides its bits: the device's name, versions of libraries; NULL likewise */
    void *stream;       /* what ops are enqueued on (a cudaStream_t), buffers are the device's; NULL: the host's */
    /* asked while a step waits, and once behind that: false ends it as failed, and err, which may hold another failure,
     * gets why. lost: the device does nothing any more, which the other ranks must hear. NULL: it just waits */
    bool (*alive)(void *ctx, bool lost, struct lb_err *err);
    void *alive_ctx;
    int n_thread;
    int64_t rows_enough; /* rows at a time beyond which a token costs no less; 0: more are always better */
    int n_ahead;         /* steps that may begin before the one before is ended; 0: each ends before the next begins */
    struct lb_backend_memory memory;
    bool unpack; /* packed weights are unpacked when they are loaded: other memory and speed, the same numbers */
    struct lb_backend_counts counts;
};

struct lb_backend_spec {
    const char *device; /* "auto", "cpu", "cuda", "null" */
    enum lb_dtype dtype;
    bool int8;          /* matrices may be asked for in int8 */
    bool w4a8;          /* those of 4 bits are to stay packed then, if the kernel set can; `int8` is set too */
    const char *isa;    /* list of sets that may be used, or NULL for what the processor has; unknown or missing on
                         * this processor: LB_E_USAGE naming it */
    int n_thread;       /* 0: the affinity mask's size */
    int local_rank;     /* among the ranks of this host: its device */
    int64_t lt_weights; /* tests only: matrices of so many weights have cuBLASLt's algorithms tried; 0: as is best */
    const char *cuda_library; /* path of llmbatch-cuda.so; NULL: it is looked for */
    int graphs;    /* of decode steps, kept at most on a device that has them; 0: as many as is usual, -1: none */
    bool unpack;   /* see struct lb_backend */
    bool no_ahead; /* n_ahead is 0 whatever the device can */
    int screens;   /* tests: 1: rows that want their largest logit alone are screened by int8 from the first one on, -1:
                    * none are; 0: as is faster. The CPU's, and the same bits */
    const struct lb_log *log;
};

/* Kernel sets of this processor, separated by spaces ("ref avx512bf16"). */
const char *lb_backend_isa_list(void);

enum lb_status lb_backend_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);

#endif
