/* Adapters: bit for bit the sums that kernels/args_lora.h tells, added here one after the other; rows of several
 * adapters and of none, modules that do not cover the matrix, a window of the step's rows. */
#include "kernels/cuda/lk_cuda_lora.h"
#include "kernels/tests/cuda/checkcuda.cuh"

static const int N_ADAPTER = 4;

template <typename T> static T as(float x);

template <> float as(float x)
{
    return x;
}

template <> uint16_t as(float x)
{
    return lk_round(x);
}

template <typename T> static host<T> random_of(int64_t n)
{
    host<T> x((size_t)n);
    for (T &v : x)
        v = as<T>(random_in(-2, 2));
    return x;
}

/* One adapter's matrices on the host and on the device. */
template <typename T> struct pair {
    struct lk_adapter p;
    host<T> a, b;
    host<float> scale;
    dev<T> da, db;
    dev<float> ds;
};

/* Modules of these ranks over a third of the columns each, with a gap behind each; rank 0: no such module. */
template <typename T> static pair<T> *make_pair(int64_t k, int64_t n_out, const int (&rank)[3])
{
    struct lk_adapter p = {};
    int64_t n_b = 0;
    for (int i = 0; i < 3; i++) {
        if (rank[i] == 0)
            continue;
        int64_t first = i * n_out / 3, n = (i + 1) * n_out / 3 - first - 2 * i;
        p.part[p.n_part++] = {first, n, p.n_u, rank[i], n_b};
        p.n_u += rank[i];
        n_b += rank[i] * n;
    }
    host<T> a = random_of<T>(k * p.n_u), b = random_of<T>(n_b);
    host<float> scale = random_row(p.n_u, 0.1f, 3);
    pair<T> *out = new pair<T>{p, a, b, scale, dev<T>(a), dev<T>(b), dev<float>(scale)};
    out->p.a = out->da.p;
    out->p.b = out->db.p;
    out->p.scale = out->ds.p;
    return out;
}

template <typename T> static float u_of(const pair<T> &p, const T *x, int64_t begin, int64_t end, int64_t j)
{
    float sum[4] = {};
    for (int64_t k = begin; k < end; k++)
        sum[(k - begin) % 4] += stored(x, k) * stored(p.a.data(), k * p.p.n_u + j);
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) * p.scale[(size_t)j];
}

/* B u for one column; false: no module has it. */
template <typename T> static bool add_of(const pair<T> &p, const float *u, int64_t col, float *add)
{
    for (int i = 0; i < p.p.n_part; i++) {
        const struct lk_adapter_part &part = p.p.part[i];
        if (col < part.first || col >= part.first + part.n)
            continue;
        float sum[2] = {};
        for (int64_t r = 0; r < part.n_u; r++)
            sum[r % 2] += u[part.begin + r] * stored(p.b.data(), part.at + r * part.n + col - part.first);
        *add = sum[0] + sum[1];
        return true;
    }
    return false;
}

/* Rows by adapter in tiles; row i has adapter of[i], -1: none. */
struct adapted_step {
    host<int32_t> of, row;
    host<struct lk_adapt_tile> tile;
};

static adapted_step make_step(int64_t n_row)
{
    adapted_step s;
    for (int64_t i = 0; i < n_row; i++)
        s.of.push_back((int32_t)(random_bits() % (unsigned)(N_ADAPTER + 1)) - 1);
    for (int32_t e = 0; e < N_ADAPTER; e++) {
        int32_t first = (int32_t)s.row.size();
        for (int32_t i = 0; i < (int32_t)n_row; i++)
            if (s.of[(size_t)i] == e)
                s.row.push_back(i);
        for (int32_t n, end = (int32_t)s.row.size(); first < end; first += n) {
            n = (int32_t)lk_min(LK_ADAPT_TILE, end - first);
            s.tile.push_back({e, first, n});
        }
    }
    return s;
}

template <typename T> static void lora_case(int64_t n_row, int64_t n_out, int64_t n_col, int n_seg)
{
    static const int rank[N_ADAPTER][3] = {{5, 0, 33}, {16, 8, 1}, {0, 0, 0}, {0, 130, 0}};
    struct lk_cols c = even_cols(n_col, n_seg, 32);
    int64_t k = lk_cols_packed(&c), first = n_row / 3, n = n_row - first - n_row / 4, part_ld = n * n_out + 3, n_u = 0;
    pair<T> *p[N_ADAPTER];
    host<struct lk_adapter> all;
    for (int i = 0; i < N_ADAPTER; i++) {
        p[i] = make_pair<T>(k, n_out, rank[i]);
        all.push_back(p[i]->p);
        n_u = p[i]->p.n_u > n_u ? p[i]->p.n_u : n_u;
    }
    adapted_step s = make_step(n_row);
    host<T> x = random_of<T>(n_row * k);
    host<float> before = random_row(n_seg * part_ld, -2, 2);
    dev<struct lk_adapter> dall(all);
    dev<int32_t> drow(s.row);
    dev<struct lk_adapt_tile> dtile(s.tile);
    dev<T> dx(x);
    dev<float> u(n_row * (n_seg * n_u + 1)), y(n_seg * part_ld);
    y.put(before);
    struct lk_adapt l = {dall.p, drow.p, dtile.p, (int64_t)s.tile.size(), n_u, u.p, n_seg * n_u + 1};
    struct lk_act act = {dx.p, n_row, &c};
    struct lk_adapt_sums sums = {y.p, part_ld, first, n, n_out, n_seg};
    check_launch(lk_cuda_lora_down(&l, &act, type_of<T>(), NULL), "adapters");
    check_launch(lk_cuda_lora_up(&l, &sums, type_of<T>(), NULL), "adapters");
    host<float> got = y.get(), want = before;
    for (int64_t i = first; i < first + n; i++)
        for (int is = 0; is < n_seg && s.of[(size_t)i] >= 0; is++) {
            const pair<T> &q = *p[s.of[(size_t)i]];
            host<float> ui((size_t)q.p.n_u);
            float add;
            for (int64_t j = 0; j < q.p.n_u; j++)
                ui[(size_t)j] = u_of(q, x.data() + i * k, c.packed[is], c.packed[is + 1], j);
            for (int64_t j = 0; j < n_out; j++)
                if (add_of(q, ui.data(), j, &add))
                    want[(size_t)(is * part_ld + (i - first) * n_out + j)] += add;
        }
    check(memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0, "adapters",
          "%lld x %lld x %lld, %d segments, %s", (long long)n_row, (long long)n_out, (long long)n_col, n_seg,
          sizeof(T) == 4 ? "f32" : "bf16");
    for (int i = 0; i < N_ADAPTER; i++)
        delete p[i];
}

void check_adapters(void)
{
    lora_case<float>(3, 40, 70, 1);
    lora_case<float>(37, 150, 200, 4);
    lora_case<uint16_t>(5, 33, 300, 2);
    lora_case<uint16_t>(61, 270, 576, 3);
    if (check_full()) {
        lora_case<float>(200, 1000, 1024, 8);
        lora_case<uint16_t>(300, 1536, 4096, 16);
    }
}
