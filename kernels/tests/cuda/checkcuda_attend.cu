/* Attention: every token of ragged sequences against the reference, and the same bits however the step is cut. */
#include "kernels/tests/cuda/checkcuda.cuh"

#include <algorithm>

#define PAGE LK_PAGE_TOKENS

struct shape {
    int64_t n_head, n_kv, head_dim, v_dim, window;
    int n_seg;
    bool apart; /* each head's output for itself */
};

/* Sequences of some lengths, the first `shared` pages of them the same, with K, V and Q for every position. */
struct world {
    shape p;
    host<int32_t> len, start, page_start, page;
    int64_t n_tok = 0, n_page = 0;
    host<uint16_t> q, k, k_ref, v;
    struct lk_cols cols;
};

static host<uint16_t> random_halves(int64_t n, float most)
{
    host<uint16_t> x((size_t)n);
    for (uint16_t &v : x)
        v = lk_round(random_in(-most, most));
    return x;
}

static void make_world(world *w, const shape &p, const host<int32_t> &len, int64_t shared)
{
    w->p = p;
    w->len = len;
    for (int32_t n : len) {
        int64_t used = lk_ceil_div(n, PAGE);
        w->start.push_back((int32_t)w->n_tok);
        w->page_start.push_back((int32_t)w->page.size());
        for (int64_t i = 0; i < used; i++)
            w->page.push_back((int32_t)(i < shared ? i : w->n_page + i));
        w->n_page += used;
        w->n_tok += n;
    }
    for (int32_t &page : w->page) /* no page is next to the one before it */
        page = (int32_t)((page * 7 + 3) % (w->n_page % 7 ? w->n_page : w->n_page + 1));
    w->n_page++;
    w->q = random_halves(w->n_tok * p.n_head * p.head_dim, 1.5f);
    w->k = random_halves(w->n_page * p.n_kv * PAGE * p.head_dim, 1.5f);
    w->v = random_halves(w->n_page * p.n_kv * PAGE * p.v_dim, 1);
    w->k_ref = w->k;
    for (int64_t i = 0; i < (int64_t)w->k.size(); i++) { /* the reference's page is [head_dim, 32] */
        int64_t at = i / (PAGE * p.head_dim) * PAGE * p.head_dim;
        w->k_ref[(size_t)(at + i % p.head_dim * PAGE + i / p.head_dim % PAGE)] = w->k[(size_t)i];
    }
    w->cols = p.apart ? even_cols(p.v_dim, 1, 8) : even_cols(p.n_head * p.v_dim, p.n_seg, p.v_dim * p.n_head / p.n_seg);
}

/* A piece of a sequence: its tokens from `first` on. */
struct piece {
    int32_t seq, first, n;
};

struct step {
    const world *w;
    host<piece> pieces;
};

static int64_t out_elems(const world &w, int64_t n_tok)
{
    return n_tok * lk_cols_packed(&w.cols) * (w.p.apart ? w.p.n_head : 1);
}

/* Arguments of a step whose tokens are those of its pieces one after another; q and pos are filled. */
static struct lk_attend step_args(const step &s, host<uint16_t> *q, host<int32_t> *pos)
{
    const world &w = *s.w;
    int64_t row = w.p.n_head * w.p.head_dim;
    struct lk_attend a = {};
    for (const piece &x : s.pieces) {
        for (int32_t i = x.first; i < x.first + x.n; i++) {
            const uint16_t *from = w.q.data() + (w.start[(size_t)x.seq] + i) * row;
            q->insert(q->end(), from, from + row);
            pos->push_back(i);
        }
    }
    a.n_tok = (int64_t)pos->size();
    a.n_head = w.p.n_head;
    a.window = w.p.window;
    a.scale = 1 / sqrtf((float)w.p.head_dim);
    a.kv.k_page_bytes = PAGE * w.p.head_dim * 2;
    a.kv.v_page_bytes = PAGE * w.p.v_dim * 2;
    a.kv.n_kv_head = w.p.n_kv;
    a.kv.head_dim = w.p.head_dim;
    a.kv.v_dim = w.p.v_dim;
    a.out.n_row = a.n_tok;
    a.out.cols = &w.cols;
    a.out_head_bytes = w.p.apart ? a.n_tok * lk_cols_packed(&w.cols) * 2 : 0;
    return a;
}

