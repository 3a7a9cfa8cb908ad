#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/philox.h"
#include "core/run/sched.h"

/* Drafts: what is expected against a search written once more, and the scheduler with rows whose text is known
 * beforehand: whatever was drafted, each row gets its text, each of its tokens finds in the cache what stands before
 * it, and the scheduler's counts come out even. */

/* ---- what is expected ---- */

static struct lb_work *new_row(int64_t row, int64_t n_prompt, int64_t max_tokens)
{
    struct lb_work *w = lb_work_new();
    w->row.index = row;
    w->n_prompt = n_prompt;
    w->prompt = lb_mem_new((size_t)n_prompt, sizeof *w->prompt);
    w->set.max_tokens = max_tokens;
    w->set.sampling.greedy = true;
    w->set.logprobs = -1;
    w->out = lb_mem_new((size_t)max_tokens, sizeof *w->out);
    return w;
}

/* A row of which prompt and output are these ids. */
static struct lb_work *row_of(const int32_t *id, int64_t n_prompt, int64_t n_out)
{
    struct lb_work *w = new_row(0, n_prompt, n_out + 1);
    memcpy(w->prompt, id, (size_t)n_prompt * sizeof *id);
    memcpy(w->out, id + n_prompt, (size_t)n_out * sizeof *id);
    w->n_out = n_out;
    return w;
}

static void test_expected(void **state)
{
    (void)state;
    /* behind "1 2 3" came 4 and then 5 6; the newer place counts */
    static const int32_t text[] = {9, 1, 2, 3, 7, 1, 2, 3, 4, 5, 6, 1, 2, 3};
    struct lb_draft d = {.from = -1};
    int32_t id[LB_DRAFT_MOST];
    struct lb_work *w = row_of(text, 6, 8);
    lb_draft_see(&d, w, false);
    assert_int_equal(d.from, 8);
    lb_draft_ids(&d, w, 8, id);
    static const int32_t round_and_round[] = {4, 5, 6, 1, 2, 3, 4, 5};
    assert_memory_equal(id, round_and_round, sizeof id);
    assert_int_equal(lb_draft_worth(&d, 0, 1), 0); /* no hit yet */
    assert_int_equal(lb_draft_worth(&d, 3, 0), 3);
    assert_int_equal(lb_draft_worth(&d, 99, 0), LB_DRAFT_MOST);
    w->out[w->n_out++] = 4;
    lb_draft_see(&d, w, false);
    assert_int_equal(d.from, 9);
    assert_int_equal(d.hits, 1);
    lb_work_free(w);
    /* two alike are better than a newer one, and nothing stands behind a new id, unless bold */
    static const int32_t two[] = {1, 2, 3, 5, 3, 7, 2, 3, 9};
    w = row_of(two, 1, 7);
    d = (struct lb_draft){.from = -1};
    lb_draft_see(&d, w, false);
    assert_int_equal(d.from, 3);
    w->out[w->n_out++] = 9;
    lb_draft_see(&d, w, false);
    assert_int_equal(d.from, -1);
    assert_int_equal(lb_draft_worth(&d, 5, 9), 0);
    lb_draft_see(&d, w, true);
    assert_int_equal(d.from, 0);
    lb_work_free(w);
}

/* The last place before the end with the same three ids, or else two, or one, searched from the beginning. */
static int64_t slow_look(const int32_t *id, int64_t n)
{
    int64_t found = -1;
    for (int64_t gram = LB_DRAFT_GRAM; gram > 0 && found < 0; gram--)
        for (int64_t end = gram; end < n; end++)
            if (memcmp(id + end - gram, id + n - gram, (size_t)gram * sizeof *id) == 0)
                found = end;
    return found;
}

