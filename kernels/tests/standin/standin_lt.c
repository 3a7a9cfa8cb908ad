/* cuBLASLt: the reference product, offered as several algorithms of which some may not be used: the rows of one depend
 * on how many there are, another splits K. What is not modeled is reported. */
#include "kernels/tests/standin/standin_state.h"

#include <cublasLt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 130000
#define WORKSPACE 4096 /* of the algorithm that splits K */
#define SPLITS 4
#define STEP 16 /* products that a tensor core adds at once */
#define FEW 16  /* rows below which ALGO_BY_ROWS adds in another order */

enum algo { ALGO_BY_ROWS, ALGO_SPLIT, ALGO_PLAIN, ALGO_TREE, N_ALGO };

struct cublasLtContext {
    int device;
};

/* In the opaque structs of the header. */
struct desc {
    cublasComputeType_t compute;
    cublasOperation_t op[2];
    const float *scale[2];
    int8_t fast;
};

struct layout {
    cudaDataType_t type;
    cublasLtOrder_t order;
    uint64_t rows, cols;
    int64_t ld, batch_offset;
    int32_t n_batch;
};

struct preference {
    uint64_t workspace;
    uint32_t reduction;
};

struct picked {
    enum algo algo;
    int32_t n_split;
    uint32_t reduction;
};

_Static_assert(sizeof(struct desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
_Static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
_Static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");
_Static_assert(sizeof(struct picked) <= sizeof(cublasLtMatmulAlgo_t), "fits");

static cublasStatus_t enter(const char *call)
{
    return standin_enter_other(call) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t leave(cublasStatus_t status)
{
    standin_leave_other();
    return status;
}

/* ---- handles ---- */

static void *make(const char *kind, const void *from, size_t bytes, size_t whole)
{
    void *p = calloc(1, whole);
    if (!p)
        abort();
    memcpy(p, from, bytes);
    standin_made(kind, p);
    return p;
}

static cublasStatus_t unmake(const char *call, const char *kind, void *p)
{
    cublasStatus_t status = enter(call);
    if (!standin_gone(kind, p))
        return leave(CUBLAS_STATUS_INVALID_VALUE);
    free(p);
    return leave(status);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    cublasStatus_t status = enter("cublasLtCreate");
    struct cublasLtContext c = {standin_device()};
    *handle = status ? NULL : make("cublasLt handle", &c, sizeof c, sizeof c);
    return leave(status);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return unmake("cublasLtDestroy", "cublasLt handle", handle);
}

size_t cublasLtGetVersion(void)
{
    return VERSION;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale)
{
    cublasStatus_t status = enter("cublasLtMatmulDescCreate");
    struct desc d = {.compute = compute};
    if (scale != CUDA_R_32F)
        standin_report("scale type %d is not modeled", (int)scale);
    *out = status ? NULL : make("product description", &d, sizeof d, sizeof **out);
    return leave(status);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    return unmake("cublasLtMatmulDescDestroy", "product description", d);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld)
{
    cublasStatus_t status = enter("cublasLtMatrixLayoutCreate");
    struct layout l = {type, CUBLASLT_ORDER_COL, rows, cols, ld, 0, 1};
    *out = status ? NULL : make("layout", &l, sizeof l, sizeof **out);
    return leave(status);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    return unmake("cublasLtMatrixLayoutDestroy", "layout", l);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    cublasStatus_t status = enter("cublasLtMatmulPreferenceCreate");
    struct preference p = {0, CUBLASLT_REDUCTION_SCHEME_MASK};
    *out = status ? NULL : make("preference", &p, sizeof p, sizeof **out);
    return leave(status);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    return unmake("cublasLtMatmulPreferenceDestroy", "preference", p);
}

/* ---- attributes ---- */

struct field {
    int attribute;
    size_t at, bytes;
};

#define FIELD(attribute, type, member)                                               \
    {                                                                                \
        attribute, offsetof(struct type, member), sizeof(((struct type *)0)->member) \
    }
#define N_FIELD(f) (sizeof(f) / sizeof(f)[0])

static const struct field desc_fields[] = {
    FIELD(CUBLASLT_MATMUL_DESC_TRANSA, desc, op[0]),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSB, desc, op[1]),
    FIELD(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, desc, scale[0]),
    FIELD(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, desc, scale[1]),
    FIELD(CUBLASLT_MATMUL_DESC_FAST_ACCUM, desc, fast),
};
static const struct field layout_fields[] = {
    FIELD(CUBLASLT_MATRIX_LAYOUT_TYPE, layout, type),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ORDER, layout, order),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ROWS, layout, rows),
    FIELD(CUBLASLT_MATRIX_LAYOUT_COLS, layout, cols),
    FIELD(CUBLASLT_MATRIX_LAYOUT_LD, layout, ld),
    FIELD(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, layout, n_batch),
    FIELD(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, layout, batch_offset),
};
static const struct field preference_fields[] = {
    FIELD(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, preference, workspace),
    FIELD(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, preference, reduction),
};
static const struct field algo_fields[] = {
    FIELD(CUBLASLT_ALGO_CONFIG_ID, picked, algo),
    FIELD(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, picked, n_split),
    FIELD(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, picked, reduction),
};

