/* The indexer: keys and queries within rounding of the reference, then its choice among equal inputs, id by id. */
#include "kernels/tests/cuda/checkcuda.cuh"

#define PAGE LK_PAGE_TOKENS

struct index_shape {
    int64_t n_head, dim, n_rot, topk;
    bool interleaved, ties;
};

template <typename T> static void key_case(const index_shape &p)
{
    enum { N_TOK = 5, N_PAGE = 3 };
    int64_t half = p.n_rot / 2, page_bytes = PAGE * p.dim * (int64_t)sizeof(T);
    host<float> q = random_row(N_TOK * p.n_head * p.dim, -2, 2), k = random_row(N_TOK * (p.dim + 3), -2, 2);
    host<float> norm = random_row(p.dim, 0.5f, 1.5f), bias = random_row(p.dim, -1, 1);
    host<float> c = random_row(N_TOK * half, -1, 1), s = random_row(N_TOK * half, -1, 1);
    host<int32_t> pos = {0, 31, 32, 70, 5}, page = {1, 1, 2, 0, 1};
    host<T> plane((size_t)(N_PAGE * PAGE * p.dim));
    dev<float> dq((int64_t)q.size()), dk(k), dnorm(norm), dbias(bias), dc(c), ds(s);
    dev<int32_t> dpos(pos), dpage(page);
    dev<T> dplane((int64_t)plane.size());
    dq.put(q);
    dplane.put(plane);
    struct lk_index_key d = {
        dq.p,   dk.p,    p.dim + 3, dnorm.p,  dbias.p, dc.p,          ds.p, {(uint8_t *)dplane.p, page_bytes, p.dim},
        dpos.p, dpage.p, N_TOK,     p.n_head, p.n_rot, p.interleaved, 1e-6f};
    check_launch(lk_cuda_index_key(&d, type_of<T>(), NULL), "index_key");
    struct lk_index_key r = {q.data(),    k.data(),      p.dim + 3, norm.data(),
                             bias.data(), c.data(),      s.data(),  {(uint8_t *)plane.data(), page_bytes, p.dim},
                             pos.data(),  page.data(),   N_TOK,     p.n_head,
                             p.n_rot,     p.interleaved, 1e-6f};
    ref_set(type_of<T>())->index_key(&r, 0, N_TOK);
    host<float> gq = dq.get();
    host<T> gp = dplane.get();
    bool ok = memcmp(gq.data(), q.data(), q.size() * sizeof(float)) == 0;
    for (size_t i = 0; i < gp.size(); i++)
        ok = ok && is_close(stored(gp.data(), (int64_t)i), stored(plane.data(), (int64_t)i), type_of<T>());
    check(ok, "index_key", "%lld heads of %lld, %lld turn", (long long)p.n_head, (long long)p.dim, (long long)p.n_rot);
}

template <typename T> static void select_case(const index_shape &p)
{
    enum { N_TOK = 4, N_PAGE = 24 };
    host<int32_t> pos = {(int32_t)p.topk - 1, (int32_t)p.topk + 40, 380, 200}, start = {0, 12}, page;
    host<struct lk_attn_item> item = {{0, 0, 1, 0, 1, 0}, {0, 1, 1, 0, 1, 0}, {1, 2, 1, 0, 1, 0}, {0, 3, 1, 0, 1, 0}};
    for (int32_t i = 0; i < N_PAGE; i++)
        page.push_back(i * 7 % N_PAGE);
    host<T> plane((size_t)(N_PAGE * PAGE * p.dim));
    for (T &x : plane) {
        float v = p.ties ? (float)(random_bits() % 2) : random_in(-1, 1);
        x = sizeof(T) == 2 ? (T)lk_round(v) : (T)v;
    }
    host<float> q = random_row(N_TOK * p.n_head * p.dim, -1, 1), w = random_row(N_TOK * (p.n_head + 1), -1, 1);
    for (float &x : q)
        x = p.ties ? (float)(random_bits() % 2) : x;
    host<int32_t> chosen((size_t)(N_TOK * p.topk));
    host<float> score((size_t)(N_TOK * p.topk));
    struct lk_index_select r = {
        q.data(),    w.data(),   p.n_head + 1, {(uint8_t *)plane.data(), PAGE * p.dim * (int64_t)sizeof(T), p.dim},
        item.data(), pos.data(), start.data(), page.data(),
        p.n_head,    p.topk,     0.125f,       chosen.data(),
        score.data()};
    ref_set(type_of<T>())->index_select(&r, 0, N_TOK);
    dev<float> dq(q), dw(w), sum(N_TOK * 384);
    dev<T> dplane(plane);
    dev<struct lk_attn_item> ditem(item);
    dev<int32_t> dpos(pos), dstart(start), dpage(page), dchosen(N_TOK * p.topk);
    struct lk_index_select d = r;
    d.q = dq.p;
    d.w = dw.p;
    d.plane.key = (uint8_t *)dplane.p;
    d.item = ditem.p;
    d.pos = dpos.p;
    d.page_start = dstart.p;
    d.page = dpage.p;
    d.chosen = dchosen.p;
    d.score = NULL;
    struct lk_index_scratch x = {sum.p, 384, N_TOK};
    check_launch(lk_cuda_index_select(&d, &x, type_of<T>(), NULL), "index_select");
    host<int32_t> got = dchosen.get();
    check(memcmp(got.data(), chosen.data(), got.size() * sizeof(int32_t)) == 0, "index_select",
          "%lld of %lld heads of %lld", (long long)p.topk, (long long)p.n_head, (long long)p.dim);
}

void check_index(void)
{
    static const index_shape shapes[] = {{2, 16, 8, 20, false, false},
                                         {3, 24, 10, 64, true, false},
                                         {1, 128, 64, 33, false, false},
                                         {2, 16, 8, 100, true, true}};
    for (const index_shape &s : shapes) {
        key_case<float>(s);
        key_case<uint16_t>(s);
        select_case<float>(s);
        select_case<uint16_t>(s);
    }
}
