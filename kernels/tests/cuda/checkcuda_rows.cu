/* Embedding, norms, rounding, SwiGLU and the tree of partial sums. */
#include "kernels/tests/cuda/checkcuda.cuh"

/* Kernel(rows of x from `first` on, n of them) has to give the same bits for every cut of n_row rows. */
template <typename T, typename F> static void same_alone(const char *op, const host<T> &all, int64_t n_row, F kernel)
{
    int64_t n = (int64_t)all.size() / n_row;
    for (int64_t first = 0; first < n_row; first += 1 + first) {
        host<T> one = kernel(first, 1);
        check(memcmp(one.data(), all.data() + first * n, (size_t)n * sizeof(T)) == 0, op, "row %lld alone differs",
              (long long)first);
    }
}

template <typename T> static void norm_case(int64_t n_row, int64_t dim, int n_seg, bool chosen)
{
    enum lk_type type = type_of<T>();
    struct lk_cols c = even_cols(dim, n_seg, 32);
    int64_t n = lk_cols_packed(&c);
    host<float> x = random_row(n_row * dim, -3, 3), w = random_row(dim, 0.5f, 1.5f);
    host<int32_t> row((size_t)n_row);
    for (int64_t i = 0; i < n_row; i++)
        row[(size_t)i] = (int32_t)(n_row - 1 - i);
    host<T> want((size_t)(n_row * n));
    struct lk_norm a = {{want.data(), n_row, &c}, x.data(), chosen ? row.data() : NULL, w.data(), 1e-5f};
    ref_set(type)->norm(&a, 0, n_row);
    struct lk_act ref = a.y;
    dev<float> dx(x), dw(w);
    dev<int32_t> drow(row);
    auto kernel = [&](int64_t first, int64_t count) {
        dev<T> y(count * n);
        struct lk_norm d = {
            {y.p, count, &c}, dx.p + (chosen ? 0 : first * dim), chosen ? drow.p + first : NULL, dw.p, 1e-5f};
        check_launch(lk_cuda_norm(&d, type, NULL), "norm");
        return y.get();
    };
    host<T> got = kernel(0, n_row);
    compare_act("norm", &ref, got);
    same_alone<T>("norm", got, n_row, kernel);
}

static void norm_add_case(int64_t n_row, int64_t dim)
{
    host<float> x = random_row(n_row * dim, -3, 3), y = random_row(n_row * dim, -3, 3), w = random_row(dim, 0.5f, 1.5f);
    dev<float> dx(n_row * dim), dy(y), dw(w);
    dx.put(x);
    struct lk_norm_add a = {dx.p, dy.p, dw.p, n_row, dim, 1e-6f};
    check_launch(lk_cuda_norm_add(&a, NULL), "norm_add");
    struct lk_norm_add r = {x.data(), y.data(), w.data(), n_row, dim, 1e-6f};
    ref_set(LK_F32)->norm_add(&r, 0, n_row);
    host<float> got = dx.get();
    for (size_t i = 0; i < got.size(); i++)
        if (!is_near((double)got[i], (double)x[i], 4, 0x1p-20)) {
            check(false, "norm_add", "number %zu of %lld x %lld: %g, not %g", i, (long long)n_row, (long long)dim,
                  (double)got[i], (double)x[i]);
            return;
        }
    check(true, "norm_add", "%s", "");
}

template <typename T> static void embed_case(int64_t n_tok, int64_t dim)
{
    enum { VOCAB = 11 };
    host<T> table((size_t)(VOCAB * dim));
    for (T &v : table)
        v = (T)random_bits();
    host<int32_t> id((size_t)n_tok);
    for (int32_t &i : id)
        i = (int32_t)(random_bits() % VOCAB);
    host<float> want((size_t)(n_tok * dim));
    struct lk_embed a = {want.data(), table.data(), id.data(), n_tok, dim};
    ref_set(type_of<T>())->embed(&a, 0, n_tok);
    dev<T> dtable(table);
    dev<int32_t> did(id);
    dev<float> x(n_tok * dim);
    struct lk_embed d = {x.p, dtable.p, did.p, n_tok, dim};
    check_launch(lk_cuda_embed(&d, type_of<T>(), NULL), "embed");
    host<float> got = x.get();
    check(memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0, "embed", "%lld x %lld", (long long)n_tok,
          (long long)dim);
}

