#include "core/run/overflow.h"

#include <string.h>

#include "core/run/flow.h"
#include "core/run/settings.h"

const char *lb_overflow_name(enum lb_overflow how)
{
    static const char *const names[] = {[LB_OVERFLOW_ERROR] = "error",
                                        [LB_OVERFLOW_CUT_LEFT] = "cut-left",
                                        [LB_OVERFLOW_CUT_MIDDLE] = "cut-middle",
                                        [LB_OVERFLOW_SHORTEN] = "shorten"};
    return names[how];
}

static void fail(struct lb_work *w, int64_t limit)
{
    struct lb_row *row = &w->lead->row;
    long long n_prompt = w->n_prompt, most = w->set.max_tokens, room = limit - w->n_prompt;
    if (room < (most > 0 ? 1 : 0))
        lb_row_fail(row, LB_ROW_TOO_LONG, "the prompt has %lld tokens; %sthe limit is %lld", n_prompt,
                    most > 0 ? "with at least one new token " : "", (long long)limit);
    else if (w->set.max_given)
        lb_row_fail(row, LB_ROW_TOO_LONG,
                    "prompt (%lld tokens) and max_tokens (%lld) together exceed the limit of %lld tokens", n_prompt,
                    most, (long long)limit);
    else
        lb_row_fail(row, LB_ROW_TOO_LONG,
                    "prompt (%lld tokens) and min_tokens (%lld) together exceed the limit of %lld tokens", n_prompt,
                    (long long)w->set.min_tokens, (long long)limit);
}

/* Takes n tokens of the prompt from a place on. */
static void take_out(struct lb_work *w, int64_t at, int64_t n)
{
    int64_t *from = &w->set.prompt_from;
    memmove(w->prompt + at, w->prompt + at + n, (size_t)(w->n_prompt - at - n) * sizeof *w->prompt);
    w->n_prompt -= n;
    w->n_cut = n;
    if (*from > at)
        *from = *from - n > at ? *from - n : at;
}

/* New tokens that a prompt which is cut leaves room for. */
static int64_t kept_room(const struct lb_settings *set, int64_t limit)
{
    if (set->max_given)
        return set->max_tokens;
    int64_t n = limit / 2 < LB_DEFAULT_MAX_TOKENS ? limit / 2 : LB_DEFAULT_MAX_TOKENS;
    int64_t least = set->min_tokens > 1 ? set->min_tokens : 1;
    return n > least ? n : least;
}

static void cut(struct lb_work *w, enum lb_overflow how, int64_t limit)
{
    int64_t n_new = kept_room(&w->set, limit), n_keep = limit - n_new - w->n_begin, at = w->n_begin;
    if (n_keep < 1) {
        lb_row_fail(&w->lead->row, LB_ROW_TOO_LONG,
                    "%lld new tokens leave no room for the prompt in the limit of %lld tokens, however it is cut",
                    (long long)n_new, (long long)limit);
        return;
    }
    if (how == LB_OVERFLOW_CUT_MIDDLE)
        at += (n_keep + 1) / 2;
    take_out(w, at, w->n_prompt - w->n_begin - n_keep);
    w->set.max_tokens = n_new;
}

void lb_overflow_fit(struct lb_work *w, enum lb_overflow how, int64_t limit)
{
    struct lb_settings *set = &w->set;
    int64_t room = limit - w->n_prompt, least = set->max_tokens > 0 ? 1 : 0;
    least = least > set->min_tokens ? least : set->min_tokens;
    if (set->max_tokens <= room)
        return;
    if (room >= least && (!set->max_given || how == LB_OVERFLOW_SHORTEN)) {
        w->n_cut = set->max_given ? set->max_tokens - room : 0;
        set->max_tokens = room;
    } else if (how == LB_OVERFLOW_CUT_LEFT || how == LB_OVERFLOW_CUT_MIDDLE) {
        cut(w, how, limit);
    } else {
        fail(w, limit);
    }
}