static void test_against_a_search(void **state)
{
    (void)state;
    enum { N = 60 };
    int64_t n_found = 0, n_hit = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        int32_t id[N];
        int32_t n_kind = 2 + (int32_t)(seed % 7);
        for (int64_t i = 0; i < N; i++)
            id[i] = (int32_t)(lb_philox_u(seed, 1, 0, (uint32_t)i) * n_kind);
        struct lb_draft d = {.from = -1};
        struct lb_work *w = row_of(id, 1 + (int64_t)(seed % 9), 0);
        lb_mem_free(w->out);
        w->out = lb_mem_new(N, sizeof *w->out);
        for (int64_t n = w->n_prompt; n < N; n++) {
            int64_t from = d.from, hits = d.hits;
            w->out[w->n_out++] = id[n];
            lb_draft_see(&d, w, false);
            bool hit = from >= 0 && id[from] == id[n];
            assert_int_equal(d.hits, hit ? hits + 1 : 0);
            assert_int_equal(d.from, hit ? from + 1 : slow_look(id, n + 1));
            n_found += d.from >= 0;
            n_hit += hit;
        }
        lb_work_free(w);
    }
    assert_true(n_found > 2000 && n_hit > 500);
}

/* (n + 1)^2 is no more than 8 hits read. */
static void test_worth(void **state)
{
    (void)state;
    for (int64_t hits = 0; hits < 200; hits++)
        for (int step = 0; step < 40; step++) {
            double read = 0.01 * step;
            struct lb_draft d = {.from = 5, .hits = hits};
            int64_t n = lb_draft_worth(&d, 0, read);
            assert_in_range(n, 0, LB_DRAFT_MOST);
            assert_true(n == 0 || (double)((n + 1) * (n + 1)) <= 8 * read * (double)hits);
            assert_true(n == LB_DRAFT_MOST || (double)((n + 2) * (n + 2)) > 8 * read * (double)hits);
        }
}

/* ---- the scheduler ---- */

/* A text that repeats itself for a while, then does not, then again in another way; some rows never do. */
static int32_t truth(int64_t row, int64_t pos)
{
    int64_t part = pos / 45, period = 1 + (row + part) % 7;
    bool repeats = row % 4 != 0 && part % 3 != 2;
    return (int32_t)(row * 10000 + part * 1000 + (repeats ? pos % period : pos % 45 + 100));
}

struct world {
    struct lb_kv kv;
    struct lb_sched sched;
    struct lb_step step;
    struct lb_work **row; /* [n_row] NULL: ended */
    int64_t n_row, n_next, n_ended, n_again, n_tok;
    int32_t *content; /* [n_page, LK_PAGE_TOKENS] ids */
};

static void world_init(struct world *t, const int64_t shape[3], int64_t n_row, bool bold)
{
    struct lb_err err = LB_ERR_INIT;
    int64_t budget = shape[0], max_seqs = shape[1], n_page = shape[2];
    *t = (struct world){.n_row = n_row};
    assert_int_equal(lb_kv_init(&t->kv, n_page, (int32_t)max_seqs, 4096, &err), LB_OK);
    struct lb_sched_spec spec = {.kv = &t->kv,
                                 .batch_tokens = budget,
                                 .max_seqs = max_seqs,
                                 .out_flag = LB_OUT_TOP,
                                 .draft_tokens = 40,
                                 .cheap_tokens = 12,
                                 .read_cost = 0.002,
                                 .bold = bold,
                                 .crowd = n_page < 100};
    assert_int_equal(lb_sched_init(&t->sched, &spec, &err), LB_OK);
    int64_t n_seq = max_seqs < budget ? max_seqs : budget;
    struct lb_step_limits limit = {(int32_t)budget, (int32_t)n_seq, (int32_t)(n_seq * n_page)};
    assert_int_equal(lb_step_init(&t->step, limit, &err), LB_OK);
    t->content = calloc((size_t)n_page * LK_PAGE_TOKENS, sizeof *t->content);
    t->row = calloc((size_t)n_row, sizeof *t->row);
    for (int64_t i = 0; i < n_row; i++) {
        struct lb_work *w = t->row[i] = new_row(i, 1 + i * 37 % 70, 1 + i * 53 % 190);
        w->set.sampling.greedy = i % 5 != 4;
        w->set.sampling.temperature = w->set.sampling.top_p = 1;
        for (int64_t k = 0; k < w->n_prompt; k++)
            w->prompt[k] = truth(i, k);
    }
}