template <typename T> static void round_case(int64_t n_row, int64_t dim, int n_seg)
{
    struct lk_cols c = even_cols(dim, n_seg, 8);
    int64_t n = lk_cols_packed(&c), ld = dim + 3;
    host<float> x = random_row(n_row * ld, -3, 3);
    host<T> want((size_t)(n_row * n));
    struct lk_round a = {{want.data(), n_row, &c}, x.data(), ld};
    ref_set(type_of<T>())->round(&a, 0, n_row);
    dev<float> dx(x);
    dev<T> y(n_row * n);
    struct lk_round d = {{y.p, n_row, &c}, dx.p, ld};
    check_launch(lk_cuda_round(&d, type_of<T>(), NULL), "round");
    host<T> got = y.get();
    check(memcmp(got.data(), want.data(), want.size() * sizeof(T)) == 0, "round", "%lld x %lld, %d segments",
          (long long)n_row, (long long)dim, n_seg);
}

template <typename T> static void swiglu_case(int64_t n_row, int64_t ffn, int n_seg, bool bias)
{
    struct lk_cols c = even_cols(ffn, n_seg, 32);
    int64_t n = lk_cols_packed(&c);
    host<float> x = random_row(n_row * 2 * ffn, -6, 6), b = random_row(2 * ffn, -1, 1);
    dev<float> dx(x), db(b);
    auto kernel = [&](int64_t first, int64_t count) {
        dev<T> y(count * n);
        struct lk_swiglu d = {{y.p, count, &c}, dx.p + first * 2 * ffn, bias ? db.p : NULL};
        check_launch(lk_cuda_swiglu(&d, type_of<T>(), NULL), "swiglu");
        return y.get();
    };
    host<T> got = kernel(0, n_row), want((size_t)(n_row * n));
    for (int64_t i = 0; i < n_row; i++) {
        for (int s = 0; s < n_seg; s++) {
            for (int64_t k = c.begin[s]; k < c.begin[s + 1]; k++) {
                double g = (double)(x[(size_t)(i * 2 * ffn + k)] + (bias ? b[(size_t)k] : 0));
                double u = (double)(x[(size_t)(i * 2 * ffn + ffn + k)] + (bias ? b[(size_t)(ffn + k)] : 0));
                float v = (float)(g / (1 + exp(-g)) * u);
                want[(size_t)(i * n + c.packed[s] + k - c.begin[s])] = sizeof(T) == 2 ? (T)lk_round(v) : (T)v;
            }
        }
    }
    struct lk_act ref = {want.data(), n_row, &c};
    compare_act("swiglu", &ref, got);
    same_alone<T>("swiglu", got, n_row, kernel);
}

static float tree(const float *v, int n, bool balanced)
{
    if (n == 1)
        return v[0];
    int left = balanced ? n / 2 : n - 1;
    return tree(v, left, balanced) + tree(v + left, n - left, balanced);
}

static void tree_case(int n_part, int64_t n_row, int64_t n_col, bool add, bool bias)
{
    int64_t ld = n_row * n_col + 5, y_ld = n_col + 2;
    host<float> part = random_row(ld * n_part, -2, 2), b = random_row(n_col, -1, 1),
                y = random_row(n_row * y_ld, -2, 2);
    dev<float> dpart(part), db(b), dy(n_row * y_ld);
    dy.put(y);
    struct lk_tree a = {dy.p, y_ld, dpart.p, ld, bias ? db.p : NULL, n_row, n_col, n_part, add};
    check_launch(lk_cuda_tree(&a, NULL), "tree");
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = 0; j < n_col; j++) {
            float v[LK_MAX_SEG], *to = &y[(size_t)(i * y_ld + j)];
            for (int s = 0; s < n_part; s++)
                v[s] = part[(size_t)(s * ld + i * n_col + j)];
            float sum = tree(v, n_part, (n_part & (n_part - 1)) == 0) + (bias ? b[(size_t)j] : 0);
            *to = add ? *to + sum : sum;
        }
    }
    host<float> got = dy.get();
    check(memcmp(got.data(), y.data(), y.size() * sizeof(float)) == 0, "tree", "%d parts of %lld x %lld", n_part,
          (long long)n_row, (long long)n_col);
}

template <typename T> static void all_of_type(void)
{
    static const int64_t dims[] = {8, 64, 96, 576, 1027, 4096};
    for (int64_t dim : dims) {
        norm_case<T>(5, dim, 1, false);
        norm_case<T>(3, dim, dim > 64 ? 3 : 1, true);
        embed_case<T>(7, dim);
    }
    round_case<T>(3, 200, 1);
    round_case<T>(2, 333, 8);
    swiglu_case<T>(3, 1536, 8, true);
    swiglu_case<T>(5, 100, 1, false);
    swiglu_case<T>(2, 684, 4, false);
}

void check_rows(void)
{
    all_of_type<float>();
    all_of_type<uint16_t>();
    norm_add_case(3, 576);
    norm_add_case(2, 131);
    for (int n = 1; n <= LK_MAX_SEG; n++)
        tree_case(n, 3, 100 + n * 29, n % 2 == 0, n % 3 != 0);
}
