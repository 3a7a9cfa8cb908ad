/* Which cuBLASLt algorithms are fit for a shape of weights: those whose rows do not depend on how many rows there are,
 * and that give the bits of the shape's reference. The reference is the first of cuBLASLt's own order that is fit,
 * which is the same on every run and rank; our own kernel where there is none. So what a range of rows takes is only a
 * question of time, and no bit shows it. Found out on the device, with numbers in which another order would show. */
#include <stdlib.h>
#include <string.h>

#include "core/backend/backend_cuda_lt.h"
#include "core/base/mem.h"
#include "core/base/str.h"

#define MOST_ROWS 1000
#define MOST_HEAD_ROWS 512              /* of a vocabulary, whose results are large */
#define HEAD_OUT 65536                  /* columns from which a matrix counts as one */
#define SAME_NUMBERS ((int64_t)1 << 20) /* of results, at most, that are compared at a time */
#define SAME_ROWS 64
#define ASKED 4      /* algorithms, for each range, */
#define ASKED_HEAD 2 /* of a vocabulary, whose results take long to compare */
#define MOST (LB_CUDA_RANGES * ASKED)
#define REPEATS 2
#define TIMED 4                         /* products that one timing has one after the other */
#define DELAYS 8                        /* fills of the result's memory before a timing, at most, */
#define DELAY_BYTES ((size_t)256 << 20) /* unless they are of so many bytes before */

/* A test of one shape. */
struct trial {
    struct lb_cuda *c;
    struct lb_cuda_shape *shape;
    const struct lb_matrix *w;
    int64_t tested[LB_CUDA_RANGES]; /* numbers of rows, */
    int64_t most, same;             /* the last of them; row i of the operand is row i % same */
    uint16_t *in;                   /* device: [most, packed columns] */
    float *out;                     /* device: [most, n_out] */
    float *scratch;                 /* device: in place of the step's */
    float *want, *got;              /* host: [same, n_out] */
    uint16_t *host;                 /* what becomes `in` */
    cublasLtMatmulAlgo_t candidate[MOST];
    int n_candidate;
    cudaEvent_t begin, end;
};

/* bf16 numbers of mixed size and sign, by a linear congruence. */
static void fill(uint16_t *x, int64_t n_row, int64_t same, int64_t n_col)
{
    uint32_t seed = 12345;
    for (int64_t i = 0; i < n_row * n_col; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t sign = seed >> 31, exponent = 120 + (seed >> 24 & 7), fraction = seed >> 10 & 127;
        x[i] = (uint16_t)(sign << 15 | exponent << 7 | fraction);
        if (i >= same * n_col)
            x[i] = x[i - same * n_col];
    }
}

/* algo NULL: our own kernel. */
static enum lb_status run(struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t n_row, struct lb_err *err)
{
    struct lk_linear a = {.a = {t->in, n_row, &t->w->cols},
                          .n_out = t->w->n_out,
                          .epilogue = LK_EP_STORE,
                          .y = t->out,
                          .y_ld = t->w->n_out};
    if (algo)
        return lb_cuda_lt_product(t->c, &a, (struct lb_cuda_call){t->shape, algo, t->w->w, t->w->name, NULL, 0}, err);
    const struct lk_weight weight = {.data = t->w->w, .format = LK_W_BF16};
    return lb_cuda_try(lk_cuda_linear(&a, &weight, t->c->scratch, t->c->stream), "product", t->w->name, err);
}

/* Rows row .. row + n - 1 of the result. */
static enum lb_status read_out(struct trial *t, float *to, int64_t row, int64_t n, struct lb_err *err)
{
    size_t row_bytes = (size_t)t->w->n_out * sizeof(float);
    LB_TRY(lb_cuda_try((int)cudaMemcpyAsync(to, t->out + row * t->w->n_out, (size_t)n * row_bytes,
                                            cudaMemcpyDeviceToHost, t->c->stream),
                       "cudaMemcpyAsync", "a product's test", err));
    return lb_cuda_try((int)cudaStreamSynchronize(t->c->stream), "cudaStreamSynchronize", "a product's test", err);
}