static const struct field *find(const struct field *f, size_t n, int attribute, size_t bytes)
{
    for (size_t i = 0; i < n; i++)
        if (f[i].attribute == attribute && f[i].bytes == bytes)
            return &f[i];
    standin_report("attribute %d of %zu bytes is not modeled", attribute, bytes);
    return NULL;
}

static cublasStatus_t set(void *to, const struct field *f, const void *value)
{
    if (f)
        memcpy((char *)to + f->at, value, f->bytes);
    return leave(f ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    cublasStatus_t status = enter("cublasLtMatmulDescSetAttribute");
    if (status || !standin_lives("product description", d))
        return leave(status ? status : CUBLAS_STATUS_INVALID_VALUE);
    return set(d, find(desc_fields, N_FIELD(desc_fields), (int)what, bytes), value);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes)
{
    cublasStatus_t status = enter("cublasLtMatrixLayoutSetAttribute");
    if (status || !standin_lives("layout", l))
        return leave(status ? status : CUBLAS_STATUS_INVALID_VALUE);
    return set(l, find(layout_fields, N_FIELD(layout_fields), (int)what, bytes), value);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                                    size_t bytes)
{
    cublasStatus_t status = enter("cublasLtMatmulPreferenceSetAttribute");
    if (status || !standin_lives("preference", p))
        return leave(status ? status : CUBLAS_STATUS_INVALID_VALUE);
    return set(p, find(preference_fields, N_FIELD(preference_fields), (int)what, bytes), value);
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, void *value,
                                                    size_t bytes, size_t *written)
{
    cublasStatus_t status = enter("cublasLtMatmulAlgoConfigGetAttribute");
    bool other = what == CUBLASLT_ALGO_CONFIG_TILE_ID || what == CUBLASLT_ALGO_CONFIG_STAGES_ID ||
                 what == CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING || what == CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION;
    if (status)
        return leave(status);
    if (written)
        *written = bytes;
    if (other && bytes == sizeof(uint32_t)) {
        memset(value, 0, bytes);
        return leave(CUBLAS_STATUS_SUCCESS);
    }
    const struct field *f = find(algo_fields, N_FIELD(algo_fields), (int)what, bytes);
    if (f)
        memcpy(value, (const char *)algo + f->at, f->bytes);
    return leave(f ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE);
}

cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                 cublasLtMatmulAlgoCapAttributes_t what, void *value, size_t bytes,
                                                 size_t *written)
{
    struct picked p;
    cublasStatus_t status = enter("cublasLtMatmulAlgoCapGetAttribute");
    memcpy(&p, algo, sizeof p);
    bool split = what == CUBLASLT_ALGO_CAP_SPLITK_SUPPORT;
    if (status)
        return leave(status);
    if (written)
        *written = bytes;
    memset(value, 0, bytes);
    if (split && bytes == sizeof(int32_t)) {
        int32_t is = p.algo == ALGO_SPLIT;
        memcpy(value, &is, bytes);
    } else if (what == CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS && bytes == sizeof(uint64_t)) {
        uint64_t flags = CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_32F;
        memcpy(value, &flags, bytes);
    } else {
        standin_report("capability %d is not modeled", (int)what);
    }
    return leave(CUBLAS_STATUS_SUCCESS);
}