/* Attention of a step on the device: [token, heads], whatever the layout was. */
static host<uint16_t> run_step(const step &s, size_t shared_bytes)
{
    const world &w = *s.w;
    host<uint16_t> q;
    host<int32_t> pos;
    struct lk_attend a = step_args(s, &q, &pos);
    host<struct lk_attn_seq> seq;
    host<int32_t> page_start;
    int32_t tok = 0;
    for (const piece &x : s.pieces) {
        seq.push_back({tok, x.n, x.first, w.page.data() + w.page_start[(size_t)x.seq]});
        page_start.push_back(w.page_start[(size_t)x.seq]);
        tok += x.n;
    }
    host<struct lk_attn_work> item((size_t)lk_attn_plan_items(seq.data(), (int64_t)seq.size()));
    host<struct lk_attn_row> row((size_t)lk_attn_plan_rows(seq.data(), (int64_t)seq.size()));
    struct lk_attn_shape shape = {w.p.n_head, w.p.n_kv, w.p.v_dim, w.p.window, shared_bytes, tok % 2 == 0};
    struct lk_attn_plan plan = {};
    lk_attn_plan_step(seq.data(), (int64_t)seq.size(), &shape, item.data(), row.data(), &plan);
    item.resize((size_t)(plan.n_many + plan.n_few));
    row.resize((size_t)plan.n_row);
    dev<struct lk_attn_work> ditem(item);
    dev<struct lk_attn_row> drow(row);
    dev<float> state((int64_t)(lk_attn_state_bytes(plan.n_slot, w.p.n_head, w.p.v_dim) / sizeof(float)));
    dev<uint16_t> dq(q), dk(w.k), dv(w.v), out(out_elems(w, a.n_tok));
    dev<int32_t> dpos(pos), dstart(page_start), dpage(w.page);
    plan.item = ditem.p;
    plan.row = drow.p;
    plan.state = state.p;
    a.q = dq.p;
    a.kv.k = (uint8_t *)dk.p;
    a.kv.v = (uint8_t *)dv.p;
    a.pos = dpos.p;
    a.page_start = dstart.p;
    a.page = dpage.p;
    a.out.data = out.p;
    dev_limit_shared(shared_bytes);
    check_launch(lk_cuda_attend(&a, &plan, NULL), "attend");
    return out.get();
}

static host<uint16_t> want_step(const step &s)
{
    const world &w = *s.w;
    host<uint16_t> q;
    host<int32_t> pos;
    struct lk_attend a = step_args(s, &q, &pos);
    host<uint16_t> out((size_t)out_elems(w, a.n_tok));
    host<struct lk_attn_item> item;
    int32_t tok = 0;
    for (const piece &x : s.pieces) {
        item.push_back({x.seq, tok, x.n, 0, (int32_t)w.p.n_head, 0});
        tok += x.n;
    }
    a.q = q.data();
    a.kv.k = (uint8_t *)const_cast<uint16_t *>(w.k_ref.data());
    a.kv.v = (uint8_t *)const_cast<uint16_t *>(w.v.data());
    a.item = item.data();
    a.n_item = (int64_t)item.size();
    a.pos = pos.data();
    a.page_start = w.page_start.data();
    a.page = w.page.data();
    a.out.data = out.data();
    ref_set(LK_BF16)->attend(&a, 0, a.n_item);
    return out;
}

/* Element i of a row of a step's output of n_tok tokens. */
static uint16_t element(const world &w, const host<uint16_t> &out, int64_t n_tok, int64_t tok, int64_t i)
{
    int64_t n = lk_cols_packed(&w.cols);
    return w.p.apart ? out[(size_t)((i / n * n_tok + tok) * n + i % n)] : out[(size_t)(tok * n + i)];
}

static int64_t row_elems(const world &w)
{
    return out_elems(w, 1);
}

/* A token of a step's output. */
struct place {
    const host<uint16_t> &out;
    int64_t n_tok, tok;
};

static bool same_row(const world &w, const place &a, const place &b)
{
    for (int64_t i = 0; i < row_elems(w); i++)
        if (element(w, a.out, a.n_tok, a.tok, i) != element(w, b.out, b.n_tok, b.tok, i))
            return false;
    return true;
}

static void print_shape(char *to, size_t size, const shape &p)
{
    snprintf(to, size, "%lld and %lld heads of %lld and %lld, window %lld", (long long)p.n_head, (long long)p.n_kv,
             (long long)p.head_dim, (long long)p.v_dim, (long long)p.window);
}

