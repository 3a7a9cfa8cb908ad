/* The ops of the CPU backend: a small random decoder, put together from them, against a forward pass in double that is
 * written from the formulas, for every kernel set of this processor; and the promise that a sequence's bits depend on
 * it alone: ragged, alone, in chunks, with 1, 2 and 3 threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/tests/whole.h"
#include "kernels/cpu/lk_cpu.h"

enum {
    N_LAYER = 2,
    DIM = 40,
    N_HEAD = 6,
    N_KV = 2,
    HEAD_DIM = 12,
    FFN = 75,
    N_VOCAB = 523,
    N_SEG = 2,
    Q_DIM = N_HEAD * HEAD_DIM,
    QKV_DIM = (N_HEAD + 2 * N_KV) * HEAD_DIM,
    N_SEQ = 4,
    MAX_LEN = 80,
    SEQ_PAGES = 3,
    N_PAGE = 16,
};

static const int seq_len[N_SEQ] = {37, 1, 70, 9};

/* All weights, one array a role: [layer][rows, cols]. */
static struct net {
    float embed[N_VOCAB * DIM], norm[DIM], head[N_VOCAB * DIM], inv_freq[HEAD_DIM / 2];
    struct {
        float attn_norm[DIM], ffn_norm[DIM], wqkv[QKV_DIM * DIM], bqkv[QKV_DIM], wo[DIM * Q_DIM], bo[DIM];
        float gate_up[2 * FFN * DIM], b_gate_up[2 * FFN], down[DIM * FFN];
    } layer[N_LAYER];
    int32_t tok[N_SEQ][MAX_LEN];
} net;

static uint32_t random_state = 11;

static uint32_t next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

/* bf16 values, so that every kernel set multiplies the same weights. */
static void fill(float *x, int n, double size, double mean)
{
    for (int i = 0; i < n; i++)
        x[i] = lb_bf16_widen(lb_bf16_round((float)(mean + size * ((double)next_random() / 8388608.0 - 1.0))));
}

static void make_net(void)
{
    fill(net.embed, N_VOCAB * DIM, 1, 0);
    fill(net.norm, DIM, 0.5, 1);
    fill(net.head, N_VOCAB * DIM, 0.6, 0);
    for (int i = 0; i < HEAD_DIM / 2; i++)
        net.inv_freq[i] = (float)pow(10000, -2.0 * i / HEAD_DIM);
    for (int il = 0; il < N_LAYER; il++) {
        fill(net.layer[il].attn_norm, DIM, 0.5, 1);
        fill(net.layer[il].ffn_norm, DIM, 0.5, 1);
        fill(net.layer[il].wqkv, QKV_DIM * DIM, 0.4, 0);
        fill(net.layer[il].bqkv, QKV_DIM, 0.3, 0);
        fill(net.layer[il].wo, DIM * Q_DIM, 0.2, 0);
        fill(net.layer[il].bo, DIM, 0.3, 0);
        fill(net.layer[il].gate_up, 2 * FFN * DIM, 0.3, 0);
        fill(net.layer[il].b_gate_up, 2 * FFN, 0.3, 0);
        fill(net.layer[il].down, DIM * FFN, 0.2, 0);
    }
    for (int s = 0; s < N_SEQ; s++)
        for (int t = 0; t < MAX_LEN; t++)
            net.tok[s][t] = (int32_t)(next_random() % N_VOCAB);
}

/* ---- double ---- */

static void naive_product(double *y, const double *x, const float *w, const float *bias, int n_out, int n_in)
{
    for (int j = 0; j < n_out; j++) {
        y[j] = bias ? (double)bias[j] : 0;
        for (int k = 0; k < n_in; k++)
            y[j] += (double)w[j * n_in + k] * x[k];
    }
}

static void naive_norm(double *y, const double *x, const float *w)
{
    double sum = 0;
    for (int k = 0; k < DIM; k++)
        sum += x[k] * x[k];
    for (int k = 0; k < DIM; k++)
        y[k] = x[k] / sqrt(sum / DIM + 1e-5) * (double)w[k];
}

