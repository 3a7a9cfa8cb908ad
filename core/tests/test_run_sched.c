#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/philox.h"
#include "core/run/sched.h"

/* The scheduler against fake rows: each row's course is followed token by token, and a model of the cache remembers
 * what each step writes where, so that a row must find all its positions behind its page table. */

struct course {
    struct lb_work *work;
    int64_t n_fed; /* tokens seen in steps since it was admitted last */
    int64_t last_step;
    int32_t slot; /* output of the last step that sampled it, -1 */
    int64_t slot_step;
    bool ended;
};

struct world {
    struct lb_kv kv;
    struct lb_prefix prefix;
    int32_t *content; /* [n_page, LK_PAGE_TOKENS] tokens that were written, -1: none since the page was zeroed */
    int64_t n_hit, n_again, n_tok;
    int64_t early; /* rows before this one end with their first token */
    struct lb_sched sched;
    struct lb_step step;
    struct course *course; /* [n_row] */
    int64_t n_row, n_admitted, n_ended;
    int64_t longest_pause; /* steps between two decode tokens of a row */
    int64_t n_sample;      /* of each prompt, whose samples are rows one behind another; 0: rows stand alone */
    int64_t n_copy, n_first;
    bool ahead;               /* steps begin before the one before is sampled, where they may */
    int64_t n_ahead, n_blank; /* steps that did; tokens that nobody wanted */
    struct lb_work **all;     /* [n_row] of a world with samples */
};

/* The id that a row generates at a position: tells rows and positions apart. */
static int32_t id_of(int64_t row, int64_t pos)
{
    return (int32_t)(row * 1000 + pos);
}

/* Rows of one kind begin with the same tokens. */
static int32_t prompt_id(int64_t row, int64_t pos, int64_t n_same)
{
    return pos < n_same ? (int32_t)(900000 + row % 5 * 1000 + pos) : id_of(row, pos);
}

static struct lb_work *new_shared(int64_t row, int64_t n_prompt, int64_t max_tokens, int64_t n_same)
{
    struct lb_work *w = lb_work_new();
    w->row.index = row;
    w->n_prompt = n_prompt;
    w->prompt = lb_mem_new((size_t)n_prompt, sizeof *w->prompt);
    for (int64_t i = 0; i < n_prompt; i++)
        w->prompt[i] = prompt_id(row, i, n_same);
    w->n_shared = n_same;
    w->set.max_tokens = max_tokens;
    w->set.sampling.greedy = row % 3 != 0;
    w->set.sampling.temperature = 0.25 * (double)(1 + row % 9);
    w->set.sampling.top_p = 1;
    w->set.sampling.top_k = row % 5;
    w->set.seed = 77;
    w->row.key = (uint64_t)row * 12345;
    w->set.logprobs = -1;
    w->out = lb_mem_new((size_t)max_tokens, sizeof *w->out);
    return w;
}

static struct lb_work *new_work(int64_t row, int64_t n_prompt, int64_t max_tokens)
{
    return new_shared(row, n_prompt, max_tokens, 0);
}

static void world_init(struct world *t, int64_t batch_tokens, int64_t max_seqs, int64_t n_page)
{
    struct lb_err err = LB_ERR_INIT;
    *t = (struct world){0};
    assert_int_equal(lb_kv_init(&t->kv, n_page, (int32_t)max_seqs, 4096, &err), LB_OK);
    assert_int_equal(lb_prefix_init(&t->prefix, &t->kv, &err), LB_OK);
    struct lb_sched_spec spec = {
        .kv = &t->kv, .prefix = &t->prefix, .batch_tokens = batch_tokens, .max_seqs = max_seqs, .out_flag = LB_OUT_TOP};
    t->content = malloc((size_t)n_page * LK_PAGE_TOKENS * sizeof *t->content);
    assert_int_equal(lb_sched_init(&t->sched, &spec, &err), LB_OK);
    int64_t n_seq = max_seqs < batch_tokens ? max_seqs : batch_tokens;
    struct lb_step_limits limit = {(int32_t)batch_tokens, (int32_t)n_seq, (int32_t)(n_seq * n_page)};
    assert_int_equal(lb_step_init(&t->step, limit, &err), LB_OK);
}

static void world_release(struct world *t)
{
    lb_sched_release(&t->sched);
    lb_prefix_release(&t->prefix);
    free(t->content);
    lb_kv_release(&t->kv);
    lb_step_release(&t->step);
    free(t->course);
}