/* All of every sequence as one step, with single tokens in between. */
static host<uint16_t> check_whole(const world &w, const char *name)
{
    step s = {&w, {}};
    for (int32_t i = 0; i < (int32_t)w.len.size(); i++)
        s.pieces.push_back({i, 0, w.len[(size_t)i]});
    host<uint16_t> got = run_step(s, 227 * 1024), want = want_step(s);
    for (int64_t t = 0; t < w.n_tok; t++) {
        for (int64_t i = 0; i < row_elems(w); i++) {
            float g = lk_widen(element(w, got, w.n_tok, t, i)), x = lk_widen(element(w, want, w.n_tok, t, i));
            if (is_near((double)g, (double)x, fabs((double)x) + 0.25, 0x1p-7))
                continue;
            check(false, "attend", "%s: token %lld, number %lld: %g, not %g", name, (long long)t, (long long)i,
                  (double)g, (double)x);
            return got;
        }
    }
    check(true, "attend", "%s", "");
    return got;
}

/* The last token of each sequence alone and all together (shared pages are then read once), and a prompt in chunks. */
static void check_cuts(const world &w, const host<uint16_t> &whole, const char *name)
{
    step last = {&w, {}};
    for (int32_t i = 0; i < (int32_t)w.len.size(); i++) {
        int32_t t = w.len[(size_t)i] - 1;
        last.pieces.push_back({i, t, 1});
        host<uint16_t> alone = run_step({&w, {{i, t, 1}}}, 99 * 1024);
        check(same_row(w, {whole, w.n_tok, w.start[(size_t)i] + t}, {alone, 1, 0}), "attend",
              "%s: sequence %d decoded alone", name, i);
    }
    host<uint16_t> together = run_step(last, 227 * 1024);
    for (int32_t i = 0; i < (int32_t)w.len.size(); i++)
        check(same_row(w, {whole, w.n_tok, w.start[(size_t)i] + w.len[(size_t)i] - 1},
                       {together, (int64_t)w.len.size(), i}),
              "attend", "%s: sequence %d decoded with others", name, i);
    int32_t n = w.len[0], cut = n / 3 + 1;
    step chunks = {&w, {{0, cut, n - cut}, {(int32_t)w.len.size() - 1, 0, 1}, {0, 0, cut}}};
    host<uint16_t> parts = run_step(chunks, 99 * 1024);
    bool same = true;
    for (int32_t t = 0; t < n; t++)
        same = same && same_row(w, {whole, w.n_tok, t}, {parts, n + 1, t < cut ? n - cut + 1 + t : t - cut});
    check(same, "attend", "%s: a prompt in two chunks", name);
}

static void attend_case(const shape &p, const host<int32_t> &len, int64_t shared)
{
    char name[160];
    world w;
    make_world(&w, p, len, shared);
    print_shape(name, sizeof name, p);
    host<uint16_t> whole = check_whole(w, name);
    check_cuts(w, whole, name);
}

static host<float> widened(const host<uint16_t> &x)
{
    host<float> y;
    for (uint16_t v : x)
        y.push_back(lk_widen(v));
    return y;
}

/* Attention in f32 of a step: on the device, or by the reference. */
static host<float> run_f32(const step &s, bool on_device)
{
    const world &w = *s.w;
    host<uint16_t> half;
    host<int32_t> pos, page_start;
    struct lk_attend a = step_args(s, &half, &pos);
    host<struct lk_attn_item> item;
    int32_t tok = 0;
    for (const piece &x : s.pieces) {
        item.push_back({x.seq, tok, x.n, 0, (int32_t)w.p.n_head, 0});
        tok += x.n;
    }
    host<float> q = widened(half), k = widened(on_device ? w.k : w.k_ref), v = widened(w.v);
    host<float> out((size_t)out_elems(w, a.n_tok));
    dev<float> dq(q), dk(k), dv(v), dout((int64_t)out.size());
    dev<int32_t> dpos(pos), dstart(w.page_start), dpage(w.page);
    dev<struct lk_attn_item> ditem(item);
    a.kv.k_page_bytes *= 2;
    a.kv.v_page_bytes *= 2;
    a.out_head_bytes *= 2;
    a.n_item = (int64_t)item.size();
    a.q = on_device ? dq.p : q.data();
    a.kv.k = (uint8_t *)(on_device ? dk.p : k.data());
    a.kv.v = (uint8_t *)(on_device ? dv.p : v.data());
    a.item = on_device ? ditem.p : item.data();
    a.pos = on_device ? dpos.p : pos.data();
    a.page_start = on_device ? dstart.p : w.page_start.data();
    a.page = on_device ? dpage.p : w.page.data();
    a.out.data = on_device ? dout.p : out.data();
    if (!on_device) {
        ref_set(LK_F32)->attend(&a, 0, a.n_item);
        return out;
    }
    check_launch(lk_cuda_attend_f32(&a, NULL), "attend_f32");
    return dout.get();
}