/* Whether the rows are those of t->want, whatever their number; a call that fails is no more than unfit. */
static bool fits(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    struct lb_err ignored = LB_ERR_INIT;
    size_t row_bytes = (size_t)t->w->n_out * sizeof(float);
    for (int r = 0; r < LB_CUDA_RANGES; r++) {
        const int64_t n_row = t->tested[r], begin[] = {0, n_row / 2, n_row - t->same + 3};
        if (run(t, algo, n_row, &ignored) != LB_OK)
            return false;
        /* the first rows, some in the middle, the last ones; all at once where there are no more */
        for (int b = 0; b < (n_row > t->same ? 3 : 1); b++) {
            int64_t row = begin[b], n = n_row - row < t->same ? n_row - row : t->same;
            if (read_out(t, t->got, row, n, &ignored) != LB_OK)
                return false;
            for (int64_t i = 0; i < n; i++)
                if (memcmp(t->got + i * t->w->n_out, t->want + (row + i) % t->same * t->w->n_out, row_bytes) != 0)
                    return false;
        }
    }
    return true;
}

/* Neither split-K nor stream-K, which say so by their number of splits. */
static bool splits(const cublasLtMatmulAlgo_t *algo)
{
    int32_t n = 0;
    uint32_t scheme = 0;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &n, sizeof n, &written) !=
            CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                                             &written) != CUBLAS_STATUS_SUCCESS)
        return true;
    return (n != 0 && n != 1) || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

static bool is_known(const struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    for (int i = 0; i < t->n_candidate; i++)
        if (memcmp(&t->candidate[i], algo, sizeof *algo) == 0)
            return true;
    return false;
}

/* What cuBLASLt proposes, for many rows first. */
static void ask(struct trial *t)
{
    struct lb_cuda_lt *lt = t->c->lt;
    struct lb_cuda_shape *s = t->shape;
    struct lb_err ignored = LB_ERR_INIT;
    for (int r = LB_CUDA_RANGES - 1; r >= 0; r--) {
        cublasLtMatmulHeuristicResult_t found[ASKED];
        int n = 0, asked = s->n_out < HEAD_OUT ? ASKED : ASKED_HEAD;
        if (lb_cuda_lt_rows(s, t->tested[r], s->n_out, &ignored) != LB_OK ||
            cublasLtMatmulAlgoGetHeuristic(lt->handle, s->desc, s->layout[0], s->layout[1], s->layout[2], s->layout[2],
                                           lt->preference, asked, found, &n) != CUBLAS_STATUS_SUCCESS)
            continue;
        for (int i = 0; i < n; i++)
            if (found[i].state == CUBLAS_STATUS_SUCCESS && !splits(&found[i].algo) && !is_known(t, &found[i].algo))
                t->candidate[t->n_candidate++] = found[i].algo;
    }
}

/* Work for the device while the host queues what is timed: a run queues steps ahead of the device, so what a launch
 * costs the host must not count. */
static void keep_busy(struct trial *t)
{
    size_t bytes = (size_t)(t->most * t->w->n_out) * sizeof(float);
    for (size_t i = 0; i < DELAYS && i * bytes < DELAY_BYTES; i++)
        cudaMemsetAsync(t->out, 0, bytes, t->c->stream);
}

static bool run_some(struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t n_row)
{
    struct lb_err ignored = LB_ERR_INIT;
    for (int i = 0; i < TIMED; i++)
        if (run(t, algo, n_row, &ignored) != LB_OK)
            return false;
    return true;
}

/* The shortest of some timings, in ms. */
static float time_of(struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t n_row)
{
    float best = 1e9f, ms;
    for (int i = 0; i < REPEATS; i++) {
        keep_busy(t);
        if (cudaEventRecord(t->begin, t->c->stream) == cudaSuccess && run_some(t, algo, n_row) &&
            cudaEventRecord(t->end, t->c->stream) == cudaSuccess && cudaEventSynchronize(t->end) == cudaSuccess &&
            cudaEventElapsedTime(&ms, t->begin, t->end) == cudaSuccess)
            best = ms < best ? ms : best;
    }
    return best;
}

