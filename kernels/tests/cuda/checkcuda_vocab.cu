/* Candidates, log-probabilities and sampling. What is drawn is compared with a plain reading of the rules: sort,
 * filter, walk. */
#include "kernels/cuda/lk_cuda_ids.h"
#include "kernels/tests/cuda/checkcuda.cuh"

#include <algorithm>

static host<float> random_logits(int64_t n, int kind)
{
    host<float> x = random_row(n, -8, 8);
    for (float &v : x) {
        if (kind == 1) /* ties */
            v = (float)(int)(v / 2);
        if (kind == 2 && random_bits() % 5 == 0)
            v = random_bits() % 2 ? NAN : -INFINITY;
        if (kind == 3)
            v = NAN;
        if (kind == 4)
            v = random_bits() % 2 ? 0.0f : -0.0f;
    }
    return x;
}

static void top_case(int64_t n_vocab, int kind)
{
    host<float> x = random_logits(n_vocab, kind), x2 = random_logits(n_vocab, 0);
    host<const float *> rows = {x.data(), NULL, x2.data()};
    enum { N_SEG = 4 };
    host<int64_t> seg = {0, n_vocab / 3, n_vocab / 3, n_vocab / 2, n_vocab};
    host<double> lse(3 * N_SEG);
    host<int32_t> id(3 * LK_TOP);
    host<float> value(3 * LK_TOP);
    struct lk_top r = {3, n_vocab, rows.data(), seg.data(), N_SEG, lse.data(), id.data(), value.data()};
    ref_set(LK_F32)->top(&r, 0, 3);
    dev<float> dx(x), dx2(x2), dvalue(3 * LK_TOP);
    dev<const float *> drows(host<const float *>{dx.p, NULL, dx2.p});
    dev<double> dlse(3 * N_SEG);
    dev<int64_t> dseg(seg);
    dev<int32_t> did(3 * LK_TOP);
    struct lk_top d = {3, n_vocab, drows.p, dseg.p, N_SEG, dlse.p, did.p, dvalue.p};
    check_launch(lk_cuda_top(&d, NULL), "top");
    host<int32_t> gid = did.get();
    host<float> gvalue = dvalue.get();
    host<double> glse = dlse.get();
    for (size_t row = 0; row < 3; row += 2) {
        bool ok = memcmp(&gid[row * LK_TOP], &id[row * LK_TOP], LK_TOP * sizeof(int32_t)) == 0;
        for (size_t i = row * LK_TOP; i < (row + 1) * LK_TOP; i++)
            ok = ok && gvalue[i] == value[i];
        check(ok, "top", "%lld logits of kind %d", (long long)n_vocab, kind);
        for (size_t i = row * N_SEG; i < (row + 1) * N_SEG; i++)
            check(lse[i] == -INFINITY ? glse[i] == lse[i] : is_near(glse[i], lse[i], 1 + fabs(lse[i]), 1e-13), "top",
                  "log-sum-exp of %lld logits: %.17g, not %.17g", (long long)n_vocab, glse[i], lse[i]);
    }
}

static void best_case(int64_t n_vocab, int kind)
{
    enum { N_ROW = 2 };
    int64_t n_block = lk_ceil_div(n_vocab, LK_HEAD_BLOCK), ld = n_vocab + 3;
    host<float> x = random_logits(N_ROW * ld, kind);
    dev<float> dx(x);
    dev<struct lk_best> best(N_ROW * n_block);
    struct lk_blocks_best a = {dx.p, ld, N_ROW, n_vocab, best.p};
    check_launch(lk_cuda_best(&a, NULL), "best");
    host<struct lk_best> got = best.get();
    bool ok = true;
    for (int64_t i = 0; i < N_ROW * n_block; i++) {
        struct lk_best want = {-INFINITY, -1, true};
        for (int64_t j = i % n_block * LK_HEAD_BLOCK; j < lk_min(n_vocab, (i % n_block + 1) * LK_HEAD_BLOCK); j++) {
            float v = x[(size_t)(i / n_block * ld + j)];
            if (v > want.value || (want.id < 0 && v == v)) {
                want.value = v;
                want.id = (int32_t)j;
            }
            want.finite = want.finite && v - v == 0;
        }
        const struct lk_best &g = got[(size_t)i];
        ok = ok && g.value == want.value && g.id == want.id && g.finite == want.finite;
    }
    check(ok, "best", "%lld logits of kind %d", (long long)n_vocab, kind);
}