static void f32_case(const shape &p, const host<int32_t> &len)
{
    char name[160];
    world w;
    make_world(&w, p, len, 0);
    print_shape(name, sizeof name, p);
    step s = {&w, {}};
    for (int32_t i = 0; i < (int32_t)len.size(); i++) {
        int32_t n = std::min(40, len[(size_t)i]);
        s.pieces.push_back({i, len[(size_t)i] - n, n});
    }
    host<float> got = run_f32(s, true), want = run_f32(s, false);
    bool ok = true;
    for (size_t i = 0; i < got.size(); i++)
        ok = ok && is_near((double)got[i], (double)want[i], fabs((double)want[i]) + 0.25, 0x1p-18);
    check(ok, "attend_f32", "%s", name);
    int64_t n = lk_cols_packed(&w.cols);
    host<float> alone = run_f32({&w, {{0, len[0] - 1, 1}}}, true);
    ok = true;
    for (int64_t i = 0; i < (int64_t)alone.size(); i++) {
        int64_t head = i / n, at = s.pieces[0].n - 1;
        ok =
            ok && alone[(size_t)i] ==
                      got[(size_t)((w.p.apart ? head * (int64_t)got.size() / w.p.n_head / n : 0) * n + at * n + i % n)];
    }
    check(ok, "attend_f32", "%s: a token alone", name);
}

void check_attention(void)
{
    static const shape small[] = {
        {4, 2, 16, 16, 0, 2, false},   {3, 1, 8, 8, 0, 1, false},     {6, 2, 24, 40, 0, 2, false},
        {2, 2, 80, 80, 0, 1, false},   {9, 3, 64, 64, 0, 3, false},   {2, 1, 96, 96, 40, 1, false},
        {4, 1, 128, 128, 0, 4, false}, {2, 1, 256, 256, 0, 1, false}, {3, 1, 192, 136, 0, 1, false},
        {3, 1, 40, 32, 0, 1, true},    {2, 1, 576, 512, 0, 1, true},
    };
    for (const shape &p : small) { /* wide heads take long on the model */
        if (check_brief() || (p.head_dim > 100 && !check_full()))
            attend_case(p, {35, 1, 32}, 0);
        else
            attend_case(p, {70, 1, 33, 64}, 0);
    }
    attend_case({4, 2, 16, 16, 0, 1, false}, {200, 170, 530, 161}, 5);
    f32_case({4, 2, 16, 24, 0, 2, false}, {70, 33, 1});
    if (check_brief()) {
        f32_case({3, 1, 40, 32, 0, 1, true}, {40});
        return;
    }
    attend_case({2, 1, 16, 16, 0, 2, false}, {600, 590, 5, 1030}, 0);
    attend_case({2, 1, 16, 16, 0, 1, false}, {600, 610, 620}, 17);
    attend_case({2, 1, 16, 16, 530, 1, false}, {1060, 40, 531}, 0);
    attend_case({33, 1, 40, 32, 0, 1, true}, {40, 3}, 0);
    f32_case({2, 1, 32, 32, 0, 1, false}, {1030, 600});
    f32_case({2, 1, 16, 16, 530, 1, false}, {1060, 20});
    f32_case({3, 1, 576, 512, 0, 1, true}, {40});
    if (check_full()) {
        attend_case({4, 2, 32, 32, 0, 1, false}, {650, 660, 641, 1200}, 19);
        attend_case({40, 1, 576, 512, 0, 1, true}, {90, 3}, 0);
        attend_case({8, 2, 128, 128, 0, 4, false}, {600, 590, 20}, 16);
        attend_case({4, 2, 256, 256, 300, 4, false}, {620, 20}, 0);
    }
}
