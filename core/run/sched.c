#include "core/run/sched.h"

#include "core/base/mem.h"
#include "core/run/sample.h"

#define CAUTION 1.25   /* rows that ended first are short ones: more than they have used is expected */
#define ENOUGH_ROWS 16 /* before as many have ended, the longest course is expected */
#define WAIT_SHARE 4   /* of what can run at a time a quarter is waited for, so that samples begin together */
#define MIN_AHEAD 32   /* tokens that a row is expected to go on for at least */

enum lb_status lb_sched_init(struct lb_sched *s, const struct lb_sched_spec *spec, struct lb_err *err)
{
    *s = (struct lb_sched){.spec = *spec, .caution = CAUTION};
    size_t n = (size_t)spec->max_seqs;
    s->seq = lb_mem_new(n, sizeof *s->seq);
    s->evicted = lb_mem_new(n, sizeof *s->evicted);
    s->most_seq = spec->max_seqs < spec->batch_tokens ? spec->max_seqs : spec->batch_tokens;
    int64_t n_out = spec->max_seqs + spec->score_tokens + spec->draft_tokens;
    size_t out = (size_t)(n_out < spec->batch_tokens ? n_out : spec->batch_tokens);
    s->moved = lb_mem_new(n, sizeof *s->moved);
    bool taken = s->seq && s->evicted && s->moved;
    for (int i = 0; i < 2; i++) {
        s->out[i].seq = lb_mem_new(out, sizeof *s->out[i].seq);
        s->out[i].scored = lb_mem_new(out, sizeof *s->out[i].scored);
        s->out[i].draft = lb_mem_new(out, sizeof *s->out[i].draft);
        taken = taken && s->out[i].seq && s->out[i].scored && s->out[i].draft;
    }
    s->outs = s->out;
    if (!taken) {
        lb_sched_release(s);
        return lb_err_memory(err, "the scheduler", n * sizeof *s->seq);
    }
    return LB_OK;
}

static void drop_work(struct lb_work *w)
{
    if (w && lb_work_end(w->lead, 1 + w->n_follow))
        lb_work_free(w->lead);
}

void lb_sched_release(struct lb_sched *s)
{
    for (int64_t i = 0; s->seq && i < s->n_seq; i++)
        drop_work(s->seq[i].work);
    for (int64_t i = 0; i < s->n_evicted; i++)
        drop_work(s->evicted[i]);
    lb_mem_free(s->seq);
    lb_mem_free(s->evicted);
    lb_mem_free(s->moved);
    for (int i = 0; i < 2; i++) {
        lb_mem_free(s->out[i].seq);
        lb_mem_free(s->out[i].scored);
        lb_mem_free(s->out[i].draft);
    }
    *s = (struct lb_sched){0};
}

/* ---- what is expected ---- */

/* Positions that a row is expected to reach; the last generated id is never fed. */
static int64_t expected_len(const struct lb_sched *s, const struct lb_work *w)
{
    int64_t most = w->set.max_tokens, n = most;
    if (s->spec.crowd)
        return w->n_prompt + w->n_out;
    if (s->n_used >= ENOUGH_ROWS) {
        n = (int64_t)((double)most * s->used_sum / (double)s->n_used * s->caution) + 1;
        n = n < w->n_out + MIN_AHEAD ? w->n_out + MIN_AHEAD : n;
        n = n < most ? n : most;
    }
    return w->n_prompt + (n > 1 ? n - 1 : 0);
}

/* Pages that a sample which follows a row is expected to need beside those of the prompt. */
static int64_t pages_of_sample(const struct lb_sched *s, const struct lb_work *w)
{
    return lb_kv_pages_of(expected_len(s, w)) - w->n_prompt / LK_PAGE_TOKENS;
}

/* What the running rows are expected to ask for yet: pages, and how many samples follow them. */
static int64_t expected_pages(const struct lb_sched *s, int64_t *n_follow)
{
    int64_t sum = 0;
    *n_follow = 0;
    for (int64_t i = 0; i < s->n_seq; i++) {
        const struct lb_seq *q = &s->seq[i];
        if (!q->work)
            continue;
        int64_t more = lb_kv_pages_of(expected_len(s, q->work)) - s->spec.kv->seq[q->kv_seq].n_page;
        sum += (more > 0 ? more : 0) + q->work->n_follow * pages_of_sample(s, q->work);
        *n_follow += q->work->n_follow;
    }
    return sum;
}

/* What of a row's prompt may stand in shared pages. The last token's logits are wanted, so it is computed in any
 * case. */
