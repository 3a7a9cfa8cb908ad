/* Angles, rotation and the write into the cache, latents. */
#include "kernels/tests/cuda/checkcuda.cuh"

#define PAGE LK_PAGE_TOKENS

static void table_case(int64_t n_rot, bool dynamic)
{
    host<int32_t> pos = {0, 1, 17, 4095, 8191, 131071}, len = {1, 5000, 100, 9000, 8192, 131072};
    int64_t n_tok = (int64_t)pos.size(), half = n_rot / 2;
    host<float> freq((size_t)half), wc((size_t)(n_tok * half)), ws = wc;
    for (int64_t i = 0; i < half; i++)
        freq[(size_t)i] = (float)pow(10000.0, -2.0 * (double)i / (double)n_rot);
    struct lk_rope_table r = {wc.data(), ws.data(), pos.data(), freq.data(), dynamic ? len.data() : NULL, 10000, 2,
                              4096,      n_tok,     n_rot,      1.25f};
    ref_set(LK_F32)->rope_table(&r, 0, n_tok);
    dev<int32_t> dpos(pos), dlen(len);
    dev<float> dfreq(freq), c(n_tok * half), s(n_tok * half);
    struct lk_rope_table d = r;
    d.cos = c.p;
    d.sin = s.p;
    d.pos = dpos.p;
    d.inv_freq = dfreq.p;
    d.len = dynamic ? dlen.p : NULL;
    check_launch(lk_cuda_rope_table(&d, NULL), "rope_table");
    host<float> gc = c.get(), gs = s.get();
    bool ok = true;
    for (size_t i = 0; i < gc.size(); i++) /* dynamic: a base that differs by a bit turns far angles */
        ok = ok && is_near((double)gc[i], (double)wc[i], 1.25, dynamic ? 0.02 : 0x1p-22) &&
             is_near((double)gs[i], (double)ws[i], 1.25, dynamic ? 0.02 : 0x1p-22);
    check(ok, "rope_table", "%lld dimensions, %s", (long long)n_rot, dynamic ? "dynamic" : "fixed");
}

struct rope_shape {
    int64_t n_head, n_kv, head_dim, v_dim, n_rot;
    bool interleaved, norm;
};

template <typename T> static void rope_case(const rope_shape &p)
{
    enum { N_TOK = 5, N_PAGE = 3 };
    enum lk_type type = type_of<T>();
    int64_t width = (p.n_head + p.n_kv) * p.head_dim + p.n_kv * p.v_dim, half = p.n_rot / 2;
    host<float> qkv = random_row(N_TOK * width, -3, 3), c = random_row(N_TOK * half + 1, -1, 1);
    host<float> s = random_row(N_TOK * half + 1, -1, 1), norm = random_row(2 * p.head_dim, 0.5f, 1.5f);
    host<int32_t> pos = {0, 31, 32, 64, 5}, page = {2, 2, 0, 1, 2};
    size_t k_elems = (size_t)(N_PAGE * p.n_kv * PAGE * p.head_dim),
           v_elems = (size_t)(N_PAGE * p.n_kv * PAGE * p.v_dim);
    host<T> q((size_t)(N_TOK * p.n_head * p.head_dim)), k(k_elems), v(v_elems), zero_k(k_elems), zero_v(v_elems);
    struct lk_kv kv = {(uint8_t *)k.data(),
                       (uint8_t *)v.data(),
                       PAGE * p.head_dim * (int64_t)sizeof(T),
                       PAGE * p.v_dim * (int64_t)sizeof(T),
                       p.n_kv,
                       p.head_dim,
                       p.v_dim};
    struct lk_rope_kv r = {qkv.data(),
                           c.data(),
                           s.data(),
                           q.data(),
                           kv,
                           pos.data(),
                           page.data(),
                           N_TOK,
                           p.n_head,
                           p.n_rot,
                           p.interleaved,
                           p.norm ? norm.data() : NULL,
                           p.norm ? norm.data() + p.head_dim : NULL,
                           1e-6f};
    ref_set(type)->rope_kv(&r, 0, N_TOK);
    dev<float> dqkv(qkv), dc(c), ds(s), dnorm(norm);
    dev<int32_t> dpos(pos), dpage(page);
    dev<T> dq((int64_t)q.size()), dk((int64_t)k_elems), dv((int64_t)v_elems);
    dk.put(zero_k);
    dv.put(zero_v);
    struct lk_rope_kv d = r;
    d.qkv = dqkv.p;
    d.cos = dc.p;
    d.sin = ds.p;
    d.q = dq.p;
    d.kv.k = (uint8_t *)dk.p;
    d.kv.v = (uint8_t *)dv.p;
    d.pos = dpos.p;
    d.page = dpage.p;
    d.q_norm = p.norm ? dnorm.p : NULL;
    d.k_norm = p.norm ? dnorm.p + p.head_dim : NULL;
    check_launch(lk_cuda_rope_kv(&d, type, NULL), "rope_kv");
    host<T> gq = dq.get(), gk = dk.get(), gv = dv.get();
    bool ok = true;
    for (size_t i = 0; i < q.size(); i++)
        ok = ok && is_close(stored(gq.data(), (int64_t)i), stored(q.data(), (int64_t)i), type);
    for (int64_t i = 0; i < (int64_t)k_elems; i++) { /* the reference's page is [head_dim, 32] */
        int64_t at = i / (PAGE * p.head_dim) * PAGE * p.head_dim, slot = i / p.head_dim % PAGE, dim = i % p.head_dim;
        ok = ok && is_close(stored(gk.data(), i), stored(k.data(), at + dim * PAGE + slot), type);
    }
    ok = ok && memcmp(gv.data(), v.data(), v_elems * sizeof(T)) == 0;
    check(ok, "rope_kv", "%lld and %lld heads of %lld, %lld turn", (long long)p.n_head, (long long)p.n_kv,
          (long long)p.head_dim, (long long)p.n_rot);
}