/* The row of sequence `is`: the scheduler's, in the order of the step. */
static struct course *course_of(struct world *t, int32_t is)
{
    int32_t page = t->step.page[t->step.page_start[is]], last = t->step.page_start[is + 1] - 1;
    for (int64_t i = 0; i < t->sched.n_seq; i++) {
        const struct lb_seq *q = &t->sched.seq[i];
        const struct lb_kv_seq *s = &t->kv.seq[q->kv_seq];
        int32_t begin = t->step.seq_start[is + 1] - 1;
        if (q->work && s->page[0] == page && s->page[s->n_page - 1] == t->step.page[last] &&
            q->n_fed == t->step.pos[begin] + 1)
            return &t->course[q->work->row.index];
    }
    fail_msg("sequence %d belongs to no row", is);
    return NULL;
}

static int32_t token_at(const struct lb_work *w, int64_t pos)
{
    return pos < w->n_prompt ? w->prompt[pos] : id_of(w->row.index, pos);
}

/* What a token reads is what the row says, all the way back. */
static void check_pages(struct world *t, const struct lb_work *w, int32_t is, int64_t n)
{
    for (int64_t pos = 0; pos < n; pos++) {
        int32_t page = t->step.page[t->step.page_start[is] + pos / LK_PAGE_TOKENS];
        assert_int_equal(t->content[page * LK_PAGE_TOKENS + pos % LK_PAGE_TOKENS], token_at(w, pos));
    }
}

static void check_sequence(struct world *t, int32_t is, int32_t *n_out)
{
    const struct lb_step *s = &t->step;
    int32_t begin = s->seq_start[is], end = s->seq_start[is + 1];
    assert_true(begin < end);
    struct course *c = course_of(t, is);
    const struct lb_work *w = c->work;
    assert_false(c->ended);
    assert_true(c->last_step != s->number); /* a row stands in a step once */
    assert_in_range(s->pos[begin], 0, s->pos[begin] == 0 ? 0 : w->n_prompt + w->n_out - 1);
    if (s->pos[begin] != c->n_fed) { /* admitted: at the beginning, or behind pages that others filled */
        assert_int_equal(s->pos[begin] % LK_PAGE_TOKENS, 0);
        assert_true(s->pos[begin] <= w->n_shared && s->pos[begin] < w->n_prompt);
        c->n_fed = s->pos[begin];
    }
    for (int32_t i = begin; i < end; i++) {
        int64_t pos = c->n_fed++;
        bool prompt = pos < w->n_prompt;
        assert_int_equal(s->pos[i], pos);
        assert_int_equal(s->rope_len[i], prompt ? w->n_prompt : pos + 1);
        assert_true(pos < w->n_prompt + w->n_out);
        assert_true(prompt || pos < w->n_prompt + w->set.max_tokens - 1); /* the last id is never fed */
        if (s->tok[i] >= 0) {
            assert_int_equal(s->tok[i], token_at(w, pos));
        } else {
            assert_false(prompt);
            assert_int_equal(~s->tok[i], c->slot);
            assert_int_equal(c->slot_step, s->number - 1);
        }
        assert_int_equal(s->tok_page[i], s->page[s->page_start[is] + pos / LK_PAGE_TOKENS]);
        if (pos + 1 == w->n_prompt + w->n_out) { /* the last known token */
            assert_int_equal(s->out_tok[*n_out], i);
            bool told = w->set.logprobs >= 0, draws = t->sched.spec.draws && !told;
            assert_int_equal(s->out_flags[*n_out], w->set.sampling.greedy && !told ? 0
                                                   : w->n_follow > 0               ? LB_OUT_LOGITS
                                                   : draws                         ? LB_OUT_DRAW
                                                                                   : LB_OUT_TOP);
            if (s->out_flags[*n_out] == LB_OUT_DRAW) {
                const struct lk_draw *d = &s->draw[*n_out];
                uint32_t n_new = (uint32_t)(pos + 1 - w->n_prompt); /* of those before */
                assert_true(d->u == lb_philox_u(w->set.seed, w->row.key, w->sample, n_new));
                assert_true(d->inverse == 1 / w->set.sampling.temperature && d->top_k == w->set.sampling.top_k);
            }
            ++*n_out;
        }
    }
    check_pages(t, w, is, c->n_fed);
    if (c->n_fed > w->n_prompt && end - begin == 1) {
        int64_t pause = s->number - c->last_step;
        if (pause > t->longest_pause)
            t->longest_pause = pause;
    }
    int64_t n_page = s->page_start[is + 1] - s->page_start[is];
    assert_int_equal(n_page, lb_kv_pages_of(c->n_fed));
    c->last_step = s->number;
}