static struct lb_prefix_text shared_text(const struct lb_sched *s, const struct lb_work *w, int64_t most)
{
    bool own_base = s->spec.dynamic_above > 0 && w->n_prompt > s->spec.dynamic_above;
    int64_t n = s->spec.prefix ? w->n_shared : 0;
    uint64_t variant = (uint64_t)w->set.adapter << 32 | (own_base ? (uint64_t)w->n_prompt : 0);
    return (struct lb_prefix_text){w->prompt, n < most ? n : most, variant};
}

/* ---- a row's tokens ---- */

/* Tokens of a row that are known and not fed yet. */
static int64_t n_left(const struct lb_seq *q)
{
    return q->work->n_prompt + q->work->n_out - q->n_fed;
}

static bool decoding(const struct lb_seq *q)
{
    return q->work->n_out > 0 && n_left(q) == 1;
}

/* Its last id is on its way. */
static bool ends(const struct lb_seq *q)
{
    return q->promised && q->work->n_out == q->work->set.max_tokens;
}

static int32_t token_of(const struct lb_seq *q, const struct lb_step *step, int64_t pos)
{
    const struct lb_work *w = q->work;
    if (pos < w->n_prompt)
        return w->prompt[pos];
    if (pos == w->n_prompt + w->n_out - 1 && q->slot_step == step->number - 1)
        return ~q->slot;
    pos -= w->n_prompt;
    return pos < w->n_out ? w->out[pos] : q->expected[pos - w->n_out];
}

static void count(struct lb_sched *s, const struct lb_work *w, int64_t begin, int64_t end)
{
    int64_t again = (w->n_before < end ? w->n_before : end) - begin;
    again = again > 0 ? again : 0;
    int64_t prompt = (w->n_prompt < end ? w->n_prompt : end) - begin - again;
    prompt = prompt > 0 ? prompt : 0;
    s->n_again += again;
    s->n_prefill += prompt;
    s->n_decode += end - begin - again - prompt;
}

static void want(struct lb_sched *s, struct lb_step *step, int64_t index, int64_t scored)
{
    const struct lb_work *w = s->seq[index].work;
    bool logits = scored > 0 || (w->set.max_tokens > 0 && lb_work_needs_logits(w));
    bool many = scored == 0 && w->n_follow > 0; /* draws from the same logits */
    bool draws = s->spec.draws && logits && scored == 0 && !many && lb_work_draws_alone(w);
    s->outs->seq[step->n_out] = (int32_t)index;
    s->outs->scored[step->n_out] = (int32_t)scored;
    s->outs->draft[step->n_out] = -1;
    s->outs->n = step->n_out + 1;
    step->out_tok[step->n_out] = step->n_tok - 1;
    step->out_flags[step->n_out] = !logits ? 0 : many ? LB_OUT_LOGITS : draws ? LB_OUT_DRAW : s->spec.out_flag;
    if (draws)
        step->draw[step->n_out] = lb_sample_draw_of(&w->set.sampling, lb_sample_u(w, 0));
    step->n_out++;
    s->n_scored += scored > 0;
}

/* The next n tokens of a row, for which there are pages; beyond its last id those of its draft. */
static void put(struct lb_sched *s, struct lb_step *step, int64_t index, int64_t n)
{
    struct lb_seq *q = &s->seq[index];
    struct lb_work *w = q->work;
    int64_t begin = q->n_fed, end = begin + n, known = w->n_prompt + w->n_out;
    const struct lb_kv_seq *pages = &s->spec.kv->seq[q->kv_seq];
    step->seq_start[step->n_seq] = step->n_tok;
    step->page_start[step->n_seq] = step->n_page;
    step->adapter[step->n_seq] = w->set.adapter;
    step->n_seq++;
    for (int32_t i = 0; i < pages->n_page; i++)
        step->page[step->n_page++] = pages->page[i];
    for (int64_t pos = begin; pos < end; pos++) {
        int32_t t = step->n_tok++;
        step->tok[t] = token_of(q, step, pos);
        step->pos[t] = (int32_t)pos;
        step->tok_page[t] = pages->page[pos / LK_PAGE_TOKENS];
        step->rope_len[t] = (int32_t)(pos < w->n_prompt ? w->n_prompt : pos + 1);
        if (w->scored && pos + 1 == w->next_scored && pos + 1 < w->n_prompt)
            want(s, step, index, w->next_scored++);
        if (pos + 1 < known)
            continue;
        want(s, step, index, 0);
        if (pos + 1 < end)
            s->outs->draft[step->n_out - 1] = q->expected[pos + 1 - known];
    }
    count(s, w, begin, end);
    q->n_fed = end;
    q->step = step->number;
    s->n_stored += n;
    w->steps++;
    struct lb_prefix_text text = shared_text(s, w, w->n_prompt);
    if (s->spec.prefix)
        lb_prefix_add(s->spec.prefix, &q->known, q->kv_seq, &text, end);
}