static void naive_rope(double *v, int pos)
{
    for (int i = 0; i < HEAD_DIM / 2; i++) {
        double angle = (double)(net.inv_freq[i] * (float)pos), a = v[i], b = v[i + HEAD_DIM / 2];
        v[i] = a * cos(angle) - b * sin(angle);
        v[i + HEAD_DIM / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void naive_attend(double *out, double (*qkv)[QKV_DIM], int t)
{
    for (int ih = 0; ih < N_HEAD; ih++) {
        const double *q = qkv[t] + ih * HEAD_DIM;
        int k_at = (N_HEAD + ih / (N_HEAD / N_KV)) * HEAD_DIM, v_at = k_at + N_KV * HEAD_DIM;
        double p[MAX_LEN], sum = 0, *o = out + ih * HEAD_DIM;
        for (int j = 0; j <= t; j++) {
            p[j] = 0;
            for (int d = 0; d < HEAD_DIM; d++)
                p[j] += q[d] * qkv[j][k_at + d];
            p[j] = exp(p[j] / sqrt(HEAD_DIM));
            sum += p[j];
        }
        for (int d = 0; d < HEAD_DIM; d++) {
            o[d] = 0;
            for (int j = 0; j <= t; j++)
                o[d] += p[j] / sum * qkv[j][v_at + d];
        }
    }
}

/* Logits of the last token of a sequence of n tokens. */
static void naive_forward(const int32_t *tok, int n, double *logits)
{
    static double x[MAX_LEN][DIM], qkv[MAX_LEN][QKV_DIM];
    double h[DIM], a[Q_DIM], y[DIM], gu[2 * FFN];
    for (int t = 0; t < n; t++)
        for (int k = 0; k < DIM; k++)
            x[t][k] = (double)net.embed[tok[t] * DIM + k];
    for (int il = 0; il < N_LAYER; il++) {
        for (int t = 0; t < n; t++) {
            naive_norm(h, x[t], net.layer[il].attn_norm);
            naive_product(qkv[t], h, net.layer[il].wqkv, net.layer[il].bqkv, QKV_DIM, DIM);
            for (int ih = 0; ih < N_HEAD + N_KV; ih++)
                naive_rope(qkv[t] + ih * HEAD_DIM, t);
        }
        for (int t = 0; t < n; t++) {
            naive_attend(a, qkv, t);
            naive_product(y, a, net.layer[il].wo, net.layer[il].bo, DIM, Q_DIM);
            for (int k = 0; k < DIM; k++)
                x[t][k] += y[k];
            naive_norm(h, x[t], net.layer[il].ffn_norm);
            naive_product(gu, h, net.layer[il].gate_up, net.layer[il].b_gate_up, 2 * FFN, DIM);
            for (int j = 0; j < FFN; j++)
                gu[j] = gu[j] / (1 + exp(-gu[j])) * gu[FFN + j];
            naive_product(y, gu, net.layer[il].down, NULL, DIM, FFN);
            for (int k = 0; k < DIM; k++)
                x[t][k] += y[k];
        }
    }
    naive_norm(h, x[n - 1], net.norm);
    naive_product(logits, h, net.head, NULL, N_VOCAB, DIM);
}

/* ---- the backend ---- */

struct engine {
    struct lb_backend *be;
    struct lb_table *embed;
    struct lb_rows embed_rows; /* which embed reads */
    struct lb_matrix *head, *wqkv[N_LAYER], *wo[N_LAYER], *gate_up[N_LAYER], *down[N_LAYER];
    struct lb_buf x, qkv;
    struct lb_actbuf h, a, f;
    struct lb_kv_mem *kv;
    struct lb_step step;
};

static void get_rows(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    memcpy(out, (const float *)r->ctx + row * r->n_col, (size_t)(n * r->n_col) * sizeof *out);
}

static struct lb_matrix *matrix(struct lb_backend *be, const float *w, int64_t n_row, const struct lk_cols *cols,
                                bool gate_up)
{
    struct lb_rows rows = {.get = get_rows, .ctx = w, .n_row = n_row, .n_col = cols->n_col};
    struct lb_matrix_spec spec = {.rows = &rows, .cols = cols, .gate_up = gate_up, .name = "w"};
    struct lb_matrix *out;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(be->ops->matrix_new(be, &spec, &out, &err), LB_OK);
    return out;
}

static void engine_open(struct engine *e, const char *isa, enum lb_dtype dtype, int n_thread)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend_spec spec = {.device = "cpu", .dtype = dtype, .isa = isa, .n_thread = n_thread};
    assert_int_equal(lb_backend_open(&e->be, &spec, &err), LB_OK);
    assert_int_equal(e->be->n_thread, n_thread);
    const struct lb_backend_ops *op = e->be->ops;
    struct lk_cols dim, heads, ffn, vocab;
    lb_cols_init(&dim, 1, (int64_t[]){0, DIM});
    lb_cols_init(&heads, N_SEG, (int64_t[]){0, Q_DIM / 2, Q_DIM});
    lb_cols_init(&ffn, N_SEG, (int64_t[]){0, 32, FFN});
    e->embed_rows = (struct lb_rows){
        .get = get_rows, .ctx = net.embed, .n_row = N_VOCAB, .n_col = DIM, .data = net.embed, .data_type = LB_F32};
    assert_int_equal(op->table_new(e->be, &e->embed_rows, 0, &e->embed, &err), LB_OK);
    e->head = matrix(e->be, net.head, N_VOCAB, &dim, false);
    for (int il = 0; il < N_LAYER; il++) {
        e->wqkv[il] = matrix(e->be, net.layer[il].wqkv, QKV_DIM, &dim, false);
        e->wo[il] = matrix(e->be, net.layer[il].wo, DIM, &heads, false);
        e->gate_up[il] = matrix(e->be, net.layer[il].gate_up, 2 * FFN, &dim, true);
        e->down[il] = matrix(e->be, net.layer[il].down, DIM, &ffn, false);
    }
    struct lb_step_limits limit = {N_SEQ * MAX_LEN, N_SEQ, N_SEQ * SEQ_PAGES};
    struct lb_kv_spec kv = {N_LAYER, N_KV, HEAD_DIM, HEAD_DIM, N_PAGE, {0}};
    lb_cols_init(&vocab, 3, (int64_t[]){0, 32, 32, N_VOCAB});
    assert_int_equal(op->reserve(e->be, limit, N_SEQ, &vocab, &err), LB_OK);
    assert_int_equal(op->buf_new(e->be, DIM, &e->x, &err), LB_OK);
    assert_int_equal(op->buf_new(e->be, QKV_DIM, &e->qkv, &err), LB_OK);
    assert_int_equal(op->act_new(e->be, &dim, &e->h, &err), LB_OK);
    assert_int_equal(op->act_new(e->be, &heads, &e->a, &err), LB_OK);
    assert_int_equal(op->act_new(e->be, &ffn, &e->f, &err), LB_OK);
    assert_int_equal(op->kv_new(e->be, &kv, &e->kv, &err), LB_OK);
    assert_int_equal(lb_step_init(&e->step, limit, &err), LB_OK);
}

static void engine_close(struct engine *e)
{
    lb_step_release(&e->step);
    e->be->ops->close(e->be);
}

static void product(struct engine *e, struct lb_linear_args args)
{
    e->be->ops->linear(e->be, &args);
}

static enum lb_status forward(struct engine *e, const struct lb_cand **cand, struct lb_err *err)
{
    const struct lb_backend_ops *op = e->be->ops;
    struct lb_rope_args rope = {.inv_freq = net.inv_freq, .n_rot = HEAD_DIM, .scale = 1};
    op->step_begin(e->be, &e->step, e->kv, &rope, N_HEAD);
    op->embed(e->be, &e->x, e->embed);
    for (int il = 0; il < N_LAYER; il++) {
        op->norm(e->be, &e->h, &e->x, net.layer[il].attn_norm, 1e-5f, false);
        product(e, (struct lb_linear_args){&e->qkv, NULL, &e->h, e->wqkv[il], net.layer[il].bqkv, LB_STORE});
        struct lb_attend_args args = {.out = &e->a,
                                      .qkv = &e->qkv,
                                      .kv = e->kv,
                                      .layer = il,
                                      .n_head = N_HEAD,
                                      .n_kv_head = N_KV,
                                      .head_dim = HEAD_DIM,
                                      .scale = 1 / sqrtf(HEAD_DIM),
                                      .rope = &rope};
        op->attend(e->be, &args);
        product(e, (struct lb_linear_args){&e->x, NULL, &e->a, e->wo[il], net.layer[il].bo, LB_ADD});
        op->norm(e->be, &e->h, &e->x, net.layer[il].ffn_norm, 1e-5f, false);
        product(e, (struct lb_linear_args){NULL, &e->f, &e->h, e->gate_up[il], net.layer[il].b_gate_up, LB_SWIGLU});
        product(e, (struct lb_linear_args){&e->x, NULL, &e->f, e->down[il], NULL, LB_ADD});
    }
    op->norm(e->be, &e->h, &e->x, net.norm, 1e-5f, true);
    op->head(e->be, &e->h, e->head);
    return op->step_end(e->be, cand, err);
}

/* Appends n tokens of sequence s from position `from` to the step. Pages of sequences are scattered. */
static void put(struct lb_step *st, int s, int from, int n, bool wanted, int32_t flags)
{
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq] = st->n_page;
    for (int p = 0; p <= (from + n - 1) / 32; p++) {
        int32_t page = (5 * (s * SEQ_PAGES + p) + 3) % N_PAGE;
        st->page[st->n_page++] = page;
        if (p * 32 >= from)
            st->new_page[st->n_new++] = page;
    }
    for (int t = from; t < from + n; t++) {
        st->tok[st->n_tok] = net.tok[s][t];
        st->pos[st->n_tok] = t;
        st->tok_page[st->n_tok] = st->page[st->page_start[st->n_seq] + t / 32];
        st->rope_len[st->n_tok++] = seq_len[s];
    }
    if (wanted) {
        st->out_tok[st->n_out] = st->n_tok - 1;
        st->out_flags[st->n_out++] = flags;
    }
    st->n_seq++;
    st->seq_start[st->n_seq] = st->n_tok;
    st->page_start[st->n_seq] = st->n_page;
}

struct answer {
    float logits[N_SEQ][N_VOCAB];
    struct lb_cand cand[N_SEQ];
};

static void keep(struct answer *out, int s, const struct lb_cand *cand)
{
    assert_non_null(cand->logits);
    memcpy(out->logits[s], cand->logits, sizeof out->logits[s]);
    out->cand[s] = *cand;
    for (int i = 0; i < 50; i++) {
        assert_true(cand->top_logit[i] == cand->logits[cand->top_id[i]]);
        assert_true(i == 0 || cand->top_logit[i] <= cand->top_logit[i - 1]);
    }
    assert_int_equal(cand->top_id[0], cand->best);
}

static void run_ragged(struct engine *e, struct answer *out)
{
    struct lb_err err = LB_ERR_INIT;
    const struct lb_cand *cand;
    lb_step_clear(&e->step);
    for (int s = 0; s < N_SEQ; s++)
        put(&e->step, s, 0, seq_len[s], true, LB_OUT_LOGITS);
    assert_int_equal(forward(e, &cand, &err), LB_OK);
    for (int s = 0; s < N_SEQ; s++)
        keep(out, s, &cand[s]);
}

static void run_alone(struct engine *e, struct answer *out)
{
    for (int s = 0; s < N_SEQ; s++) {
        struct lb_err err = LB_ERR_INIT;
        const struct lb_cand *cand;
        lb_step_clear(&e->step);
        put(&e->step, s, 0, seq_len[s], true, LB_OUT_LOGITS);
        assert_int_equal(forward(e, &cand, &err), LB_OK);
        keep(out, s, cand);
    }
}

/* Every sequence advances by `chunk` tokens a step; the last token of a sequence comes by way of a sample slot. */
static void run_chunks(struct engine *e, int chunk, struct answer *out)
{
    int done[N_SEQ] = {0}, slot[N_SEQ] = {-1, -1, -1, -1};
    for (int n_left = N_SEQ; n_left > 0;) {
        struct lb_err err = LB_ERR_INIT;
        const struct lb_cand *cand;
        int of[N_SEQ], n_of = 0;
        lb_step_clear(&e->step);
        for (int s = N_SEQ; s-- > 0;) {
            int left = seq_len[s] - done[s], n = left > chunk ? chunk : left;
            if (n > 1 && n == left)
                n--;
            if (n == 0)
                continue;
            bool wanted = left - n <= 1;
            put(&e->step, s, done[s], n, wanted, left == n ? LB_OUT_LOGITS : 0);
            if (slot[s] >= 0)
                e->step.tok[e->step.n_tok - 1] = ~slot[s];
            slot[s] = -1;
            done[s] += n;
            if (wanted)
                of[n_of++] = s;
        }
        assert_int_equal(forward(e, &cand, &err), LB_OK);
        for (int j = 0; j < n_of; j++) {
            int s = of[j];
            if (done[s] == seq_len[s]) {
                keep(out, s, &cand[j]);
                n_left--;
            } else {
                assert_null(cand[j].logits);
                e->be->ops->slots(e->be)[j] = net.tok[s][done[s]];
                slot[s] = j;
            }
        }
    }
}

static void same_bits(const struct answer *a, const struct answer *b)
{
    for (int s = 0; s < N_SEQ; s++) {
        assert_memory_equal(a->logits[s], b->logits[s], sizeof a->logits[s]);
        assert_int_equal(a->cand[s].best, b->cand[s].best);
        assert_true(a->cand[s].lse == b->cand[s].lse);
    }
}

/* Largest difference from the double pass. */
static double compare(const struct answer *a)
{
    double worst = 0;
    for (int s = 0; s < N_SEQ; s++) {
        double want[N_VOCAB], sum = 0;
        naive_forward(net.tok[s], seq_len[s], want);
        int best = 0;
        for (int i = 0; i < N_VOCAB; i++) {
            double d = fabs((double)a->logits[s][i] - want[i]);
            worst = d > worst || isnan(d) ? d : worst;
            sum += exp((double)a->logits[s][i]);
            if (a->logits[s][i] > a->logits[s][best])
                best = i;
        }
        assert_int_equal(a->cand[s].best, best);
        assert_true(a->cand[s].best_logit == a->logits[s][best]);
        assert_true(a->cand[s].finite);
        assert_true(fabs(a->cand[s].lse - log(sum)) < 1e-6);
    }
    return worst;
}

static void check_set(const char *isa, enum lb_dtype dtype, double tolerance)
{
    static struct answer first, other;
    for (int n_thread = 1; n_thread <= 3; n_thread++) {
        struct engine e;
        engine_open(&e, isa, dtype, n_thread);
        assert_string_equal(e.be->isa, isa);
        run_ragged(&e, n_thread == 1 ? &first : &other);
        if (n_thread == 1)
            assert_in_range((int64_t)(compare(&first) / tolerance * 1000), 0, 1000);
        else
            same_bits(&first, &other);
        run_alone(&e, &other);
        same_bits(&first, &other);
        for (int chunk = 1; chunk <= 33; chunk += 8 * whole_or(2)) {
            run_chunks(&e, chunk, &other);
            same_bits(&first, &other);
        }
        assert_true(e.be->counts.token_rows > 0);
        assert_int_equal(e.be->counts.product_rows, e.be->counts.token_rows);
        engine_close(&e);
    }
}

static void reference_f32(void **state)
{
    (void)state;
    check_set("ref", LB_F32, 5e-5);
}

/* bf16 activations: logits here have a standard deviation of about 2.3, products of 40 columns lose some hundredths. */
static void reference_bf16(void **state)
{
    (void)state;
    check_set("ref", LB_BF16, 0.12);
}

/* The sets that this processor has; naming one that it lacks is refused with its name. */
static void other_sets(void **state)
{
    (void)state;
    const char *set;
    unsigned bit;
    for (int i = 1; (set = lk_cpu_set(i, &bit)) != NULL; i++) {
        struct lb_backend *be;
        struct lb_err err = LB_ERR_INIT;
        struct lb_backend_spec spec = {.device = "cpu", .dtype = LB_BF16, .isa = set, .n_thread = 1};
        enum lb_status status = lb_backend_open(&be, &spec, &err);
        assert_int_equal(status, lk_cpu_detect() & bit ? LB_OK : LB_E_USAGE);
        if (status != LB_OK) {
            assert_non_null(strstr(err.text, set));
            continue;
        }
        assert_string_equal(be->isa, set);
        be->ops->close(be);
        check_set(set, LB_BF16, 0.12);
        spec.dtype = LB_F32;
        assert_int_equal(lb_backend_open(&be, &spec, &err), LB_OK);
        bool covered = strcmp(be->isa, set) == 0;
        be->ops->close(be);
        if (covered)
            check_set(set, LB_F32, 5e-5);
    }
}

static void expect_failure(struct engine *e, const char *text)
{
    struct lb_err err = LB_ERR_INIT;
    const struct lb_cand *cand;
    assert_int_equal(forward(e, &cand, &err), LB_E_USAGE);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

/* A step that contradicts itself is refused, and the next good one runs as if nothing had been. */
enum { LONG_TOK = 700, LONG_DIM = 576, LONG_OUT = 40, LONG_PAGES = (LONG_TOK + 31) / 32 };

/* Rows of embedding, norm and product for LONG_TOK tokens of one sequence, in steps of `chunk`. */
static void run_long(const char *isa, const float *table, const float *w, int chunk, float *out)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend_spec spec = {.device = "cpu", .dtype = LB_BF16, .isa = isa, .n_thread = 2};
    struct lb_backend *be;
    assert_int_equal(lb_backend_open(&be, &spec, &err), LB_OK);
    const struct lb_backend_ops *op = be->ops;
    struct lb_rows rows = {.get = get_rows, .ctx = table, .n_row = N_VOCAB, .n_col = LONG_DIM};
    struct lb_step_limits limit = {LONG_TOK, 1, LONG_PAGES};
    struct lb_kv_spec kv_spec = {1, 1, 2, 2, LONG_PAGES, {0}};
    struct lb_rope_args rope = {.inv_freq = net.inv_freq, .n_rot = 2, .scale = 1};
    struct lb_table *embed;
    struct lb_buf x, y;
    struct lb_actbuf h;
    struct lb_kv_mem *kv;
    struct lb_step step;
    struct lk_cols cols, vocab;
    float ones[LONG_DIM];
    for (int i = 0; i < LONG_DIM; i++)
        ones[i] = 1;
    lb_cols_init(&cols, 1, (int64_t[]){0, LONG_DIM});
    assert_int_equal(op->table_new(be, &rows, 0, &embed, &err), LB_OK);
    struct lb_matrix *m = matrix(be, w, LONG_OUT, &cols, false);
    lb_cols_init(&vocab, 1, (int64_t[]){0, N_VOCAB});
    assert_int_equal(op->reserve(be, limit, 1, &vocab, &err), LB_OK);
    assert_int_equal(op->buf_new(be, LONG_DIM, &x, &err), LB_OK);
    assert_int_equal(op->buf_new(be, LONG_OUT, &y, &err), LB_OK);
    assert_int_equal(op->act_new(be, &cols, &h, &err), LB_OK);
    assert_int_equal(op->kv_new(be, &kv_spec, &kv, &err), LB_OK);
    assert_int_equal(lb_step_init(&step, limit, &err), LB_OK);
    for (int at = 0; at < LONG_TOK; at += chunk) {
        const struct lb_cand *cand;
        lb_step_clear(&step);
        step.n_tok = LONG_TOK - at < chunk ? LONG_TOK - at : chunk;
        step.n_seq = 1;
        step.n_page = LONG_PAGES;
        step.seq_start[0] = step.page_start[0] = 0;
        step.seq_start[1] = step.n_tok;
        step.page_start[1] = LONG_PAGES;
        for (int i = 0; i < LONG_PAGES; i++)
            step.page[i] = i;
        for (int i = 0; i < step.n_tok; i++) {
            step.tok[i] = (at + i) * 7 % N_VOCAB;
            step.pos[i] = at + i;
            step.tok_page[i] = (at + i) / 32;
        }
        op->step_begin(be, &step, kv, &rope, 1);
        op->embed(be, &x, embed);
        op->norm(be, &h, &x, ones, 1e-5f, false);
        op->linear(be, &(struct lb_linear_args){&y, NULL, &h, m, NULL, LB_STORE});
        op->read_rows(be, &y, step.n_tok, out + at * LONG_OUT);
        assert_int_equal(op->step_end(be, &cand, &err), LB_OK);
    }
    lb_step_release(&step);
    be->ops->close(be);
}

/* Steps so long that a product is cut into chunks of rows. */
static void long_steps(void **state)
{
    (void)state;
    float *table = calloc(N_VOCAB * LONG_DIM, sizeof *table), *w = calloc(LONG_OUT * LONG_DIM, sizeof *w);
    float *whole = calloc(LONG_TOK * LONG_OUT, sizeof *whole), *part = calloc(LONG_TOK * LONG_OUT, sizeof *part);
    const char *set;
    unsigned bit;
    fill(table, N_VOCAB * LONG_DIM, 1, 0);
    fill(w, LONG_OUT * LONG_DIM, 0.1, 0);
    for (int i = 0; (set = lk_cpu_set(i, &bit)) != NULL; i++) {
        if ((lk_cpu_detect() & bit) == 0)
            continue;
        run_long(set, table, w, LONG_TOK, whole);
        run_long(set, table, w, 50, part);
        assert_memory_equal(whole, part, LONG_TOK * LONG_OUT * sizeof *whole);
    }
    free(table);
    free(w);
    free(whole);
    free(part);
}

static void bad_steps(void **state)
{
    (void)state;
    static struct answer before, after;
    struct engine e;
    engine_open(&e, "ref", LB_F32, 2);
    run_ragged(&e, &before);
    static const struct {
        size_t array; /* offset of the array in struct lb_step */
        int index, value;
        const char *text;
    } bad[] = {
        {offsetof(struct lb_step, tok), 1, N_VOCAB, "vocabulary"},
        {offsetof(struct lb_step, tok), 1, ~N_SEQ, "slot"},
        {offsetof(struct lb_step, pos), 1, 2, "position 2"},
        {offsetof(struct lb_step, pos), 0, -1, "position -1"},
        {offsetof(struct lb_step, tok_page), 0, 15, "page 15"},
        {offsetof(struct lb_step, page), 0, N_PAGE, "page 16 of 16"},
        {offsetof(struct lb_step, page), 0, -1, "page -1"},
        {offsetof(struct lb_step, new_page), 0, N_PAGE, "new page 16"},
        {offsetof(struct lb_step, seq_start), 1, 6, "cover"},
        {offsetof(struct lb_step, out_tok), 0, 5, "output 0"},
        {offsetof(struct lb_step, page_start), 1, 0, "position 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lb_step_clear(&e.step);
        put(&e.step, 0, 0, 5, true, 0);
        int32_t *array;
        memcpy(&array, (const char *)&e.step + bad[i].array, sizeof array);
        array[bad[i].index] = bad[i].value;
        expect_failure(&e, bad[i].text);
    }
    lb_step_clear(&e.step);
    put(&e.step, 0, 0, 5, true, 0);
    e.step.n_tok = N_SEQ * MAX_LEN + 1;
    expect_failure(&e, "beyond");
    run_ragged(&e, &after);
    same_bits(&before, &after);

    struct lb_err err = LB_ERR_INIT;
    const struct lb_cand *cand;
    lb_step_clear(&e.step);
    e.step.seq_start[0] = 0;
    assert_int_equal(forward(&e, &cand, &err), LB_OK); /* no tokens: nothing to do */
    engine_close(&e);
}

static void bad_settings(void **state)
{
    (void)state;
    static const struct {
        const char *device, *isa, *text;
    } bad[] = {
        {"tpu", NULL, "'tpu'"}, {"", NULL, "''"},      {"cpu", "ref,sse9", "'sse9'"},
        {"cpu", "", "''"},      {"cpu", "ref,", "''"}, {"auto", "REF", "'REF'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lb_backend *be;
        struct lb_err err = LB_ERR_INIT;
        struct lb_backend_spec spec = {.device = bad[i].device, .dtype = LB_BF16, .isa = bad[i].isa, .n_thread = 1};
        assert_int_equal(lb_backend_open(&be, &spec, &err), LB_E_USAGE);
        assert_non_null(strstr(err.text, bad[i].text));
    }
    struct lb_backend *be;
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend_spec chosen = {.device = "cpu", .dtype = LB_F32, .n_thread = 1};
    for (int dtype = LB_F32; dtype <= LB_BF16; dtype++) { /* the last set of the list that has the type */
        chosen.dtype = (enum lb_dtype)dtype;
        assert_int_equal(lb_backend_open(&be, &chosen, &err), LB_OK);
        assert_non_null(strstr(lb_backend_isa_list(), be->isa));
        assert_int_equal(strcmp(be->isa, "ref") == 0, strcmp(lb_backend_isa_list(), "ref") == 0);
        be->ops->close(be);
    }
}

int main(void)
{
    make_net();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_f32), cmocka_unit_test(reference_bf16), cmocka_unit_test(other_sets),
        cmocka_unit_test(long_steps),    cmocka_unit_test(bad_steps),      cmocka_unit_test(bad_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