static void world_release(struct world *t)
{
    lb_sched_release(&t->sched);
    lb_kv_release(&t->kv);
    lb_step_release(&t->step);
    free(t->content);
    free(t->row);
}

/* The sequence that token i of the step stands in. */
static int32_t seq_of(const struct lb_step *s, int32_t i)
{
    int32_t is = 0;
    while (s->seq_start[is + 1] <= i)
        is++;
    return is;
}

/* Writes each token; for "the sample of slot j" which sequence it is of. */
static void write_step(struct world *t)
{
    const struct lb_step *s = &t->step;
    for (int32_t i = 0; i < s->n_tok; i++) {
        int32_t id = s->tok[i] < 0 ? -1 - seq_of(s, i) : s->tok[i];
        t->content[s->tok_page[i] * LK_PAGE_TOKENS + s->pos[i] % LK_PAGE_TOKENS] = id;
    }
}

/* A token finds behind its page table the row's text up to itself. */
static void check_read(struct world *t, int64_t row, int32_t token)
{
    const struct lb_step *s = &t->step;
    int32_t is = seq_of(s, token);
    for (int64_t pos = 0; pos <= s->pos[token]; pos++) {
        int32_t page = s->page[s->page_start[is] + pos / LK_PAGE_TOKENS];
        int32_t *at = &t->content[page * LK_PAGE_TOKENS + pos % LK_PAGE_TOKENS];
        if (*at == -1 - is)
            *at = truth(row, pos); /* what the sampled slot stood for: the id that the row got */
        assert_int_equal(*at, truth(row, pos));
    }
}

/* Outputs in order: each that is taken gives its row the next id of its text. */
static void take(struct world *t)
{
    struct lb_outs *o = t->sched.outs;
    assert_int_equal(o->n, t->step.n_out);
    for (int32_t j = 0; j < o->n; j++) {
        struct lb_seq *q = lb_sched_seq(&t->sched, o, j);
        if (!q)
            continue;
        int64_t row = q->work->row.index, pos = q->work->n_prompt + q->work->n_out;
        assert_int_equal(t->step.pos[t->step.out_tok[j]], pos - 1);
        check_read(t, row, t->step.out_tok[j]);
        struct lb_work *w = lb_sched_advance(&t->sched, o, j, truth(row, pos));
        assert_ptr_equal(w, t->row[row]);
        if (w->n_out < w->set.max_tokens && (row % 6 != 1 || w->n_out < w->set.max_tokens / 2))
            continue;
        lb_sched_finish(&t->sched, o, j);
        for (int64_t k = 0; k < w->n_out; k++)
            assert_int_equal(w->out[k], truth(row, w->n_prompt + k));
        t->row[row] = NULL;
        t->n_ended++;
        lb_work_free(w);
    }
}

static void check_counts(struct world *t)
{
    const struct lb_step *s = &t->step;
    int64_t n_stored = 0;
    assert_true(s->n_tok <= t->sched.spec.batch_tokens);
    assert_int_equal(t->sched.n_prefill + t->sched.n_decode + t->sched.n_again, s->n_tok);
    for (int32_t j = 0; j < s->n_out; j++) {
        int32_t is = seq_of(s, s->out_tok[j]);
        assert_true(j == 0 || s->out_tok[j] > s->out_tok[j - 1]);
        assert_true(t->sched.outs->draft[j] < 0 || s->out_tok[j] + 1 < s->seq_start[is + 1]);
        assert_true(t->sched.outs->draft[j] < 0 || s->tok[s->out_tok[j] + 1] == t->sched.outs->draft[j]);
    }
    for (int64_t i = 0; i < t->sched.n_seq; i++)
        if (t->sched.seq[i].work) {
            const struct lb_work *w = t->sched.seq[i].work;
            n_stored += t->sched.seq[i].n_fed;
            assert_true(t->sched.seq[i].n_fed < w->n_prompt + w->set.max_tokens); /* the last id is never fed */
        }
    assert_int_equal(n_stored, t->sched.n_stored);
    t->n_again += t->sched.n_again;
    t->n_tok += s->n_tok;
}