/* Copies, zeroes and writes, as a step does before it reads. */
static void write_pages(struct world *t)
{
    const struct lb_step *s = &t->step;
    t->n_copy += s->n_copy;
    for (int32_t i = 0; i < s->n_copy; i++)
        memcpy(t->content + (size_t)s->copy_to[i] * LK_PAGE_TOKENS,
               t->content + (size_t)s->copy_from[i] * LK_PAGE_TOKENS, LK_PAGE_TOKENS * sizeof *t->content);
    for (int32_t i = 0; i < s->n_new; i++)
        memset(t->content + (size_t)s->new_page[i] * LK_PAGE_TOKENS, -1, LK_PAGE_TOKENS * sizeof *t->content);
    for (int32_t is = 0; is < s->n_seq; is++) {
        const struct lb_work *w = course_of(t, is)->work;
        for (int32_t i = s->seq_start[is]; i < s->seq_start[is + 1]; i++) {
            int32_t *at = &t->content[s->tok_page[i] * LK_PAGE_TOKENS + s->pos[i] % LK_PAGE_TOKENS];
            assert_int_equal(*at, -1); /* nobody writes twice, so nobody writes what others read */
            *at = token_at(w, s->pos[i]);
        }
    }
}

static void check_step(struct world *t)
{
    const struct lb_step *s = &t->step;
    int32_t n_out = 0;
    assert_true(s->n_tok <= t->sched.spec.batch_tokens && s->n_seq <= t->sched.spec.max_seqs);
    assert_int_equal(s->n_tok, s->seq_start[s->n_seq]);
    assert_int_equal(t->sched.n_prefill + t->sched.n_decode + t->sched.n_again, s->n_tok);
    write_pages(t);
    for (int32_t is = 0; is < s->n_seq; is++)
        check_sequence(t, is, &n_out);
    assert_int_equal(n_out, s->n_out);
    t->n_hit += t->sched.n_hit;
    t->n_again += t->sched.n_again;
    t->n_tok += s->n_tok;
}

static bool at_end(const struct world *t, const struct lb_work *w)
{
    int64_t row = w->row.index, most = w->set.max_tokens;
    return w->n_out >= (row < t->early ? 1 : row % 7 == 3 ? most / 2 + 1 : most);
}

static void end_row(struct world *t, struct lb_work *w)
{
    t->course[w->row.index].ended = true;
    t->n_ended++;
    if (!t->n_sample)
        lb_work_free(w);
}

/* The samples behind output j's row get their first ids with it. */
static void begin_samples(struct world *t, int32_t j, struct lb_work *w)
{
    for (int32_t i = 0; i < w->n_follow; i++) {
        struct lb_work *f = w->follow[i];
        struct course *c = &t->course[f->row.index];
        f->out[f->n_out++] = id_of(f->row.index, f->n_prompt);
        c->n_fed = f->n_prompt;
        c->last_step = t->step.number;
        if (at_end(t, f))
            end_row(t, f);
        else
            lb_sched_fork(&t->sched, t->sched.outs, j, f);
    }
    w->n_follow = 0;
}

/* Samples every output; a row ends at max_tokens, every seventh one halfway. */
static void sample(struct world *t, struct lb_outs *outs)
{
    for (int32_t j = 0; j < outs->n; j++) {
        const struct lb_seq *q = lb_sched_seq(&t->sched, outs, j);
        t->n_blank += !q;
        assert_true(q || t->ahead);
        if (!q)
            continue;
        int64_t row = q->work->row.index;
        struct course *c = &t->course[row];
        int32_t id = id_of(row, q->work->n_prompt + q->work->n_out - q->promised);
        struct lb_work *w = lb_sched_advance(&t->sched, outs, j, id);
        assert_ptr_equal(w, c->work);
        assert_int_equal(w->out[w->n_out - 1], id_of(row, w->n_prompt + w->n_out - 1));
        c->slot = j;
        c->slot_step = outs->step;
        begin_samples(t, j, w);
        if (!at_end(t, w))
            continue;
        assert_in_range(c->n_fed - (w->n_prompt + w->n_out - 1), 0, t->ahead);
        int64_t steps = w->steps;
        bool blank = c->last_step > outs->step;
        lb_sched_finish(&t->sched, outs, j);
        assert_int_equal(w->steps, steps - blank);
        end_row(t, w);
    }
}

