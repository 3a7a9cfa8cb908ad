/* The table of CPU kernels. lk_cpu_init fills it with the reference for one element type, then every instruction set
 * that is allowed and covers that type overrides what it has. Layouts inside activations, packed weights, query panels
 * and cache pages belong to the set: everything that touches them is overridden together.
 *
 * Kernels are pure leaves: no allocation, threads, logs or errors. */
#ifndef KERNELS_CPU_LK_CPU_H
#define KERNELS_CPU_LK_CPU_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/args_sparse.h"
#include "kernels/args_w4a8.h"

enum lk_isa { LK_ISA_REF = 1, LK_ISA_AVX2 = 2, LK_ISA_AVX512BF16 = 4, LK_ISA_AMX = 8 }; /* bits */

/* Products in int8. weight_bytes and pack are for matrices of the table's panel_cols; `linear` takes struct lk_linear
 * with `a.data` as quantize writes it, all epilogues but the head's, and writes `out` in the table's own order. */
struct lk_int8 {
    size_t (*weight_bytes)(int64_t n_out, const struct lk_cols *cols);
    size_t (*act_bytes)(int64_t n_row, const struct lk_cols *cols); /* n_row times that of one row */
    void (*pack)(const struct lk_pack *a);
    int64_t (*quantize_items)(const struct lk_quantize *a);
    void (*quantize)(const struct lk_quantize *a, int64_t begin, int64_t end);
    int64_t (*linear_items)(const struct lk_linear *a);
    void (*linear)(const struct lk_linear *a, int64_t begin, int64_t end);
    /* Of one row of numbers of `type`, as the table's type has them. */
    void (*norms)(const void *row, enum lk_type type, const struct lk_cols *cols, struct lk_int8_norms *out);
    /* *least: the best lower bound of a row's largest logit so far, raised by what these columns say. Writes the
     * columns that may reach it, and returns how many they are. NULL: int8 is no faster than the set's own products. */
    int64_t (*screen)(const struct lk_screen *a, float *least, struct lk_may *may);
};

struct lk_cpu {
    const char *name; /* "ref", "avx512bf16", "amx" */
    enum lk_type type;
    int64_t panel_cols; /* output columns of a weight panel */
    size_t act_bytes;   /* of one activation as the set stores it */
    /* From so many rows on near_rows of struct lk_linear makes products faster where two threads share a core, and
     * slower where each has one; 0: never. */
    int64_t near_rows_from;
    /* Rows at a time for each thread beyond which a product's row costs no less, arithmetic being what takes its time;
     * 0: there is no such number, memory keeps up for hundreds of rows. */
    int64_t thread_rows;

    int64_t tile_rows; /* of a register tile whose product fetches half a page of struct lk_soon; 0: none does */

    size_t (*weight_bytes)(int64_t n_out, const struct lk_cols *cols);
    size_t (*q_bytes)(int64_t n_tok, int64_t n_head, int64_t head_dim);
    size_t (*k_page_bytes)(int64_t head_dim);
    size_t (*v_page_bytes)(int64_t v_dim);
    int64_t (*attn_rows)(int64_t v_dim); /* tokens times query heads of an attention item at most */

    void (*pack)(const struct lk_pack *a);
    /* The same for weights that stay packed (args_packed.h); lk_packed_fits says which may. */
    size_t (*packed_bytes)(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols);
    void (*pack_codes)(const struct lk_pack_codes *a);
    /* Row `row` of packed activations as f32 over the source columns: out[cols->n_col]. For tests and hooks. */
    void (*act_row)(const struct lk_act *a, int64_t row, float *out);
    /* Rows of `a` that a product computes, real or not: n_row when nothing is padded. */
    int64_t (*act_rows)(const struct lk_act *a);

    void (*embed)(const struct lk_embed *a, int64_t begin, int64_t end);
    int64_t (*norm_items)(const struct lk_norm *a);
    void (*norm)(const struct lk_norm *a, int64_t begin, int64_t end);
    void (*norm_add)(const struct lk_norm_add *a, int64_t begin, int64_t end);
    int64_t (*linear_items)(const struct lk_linear *a);
    void (*linear)(const struct lk_linear *a, int64_t begin, int64_t end);
    void (*lora_down)(const struct lk_lora_down *a, int64_t begin, int64_t end);
    void (*rope_table)(const struct lk_rope_table *a, int64_t begin, int64_t end);
    void (*rope_kv)(const struct lk_rope_kv *a, int64_t begin, int64_t end);
    void (*round)(const struct lk_round *a, int64_t begin, int64_t end);
    void (*latent)(const struct lk_latent *a, int64_t begin, int64_t end);
    void (*index_key)(const struct lk_index_key *a, int64_t begin, int64_t end);
    void (*index_select)(const struct lk_index_select *a, int64_t begin, int64_t end);
    void (*gather)(const struct lk_gather *a, int64_t begin, int64_t end);
    void (*attend)(const struct lk_attend *a, int64_t begin, int64_t end);
    void (*top)(const struct lk_top *a, int64_t begin, int64_t end);
    void (*route)(const struct lk_route *a, int64_t begin, int64_t end);
    void (*combine)(const struct lk_combine *a, int64_t begin, int64_t end);
    struct lk_int8 int8;
    struct lk_w4a8 w4a8;

    /* Tests and benches. y[i] = e^x[i] as the set computes it. */
    void (*exp)(const float *x, float *y, int64_t n);
    /* n rounds of the product's instruction, its operands in registers or in the first cache; returns the
     * floating-point operations done. NULL where the set has no such loop. */
    double (*peak)(bool from_l1, int64_t n);
};

/* Whether a product can take weights packed like this: segments begin where scales do, but for those of a whole row (a
 * group or subgroup begins at a multiple of its size in the tensor's row), and scales are of a type that the kind has.
 */
bool lk_packed_fits(const struct lk_packed *q, const struct lk_cols *cols);

/* Instruction sets of this processor and operating system, LK_ISA_REF always among them. Asks Linux for the process's
 * use of AMX tiles, so it comes before any kernel runs. */
unsigned lk_cpu_detect(void);

/* The same where the sets run on modeled instructions, too: what the processor itself has. For tests. */
unsigned lk_cpu_hardware(void);

/* Name of the i-th set, in the order in which lk_cpu_init tries them, and its bit; NULL behind the last one. */
const char *lk_cpu_set(int i, unsigned *bit);

/* "ref,avx512bf16" -> bits; 0 when a name is unknown. */
unsigned lk_cpu_parse(const char *list);

/* Bytes of a core's second cache; 0 when the system does not say. */
int64_t lk_cpu_l2_bytes(void);

/* Fills the table: the last set of `allowed` that covers `type`. `allowed` must be a subset of lk_cpu_detect(). */
void lk_cpu_init(struct lk_cpu *t, enum lk_type type, unsigned allowed);

/* Each set's own init, for lk_cpu_init and tests: ref fills every entry; another set overrides what it has in a table
 * that ref has filled, for the types it covers. amx covers bf16, and fills what it shares with avx512bf16 by that set's
 * init. */
void lk_ref_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_init(struct lk_cpu *t, enum lk_type type);
void lk_amx_init(struct lk_cpu *t, enum lk_type type);

#endif
