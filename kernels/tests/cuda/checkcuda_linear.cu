/* Products: each element against its sum in double, epilogues against f32, rows alone against rows together; packed
 * weights against the product with what they stand for. */
#include "kernels/tests/cuda/checkcuda.cuh"

struct product {
    struct lk_cols cols;
    int64_t n_row, n_out;
    host<uint16_t> a, w; /* packed columns; zeros where they hold no source column */
    host<float> bias;
};

static host<uint16_t> random_operand(const struct lk_cols &c, int64_t n)
{
    int64_t k = lk_cols_packed(&c);
    host<uint16_t> x((size_t)(n * k));
    for (int64_t i = 0; i < n; i++)
        for (int s = 0; s < c.n_seg; s++)
            for (int64_t j = 0; j < c.begin[s + 1] - c.begin[s]; j++)
                x[(size_t)(i * k + c.packed[s] + j)] = lk_round(random_in(-2, 2));
    return x;
}

static product make_product(int64_t n_row, int64_t n_out, int64_t n_col, int n_seg)
{
    struct lk_cols c = even_cols(n_col, n_seg, 32);
    return {c, n_row, n_out, random_operand(c, n_row), random_operand(c, n_out), random_row(n_out, -2, 2)};
}

/* The product of rows first .. first + n - 1; y0 is what y holds before (LK_EP_ADD). */
static host<float> run(const product &p, const struct lk_weight &w, enum lk_epilogue ep, bool bias, int64_t first,
                       int64_t n)
{
    int64_t k = lk_cols_packed(&p.cols), ld = p.n_out + 1;
    host<uint16_t> rows(p.a.begin() + first * k, p.a.begin() + (first + n) * k);
    dev<uint16_t> a(rows);
    dev<float> b(p.bias), y(n * ld);
    host<float> y0((size_t)(n * ld), 0.5f);
    y.put(y0);
    struct lk_linear x = {};
    x.a.data = a.p;
    x.a.n_row = n;
    x.a.cols = &p.cols;
    x.n_out = p.n_out;
    x.epilogue = ep;
    x.bias = bias ? b.p : NULL;
    x.y = y.p;
    x.y_ld = ld;
    dev<float> scratch((int64_t)(lk_cuda_linear_scratch(&x, w.format) / sizeof(float)));
    check_launch(lk_cuda_linear(&x, &w, scratch.p, NULL), "linear");
    return y.get();
}

static double sum_of(const product &p, int64_t i, int64_t j, double *size)
{
    int64_t k = lk_cols_packed(&p.cols);
    double sum = 0;
    *size = 0;
    for (int64_t x = 0; x < k; x++) {
        double v = (double)lk_widen(p.a[(size_t)(i * k + x)]) * (double)lk_widen(p.w[(size_t)(j * k + x)]);
        sum += v;
        *size += fabs(v);
    }
    return sum;
}

static void linear_case(int64_t n_row, int64_t n_out, int64_t n_col, int n_seg, enum lk_epilogue ep, bool bias)
{
    product p = make_product(n_row, n_out, n_col, n_seg);
    dev<uint16_t> w(p.w);
    struct lk_weight weight = {w.p, LK_W_BF16, NULL, NULL, NULL};
    host<float> got = run(p, weight, ep, bias, 0, n_row);
    bool ok = true;
    for (int64_t i = 0; i < n_row; i += 1 + i / 5)
        for (int64_t j = 0; j < n_out; j++) {
            double size, want = sum_of(p, i, j, &size) + (bias ? (double)p.bias[(size_t)j] : 0);
            want += ep == LK_EP_ADD ? 0.5 : 0;
            ok = ok &&
                 is_near((double)got[(size_t)(i * (n_out + 1) + j)], want, size + 4, (double)(n_col + 4) * 0x1p-24);
        }
    check(ok, "linear", "%lld x %lld x %lld, %d segments", (long long)n_row, (long long)n_out, (long long)n_col, n_seg);
    for (int64_t first = 0; first < n_row; first += 1 + 2 * first) {
        int64_t n = lk_min(1 + first % 20, n_row - first);
        host<float> some = run(p, weight, ep, bias, first, n);
        ok = true;
        for (int64_t i = 0; i < n; i++) /* the column behind the last is nobody's */
            ok = ok && memcmp(&some[(size_t)(i * (n_out + 1))], &got[(size_t)((first + i) * (n_out + 1))],
                              (size_t)(n_out + 1) * sizeof(float)) == 0;
        check(ok, "linear", "%lld x %lld x %lld: rows %lld and on, %lld of them, differ alone", (long long)n_row,
              (long long)n_out, (long long)n_col, (long long)first, (long long)n);
    }
}