static int64_t room(const struct lb_sched *s, const struct lb_step *step)
{
    return s->spec.batch_tokens - step->n_tok;
}

/* Tokens that a row may have in this step: no more than the budget leaves, nor than there are logits for. */
static int64_t most_of(const struct lb_sched *s, const struct lb_step *step, const struct lb_seq *q)
{
    const struct lb_work *w = q->work;
    int64_t n = n_left(q) < room(s, step) ? n_left(q) : room(s, step);
    int64_t logits = s->spec.score_tokens - s->n_scored;
    if (!w->scored || w->n_prompt - w->next_scored <= logits)
        return n;
    int64_t most = w->next_scored - 1 - q->n_fed + logits;
    return n < most ? n : most;
}

/* The newest step's outputs, which may not be taken yet, find their rows again. */
static void sweep(struct lb_sched *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_seq; i++) {
        s->moved[i] = s->seq[i].work ? (int32_t)n : -1;
        if (s->seq[i].work)
            s->seq[n++] = s->seq[i];
    }
    s->n_seq = n;
    for (int32_t j = 0; j < s->outs->n; j++)
        if (s->outs->seq[j] >= 0)
            s->outs->seq[j] = s->moved[s->outs->seq[j]];
}

static void leave(struct lb_sched *s, struct lb_seq *q)
{
    lb_kv_close(s->spec.kv, q->kv_seq);
    s->n_stored -= q->n_fed;
    q->work = NULL;
}

/* ---- eviction ---- */

/* Evicts the youngest row behind `index` that has no tokens in this step. */
static bool evict_behind(struct lb_sched *s, int64_t index)
{
    for (int64_t i = s->n_seq; i-- > index + 1;) {
        struct lb_work *w = s->seq[i].work;
        if (!w || s->seq[i].step == s->step)
            continue;
        if (w->n_before < s->seq[i].n_fed)
            w->n_before = s->seq[i].n_fed;
        s->evicted[s->n_evicted++] = w;
        s->caution *= 1.5;
        s->crowded = true;
        leave(s, &s->seq[i]);
        return true;
    }
    return false;
}

/* Pages for n more tokens of a row, at the cost of younger ones; how many tokens there are pages for. */
static int64_t make_room(struct lb_sched *s, int64_t index, int64_t n)
{
    struct lb_seq *q = &s->seq[index];
    while (!lb_kv_extend(s->spec.kv, q->kv_seq, q->n_fed + n)) {
        if (!s->ahead && evict_behind(s, index))
            continue;
        s->short_of_pages = s->ahead;
        int64_t fit = (s->spec.kv->seq[q->kv_seq].n_page + s->spec.kv->n_free) * LK_PAGE_TOKENS - q->n_fed;
        n = fit < n ? fit : n - 1;
    }
    return n;
}

/* ---- drafts ---- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What drafts may take of the step: half of what the rows that decode leave, so that prompts go on; and what of that
 * costs hardly anything, shared by the rows that expect something. */
static void allow_drafts(struct lb_sched *s)
{
    int64_t n = 0, n_expect = 0;
    for (int64_t i = 0; i < s->n_seq; i++) {
        bool decodes = s->seq[i].work && decoding(&s->seq[i]);
        n += decodes;
        n_expect += decodes && s->seq[i].draft.from >= 0;
    }
    int64_t left = s->spec.batch_tokens > n ? s->spec.batch_tokens - n : 0;
    s->n_draft = s->ahead ? 0 : least(s->spec.draft_tokens, left / 2);
    s->n_cheap = s->spec.cheap_tokens > n && n_expect > 0 ? (s->spec.cheap_tokens - n) / n_expect : 0;
}

/* The draft of a row that decodes: of how many ids. No row is evicted for it. */
static int64_t draft(struct lb_sched *s, struct lb_seq *q)
{
    const struct lb_work *w = q->work;
    if (s->n_draft == 0 || !lb_work_drafts(w))
        return 0;
    int64_t cheap = s->spec.bold ? LB_DRAFT_MOST : s->n_cheap;
    int64_t n = lb_draft_worth(&q->draft, cheap, s->spec.read_cost * (double)q->n_fed);
    n = least(least(n, s->n_draft), w->set.max_tokens - w->n_out - 1);
    if (s->spec.kv->n_free <= s->n_seq) /* then the rows behind it may want them */
        n = least(n, s->spec.kv->seq[q->kv_seq].n_page * LK_PAGE_TOKENS - q->n_fed - 1);
    while (n > 0 && !lb_kv_extend(s->spec.kv, q->kv_seq, q->n_fed + 1 + n))
        n--;
    if (n > 0)
        lb_draft_ids(&q->draft, w, n, q->expected);
    s->n_draft -= n;
    s->n_drafted += n;
    return n;
}