/* ---- algorithms ---- */

static struct layout layout_of(cublasLtMatrixLayout_t l)
{
    struct layout x = {0};
    if (l && standin_lives("layout", l))
        memcpy(&x, l, sizeof x);
    return x;
}

struct product {
    struct desc desc;
    struct layout a, b, c, d;
    struct picked algo;
    const char *pa, *pb, *pc;
    char *pd;
    void *workspace;
    float alpha, beta;
};

static size_t size_of(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 : type == CUDA_R_8F_E4M3 ? 1 : 0;
}

/* Rows and columns of op(A), op(B), D that fit, types that are modeled. */
static bool is_product(const struct product *p)
{
    bool ta = p->desc.op[0] != CUBLAS_OP_N, tb = p->desc.op[1] != CUBLAS_OP_N;
    uint64_t m = ta ? p->a.cols : p->a.rows, k = ta ? p->a.rows : p->a.cols;
    uint64_t kb = tb ? p->b.cols : p->b.rows, n = tb ? p->b.rows : p->b.cols;
    bool f32 = p->a.type == CUDA_R_32F;
    if (p->desc.compute != CUBLAS_COMPUTE_32F || !size_of(p->a.type) || p->a.type != p->b.type ||
        (p->d.type != CUDA_R_32F && (p->d.type != CUDA_R_16BF || f32)) || p->c.type != p->d.type) {
        standin_report("types %d x %d -> %d by %d are not modeled", (int)p->a.type, (int)p->b.type, (int)p->d.type,
                       (int)p->desc.compute);
        return false;
    }
    bool fits = k == kb && p->d.rows == m && p->d.cols == n && p->c.rows == m && p->c.cols == n && k > 0;
    const struct layout *l[] = {&p->a, &p->b, &p->c, &p->d};
    for (int i = 0; i < 4; i++) {
        if (l[i]->order != CUBLASLT_ORDER_COL)
            standin_report("order %d is not modeled", (int)l[i]->order);
        fits = fits && l[i]->ld >= (int64_t)l[i]->rows && l[i]->n_batch == p->d.n_batch;
    }
    if (!fits)
        standin_report("%zu x %zu times %zu x %zu is not %zu x %zu", (size_t)m, (size_t)k, (size_t)kb, (size_t)n,
                       (size_t)p->d.rows, (size_t)p->d.cols);
    return fits;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_most,
                                              cublasLtMatmulHeuristicResult_t result[], int *n)
{
    struct preference pref;
    struct product p = {.algo = {0}};
    cublasStatus_t status = enter("cublasLtMatmulAlgoGetHeuristic");
    *n = 0;
    if (status)
        return leave(status);
    if (!standin_lives("cublasLt handle", handle) || !standin_lives("product description", desc) ||
        !standin_lives("preference", preference))
        return leave(CUBLAS_STATUS_INVALID_VALUE);
    memcpy(&pref, preference, sizeof pref);
    memcpy(&p.desc, desc, sizeof p.desc);
    p.a = layout_of(a), p.b = layout_of(b), p.c = layout_of(c), p.d = layout_of(d);
    if (!is_product(&p))
        return leave(CUBLAS_STATUS_NOT_SUPPORTED);
    for (int i = 0; i < N_ALGO && *n < n_most; i++) {
        struct picked algo = {(enum algo)i, 1, CUBLASLT_REDUCTION_SCHEME_NONE};
        if (i == ALGO_SPLIT) {
            algo.n_split = SPLITS;
            algo.reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
            if (pref.workspace < WORKSPACE || !(pref.reduction & algo.reduction))
                continue;
        }
        cublasLtMatmulHeuristicResult_t *r = &result[(*n)++];
        memset(r, 0, sizeof *r);
        memcpy(&r->algo, &algo, sizeof algo);
        r->workspaceSize = i == ALGO_SPLIT ? WORKSPACE : 0;
        r->wavesCount = 1;
        r->state = CUBLAS_STATUS_SUCCESS;
    }
    return leave(CUBLAS_STATUS_SUCCESS);
}