static void run_rows(struct world *t)
{
    int64_t want = 0;
    for (int64_t i = 0; i < t->n_row; i++) {
        const struct lb_work *w = t->row[i];
        int64_t n = i % 6 == 1 && w->set.max_tokens > 1 ? w->set.max_tokens / 2 : w->set.max_tokens;
        want += w->n_prompt + (n > 0 ? n : 1) - 1;
    }
    for (int64_t steps = 0; t->n_ended < t->n_row; steps++) {
        assert_true(steps < 100000);
        lb_sched_begin(&t->sched, &t->step);
        while (t->n_next < t->n_row && lb_sched_admit(&t->sched, &t->step, t->row[t->n_next]))
            t->n_next++;
        lb_sched_end(&t->sched, &t->step);
        assert_true(t->step.n_tok > 0);
        check_counts(t);
        write_step(t);
        take(t);
    }
    assert_true(lb_sched_idle(&t->sched));
    assert_int_equal(t->sched.n_stored, 0);
    assert_int_equal(lb_kv_used(&t->kv), 0);
    /* every position once, but for what was evicted and what was drafted in vain */
    assert_int_equal(t->n_tok, want + t->n_again + t->sched.n_drafted - t->sched.n_accepted);
}

static void test_rows(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {/* budget, rows at a time, pages */
                                        {512, 64, 4000}, {64, 64, 4000}, {16, 5, 4000}, {7, 64, 30},
                                        {64, 64, 40},    {1, 1, 30},     {30, 3, 24},   {12, 12, 4000}};
    int64_t n_again = 0;
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        struct world t;
        const int64_t *s = shapes[i / 2];
        world_init(&t, s, 120, i % 2);
        run_rows(&t);
        assert_true(s[0] == 1 ? t.sched.n_drafted == 0 : t.sched.n_accepted > 100);
        if (i % 2 && s[0] > 1)
            assert_true(t.sched.n_drafted > t.sched.n_accepted + 100);
        n_again += t.n_again;
        world_release(&t);
    }
    assert_true(n_again > 0);
}

/* The last free page is for the row that needs it, not for a draft of the one before it. */
static void test_pages(void **state)
{
    (void)state;
    struct world t;
    world_init(&t, (const int64_t[]){512, 8, 3}, 0, true);
    struct lb_work *rows[] = {new_row(0, LK_PAGE_TOKENS - 2, 50), new_row(1, LK_PAGE_TOKENS, 50)};
    lb_sched_begin(&t.sched, &t.step);
    for (int i = 0; i < 2; i++)
        assert_true(lb_sched_admit(&t.sched, &t.step, rows[i]));
    lb_sched_end(&t.sched, &t.step);
    for (int32_t j = 0; j < 2; j++)
        lb_sched_advance(&t.sched, t.sched.outs, j, 0);
    lb_sched_begin(&t.sched, &t.step);
    lb_sched_end(&t.sched, &t.step);
    assert_int_equal(t.step.n_seq, 2);
    assert_int_equal(t.step.seq_start[1], 2); /* its page has room for one more */
    world_release(&t);
}

/* Rows whose logits are changed take none. */
static void test_who_drafts(void **state)
{
    (void)state;
    struct lb_work *w = new_row(0, 1, 5);
    assert_true(lb_work_drafts(w));
    w->set.logprobs = 0;
    w->set.sampling.greedy = false;
    assert_true(lb_work_drafts(w));
    w->set.max_tokens = 0;
    assert_false(lb_work_drafts(w));
    w->set.max_tokens = 5;
    w->adjust = (struct lb_adjust *)(void *)w; /* logits that change with what was said */
    assert_false(lb_work_drafts(w));
    w->adjust = NULL;
    lb_work_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expected), cmocka_unit_test(test_against_a_search),
        cmocka_unit_test(test_worth),    cmocka_unit_test(test_rows),
        cmocka_unit_test(test_pages),    cmocka_unit_test(test_who_drafts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