static void latent_case(int64_t n_head, int64_t nope, int64_t n_rot, int64_t rank)
{
    enum { N_TOK = 3 };
    host<float> q = random_row(N_TOK * n_head * (nope + n_rot), -2, 2), kv = random_row(N_TOK * (rank + n_rot), -2, 2);
    host<float> w = random_row(rank, 0.5f, 1.5f);
    int64_t n = N_TOK * ((n_head + 1) * (n_rot + rank) + rank);
    dev<float> dq(q), dkv(kv), dw(w), to(n);
    host<float> want = to.get();
    struct lk_latent r = {want.data(), q.data(), kv.data(), w.data(), N_TOK, n_head, nope, n_rot, rank, 1e-6f};
    ref_set(LK_F32)->latent(&r, 0, N_TOK);
    struct lk_latent d = {to.p, dq.p, dkv.p, dw.p, N_TOK, n_head, nope, n_rot, rank, 1e-6f};
    check_launch(lk_cuda_latent(&d, NULL), "latent");
    host<float> got = to.get();
    bool ok = true;
    for (size_t i = 0; i < got.size(); i++)
        ok = ok && is_near((double)got[i], (double)want[i], 4, 0x1p-20);
    check(ok, "latent", "%lld heads, %lld + %lld of rank %lld", (long long)n_head, (long long)nope, (long long)n_rot,
          (long long)rank);
}

/* Each chosen position's row of K and V, byte by byte; zeros behind the last. */
static void gather_case(int64_t head_dim, int64_t v_dim, int64_t topk)
{
    enum { N_PAGE = 5, N_ITEM = 2 };
    int64_t k_row = head_dim * 2, v_row = v_dim * 2, n_page = lk_ceil_div(topk, PAGE);
    host<uint8_t> k((size_t)(N_PAGE * PAGE * k_row)), v((size_t)(N_PAGE * PAGE * v_row));
    for (uint8_t &x : k)
        x = (uint8_t)random_bits();
    for (uint8_t &x : v)
        x = (uint8_t)random_bits();
    host<struct lk_attn_item> item = {{1, 0, 1, 0, 1, 0}, {0, 1, 1, 0, 1, 0}};
    host<int32_t> start = {0, 3}, page = {4, 2, 0, 1, 3}, chosen((size_t)(N_ITEM * topk));
    for (int64_t i = 0; i < N_ITEM * topk; i++)
        chosen[(size_t)i] = (int32_t)(i % topk + (i % 3 ? 1 : 0));
    dev<uint8_t> dk(k), dv(v), to_k(N_ITEM * n_page * PAGE * k_row), to_v(N_ITEM * n_page * PAGE * v_row);
    dev<struct lk_attn_item> ditem(item);
    dev<int32_t> dstart(start), dpage(page), dchosen(chosen);
    struct lk_gather a = {{dk.p, dv.p, PAGE * k_row, PAGE * v_row, 1, head_dim, v_dim},
                          {to_k.p, to_v.p, PAGE * k_row, PAGE * v_row, 1, head_dim, v_dim},
                          ditem.p,
                          dchosen.p,
                          dstart.p,
                          dpage.p,
                          topk,
                          n_page};
    check_launch(lk_cuda_gather(&a, N_ITEM, NULL), "gather");
    host<uint8_t> gk = to_k.get(), gv = to_v.get();
    bool ok = true;
    for (int64_t i = 0; i < N_ITEM * n_page * PAGE; i++) {
        int64_t it = i / (n_page * PAGE), j = i % (n_page * PAGE), tok = item[(size_t)it].tok, at = 0;
        if (j < topk) {
            int32_t pos = chosen[(size_t)(tok * topk + j)];
            at = page[(size_t)(start[(size_t)item[(size_t)it].seq] + pos / PAGE)] * PAGE + pos % PAGE;
        }
        for (int64_t b = 0; b < k_row; b++)
            ok = ok && gk[(size_t)(i * k_row + b)] == (j < topk ? k[(size_t)(at * k_row + b)] : 0);
        for (int64_t b = 0; b < v_row; b++)
            ok = ok && gv[(size_t)(i * v_row + b)] == (j < topk ? v[(size_t)(at * v_row + b)] : 0);
    }
    check(ok, "gather", "%lld of %lld and %lld", (long long)topk, (long long)head_dim, (long long)v_dim);
}

void check_rope(void)
{
    gather_case(24, 16, 40);
    gather_case(576, 512, 33);
    static const int64_t rot[] = {2, 8, 16, 64, 128};
    for (int64_t n : rot) {
        table_case(n, false);
        table_case(n, true);
    }
    static const rope_shape shapes[] = {
        {4, 2, 16, 16, 16, false, false}, {3, 1, 8, 8, 8, true, false},      {9, 3, 64, 64, 64, false, true},
        {6, 2, 24, 40, 10, true, true},   {2, 2, 128, 128, 64, true, false}, {4, 1, 256, 256, 256, false, true},
        {5, 1, 80, 80, 80, false, false}, {3, 1, 576, 512, 64, true, false},
    };
    for (const rope_shape &s : shapes) {
        rope_case<float>(s);
        rope_case<uint16_t>(s);
    }
    latent_case(3, 24, 8, 40);
    latent_case(2, 192, 64, 512);
}