static void pick_case(int64_t n_block, int kind)
{
    enum { N_ROW = 3 };
    host<float> value = random_logits(N_ROW * n_block, kind);
    host<struct lk_best> best;
    host<int32_t> want(N_ROW, 0);
    for (int64_t i = 0; i < N_ROW * n_block; i++) {
        float v = value[(size_t)i];
        struct lk_best b = {v == v ? v : -INFINITY, v == v ? (int32_t)(i % n_block * LK_HEAD_BLOCK + 5) : -1,
                            v - v == 0};
        best.push_back(b);
    }
    for (size_t row = 0; row < N_ROW; row++) {
        const struct lk_best *first = NULL;
        for (const struct lk_best *b = &best[row * (size_t)n_block], *end = b + n_block; b < end; b++)
            if (b->id >= 0 && (!first || b->value > first->value))
                first = b;
        want[row] = first ? first->id : 0;
    }
    dev<struct lk_best> dbest(best);
    dev<int32_t> did(N_ROW);
    struct lk_pick a = {dbest.p, N_ROW, n_block, did.p};
    check_launch(lk_cuda_pick(&a, NULL), "pick");
    check(did.get() == want, "pick", "%lld blocks of kind %d", (long long)n_block, kind);
}

static void resolve_case(int64_t n)
{
    host<int32_t> slot = {7, 0, 151935}, id, want;
    for (int64_t i = 0; i < n; i++) {
        int32_t from = (int32_t)(random_bits() % 6) - 3; /* -3 .. -1: ~2 .. ~0 */
        id.push_back(from);
        want.push_back(from < 0 ? slot[(size_t)~from] : from);
    }
    dev<int32_t> did(n), dslot(slot);
    did.put(id);
    struct lk_resolve a = {did.p, dslot.p, n};
    check_launch(lk_cuda_resolve(&a, NULL), "resolve");
    check(did.get() == want, "resolve", "%lld ids", (long long)n);
}

static void logprobs_case(int64_t n_vocab)
{
    enum { N_ROW = 3 };
    host<float> x = random_logits(N_ROW * n_vocab, 1);
    host<double> lse = {3.5, -2, 100};
    host<int32_t> id = {0, (int32_t)(n_vocab - 1), (int32_t)(n_vocab / 2)};
    dev<float> dx(x), out(N_ROW * n_vocab), logprob(N_ROW);
    dev<double> dlse(lse);
    dev<int32_t> did(id);
    dev<int64_t> rank(N_ROW);
    struct lk_logprobs a = {dx.p, n_vocab, N_ROW, n_vocab, dlse.p, out.p, did.p, logprob.p, rank.p};
    check_launch(lk_cuda_logprobs(&a, NULL), "logprobs");
    host<float> got = out.get(), chosen = logprob.get();
    host<int64_t> ranks = rank.get();
    bool ok = true;
    for (size_t i = 0; i < N_ROW; i++) {
        const float *row = &x[i * (size_t)n_vocab];
        float v = row[id[i]];
        int64_t n = 0;
        for (int64_t j = 0; j < n_vocab; j++) {
            n += row[j] >= v;
            ok = ok && got[i * (size_t)n_vocab + (size_t)j] == (float)((double)row[j] - lse[i]);
        }
        ok = ok && ranks[i] == n && chosen[i] == (float)((double)v - lse[i]);
    }
    check(ok, "logprobs", "%lld logits", (long long)n_vocab);
}

/* Philox-4x32-10 by its paper, on 64-bit words. */
static double philox(const struct lk_sampling &s)
{
    uint64_t c[4] = {s.position, s.sample, s.row_key & 0xffffffffu, s.row_key >> 32};
    uint64_t k[2] = {s.seed & 0xffffffffu, s.seed >> 32};
    for (int i = 0; i < 10; i++) {
        uint64_t a = c[0] * 0xD2511F53u, b = c[2] * 0xCD9E8D57u;
        uint64_t next[4] = {(b >> 32) ^ c[1] ^ k[0], b & 0xffffffffu, (a >> 32) ^ c[3] ^ k[1], a & 0xffffffffu};
        memcpy(c, next, sizeof c);
        k[0] = (k[0] + 0x9E3779B9u) & 0xffffffffu;
        k[1] = (k[1] + 0xBB67AE85u) & 0xffffffffu;
    }
    return ((double)c[0] + 0.5) / 4294967296.0;
}