/* The outputs behind output j of its row are not wanted, nor their positions. */
static void drop_draft(struct lb_sched *s, struct lb_outs *o, int32_t j)
{
    struct lb_seq *q = &s->seq[o->seq[j]];
    for (int32_t i = j; o->draft[i] >= 0; i++) {
        o->seq[i + 1] = -1;
        q->n_fed--;
        s->n_stored--;
    }
}

/* ---- steps ---- */

/* Whether a row that needs so many pages can come now, and how many of the samples behind it can come with it. As many
 * are waited for as are a share of what can run at a time: more would leave too much of that idle. */
static bool fits(const struct lb_sched *s, struct lb_work *w, int64_t need, bool again)
{
    const struct lb_kv *kv = s->spec.kv;
    int64_t n_follow, each = pages_of_sample(s, w);
    int64_t pages = kv->n_free - expected_pages(s, &n_follow) - need, seqs = s->most_seq - s->n_seq - n_follow - 1;
    bool alone = s->n_seq == 0; /* then it has all pages, and they are enough for its longest course */
    if (!alone && (pages < 0 || seqs < 0))
        return false;
    if (again) /* those behind it are the scheduler's, and come when they can */
        return true;
    int64_t wait = least(w->n_follow, s->most_seq / WAIT_SHARE - 1), come = least(w->n_follow, seqs);
    if (each > 0) {
        wait = least(wait, kv->n_page / WAIT_SHARE / each);
        come = least(come, pages > 0 ? pages / each : 0);
    }
    come = come > 0 ? come : 0;
    if (!alone && come < wait)
        return false;
    w->n_follow = (int32_t)come;
    return true;
}

/* again: it was evicted. */
static bool admit(struct lb_sched *s, struct lb_step *step, struct lb_work *w, bool again)
{
    if (s->n_seq == s->spec.max_seqs || room(s, step) < 1 || s->crowded || s->held)
        return false;
    if (w->scored && w->next_scored < w->n_prompt && s->n_scored == s->spec.score_tokens)
        return false;
    struct lb_kv *kv = s->spec.kv;
    int32_t n_idle = 0, n_hit = 0;
    struct lb_prefix_text text = shared_text(s, w, w->n_prompt - 1);
    if (text.n_tok >= LK_PAGE_TOKENS && !w->scored)
        n_hit = lb_prefix_look(s->spec.prefix, &text, &n_idle);
    if (!fits(s, w, lb_kv_pages_of(expected_len(s, w)) - n_hit + n_idle, again))
        return false;
    int32_t kv_seq = lb_kv_open(kv);
    if (kv_seq < 0)
        return false;
    int64_t index = s->n_seq++;
    struct lb_seq *q = &s->seq[index];
    *q = (struct lb_seq){.work = w, .kv_seq = kv_seq, .slot_step = -2, .step = -1, .draft.from = -1};
    if (n_hit > 0)
        q->n_fed = (int64_t)lb_prefix_match(s->spec.prefix, &q->known, kv_seq, &text) * LK_PAGE_TOKENS;
    s->n_stored += q->n_fed;
    s->n_hit += w->n_before > 0 ? 0 : q->n_fed;
    int64_t left = n_left(q), n = make_room(s, index, most_of(s, step, q));
    if (n > 0)
        put(s, step, index, n);
    s->held = n < left;
    return true;
}

bool lb_sched_can_promise(const struct lb_sched *s, const struct lb_step *step)
{
    if (s->short_of_pages)
        return false;
    for (int32_t j = 0; j < s->outs->n; j++) {
        const struct lb_work *w = s->outs->seq[j] < 0 ? NULL : s->seq[s->outs->seq[j]].work;
        bool seen = (step->out_flags[j] & ~LB_OUT_DRAW) != 0;
        if (w && (seen || s->outs->scored[j] > 0 || w->n_follow > 0 || w->set.max_tokens == 0))
            return false;
    }
    return true;
}

void lb_sched_promise(struct lb_sched *s, const struct lb_step *step)
{
    for (int32_t j = 0; j < s->outs->n; j++) {
        struct lb_seq *q = lb_sched_seq(s, s->outs, j);
        if (!q)
            continue;
        q->work->out[q->work->n_out++] = 0;
        q->slot = j;
        q->slot_step = step->number;
        q->promised = true;
    }
    s->ahead = true;
}

