/* Products of bf16 matrices by cuBLASLt, with algorithms that backend_cuda_choose.c found fit. Segments of K are a
 * batch of products whose sums `tree` adds, as those of our own kernel are. */
#include "core/backend/backend_cuda_lt.h"

#define WORKSPACE ((size_t)32 << 20)

static enum lb_status lt_try(cublasStatus_t code, const char *call, const char *what, struct lb_err *err)
{
    if (code == CUBLAS_STATUS_SUCCESS)
        return LB_OK;
    return lb_err_set(err, LB_E_DEVICE, "%s of %s: %s", call, what, cublasLtGetStatusName(code));
}

#define TRY_LT(call, what) LB_TRY(lt_try(call, "cuBLASLt setting up", what, err))

enum lb_status lb_cuda_lt_open(struct lb_cuda *c, struct lb_err *err)
{
    struct lb_cuda_lt *lt = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *lt, "cuBLASLt", err);
    if (!lt)
        return LB_E_DEVICE;
    c->lt = lt;
    LB_TRY(lt_try(cublasLtCreate(&lt->handle), "cublasLtCreate", "the device", err));
    lt->workspace_bytes = WORKSPACE;
    uint32_t whole = CUBLASLT_REDUCTION_SCHEME_NONE;
    uint64_t bytes = WORKSPACE;
    TRY_LT(cublasLtMatmulPreferenceCreate(&lt->preference), "a preference");
    TRY_LT(cublasLtMatmulPreferenceSetAttribute(lt->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                sizeof bytes),
           "a preference");
    TRY_LT(cublasLtMatmulPreferenceSetAttribute(lt->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole,
                                                sizeof whole),
           "a preference");
    lt->workspace = lb_cuda_take(c, LB_CUDA_DEVICE, lt->workspace_bytes, 1, "cuBLASLt's workspace", err);
    return lt->workspace ? LB_OK : LB_E_DEVICE;
}

size_t lb_cuda_lt_version(void)
{
    return cublasLtGetVersion();
}

void lb_cuda_lt_close(struct lb_cuda *c)
{
    struct lb_cuda_lt *lt = c->lt;
    if (!lt)
        return;
    for (struct lb_cuda_shape *s = lt->shape; s; s = s->next) {
        for (int i = 0; i < 3; i++)
            if (s->layout[i])
                cublasLtMatrixLayoutDestroy(s->layout[i]);
        if (s->desc)
            cublasLtMatmulDescDestroy(s->desc);
    }
    if (lt->preference)
        cublasLtMatmulPreferenceDestroy(lt->preference);
    if (lt->handle)
        cublasLtDestroy(lt->handle);
    c->lt = NULL;
}

static enum lb_status set_batch(cublasLtMatrixLayout_t l, int32_t n, int64_t offset, struct lb_err *err)
{
    TRY_LT(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n), "a batch");
    TRY_LT(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset, sizeof offset),
           "a batch");
    return LB_OK;
}

/* In columns: W is [k, n_out] transposed, activations [k, rows], the result [n_out, rows]. */
enum lb_status lb_cuda_lt_describe(struct lb_cuda_shape *s, struct lb_err *err)
{
    const struct lk_cols *c = &s->cols;
    uint64_t k = (uint64_t)c->packed[1], n_out = (uint64_t)s->n_out;
    int64_t ld = c->packed[c->n_seg];
    cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t bf16 = CUDA_R_16BF, f32 = CUDA_R_32F;
    TRY_LT(cublasLtMatmulDescCreate(&s->desc, CUBLAS_COMPUTE_32F, f32), "a product");
    TRY_LT(cublasLtMatmulDescSetAttribute(s->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
           "a product");
    TRY_LT(cublasLtMatrixLayoutCreate(&s->layout[0], bf16, k, n_out, ld), "weights");
    TRY_LT(cublasLtMatrixLayoutCreate(&s->layout[1], bf16, k, 1, ld), "activations");
    TRY_LT(cublasLtMatrixLayoutCreate(&s->layout[2], f32, n_out, 1, s->n_out), "a result");
    for (int i = 0; i < 3; i++)
        LB_TRY(set_batch(s->layout[i], c->n_seg, i < 2 ? c->packed[1] : s->n_out, err));
    return LB_OK;
}

enum lb_status lb_cuda_lt_rows(struct lb_cuda_shape *s, int64_t n_row, int64_t y_ld, struct lb_err *err)
{
    uint64_t cols = (uint64_t)n_row;
    int64_t offset = n_row * y_ld;
    TRY_LT(cublasLtMatrixLayoutSetAttribute(s->layout[1], CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols), "rows");
    TRY_LT(cublasLtMatrixLayoutSetAttribute(s->layout[2], CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols), "rows");
    TRY_LT(cublasLtMatrixLayoutSetAttribute(s->layout[2], CUBLASLT_MATRIX_LAYOUT_LD, &y_ld, sizeof y_ld), "rows");
    TRY_LT(cublasLtMatrixLayoutSetAttribute(s->layout[2], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset,
                                            sizeof offset),
           "rows");
    return LB_OK;
}

int lb_cuda_lt_range(int64_t n_row)
{
    return n_row <= 4 ? 0 : n_row <= 32 ? 1 : n_row <= 256 ? 2 : 3;
}

/* Sums of the product's segments: those of the only one go to y where nothing is to be done with them. */
static enum lb_status matmul(struct lb_cuda *c, const struct lk_linear *a, const struct lb_cuda_call *call,
                             struct lb_err *err)
{
    const float one = 1, zero = 0;
    struct lb_cuda_shape *s = call->shape;
    LB_TRY(lb_cuda_lt_rows(s, a->a.n_row, call->y_ld, err));
    return lt_try(cublasLtMatmul(c->lt->handle, s->desc, &one, call->w, s->layout[0], a->a.data, s->layout[1], &zero,
                                 call->y, s->layout[2], call->y, s->layout[2], call->algo, c->lt->workspace,
                                 c->lt->workspace_bytes, c->stream),
                  "cuBLASLt matmul", call->name, err);
}

const cublasLtMatmulAlgo_t *lb_cuda_lt_algo(const struct lb_matrix *w, int64_t n_row)
{
    int r = lb_cuda_lt_range(n_row);
    return w->shape && !w->shape->own[r] ? &w->shape->algo[r] : NULL;
}

size_t lb_cuda_lt_scratch(const struct lk_linear *a)
{
    const struct lk_cols *cols = a->a.cols;
    int64_t n = cols->n_seg > 1 && a->epilogue == LK_EP_SWIGLU ? cols->n_seg + 1 : cols->n_seg;
    return (size_t)(n * a->a.n_row * a->n_out) * sizeof(float);
}

enum lb_status lb_cuda_lt_sums(struct lb_cuda *c, const struct lk_linear *a, struct lb_cuda_call call,
                               struct lb_err *err)
{
    call.y = c->scratch;
    call.y_ld = a->n_out;
    return matmul(c, a, &call, err);
}

enum lb_status lb_cuda_lt_product(struct lb_cuda *c, const struct lk_linear *a, struct lb_cuda_call call,
                                  struct lb_err *err)
{
    if (a->a.cols->n_seg == 1 && a->epilogue == LK_EP_STORE && !a->bias) {
        call.y = a->y;
        call.y_ld = a->y_ld;
        return matmul(c, a, &call, err);
    }
    LB_TRY(lb_cuda_lt_sums(c, a, call, err));
    return lb_cuda_try(lk_cuda_linear_finish(a, c->scratch, LK_BF16, c->stream), "kernels behind", call.name, err);
}