static void gated_case(int64_t n_row, int64_t ffn, int64_t n_col, int n_seg)
{
    product p = make_product(n_row, 2 * ffn, n_col, n_seg);
    struct lk_cols out_cols = even_cols(ffn, 2, 32);
    int64_t n = lk_cols_packed(&out_cols);
    dev<uint16_t> w(p.w), a(p.a), out(n_row * n);
    dev<float> b(p.bias);
    struct lk_weight weight = {w.p, LK_W_BF16, NULL, NULL, NULL};
    struct lk_linear x = {};
    x.a.data = a.p;
    x.a.n_row = n_row;
    x.a.cols = &p.cols;
    x.n_out = 2 * ffn;
    x.epilogue = LK_EP_SWIGLU;
    x.bias = b.p;
    x.out.data = out.p;
    x.out.n_row = n_row;
    x.out.cols = &out_cols;
    dev<float> scratch((int64_t)(lk_cuda_linear_scratch(&x, LK_W_BF16) / sizeof(float)));
    check_launch(lk_cuda_linear(&x, &weight, scratch.p, NULL), "linear gated");
    host<uint16_t> want((size_t)(n_row * n));
    for (int64_t i = 0; i < n_row; i++)
        for (int s = 0; s < out_cols.n_seg; s++)
            for (int64_t j = out_cols.begin[s]; j < out_cols.begin[s + 1]; j++) {
                double size, g = sum_of(p, i, j, &size) + (double)p.bias[(size_t)j];
                double u = sum_of(p, i, ffn + j, &size) + (double)p.bias[(size_t)(ffn + j)];
                want[(size_t)(i * n + out_cols.packed[s] + j - out_cols.begin[s])] =
                    lk_round((float)(g / (1 + exp(-g)) * u));
            }
    struct lk_act ref = {want.data(), n_row, &out_cols};
    compare_act("linear gated", &ref, out.get());
}

static float of_fp8(int x)
{
    int e = x >> 3 & 15, m = x & 7;
    float v = e == 15 && m == 7 ? NAN : e == 0 ? ldexpf((float)m, -9) : ldexpf((float)(8 + m), e - 10);
    return x & 0x80 ? -v : v;
}

/* Random bytes as weights: the product with what they stand for, rounded to bf16, has the same bits. */
static void packed_case(enum lk_weight_format format, int64_t n_row, int64_t n_out, int64_t n_col, bool zero,
                        bool least)
{
    product p = make_product(n_row, n_out, n_col, 1);
    int64_t k = lk_cols_packed(&p.cols), bytes = format == LK_W_INT4 ? k / 2 : k;
    host<uint8_t> raw((size_t)(n_out * bytes));
    for (uint8_t &x : raw) {
        x = (uint8_t)random_bits();
        if (format == LK_W_FP8 && (x & 0x7f) == 0x7f)
            x = 3;
    }
    host<float> scale = random_row(n_out * k / 32, 0.001f, 0.1f), z = random_row(n_out * k / 32, 0, 15);
    host<float> low = random_row(n_out * k / 32, -1, 1);
    for (int64_t i = 0; i < n_out * k; i++) {
        int x = format == LK_W_INT4 ? raw[(size_t)(i / 2)] >> (i % 2 * 4) & 15 : raw[(size_t)i];
        float q = format == LK_W_FP8 ? of_fp8(x) : format == LK_W_INT8 ? (float)(int8_t)x : (float)x;
        float v = (q - (zero ? z[(size_t)(i / 32)] : 0)) * scale[(size_t)(i / 32)];
        p.w[(size_t)i] = lk_round(v + (least ? low[(size_t)(i / 32)] : 0));
    }
    dev<uint16_t> w(p.w);
    dev<uint8_t> draw(raw);
    dev<float> dscale(scale), dz(z), dlow(low);
    struct lk_weight plain = {w.p, LK_W_BF16, NULL, NULL, NULL};
    struct lk_weight packed = {draw.p, format, dscale.p, zero ? dz.p : NULL, least ? dlow.p : NULL};
    host<float> want = run(p, plain, LK_EP_STORE, true, 0, n_row), got = run(p, packed, LK_EP_STORE, true, 0, n_row);
    check(memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0, "linear packed",
          "format %d, %lld x %lld x %lld", (int)format, (long long)n_row, (long long)n_out, (long long)n_col);
}