/* Tells a row which samples of its prompt stand behind it. */
static bool follow(struct world *t, int64_t row)
{
    struct lb_work *w = t->course[row].work;
    w->n_follow = t->n_sample ? (int32_t)(t->n_sample - 1 - row % t->n_sample) : 0;
    w->follow = t->n_sample ? t->all + row + 1 : NULL;
    return true;
}

/* Leaves the outputs of the step before for later, where they may be left; else they are taken now. */
static struct lb_outs *promise(struct world *t, struct lb_outs *flying)
{
    if (!flying || lb_sched_can_promise(&t->sched, &t->step)) {
        for (int32_t j = 0; flying && j < flying->n; j++) {
            const struct lb_seq *q = lb_sched_seq(&t->sched, flying, j);
            struct course *c = q ? &t->course[q->work->row.index] : &(struct course){0};
            c->slot = j;
            c->slot_step = flying->step;
        }
        if (flying)
            lb_sched_promise(&t->sched, &t->step);
        t->n_ahead += flying != NULL;
        return flying;
    }
    sample(t, flying);
    return NULL;
}

static void run_rows(struct world *t)
{
    int64_t next = 0;
    struct lb_outs *flying = NULL; /* a step's outputs that are not taken */
    for (int64_t steps = 0; t->n_ended < t->n_row; steps++) {
        assert_true(steps < 100000);
        flying = promise(t, flying);
        lb_sched_begin(&t->sched, &t->step);
        while (next < t->n_row && follow(t, next) && lb_sched_admit(&t->sched, &t->step, t->course[next].work)) {
            t->n_first++;
            next += 1 + t->course[next].work->n_follow;
        }
        lb_sched_end(&t->sched, &t->step);
        assert_true(t->step.n_tok > 0 || flying || (t->ahead && t->n_ended == t->n_row));
        check_step(t);
        if (flying)
            sample(t, flying);
        flying = t->ahead && t->step.n_tok > 0 ? t->sched.outs : NULL;
        if (!t->ahead)
            sample(t, t->sched.outs);
        assert_true(t->kv.n_idle <= t->kv.max_idle);
    }
    assert_true(lb_sched_idle(&t->sched));
    assert_int_equal(t->sched.n_stored, 0);
    assert_int_equal(t->kv.n_entry, 0);
    assert_int_equal(lb_kv_used(&t->kv), 0);
}

static void new_rows(struct world *t, int64_t n_row, int64_t prompt_max, int64_t new_max, int64_t n_same)
{
    t->n_row = n_row;
    t->course = calloc((size_t)n_row, sizeof *t->course);
    for (int64_t i = 0; i < n_row; i++) {
        int64_t n_prompt = 1 + (i * 37 + 5) % prompt_max, same = n_same < n_prompt ? n_same : n_prompt;
        t->course[i] = (struct course){.last_step = -1, .slot = -1};
        t->course[i].work = new_shared(i, n_prompt, 1 + (i * 13) % new_max, same);
    }
}

static void run_all(struct world *t, int64_t n_row, int64_t prompt_max, int64_t new_max)
{
    new_rows(t, n_row, prompt_max, new_max, 0);
    run_rows(t);
    assert_int_equal(t->n_hit, 0);
}

static void test_budgets(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {/* budget, rows at a time, pages */
                                        {512, 256, 4000}, {16, 256, 4000}, {16, 5, 4000}, {1, 1, 10},
                                        {7, 64, 12},      {512, 3, 30},    {64, 64, 9}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct world t;
        world_init(&t, shapes[i][0], shapes[i][1], shapes[i][2]);
        run_all(&t, 100, 200, 40);
        world_release(&t);
    }
}