void lb_sched_begin(struct lb_sched *s, struct lb_step *step)
{
    sweep(s);
    lb_step_clear(step);
    s->step = step->number;
    s->outs = s->outs == s->out ? s->out + 1 : s->out;
    s->outs->n = 0;
    s->outs->step = step->number;
    s->short_of_pages = false;
    s->n_prefill = s->n_decode = s->n_again = s->n_hit = 0;
    s->n_scored = 0;
    s->crowded = s->held = false;
    allow_drafts(s);
    for (int64_t i = 0; i < s->n_seq; i++) {
        struct lb_seq *q = &s->seq[i];
        if (q->work && decoding(q) && !ends(q) && make_room(s, i, 1) == 1)
            put(s, step, i, 1 + draft(s, q));
    }
    for (int64_t i = 0; i < s->n_seq && room(s, step) > 0; i++) {
        if (!s->seq[i].work || n_left(&s->seq[i]) < 1 || decoding(&s->seq[i]))
            continue;
        int64_t left = n_left(&s->seq[i]), n = make_room(s, i, most_of(s, step, &s->seq[i]));
        if (n > 0)
            put(s, step, i, n);
        s->held = n < left;
        if (s->held)
            break;
    }
    while (s->n_evicted > 0 && admit(s, step, s->evicted[s->n_evicted - 1], true))
        s->n_evicted--;
}

bool lb_sched_admit(struct lb_sched *s, struct lb_step *step, struct lb_work *w)
{
    return s->n_evicted == 0 && admit(s, step, w, false);
}

/* Outputs that rows are expected to want behind this step, in the mean. */
static int32_t mean_later(const struct lb_sched *s)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < s->n_seq; i++) {
        const struct lb_work *w = s->seq[i].work;
        sum += w ? expected_len(s, w) - w->n_prompt - w->n_out : 0;
    }
    return s->n_seq > 0 ? (int32_t)(sum / s->n_seq) : 0;
}

void lb_sched_end(struct lb_sched *s, struct lb_step *step)
{
    step->n_later = mean_later(s);
    step->seq_start[step->n_seq] = step->n_tok;
    step->page_start[step->n_seq] = step->n_page;
    step->n_copy = lb_kv_take_copies(s->spec.kv, step->copy_from, step->copy_to, step->limit.n_seq);
    step->n_new = lb_kv_take_new(s->spec.kv, step->new_page, step->limit.n_page);
    s->ahead = false;
}

struct lb_work *lb_sched_advance(struct lb_sched *s, struct lb_outs *o, int32_t j, int32_t id)
{
    struct lb_seq *q = lb_sched_seq(s, o, j);
    q->work->n_out -= q->promised;
    q->promised = false;
    q->work->out[q->work->n_out++] = id;
    q->slot = j;
    q->slot_step = o->step;
    s->n_accepted += j > 0 && o->draft[j - 1] >= 0;
    if (o->draft[j] >= 0 && o->draft[j] != id)
        drop_draft(s, o, j);
    if (s->spec.draft_tokens > 0 && lb_work_drafts(q->work))
        lb_draft_see(&q->draft, q->work, s->spec.bold);
    return q->work;
}

void lb_sched_fork(struct lb_sched *s, const struct lb_outs *o, int32_t j, struct lb_work *w)
{
    const struct lb_seq *q = &s->seq[o->seq[j]];
    int32_t kv_seq = s->n_seq < s->most_seq ? lb_kv_fork(s->spec.kv, q->kv_seq) : -1;
    if (kv_seq < 0) { /* it runs by itself when there is room */
        s->evicted[s->n_evicted++] = w;
        return;
    }
    s->seq[s->n_seq++] = (struct lb_seq){.work = w,
                                         .kv_seq = kv_seq,
                                         .n_fed = q->n_fed,
                                         .slot_step = -2,
                                         .step = -1,
                                         .known = q->known,
                                         .draft.from = -1};
    s->n_stored += q->n_fed;
}

void lb_sched_finish(struct lb_sched *s, const struct lb_outs *o, int32_t j)
{
    struct lb_seq *q = &s->seq[o->seq[j]];
    q->work->n_out -= q->promised;
    q->work->steps -= q->step > o->step;
    if (q->work->set.max_tokens > 0) {
        s->used_sum += (double)q->work->n_out / (double)q->work->set.max_tokens;
        s->n_used++;
    }
    leave(s, q);
}
