/* Router, rows by expert, grouped products, the sum of experts. */
#include "kernels/tests/cuda/checkcuda.cuh"

static void route_case(int64_t n_expert, int64_t n_used, int64_t n_group, int64_t n_group_used, int kind)
{
    enum { N_TOK = 30 };
    host<float> logits = random_row(N_TOK * n_expert, -4, 4), bias = random_row(n_expert, -1, 1);
    for (float &x : logits) {
        if (kind == 1) /* ties */
            x = (float)(random_bits() % 3);
        if (kind == 2 && random_bits() % 7 == 0)
            x = random_bits() % 3 ? NAN : random_bits() % 2 ? INFINITY : -INFINITY;
    }
    host<int32_t> id((size_t)(N_TOK * n_used));
    host<float> weight((size_t)(N_TOK * n_used));
    struct lk_route r = {logits.data(), kind == 1 ? NULL : bias.data(),
                         id.data(),     weight.data(),
                         N_TOK,         n_expert,
                         n_used,        n_group,
                         n_group_used,  2.5f,
                         kind != 3};
    ref_set(LK_F32)->route(&r, 0, N_TOK);
    dev<float> dlogits(logits), dbias(bias), dweight(N_TOK * n_used);
    dev<int32_t> did(N_TOK * n_used);
    struct lk_route d = r;
    d.logits = dlogits.p;
    d.bias = r.bias ? dbias.p : NULL;
    d.id = did.p;
    d.weight = dweight.p;
    check_launch(lk_cuda_route(&d, NULL), "route");
    host<int32_t> gid = did.get();
    host<float> gw = dweight.get();
    bool ok = memcmp(gid.data(), id.data(), id.size() * sizeof(int32_t)) == 0;
    for (size_t i = 0; i < gw.size(); i++)
        ok = ok && is_near((double)gw[i], (double)weight[i], fabs((double)weight[i]), 0x1p-19);
    check(ok, "route", "%lld of %lld, %lld of %lld groups, kind %d", (long long)n_used, (long long)n_expert,
          (long long)n_group_used, (long long)n_group, kind);
}

/* Ascending ids of n_used experts for each token. */
static host<int32_t> random_ids(int64_t n_tok, int64_t n_used, int64_t n_expert)
{
    host<int32_t> id;
    for (int64_t t = 0; t < n_tok; t++) {
        int64_t left = n_used;
        for (int64_t e = 0; e < n_expert; e++)
            if ((int64_t)(random_bits() % (uint32_t)(n_expert - e)) < left) {
                id.push_back((int32_t)e);
                left--;
            }
    }
    return id;
}

/* Rows of every expert in order of token, all of them once; then the grouped product against single rows. */
static void group_case(int64_t n_tok, int64_t n_used, int64_t n_expert, int64_t first, int64_t n_own)
{
    int64_t n = n_tok * n_used, n_tile = lk_cuda_group_tiles(n, n_own), k = 64, n_out = 72;
    host<int32_t> id = random_ids(n_tok, n_used, n_expert);
    dev<int32_t> did(id), count(n_own), begin(n_own + 1), row_of(n), row(n), tile_group(n_tile), tile_row(n_tile);
    struct lk_group g = {did.p,      count.p, begin.p, row_of.p, row.p, tile_group.p,
                         tile_row.p, n_tok,   n_used,  first,    n_own, n_tile};
    check_launch(lk_cuda_group(&g, NULL), "group");
    host<int32_t> b = begin.get(), of = row_of.get(), r = row.get();
    int32_t at = 0;
    bool ok = true;
    for (int64_t e = 0; e < n_own; e++) {
        ok = ok && b[(size_t)e] == at;
        for (int64_t i = 0; i < n; i++)
            if (id[(size_t)i] == first + e) {
                ok = ok && r[(size_t)i] == at && of[(size_t)at] == i / n_used;
                at++;
            }
    }
    for (int64_t i = 0; i < n; i++)
        ok = ok && (r[(size_t)i] >= 0) == (id[(size_t)i] >= first && id[(size_t)i] < first + n_own);
    check(ok && b[(size_t)n_own] == at, "group", "%lld tokens, %lld of %lld", (long long)n_tok, (long long)n_used,
          (long long)n_expert);
    host<uint16_t> a((size_t)(n_tok * k)), w((size_t)(n_own * n_out * k));
    for (uint16_t &x : a)
        x = lk_round(random_in(-2, 2));
    for (uint16_t &x : w)
        x = lk_round(random_in(-2, 2));
    dev<uint16_t> da(a), dw(w);
    dev<float> y(n * n_out);
    host<const void *> w_of;
    for (int64_t e = 0; e < n_own; e++)
        w_of.push_back(dw.p + e * n_out * k);
    dev<const void *> dw_of(w_of);
    struct lk_grouped p = {da.p, dw_of.p, y.p, row_of.p, begin.p, tile_group.p, tile_row.p, n, n_out, k, n_tile};
    check_launch(lk_cuda_grouped(&p, NULL), "grouped");
    host<float> got = y.get();
    struct lk_cols c = even_cols(k, 1, 32);
    ok = true;
    for (int64_t e = 0; e < n_own && ok; e++) {
        for (int32_t i = b[(size_t)e]; i < b[(size_t)(e + 1)] && ok; i++) {
            host<uint16_t> one(a.begin() + of[(size_t)i] * k, a.begin() + (of[(size_t)i] + 1) * k);
            dev<uint16_t> done(one);
            dev<float> want(n_out);
            struct lk_linear x = {};
            x.a.data = done.p;
            x.a.n_row = 1;
            x.a.cols = &c;
            x.n_out = n_out;
            x.epilogue = LK_EP_STORE;
            x.y = want.p;
            x.y_ld = n_out;
            struct lk_weight weight = {dw.p + e * n_out * k, LK_W_BF16, NULL, NULL, NULL};
            check_launch(lk_cuda_linear(&x, &weight, NULL, NULL), "grouped");
            host<float> v = want.get();
            ok = memcmp(v.data(), &got[(size_t)(i * n_out)], (size_t)n_out * sizeof(float)) == 0;
        }
    }
    check(ok, "grouped", "%lld tokens, %lld of %lld", (long long)n_tok, (long long)n_used, (long long)n_expert);
}