/* Rows that begin alike: as soon as one has computed a page the others take it. */
static void test_shared(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {/* budget, rows at a time, pages, idle ones */
                                        {512, 256, 4000, 4000},
                                        {16, 5, 4000, 4000},
                                        {64, 64, 16, 16},
                                        {64, 64, 40, 2},
                                        {512, 3, 30, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct world t;
        world_init(&t, shapes[i][0], shapes[i][1], shapes[i][2]);
        t.kv.max_idle = shapes[i][3];
        new_rows(&t, 100, 200, 40, 150);
        run_rows(&t);
        assert_true(t.n_hit > 0);
        world_release(&t);
    }
}

/* With room for all, a beginning is computed once a kind, but for the part that ends inside a page. */
static void test_shared_once(void **state)
{
    (void)state;
    struct world t;
    world_init(&t, 4096, 100, 4000);
    t.n_row = 50;
    t.course = calloc((size_t)t.n_row, sizeof *t.course);
    for (int64_t i = 0; i < t.n_row; i++)
        t.course[i] = (struct course){.work = new_shared(i, 330, 2, 320), .last_step = -1, .slot = -1};
    run_rows(&t);
    assert_int_equal(t.n_hit, 45 * 320);
    assert_int_equal(t.n_tok, 5 * 320 + 50 * 10 + 50);
    world_release(&t);
}

/* The first rows end early, so that more is admitted than there are pages for; the last ones go to their limits. */
static void test_eviction(void **state)
{
    (void)state;
    static const int64_t same[] = {0, 150};
    for (int i = 0; i < 2; i++) {
        struct world t;
        world_init(&t, 64, 64, 24);
        new_rows(&t, 150, 60, 200, same[i]);
        t.early = 60;
        run_rows(&t);
        assert_true(t.n_again > 0);
        world_release(&t);
    }
}

/* Rows of a world whose prompts have several samples each, and the tokens that they come to when each prompt is
 * computed once. */
static int64_t new_samples(struct world *t, int64_t n_prompt, int64_t n_sample)
{
    int64_t n_tok = 0;
    t->n_sample = n_sample;
    new_rows(t, n_prompt * n_sample, 90, 40, 0);
    for (int64_t i = 0; i < t->n_row; i++) {
        struct lb_work *w = t->course[i].work, *first = t->course[i - i % n_sample].work;
        t->all[i] = w;
        n_tok += (i % 7 == 3 ? w->set.max_tokens / 2 + 1 : w->set.max_tokens) - 1;
        if (w == first) {
            n_tok += w->n_prompt;
            continue;
        }
        lb_mem_free(w->prompt);
        w->prompt = first->prompt;
        w->n_prompt = first->n_prompt;
        w->prompt_lent = true;
    }
    return n_tok;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Samples run their prompt once, on pages that they share and copies of the last one, with the cache and without;
 * where sequences or pages are short, some run it again. */
static void test_samples(void **state)
{
    (void)state;
    enum { N_PROMPT = 30 };
    static const int64_t shapes[][4] = {/* budget, rows at a time, pages, samples */
                                        {512, 256, 4000, 4}, {16, 256, 4000, 5}, {16, 5, 4000, 2}, {7, 64, 12, 3},
                                        {64, 64, 16, 9},     {512, 3, 4000, 8},  {1, 1, 10, 4},    {64, 8, 40, 8}};
    int64_t n_copy = 0, n_again = 0, n_first = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes * 2; i++) {
        struct world t;
        const int64_t *s = shapes[i / 2];
        world_init(&t, s[0], s[1], s[2]);
        t.all = calloc((size_t)(N_PROMPT * s[3]), sizeof(struct lb_work *));
        t.sched.spec.crowd = s[2] < 100;
        if (i % 2)
            t.sched.spec.prefix = NULL;
        int64_t n_tok = new_samples(&t, N_PROMPT, s[3]);
        run_rows(&t);
        if (s[2] == 4000 && 4 * s[3] <= least(s[0], s[1])) {
            assert_int_equal(t.n_first, N_PROMPT);
            assert_int_equal(t.n_tok, n_tok);
        }
        assert_true(t.n_tok >= n_tok);
        n_first += t.n_first;
        n_copy += t.n_copy;
        n_again += t.n_again;
        for (int64_t k = t.n_row; k-- > 0;) /* the one that lends comes last */
            lb_work_free(t.all[k]);
        free(t.all);
        world_release(&t);
    }
    assert_true(n_copy > 500 && n_again > 0 && n_first > 2 * N_PROMPT * 8);
}

/* Steps that begin before the outputs of the one before are known: the same tokens at the same places, with eviction
 * and shared beginnings, rows that have to be looked at first among the others, and rows that turn out to have ended.
 */
static void test_ahead(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {/* budget, rows at a time, pages, what rows share */
                                        {512, 256, 4000, 0}, {16, 5, 4000, 150}, {1, 1, 10, 0},    {64, 64, 24, 0},
                                        {64, 64, 24, 150},   {7, 64, 24, 0},     {512, 3, 30, 150}};
    int64_t n_again = 0, n_blank = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes * 3; i++) {
        struct world t;
        const int64_t *s = shapes[i / 3];
        world_init(&t, s[0], s[1], s[2]);
        new_rows(&t, 150, 60, 200, s[3]);
        for (int64_t k = 0; k < t.n_row; k++)
            t.course[k].work->set.sampling.greedy = i % 3 == 0 || (i % 3 == 1 && k % 16 != 0);
        for (int64_t k = 0; k < t.n_row && i % 3 > 0; k += 32)
            t.course[k].work->set.logprobs = 0;
        t.ahead = t.sched.spec.draws = true;
        t.early = s[2] == 24 ? 60 : 0;
        run_rows(&t);
        assert_true(t.n_ahead > 20);
        n_again += t.n_again;
        n_blank += t.n_blank;
        world_release(&t);
    }
    assert_true(n_again > 0 && n_blank > 100);
}