/* ---- the product ---- */

static float e4m3(uint8_t x)
{
    int exponent = x >> 3 & 15, mantissa = x & 7;
    float v = exponent == 0                     ? ldexpf((float)mantissa, -9)
              : exponent == 15 && mantissa == 7 ? NAN
                                                : ldexpf((float)(8 + mantissa), exponent - 10);
    return x & 0x80 ? -v : v;
}

static float read_number(const char *p, cudaDataType_t type)
{
    float x;
    uint16_t half;
    if (type == CUDA_R_8F_E4M3)
        return e4m3((uint8_t)*p);
    if (type == CUDA_R_32F) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    memcpy(&half, p, sizeof half);
    uint32_t u = (uint32_t)half << 16;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void write_number(char *p, cudaDataType_t type, float x)
{
    if (type == CUDA_R_32F) {
        memcpy(p, &x, sizeof x);
        return;
    }
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint16_t half = isnan(x) ? 0x7fff : (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    memcpy(p, &half, sizeof half);
}

/* The vectors along k of op(A) or op(B), one behind the other: [n, k]. */
static float *vectors(const struct layout *l, const char *p, bool k_is_rows, float scale)
{
    size_t size = size_of(l->type), n_k = k_is_rows ? l->rows : l->cols, n = k_is_rows ? l->cols : l->rows;
    float *v = malloc(n * n_k * sizeof *v);
    if (!v)
        abort();
    for (uint64_t c = 0; c < l->cols; c++) {
        const char *col = p + (size_t)(int64_t)c * (size_t)l->ld * size;
        standin_touch(col, l->rows * size, false);
        for (uint64_t r = 0; r < l->rows; r++)
            v[k_is_rows ? c * n_k + r : r * n_k + c] = read_number(col + r * size, l->type) * scale;
    }
    return v;
}

/* A tensor core's: steps added exactly enough, then rounded; of f32, one product after the other. */
static float dot(const float *a, const float *b, size_t k, size_t step)
{
    float sum = 0;
    if (step == 1) {
        for (size_t i = 0; i < k; i++)
            sum += a[i] * b[i];
        return sum;
    }
    for (size_t i = 0; i < k; i += step) {
        double part = 0;
        for (size_t j = i; j < k && j < i + step; j++)
            part += (double)a[j] * (double)b[j];
        sum = (float)(part + (double)sum);
    }
    return sum;
}

static float dot_by(enum algo algo, const float *a, const float *b, size_t k, bool f32, bool few)
{
    size_t step = f32 ? 1 : STEP;
    if (algo == ALGO_PLAIN || (algo == ALGO_BY_ROWS && !few))
        return dot(a, b, k, step);
    size_t parts = algo == ALGO_SPLIT ? SPLITS : 2, part = (k + parts - 1) / parts;
    float sum = 0;
    for (size_t i = 0; i < k; i += part)
        sum += dot(a + i, b + i, part < k - i ? part : k - i, step);
    return sum;
}

static float scale_of(const float *p)
{
    if (!p)
        return 1;
    standin_touch(p, sizeof *p, false);
    return *p;
}

static void run_batch(const struct product *p, int64_t batch)
{
    size_t size = size_of(p->a.type), d_size = size_of(p->d.type);
    bool ta = p->desc.op[0] != CUBLAS_OP_N, tb = p->desc.op[1] != CUBLAS_OP_N, f32 = p->a.type == CUDA_R_32F;
    float *a = vectors(&p->a, p->pa + (size_t)(batch * p->a.batch_offset) * size, ta, scale_of(p->desc.scale[0]));
    float *b = vectors(&p->b, p->pb + (size_t)(batch * p->b.batch_offset) * size, !tb, scale_of(p->desc.scale[1]));
    size_t k = ta ? p->a.rows : p->a.cols;
    bool few = p->d.cols < FEW;
    for (uint64_t j = 0; j < p->d.cols; j++) {
        char *d = p->pd + ((size_t)(batch * p->d.batch_offset) + j * (size_t)p->d.ld) * d_size;
        const char *c = p->pc + ((size_t)(batch * p->c.batch_offset) + j * (size_t)p->c.ld) * d_size;
        if (p->beta != 0)
            standin_touch(c, p->c.rows * d_size, false);
        standin_touch(d, p->d.rows * d_size, true);
        for (uint64_t i = 0; i < p->d.rows; i++) {
            float x = p->alpha * dot_by(p->algo.algo, a + i * k, b + j * k, k, f32, few);
            if (p->beta != 0)
                x += p->beta * read_number(c + i * d_size, p->c.type);
            write_number(d + i * d_size, p->d.type, x);
        }
    }
    free(a);
    free(b);
}

static int run_product(void *ctx, void *stream)
{
    const struct product *p = ctx;
    (void)stream;
    if (p->algo.algo == ALGO_SPLIT)
        standin_touch(p->workspace, WORKSPACE, true);
    for (int64_t i = 0; i < p->d.n_batch; i++)
        run_batch(p, i);
    return 0;
}

static bool in_memory(const void *p, const struct layout *l)
{
    int device;
    size_t last =
        (size_t)((l->n_batch - 1) * l->batch_offset) + (size_t)((int64_t)l->cols - 1) * (size_t)l->ld + l->rows;
    if (l->cols == 0 || standin_place(p, last * size_of(l->type), &device) == STANDIN_ON_DEVICE)
        return true;
    standin_report("a matrix of %zu x %zu is not in device memory", (size_t)l->rows, (size_t)l->cols);
    return false;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    int device;
    cublasStatus_t status = enter("cublasLtMatmul");
    struct product p = {.pa = a, .pb = b, .pc = c, .pd = d, .workspace = workspace};
    if (status)
        return leave(status);
    if (!standin_lives("cublasLt handle", handle) || !standin_lives("product description", desc))
        return leave(CUBLAS_STATUS_INVALID_VALUE);
    memcpy(&p.desc, desc, sizeof p.desc);
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    p.a = layout_of(la), p.b = layout_of(lb), p.c = layout_of(lc), p.d = layout_of(ld);
    if (!is_product(&p) || !in_memory(a, &p.a) || !in_memory(b, &p.b) || !in_memory(d, &p.d))
        return leave(CUBLAS_STATUS_INVALID_VALUE);
    if (algo)
        memcpy(&p.algo, algo, sizeof p.algo);
    if (p.algo.algo == ALGO_SPLIT &&
        (workspace_bytes < WORKSPACE || standin_place(workspace, WORKSPACE, &device) != STANDIN_ON_DEVICE)) {
        standin_report("the workspace is too small");
        return leave(CUBLAS_STATUS_INVALID_VALUE);
    }
    struct standin_op *op = standin_op_new(OP_CALL, "cublasLtMatmul", &p, sizeof p);
    op->run = run_product;
    return leave(standin_enqueue(stream, op) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS);
}

static const struct {
    cublasStatus_t status;
    const char *name;
} names[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"},
};

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].status == status)
            return names[i].name;
    return "unknown";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}