/* The id by sorting; *edge: u is so near a boundary that another rounding may choose the neighbor. */
static int32_t want_sample(const float *x, int64_t n, const struct lk_sampling &s, bool *edge)
{
    host<int32_t> order((size_t)n);
    for (int64_t i = 0; i < n; i++)
        order[(size_t)i] = (int32_t)i;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    *edge = false;
    double best = (double)x[order[0]];
    if (s.temperature < 1e-5)
        return order[0];
    auto weight = [&](int32_t id) { return exp(((double)x[id] - best) / s.temperature); };
    size_t kept = 0;
    while (kept < order.size() &&
           (s.min_p <= 0 || ((double)x[order[kept]] - best) / s.temperature >= fmin(log(s.min_p), 0.0)))
        kept++;
    if (s.top_k > 0)
        kept = std::min(kept, (size_t)s.top_k);
    if (s.top_p < 1) {
        double total = 0, sum = 0;
        for (size_t i = 0; i < kept; i++)
            total += weight(order[i]);
        for (size_t i = 0; i < kept; i++) {
            *edge = *edge || fabs(sum - s.top_p * total) < 1e-9 * total;
            if (i > 0 && sum >= s.top_p * total)
                kept = i;
            else
                sum += weight(order[i]);
        }
        *edge = *edge || fabs(sum - s.top_p * total) < 1e-9 * total;
    }
    order.resize(kept);
    std::sort(order.begin(), order.end());
    double total = 0, sum = 0, u = philox(s);
    for (int32_t id : order)
        total += weight(id);
    for (int32_t id : order) {
        sum += weight(id);
        *edge = *edge || fabs(sum - u * total) < 1e-12 * total;
        if (sum > u * total)
            return id;
    }
    return order.back();
}

static void sample_case(int64_t n_vocab, int kind)
{
    enum { N_ROW = 20 };
    static const double top_p[] = {1, 0.9, 0.5, 0.01, 0.999}, min_p[] = {0, 0.05, 0, 0.3},
                        temperature[] = {1, 0.7, 2, 1e-6};
    static const int64_t top_k[] = {0, 1, 5, 40, 300, 1000};
    int64_t ld = n_vocab + 1, n_block = lk_ceil_div(n_vocab, LK_HEAD_BLOCK);
    host<float> x = random_logits(N_ROW * ld, kind);
    host<struct lk_sampling> set;
    for (uint32_t i = 0; i < N_ROW; i++)
        set.push_back({temperature[i % 7 % 4], top_p[i % 5], min_p[i % 4], top_k[i % 6], 0x123456789abcdefu + i,
                       (uint64_t)i * 0x9e3779b97f4a7c15u, i % 3, i * 11});
    dev<float> dx(x);
    dev<struct lk_sampling> dset(set);
    dev<double> sums(N_ROW * n_block);
    dev<int32_t> id(N_ROW);
    struct lk_sample a = {dx.p, ld, N_ROW, n_vocab, dset.p, sums.p, id.p};
    check_launch(lk_cuda_sample(&a, NULL), "sample");
    host<int32_t> got = id.get();
    for (size_t i = 0; i < N_ROW; i++) {
        bool edge;
        int32_t want = want_sample(&x[i * (size_t)ld], n_vocab, set[i], &edge);
        check(edge || got[i] == want, "sample", "row %zu of %lld logits of kind %d: %d, not %d", i, (long long)n_vocab,
              kind, got[i], want);
    }
}

void check_candidates(void)
{
    static const int64_t sizes[] = {1, 2, 255, 256, 257, 1301};
    for (int64_t n : sizes) {
        for (int kind = 0; kind < 5; kind++) {
            top_case(n, kind);
            best_case(n, kind);
            pick_case(n, kind);
        }
        logprobs_case(n);
        resolve_case(n);
    }
    for (int64_t n : sizes) {
        sample_case(n, 0);
        sample_case(n, 1);
    }
    sample_case(300, 4);
    if (check_full()) {
        top_case(151936, 0);
        sample_case(32000, 0);
        sample_case(3001, 1);
    }
}
