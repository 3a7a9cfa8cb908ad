/* Shared by the golden tests: running rows through the library the way the command does, and a second implementation
 * of the model's mathematics. */
#ifndef CORE_TESTS_GOLDEN_GOLDEN_H
#define CORE_TESTS_GOLDEN_GOLDEN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/llmbatch.h"

/* Output of one run, in input order. */
struct golden_out {
    char *text;   /* the whole file, owned */
    json_t *rows; /* array of its lines, owned */
    int exit_code;
    struct lb_stats stats;
};

/* Runs the JSON rows of `rows` through options (model and settings set by the caller; files are this function's own
 * temporary ones). Ends the program when the run fails. */
void golden_run(struct lb_options *options, const json_t *rows, struct golden_out *out);
/* The same, but a failure is returned, with nothing in *out to release. */
enum lb_status golden_try(struct lb_options *options, const json_t *rows, struct golden_out *out, struct lb_err *err);
void golden_out_release(struct golden_out *out);

/* The kernel sets of this program that are to be tested, behind the last one NULL: all that it has but `without`, which
 * main takes from the command line (another program has tested it). */
const char *const *golden_sets(void);
/* Those of them that cover f32, which "falls back" of another one: it is ref's run once more. */
const char *const *golden_f32_sets(void);
bool golden_falls_back(const char *isa);
extern const char *golden_without;
/* The CUDA backend's library: runs are on it, in place of kernel sets but for "ref". NULL: they are not. */
extern const char *golden_cuda;

/* How much is run: LB_TEST_FULL=1 all of it; otherwise a fixed sample of the contract, smaller where the model of an
 * instruction set makes each run many times slower. Under a sanitizer fewer rows and models do: there the question is
 * what is read and written, not the bits, which the release build has compared. */
enum golden_extent { EXTENT_SANITIZED, EXTENT_MODEL, EXTENT_SAMPLE, EXTENT_FULL };
enum golden_extent golden_extent(void);

/* Of logits and log-probabilities in f32 (README of the goldens). */
#define GOLDEN_TOLERANCE 2e-4

/* A kernel set, a type, and what layers are quantized to (NULL: to nothing). */
struct golden_way {
    const char *isa, *dtype, *quantize;
};

/* That a row's output depends on the row alone, in this way; rows alone too when `singles`. */
void golden_contract_of(const char *path, const struct golden_way *way, const json_t *rows, bool singles);

/* That output rows are the same but for `index`, which says where a row stood in its file. */
void golden_check_same(const char *where, const json_t *want, const json_t *got);
/* That rows alone give what they gave together; of a sample every seventh, the next time others. */
void golden_one_at_a_time(const char *where, struct lb_options *o, const json_t *rows, const json_t *want);

/* That a row's output depends on the row alone: every kernel set that is to be tested, in both types (under a sanitizer
 * f32 has run in other tests, and a sample has it of every third model); rows alone too when `singles`, for the
 * reference in bf16 when `ref_singles`. */
void golden_contract(const char *path, const json_t *rows, bool singles, bool ref_singles);

/* The rows of a golden model that test the contract: greedy and sampled, with penalties, scores, several samples. */
json_t *golden_contract_rows(const json_t *golden);

/* Adapters that golden_options gives to runs; none as a rule. */
extern const char *const *golden_lora;
extern size_t golden_n_lora;

/* An adapter drawn from a seed for a model's float32 matrices whose modules' names end in one of `target` (NULL behind
 * the last), in layers 0 .. n_layer - 1: as PEFT's files in the folder `into`. merged: the folder where the model's
 * file with W + scale * B A is written, computed in double, NULL: nowhere; then the model must be one file. */
struct golden_adapter {
    const char *model, *into, *merged;
    const char *const *target;
    int n_layer;
    int64_t rank;
    double alpha;
    int64_t head_dim;             /* GGUF: of Q and K */
    bool rslora, bf16, patterned; /* patterned: rank and alpha stand in patterns */
    uint32_t seed;
};

/* Returns how many modules it has. */
int golden_adapter(const struct golden_adapter *a);

/* Options for a golden model: f32 on the best set, progress and log off. */
void golden_options(struct lb_options *o, const char *model);

/* Lines of a .jsonl file as an array, NULL when it is not there. */
json_t *golden_read(const char *path);
/* Pages of the input row that needs most. */
int64_t golden_longest_pages(const json_t *rows);

/* An input row of a golden one's prompt, its id with a suffix. */
json_t *golden_id_row(const json_t *golden, const char *id_suffix, json_int_t max_tokens);
/* Leaves every step-th row: 2, 5, 8 ... of step 3, where a golden model's are of 3, 33, some 30 and some 40 ids, and a
 * page has 32. */
void golden_thin(json_t *rows, size_t step);
/* Leaves what is recorded of the first n greedy ids of rows. */
void golden_shorten(json_t *rows, size_t n);

/* Makes `into` the folder of a model whose files are links to those of dir, but for config.json: members of `change`
 * are put in place of its own, "(absent)" takes one out. */
void golden_bend(const char *dir, const char *into, const json_t *change);

/* ---- naive models in double precision: one token a call, weights drawn from a seed ---- */

enum naive_family {
    NAIVE_LLAMA,
    NAIVE_MISTRAL,
    NAIVE_QWEN2,
    NAIVE_QWEN3,
    NAIVE_GLM,
    NAIVE_GLM4,
    NAIVE_GLM4_MOE,
    NAIVE_LITE
};

struct naive_shape {
    enum naive_family family;
    int64_t n_vocab, dim, ffn_dim, n_layer, n_head, n_kv_head, head_dim;
    double theta;
    bool tied, attn_bias, mlp_bias;
    int64_t window, n_full; /* positions that a token sees from layer n_full on; 0: all */
    int64_t n_rot;          /* GLM: dimensions that turn */
    /* GLM4_MOE: experts in all layers but the first, each moe_dim wide; n_shared of them are taken by every token */
    int64_t n_expert, n_used, n_shared, moe_dim, n_group, n_group_used;
    /* LITE: latent attention, head_dim wide in Q, K and V, of which K and Q turn n_rot; q_rank 0: no latent of queries
     */
    int64_t kv_rank, q_rank;
    bool half_split; /* not in pairs of neighbors */
};

struct naive_model;

/* Draws weights (float32) and writes a Hugging Face directory of them. */
struct naive_model *naive_new(const struct naive_shape *shape, uint64_t seed);
void naive_write(const struct naive_model *m, const char *dir);
void naive_free(struct naive_model *m);

/* logits[n, n_vocab] of a whole sequence, set from position `first` on. */
void naive_forward(const struct naive_model *m, const int32_t *ids, int64_t first, int64_t n, double *logits);

#endif
