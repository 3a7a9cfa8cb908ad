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

/* The id by sorting; masses are those of the contract, so that there is one right answer. */
static int32_t want_sample(const float *x, int64_t n, const struct lk_draw &s)
{
    host<int32_t> order((size_t)n);
    for (int64_t i = 0; i < n; i++)
        order[(size_t)i] = (int32_t)i;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    const struct lk_mass_scale scale = {(double)x[order[0]], s.inverse, s.floor};
    size_t kept = 0;
    while (kept < order.size() && ((double)x[order[kept]] - scale.best) * s.inverse >= s.floor)
        kept++;
    if (s.top_k > 0)
        kept = std::min(kept, (size_t)s.top_k);
    if (s.top_p < 1) {
        uint64_t total = 0, sum = 0;
        for (size_t i = 0; i < kept; i++)
            total += lk_mass_whole(&scale, x[order[i]]);
        for (size_t i = 0; i < kept; i++) {
            sum += lk_mass_whole(&scale, x[order[i]]);
            if ((double)sum >= fmax(s.top_p * (double)total, 1))
                kept = i + 1;
        }
    }
    order.resize(kept);
    std::sort(order.begin(), order.end());
    struct lk_mass total = {0, 0}, sum = {0, 0};
    for (int32_t id : order)
        lk_mass_add_id(&total, &scale, x[id]);
    for (int32_t id : order) {
        lk_mass_add_id(&sum, &scale, x[id]);
        if (lk_mass_value(&sum) > s.u * lk_mass_value(&total))
            return id;
    }
    return -1;
}

/* Settings that bring each way through the kernel about: i of them, and rows that draw nothing. */
static struct lk_draw some_draw(int i, int64_t n_vocab)
{
    static const double top_p[] = {1, 0.9, 0.5, 1e-9, 0.999}, min_p[] = {0, 0.05, 0, 1, 1e-4},
                        temperature[] = {1, 0.7, 2, 1e-4, 30, 0};
    const int64_t top_k[] = {0, 1, 5, 40, 300, n_vocab - 1, 2500, 0, 0};
    static const double least = 0.5 / 4294967296.0;
    double t = temperature[random_bits() % (i % 4 == 0 ? 6 : 3)], m = min_p[random_bits() % 5];
    struct lk_draw d = {t > 0 ? 1 / t : 0, m > 0 ? log(m) : -INFINITY, top_p[random_bits() % 5], 0,
                        top_k[random_bits() % 9]};
    d.u = i % 7 == 0 ? least : i % 7 == 1 ? 1 - least : ((double)random_bits() + 0.5) / 4294967296.0;
    return d;
}

static void sample_case(int64_t n_vocab, int64_t n_row, float low, float high, float step)
{
    int64_t ld = n_vocab + 1, n_block = lk_ceil_div(n_vocab, LK_HEAD_BLOCK);
    host<float> x = random_row(n_row * ld, low, high);
    host<struct lk_draw> draw;
    host<int32_t> before;
    for (float &v : x)
        v = step > 0 ? floorf(v / step) * step : v;
    for (int i = 0; i < (int)n_row; i++) {
        draw.push_back(some_draw(i, n_vocab));
        before.push_back(-7 - i);
    }
    x[(size_t)((n_row - 1) * ld + n_vocab - 1)] = n_vocab % 2 ? NAN : INFINITY;
    dev<float> dx(x);
    dev<struct lk_draw> ddraw(draw);
    dev<struct lk_best> best(n_row * n_block);
    dev<int32_t> id(n_row);
    id.put(before);
    struct lk_blocks_best b = {dx.p, ld, n_row, n_vocab, best.p};
    struct lk_sample a = {dx.p, ld, n_row, n_vocab, best.p, ddraw.p, id.p};
    check_launch(lk_cuda_best(&b, NULL), "best");
    check_launch(lk_cuda_sample(&a, NULL), "sample");
    host<int32_t> got = id.get();
    for (size_t i = 0; i < (size_t)n_row; i++) {
        const struct lk_draw &d = draw[i];
        int32_t want = d.inverse == 0           ? before[i]
                       : i + 1 == (size_t)n_row ? 0
                                                : want_sample(&x[i * (size_t)ld], n_vocab, d);
        check(got[i] == want, "sample",
              "row %zu of %lld logits by %g, 1/t %g, floor %g, top_p %g, top_k %lld: %d, not %d", i, (long long)n_vocab,
              step, d.inverse, d.floor, d.top_p, (long long)d.top_k, got[i], want);
    }
}

/* Few ids, ties, many that weigh alike, and so many of them that there is no list. */
static void sample_cases(void)
{
    static const int64_t sizes[] = {1, 2, 255, 256, 257, 1301};
    for (int64_t n : sizes) {
        if (check_brief() && n < 256)
            continue;
        sample_case(n, 16, -8, 8, 0);
        sample_case(n, 16, -8, 8, 2);
    }
    sample_case(300, 8, -0.4f, 0.4f, 1); /* 0 and -1 */
    if (check_brief())
        return;
    sample_case(5001, 12, -3, 3, 0);
    sample_case(5001, 12, -1, 1, 4);
    sample_case(5001, 12, -40, 40, 0);
    if (!check_full())
        return;
    for (int i = 0; i < 20; i++)
        sample_case(3000 + (int64_t)(random_bits() % 5000), 40, -9, 9, i % 3 == 0 ? 0.5f : 0);
    sample_case(32000, 20, -8, 8, 0);
    sample_case(151936, 20, -10, 10, 0);
    sample_case(300007, 10, -2, 2, 0); /* chunks of two blocks */
}

void check_candidates(void)
{
    static const int64_t sizes[] = {1, 2, 255, 256, 257, 1301};
    for (int64_t n : sizes) {
        if (check_brief() && n < 257)
            continue;
        for (int kind = 0; kind < 5; kind++) {
            top_case(n, kind);
            best_case(n, kind);
            pick_case(n, kind);
        }
        logprobs_case(n);
        resolve_case(n);
    }
    sample_cases();
    if (check_full()) {
        top_case(151936, 0);
    }
}