static void fp8_case(void)
{
    product p = make_product(1, 256, 32, 1);
    host<uint8_t> raw(256 * 32);
    for (int x = 0; x < 256; x++)
        raw[(size_t)(x * 32)] = (uint8_t)x;
    memset(p.a.data(), 0, p.a.size() * 2);
    p.a[0] = 0x3f80;
    dev<uint8_t> draw(raw);
    struct lk_weight w = {draw.p, LK_W_FP8, NULL, NULL, NULL};
    host<float> got = run(p, w, LK_EP_STORE, false, 0, 1);
    bool ok = true;
    for (int x = 0; x < 256; x++)
        ok = ok && (got[(size_t)x] == of_fp8(x) || (isnan(got[(size_t)x]) && isnan(of_fp8(x))));
    check(ok, "linear packed", "%s", "every E4M3 number");
}

/* f32: the sums of the contract, one addition after the other, then the tree; bit for bit. */
static void f32_case(int64_t n_row, int64_t n_out, int64_t n_col, int n_seg, enum lk_epilogue ep)
{
    struct lk_cols c = even_cols(n_col, n_seg, 32);
    int64_t k = lk_cols_packed(&c);
    host<float> a = random_row(n_row * k, -2, 2), w = random_row(n_out * k, -2, 2), bias = random_row(n_out, -2, 2);
    dev<float> da(a), dw(w), db(bias), y(n_row * n_out);
    y.put(host<float>((size_t)(n_row * n_out), 0.25f));
    struct lk_linear x = {};
    x.a.data = da.p;
    x.a.n_row = n_row;
    x.a.cols = &c;
    x.n_out = x.y_ld = n_out;
    x.epilogue = ep;
    x.bias = db.p;
    x.y = y.p;
    struct lk_weight weight = {dw.p, LK_W_F32, NULL, NULL, NULL};
    dev<float> scratch((int64_t)(lk_cuda_linear_scratch(&x, LK_W_F32) / sizeof(float)));
    check_launch(lk_cuda_linear(&x, &weight, scratch.p, NULL), "linear f32");
    host<float> got = y.get();
    bool ok = true;
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = 0; j < n_out; j++) {
            float v[LK_MAX_SEG] = {};
            for (int s = 0; s < n_seg; s++)
                for (int64_t p = c.packed[s]; p < c.packed[s + 1]; p++)
                    v[s] += a[(size_t)(i * k + p)] * w[(size_t)(j * k + p)];
            for (int step = 1; step < n_seg && (n_seg & (n_seg - 1)) == 0; step *= 2)
                for (int s = 0; s < n_seg; s += 2 * step)
                    v[s] += v[s + step];
            for (int s = 1; s < n_seg && (n_seg & (n_seg - 1)) != 0; s++)
                v[0] += v[s];
            float want = v[0] + bias[(size_t)j];
            ok = ok && got[(size_t)(i * n_out + j)] == (ep == LK_EP_ADD ? 0.25f + want : want);
        }
    }
    check(ok, "linear f32", "%lld x %lld x %lld, %d segments", (long long)n_row, (long long)n_out, (long long)n_col,
          n_seg);
}

void check_linear(void)
{
    f32_case(3, 40, 70, 1, LK_EP_STORE);
    f32_case(35, 33, 200, 4, LK_EP_ADD);
    f32_case(2, 5, 300, 3, LK_EP_ADD);
    linear_case(1, 40, 64, 1, LK_EP_STORE, true);
    linear_case(5, 33, 100, 1, LK_EP_ADD, false);
    linear_case(17, 65, 576, 4, LK_EP_ADD, true);
    linear_case(66, 130, 96, 3, LK_EP_STORE, false);
    linear_case(131, 140, 200, 1, LK_EP_STORE, true);
    linear_case(150, 16, 300, 8, LK_EP_ADD, true);
    gated_case(5, 70, 96, 1);
    gated_case(3, 40, 128, 2);
    static const enum lk_weight_format formats[] = {LK_W_INT8, LK_W_INT4, LK_W_FP8};
    for (enum lk_weight_format f : formats) {
        packed_case(f, 3, 40, 96, f == LK_W_INT4, false);
        packed_case(f, 19, 70, 64, f == LK_W_INT4, f == LK_W_INT4);
    }
    fp8_case();
}