/* t->want becomes the reference's rows. */
static enum lb_status find_reference(struct trial *t, int *reference, struct lb_err *err)
{
    for (*reference = 0; *reference < t->n_candidate; ++*reference) {
        const cublasLtMatmulAlgo_t *algo = &t->candidate[*reference];
        struct lb_err ignored = LB_ERR_INIT;
        if (run(t, algo, t->same, &ignored) == LB_OK && read_out(t, t->want, 0, t->same, &ignored) == LB_OK &&
            fits(t, algo))
            return LB_OK;
    }
    *reference = -1;
    LB_TRY(run(t, NULL, t->same, err));
    return read_out(t, t->want, 0, t->same, err);
}

/* ours: times of our own kernel, NULL when it is not fit; ms for one product. */
static void tell(const struct trial *t, int n_fit, const float *ours, const float *best)
{
    const struct lb_cuda_shape *s = t->shape;
    struct lb_str times = {0};
    for (int r = 0; r < LB_CUDA_RANGES; r++)
        lb_str_putf(&times, "%s%lld rows %.1f us (ours %.1f)", r > 0 ? ", " : "", (long long)t->tested[r],
                    (double)best[r] * 1e3 / TIMED, ours ? (double)ours[r] * 1e3 / TIMED : 0.0);
    lb_log_put(t->c->log, LB_LOG_DEBUG,
               "cuda: products %lld x %lld in %d segments: %d of %d algorithms of cuBLASLt are fit, our own kernel %s; "
               "at %d of %d numbers of rows cuBLASLt is taken: %s",
               (long long)s->n_out, (long long)s->cols.n_col, s->cols.n_seg, n_fit, t->n_candidate,
               ours ? "is too" : "is not", !s->own[0] + !s->own[1] + !s->own[2] + !s->own[3], LB_CUDA_RANGES,
               times.data ? times.data : "");
    lb_str_release(&times);
}

/* The fastest in each range, among those that are fit. */
static enum lb_status choose(struct trial *t, struct lb_err *err)
{
    struct lb_cuda_shape *s = t->shape;
    int reference, n_fit = 0;
    float best[LB_CUDA_RANGES], ours[LB_CUDA_RANGES];
    ask(t);
    LB_TRY(find_reference(t, &reference, err));
    bool own = reference < 0 || fits(t, NULL);
    for (int r = 0; r < LB_CUDA_RANGES; r++) {
        s->own[r] = own;
        ours[r] = best[r] = own ? time_of(t, NULL, t->tested[r]) : 1e9f;
        if (reference >= 0)
            s->algo[r] = t->candidate[reference];
    }
    for (int i = 0; i < t->n_candidate; i++) {
        if (i != reference && !fits(t, &t->candidate[i]))
            continue;
        n_fit++;
        for (int r = 0; r < LB_CUDA_RANGES; r++) {
            float ms = time_of(t, &t->candidate[i], t->tested[r]);
            if (ms >= best[r])
                continue;
            best[r] = ms;
            s->own[r] = false;
            s->algo[r] = t->candidate[i];
        }
    }
    tell(t, n_fit, own ? ours : NULL, best);
    return lb_cuda_try((int)cudaStreamSynchronize(t->c->stream), "cudaStreamSynchronize", "a product's test", err);
}

/* ---- shapes ---- */

static bool is_same(const struct lb_cuda_shape *s, const struct lb_matrix *w)
{
    return s->n_out == w->n_out && memcmp(&s->cols, &w->cols, sizeof s->cols) == 0;
}

/* cuBLASLt's batches are alike, so segments must be. */
static bool is_eligible(const struct lb_cuda *c, const struct lb_matrix *w)
{
    for (int s = 0; s < w->cols.n_seg; s++)
        if (w->cols.packed[s + 1] != (s + 1) * w->cols.packed[1])
            return false;
    return !w->f32 && w->n_head == 1 && w->n_out * w->cols.packed[w->cols.n_seg] >= c->lt_weights;
}

static enum lb_status new_shape(struct lb_cuda *c, const struct lb_matrix *w, struct lb_cuda_shape **out,
                                struct lb_err *err)
{
    struct lb_cuda_shape *s = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *s, "a product", err);
    if (!s)
        return LB_E_DEVICE;
    s->n_out = w->n_out;
    s->cols = w->cols;
    s->next = c->lt->shape;
    c->lt->shape = s;
    *out = s;
    return lb_cuda_lt_describe(s, err);
}