/* More rows than budget: a row that has begun to decode has a token in every step. */
static void test_no_pause(void **state)
{
    (void)state;
    struct world t;
    world_init(&t, 8, 40, 1000);
    run_all(&t, 40, 3, 60);
    assert_int_equal(t.longest_pause, 1);
    world_release(&t);
}

/* The step is filled: decode tokens first, then the rest of a prompt, then new rows in order. It says how many ids its
 * rows are to get behind it, in the mean. */
static void test_order(void **state)
{
    (void)state;
    struct world t;
    world_init(&t, 32, 8, 100);
    struct lb_work *rows[] = {new_work(0, 40, 4), new_work(1, 10, 8), new_work(2, 100, 4)};
    static const int32_t want[][3] = {{32, 0, 0}, {8, 10, 14}, {1, 1, 30}, {1, 1, 30}, {1, 1, 26}};
    static const int32_t later[] = {3, (3 + 7 + 3) / 3, (2 + 6 + 3) / 3, (1 + 5 + 3) / 3, (0 + 4 + 3) / 3};
    size_t next = 0;
    for (size_t step = 0; step < sizeof want / sizeof *want; step++) {
        lb_sched_begin(&t.sched, &t.step);
        while (next < 3 && lb_sched_admit(&t.sched, &t.step, rows[next]))
            next++;
        lb_sched_end(&t.sched, &t.step);
        int32_t n_seq = 0;
        for (int i = 0; i < 3 && want[step][i] > 0; i++)
            n_seq++;
        assert_int_equal(t.step.n_seq, n_seq);
        assert_int_equal(t.step.n_later, later[step]);
        for (int32_t i = 0; i < n_seq; i++)
            assert_int_equal(t.step.seq_start[i + 1] - t.step.seq_start[i], want[step][i]);
        for (int32_t j = 0; j < t.step.n_out; j++)
            lb_sched_advance(&t.sched, t.sched.outs, j, 7);
    }
    world_release(&t);
}

/* A row is admitted only when its longest course fits beside those of the running rows. */
static void test_reservation(void **state)
{
    (void)state;
    struct world t;
    world_init(&t, 512, 8, 4);
    lb_sched_begin(&t.sched, &t.step);
    struct lb_work *first = new_work(0, 33, 32), *second = new_work(1, 1, 64), *third = new_work(2, 1, 65);
    assert_int_equal(lb_sched_peak_pages(33, 32), 2);
    assert_true(lb_sched_admit(&t.sched, &t.step, first));
    assert_false(lb_sched_admit(&t.sched, &t.step, third)); /* 65 positions: 3 pages, 2 are left */
    assert_true(lb_sched_admit(&t.sched, &t.step, second)); /* 64 positions: the last id is never fed */
    lb_work_free(third);
    world_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),     cmocka_unit_test(test_shared),   cmocka_unit_test(test_shared_once),
        cmocka_unit_test(test_eviction),    cmocka_unit_test(test_no_pause), cmocka_unit_test(test_order),
        cmocka_unit_test(test_reservation), cmocka_unit_test(test_samples),  cmocka_unit_test(test_ahead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