static void combine_case(int n_seg, int first, int n_leaf, int64_t n_expert, int64_t n_used, int64_t dim)
{
    enum { N_TOK = 5 };
    int64_t n_row = N_TOK * n_used;
    host<int32_t> id = random_ids(N_TOK, n_used, n_expert), row((size_t)n_row);
    for (int64_t i = 0; i < n_row; i++)
        row[(size_t)i] = (int32_t)((i * 7 + 3) % n_row);
    host<float> y = random_row(n_row * dim, -2, 2), x = random_row(N_TOK * dim, -2, 2), w = random_row(n_row, 0, 1);
    host<float> leaves = random_row(n_leaf * N_TOK * dim, -2, 2);
    dev<float> dy(y), dx(N_TOK * dim), dw(w), dleaves(leaves);
    dev<int32_t> did(id), drow(row);
    dx.put(x);
    const float *shared[LK_MAX_SEG], *dshared[LK_MAX_SEG];
    for (int r = 0; r < n_leaf; r++) {
        shared[r] = r % 3 == 1 ? NULL : leaves.data() + r * N_TOK * dim;
        dshared[r] = r % 3 == 1 ? NULL : dleaves.p + r * N_TOK * dim;
    }
    struct lk_combine r = {x.data(), y.data(), id.data(), row.data(), w.data(), shared, N_TOK,
                           n_used,   n_expert, dim,       n_seg,      first,    n_leaf};
    struct lk_combine d = {dx.p,   dy.p,     did.p, drow.p, dw.p,  dshared, N_TOK,
                           n_used, n_expert, dim,   n_seg,  first, n_leaf};
    check_launch(lk_cuda_combine(&d, NULL), "combine");
    ref_set(LK_F32)->combine(&r, 0, N_TOK);
    host<float> got = dx.get();
    check(memcmp(got.data(), x.data(), x.size() * sizeof(float)) == 0, "combine", "leaves %d and %d more of %d", first,
          n_leaf, n_seg);
}

void check_experts(void)
{
    static const int64_t shapes[][4] = {{8, 3, 1, 1}, {12, 3, 4, 2}, {64, 8, 8, 4},  {5, 5, 1, 1},
                                        {6, 2, 3, 1}, {1, 1, 1, 1},  {160, 8, 1, 1}, {256, 8, 8, 4}};
    for (const auto &s : shapes)
        for (int kind = 0; kind < 4; kind++)
            route_case(s[0], s[1], s[2], s[3], kind);
    group_case(1, 2, 8, 0, 8);
    group_case(45, 3, 7, 0, 7);
    group_case(70, 2, 3, 1, 2);
    group_case(9, 4, 64, 16, 32);
    for (int n = 1; n <= LK_MAX_SEG; n++)
        combine_case(n, 0, n, 20, 3, 60 + n * 17);
    combine_case(8, 4, 4, 12, 5, 33);
    combine_case(16, 2, 2, 64, 8, 300);
}