static enum lb_status device_memory(void **out, size_t bytes, struct lb_err *err)
{
    return lb_cuda_try((int)cudaMalloc(out, bytes), "cudaMalloc", "a product's test", err);
}

/* How many rows a test has: of a vocabulary's columns not so many. */
static void size_test(struct trial *t)
{
    const int64_t n_out = t->w->n_out, same = SAME_NUMBERS / n_out;
    t->most = n_out < HEAD_OUT ? MOST_ROWS : MOST_HEAD_ROWS;
    t->same = same > SAME_ROWS ? SAME_ROWS : same < 4 ? 4 : same;
    const int64_t rows[LB_CUDA_RANGES] = {1, 7, 64, t->most};
    memcpy(t->tested, rows, sizeof rows);
}

/* Memory of a test, given back behind it. */
static enum lb_status take_memory(struct trial *t, int64_t n_col, struct lb_err *err)
{
    size_t n_out = (size_t)t->w->n_out;
    const struct lk_linear most = {.a = {NULL, t->most, &t->w->cols}, .n_out = t->w->n_out, .epilogue = LK_EP_STORE};
    t->want = lb_mem_new((size_t)t->same * n_out, sizeof *t->want);
    t->got = lb_mem_new((size_t)t->same * n_out, sizeof *t->got);
    t->host = lb_mem_new((size_t)(t->most * n_col), sizeof *t->host);
    if (!t->want || !t->got || !t->host)
        return lb_err_memory(err, "a product's test", (size_t)(t->most * n_col) * sizeof *t->host);
    LB_TRY(device_memory((void **)&t->in, (size_t)(t->most * n_col) * sizeof *t->in, err));
    LB_TRY(device_memory((void **)&t->out, (size_t)t->most * n_out * sizeof *t->out, err));
    LB_TRY(device_memory((void **)&t->scratch, lb_cuda_lt_scratch(&most), err));
    LB_TRY(lb_cuda_try((int)cudaEventCreateWithFlags(&t->begin, cudaEventDefault), "cudaEventCreateWithFlags",
                       "a product's test", err));
    return lb_cuda_try((int)cudaEventCreateWithFlags(&t->end, cudaEventDefault), "cudaEventCreateWithFlags",
                       "a product's test", err);
}

static void give_back(struct trial *t)
{
    void *const device[] = {t->in, t->out, t->scratch};
    for (int i = 0; i < 3; i++)
        if (device[i])
            cudaFree(device[i]);
    if (t->begin)
        cudaEventDestroy(t->begin);
    if (t->end)
        cudaEventDestroy(t->end);
    lb_mem_free(t->want);
    lb_mem_free(t->got);
    lb_mem_free(t->host);
}

static enum lb_status upload(struct trial *t, int64_t n_col, struct lb_err *err)
{
    size_t bytes = (size_t)(t->most * n_col) * sizeof *t->host;
    fill(t->host, t->most, t->same, n_col);
    LB_TRY(lb_cuda_upload(t->c, t->in, t->host, bytes, "a product's test", err));
    return lb_cuda_loaded(t->c, err);
}

/* What memory a run has must not decide about bits: without memory for a test there is no run. */
static enum lb_status try_shape(struct lb_cuda *c, struct lb_cuda_shape *s, const struct lb_matrix *w,
                                struct lb_err *err)
{
    int64_t n_col = w->cols.packed[w->cols.n_seg];
    struct trial t = {.c = c, .shape = s, .w = w};
    float *scratch = c->scratch;
    size_test(&t);
    enum lb_status status = take_memory(&t, n_col, err);
    c->scratch = t.scratch;
    if (status == LB_OK)
        status = upload(&t, n_col, err);
    if (status == LB_OK)
        status = choose(&t, err);
    c->scratch = scratch;
    give_back(&t);
    return status;
}

enum lb_status lb_cuda_lt_choose(struct lb_cuda *c, struct lb_err *err)
{
    for (struct lb_matrix *w = c->matrix; w; w = w->next) {
        struct lb_cuda_shape *s = c->lt->shape;
        if (!is_eligible(c, w))
            continue;
        while (s && !is_same(s, w))
            s = s->next;
        if (!s) {
            LB_TRY(new_shape(c, w, &s, err));
            LB_TRY(try_shape(c, s, w, err));
        }
        w->shape = s;
    }
    return LB_OK;
}
