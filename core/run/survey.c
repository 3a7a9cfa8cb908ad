#include "core/run/survey.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

#define WIDTH 80
#define INDENT 12     /* of what stands behind a heading */
#define MAX_TEXT 1500 /* bytes of the first row's text that are shown */
#define MAX_IDS 60    /* and ids */
#define BAR 44

void lb_survey_release(struct lb_survey *s)
{
    for (int i = 0; i < LB_N_ROW_CODE; i++)
        lb_mem_free(s->failed[i].message);
    lb_mem_free(s->first_id);
    lb_mem_free(s->first_text);
    lb_mem_free(s->first_ids);
    lb_sim_release(&s->lengths);
    *s = (struct lb_survey){0};
}

static int bucket_of(int64_t n)
{
    int b = 0;
    while (n > 1 && b < LB_SURVEY_BUCKETS - 1) {
        n >>= 1;
        b++;
    }
    return b;
}

/* Moves *from to *to, which is empty. */
static void take(char **to, char **from)
{
    *to = *from;
    *from = NULL;
}

enum lb_status lb_survey_row(struct lb_survey *s, struct lb_work *w, struct lb_err *err)
{
    struct lb_row *row = &w->row;
    if (row->code != LB_ROW_OK) {
        if (!s->failed[row->code].message) {
            s->failed[row->code].index = row->index;
            take(&s->failed[row->code].message, &row->message);
        }
        return LB_OK;
    }
    if (s->n_ok++ == 0) {
        s->first = row->index;
        s->shortest = INT64_MAX;
        take(&s->first_id, &row->id_json);
        take(&s->first_text, &w->echo);
        s->n_first_text = w->n_echo;
        s->first_ids = w->prompt;
        s->n_first_ids = w->n_prompt;
        w->prompt = NULL;
    }
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        int64_t n = p->n_prompt;
        s->shortest = n < s->shortest ? n : s->shortest;
        s->longest = n > s->longest ? n : s->longest;
        s->tokens += n;
        s->new_tokens += p->set.max_tokens * p->n_copy;
        s->n_prompt++;
        s->bucket[bucket_of(n)]++;
        /* greedy samples of a prompt are the same, and run once */
        for (int32_t k = 0; k < (p->set.sampling.greedy ? 1 : p->n_copy); k++)
            LB_TRY(lb_sim_add(&s->lengths, p->prompt, n, p->set.max_tokens, err));
    }
    return LB_OK;
}

/* ---- the text ---- */

static void heading(struct lb_str *out, const char *name)
{
    lb_str_putf(out, "%-*s", INDENT, name);
}

/* Columns that a character takes on a terminal: East Asian ones and pictures take two. */
static size_t width_of(uint32_t c)
{
    static const uint32_t wide[][2] = {{0x1100, 0x115F}, {0x2E80, 0xA4CF}, {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},
                                       {0xFE30, 0xFE6F}, {0xFF00, 0xFF60}, {0x1F300, 0x1FAFF}, {0x20000, 0x3FFFD}};
    for (size_t i = 0; c >= 0x1100 && i < sizeof wide / sizeof *wide; i++)
        if (c >= wide[i][0] && c <= wide[i][1])
            return 2;
    return 1;
}

static size_t columns(const char *text, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n;) {
        int bytes = 1;
        sum += width_of(lb_utf8_decode(text + i, n - i, &bytes));
        i += (size_t)bytes;
    }
    return sum;
}

/* Words of text from column *at on; new lines are indented by `indent`. */
static void put_words(struct lb_str *out, size_t *at, size_t indent, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, " "), wide = columns(text, n);
        if (*at > indent && *at + 1 + wide > WIDTH) {
            lb_str_putf(out, "\n%*s", (int)indent, "");
            *at = indent;
        } else if (*at > indent) {
            lb_str_putc(out, ' ');
            (*at)++;
        }
        lb_str_put(out, text, n);
        *at += wide;
        text += n + strspn(text + n, " ");
    }
}

static void put_model(struct lb_str *out, const struct lb_survey_view *v)
{
    heading(out, "model");
    lb_str_putf(out, "%s\n", v->model);
    if (v->config) {
        const struct lb_config *c = v->config;
        lb_str_putf(out, "%*s%s, %lld layers, width %lld, vocabulary %lld\n", INDENT, "", c->architecture,
                    (long long)c->n_layer, (long long)c->dim, (long long)c->n_vocab);
        heading(out, "end tokens");
        size_t at = INDENT;
        for (int i = 0; i < c->n_eos; i++) {
            struct lb_str one = {0};
            lb_prompt_put_ids(v->tok, &c->eos[i].id, 1, &one);
            lb_str_putf(&one, " %d (%s)%s", c->eos[i].id, c->eos[i].origin, i + 1 < c->n_eos ? "," : "");
            put_words(out, &at, INDENT, one.data ? one.data : "");
            lb_str_release(&one);
        }
        lb_str_puts(out, c->n_eos ? "\n" : "none\n");
    }
    heading(out, "tokenizer");
    if (lb_tok_missing(v->tok)) {
        lb_str_putf(out, "%s: not built in\n", lb_tok_missing(v->tok));
    } else {
        const struct lb_ids *prefix = lb_tok_prefix(v->tok);
        lb_str_putf(out, "%lld tokens; before a raw prompt: ", (long long)lb_tok_size(v->tok));
        lb_prompt_put_ids(v->tok, prefix->id, prefix->n, out);
        lb_str_puts(out, prefix->n ? "\n" : "nothing\n");
    }
    heading(out, "template");
    const char *source = v->chat ? lb_chat_source(v->chat) : NULL;
    lb_str_putf(out, "%s\n", source ? source : "none");
    if (v->stats->n_setting) {
        size_t at = INDENT;
        heading(out, "sampling");
        for (int i = 0; i < v->stats->n_setting; i++) {
            const struct lb_setting *set = &v->stats->setting[i];
            struct lb_str one = {0};
            lb_str_putf(&one, "%s %s (%s)%s", set->name, set->value, set->origin,
                        i + 1 < v->stats->n_setting ? "," : "");
            put_words(out, &at, INDENT, one.data ? one.data : "");
            lb_str_release(&one);
        }
        lb_str_putc(out, '\n');
    }
}

static void put_rows(struct lb_str *out, const struct lb_survey *s, const struct lb_survey_view *v)
{
    heading(out, "rows");
    lb_str_putf(out, "%lld: %lld would run, %lld fail\n", (long long)v->stats->rows, (long long)s->n_ok,
                (long long)v->stats->error);
    for (int code = LB_ROW_OK + 1; code < LB_N_ROW_CODE; code++) {
        const char *message = s->failed[code].message;
        if (!v->stats->by_code[code])
            continue;
        struct lb_str one = {0};
        size_t at = INDENT;
        lb_str_putf(&one, "%s %lld, first row %lld: %s", lb_row_code_name((enum lb_row_code)code),
                    (long long)v->stats->by_code[code], (long long)s->failed[code].index, message ? message : "");
        for (char *c = one.data; c && *c; c++)
            *c = (unsigned char)*c < ' ' ? ' ' : *c;
        lb_str_putf(out, "%*s", INDENT, "");
        put_words(out, &at, INDENT + 2, one.data ? one.data : "");
        lb_str_putc(out, '\n');
        lb_str_release(&one);
    }
    if (s->n_ok == 0)
        return;
    heading(out, "tokens");
    lb_str_putf(out, "%lld of prompts (%lld to %lld each, mean %.1f), at most %lld new\n", (long long)s->tokens,
                (long long)s->shortest, (long long)s->longest, (double)s->tokens / (double)s->n_prompt,
                (long long)s->new_tokens);
    if (v->max_model_len)
        lb_str_putf(out, "%*slimit of a row: %lld, prompt and new tokens together\n", INDENT, "",
                    (long long)v->max_model_len);
}

static void put_histogram(struct lb_str *out, const struct lb_survey *s)
{
    int64_t most = 0;
    int from = bucket_of(s->shortest), to = bucket_of(s->longest);
    if (s->n_ok == 0)
        return;
    for (int b = from; b <= to; b++)
        most = s->bucket[b] > most ? s->bucket[b] : most;
    lb_str_puts(out, "\n  prompt tokens     prompts\n");
    for (int b = from; b <= to; b++) {
        long long lo = 1LL << b, hi = (2LL << b) - 1;
        char range[48];
        snprintf(range, sizeof range, lo == hi ? "%lld" : "%lld - %lld", lo, hi);
        int bar = (int)((double)s->bucket[b] / (double)most * BAR + 0.5);
        bar = bar == 0 && s->bucket[b] ? 1 : bar;
        lb_str_putf(out, "%15s %11lld", range, (long long)s->bucket[b]);
        lb_str_puts(out, bar ? "  " : "");
        while (bar-- > 0)
            lb_str_putc(out, '#');
        lb_str_putc(out, '\n');
    }
}

/* The text as lines behind a bar, long ones broken; controls are shown as a JSON string shows them. */
static void put_text(struct lb_str *out, const char *text, size_t n)
{
    size_t shown = n > MAX_TEXT ? lb_utf8_valid_prefix(text, MAX_TEXT) : n, at = 0;
    lb_str_puts(out, "  | ");
    for (size_t i = 0; i < shown;) {
        int bytes = 1;
        char small[8];
        unsigned char c = (unsigned char)text[i];
        size_t wide = width_of(lb_utf8_decode(text + i, shown - i, &bytes));
        if (c == '\n' || at + wide > WIDTH - 6) {
            lb_str_puts(out, "\n  | ");
            at = 0;
        }
        if (c == '\n') {
            i++;
            continue;
        }
        if (c < ' ' || c == 0x7F) {
            snprintf(small, sizeof small, c == '\t' ? "\\t" : "\\x%02x", c);
            lb_str_puts(out, small);
            at += strlen(small);
        } else {
            lb_str_put(out, text + i, (size_t)bytes);
            at += wide;
        }
        i += (size_t)bytes;
    }
    lb_str_putc(out, '\n');
    if (shown < n)
        lb_str_putf(out, "    ... %zu bytes more\n", n - shown);
}

/* What is written for an id, quoted; bytes that are no whole characters as <E4><BD>. */
static void put_piece(struct lb_str *out, const struct lb_tok *tok, int32_t id)
{
    struct lb_bytes t = lb_tok_token_text(tok, id);
    if (lb_utf8_valid_prefix(t.data, t.len) == t.len) {
        lb_str_put_json(out, t.data, t.len);
        return;
    }
    for (size_t i = 0; i < t.len; i++)
        lb_str_putf(out, "<%02X>", (unsigned char)t.data[i]);
}

static void put_first(struct lb_str *out, const struct lb_survey *s, const struct lb_survey_view *v)
{
    size_t at = 2;
    if (s->n_ok == 0)
        return;
    lb_str_putf(out, "\nfirst row   %lld, id %s, %lld tokens", (long long)s->first, s->first_id ? s->first_id : "null",
                (long long)s->n_first_ids);
    lb_str_puts(out, s->first_text ? "; its text:\n" : "\n");
    if (s->first_text)
        put_text(out, s->first_text, s->n_first_text);
    lb_str_puts(out, "  ");
    for (int64_t i = 0; i < s->n_first_ids && i < MAX_IDS; i++) {
        struct lb_str one = {0};
        lb_str_putf(&one, "%d", s->first_ids[i]);
        if (!lb_tok_missing(v->tok)) {
            lb_str_putc(&one, ' ');
            put_piece(&one, v->tok, s->first_ids[i]);
        }
        size_t wide = columns(one.data ? one.data : "", one.len);
        if (at > 2 && at + 2 + wide > WIDTH) {
            lb_str_puts(out, "\n  ");
            at = 2;
        } else if (at > 2) {
            lb_str_puts(out, "  ");
            at += 2;
        }
        lb_str_put(out, one.data, one.len);
        at += wide;
        lb_str_release(&one);
    }
    lb_str_putc(out, '\n');
    if (s->n_first_ids > MAX_IDS)
        lb_str_putf(out, "  ... %lld tokens more\n", (long long)s->n_first_ids - MAX_IDS);
}

static void put_findings(struct lb_str *out, const struct lb_audit *a)
{
    if (!a || a->mode == LB_AUDIT_OFF)
        return;
    int n = 0;
    for (int i = 0; i < a->n; i++)
        n += lb_audit_said(a, &a->item[i]);
    lb_str_puts(out, n ? "\naudit\n" : "\naudit       nothing found\n");
    for (int i = 0; i < a->n; i++) {
        const struct lb_finding *f = &a->item[i];
        if (!lb_audit_said(a, f))
            continue;
        struct lb_str head = {0};
        size_t at = 0;
        lb_str_putf(&head, "%s %s", lb_severity_name(f->severity), f->code);
        if (f->count)
            lb_str_putf(&head, " (rows: %lld)", (long long)f->count);
        lb_str_puts(out, "  ");
        lb_str_put(out, head.data, head.len);
        lb_str_puts(out, "\n    ");
        at = 4;
        put_words(out, &at, 4, f->message);
        lb_str_putc(out, '\n');
        lb_str_release(&head);
    }
}

void lb_survey_put(const struct lb_survey *s, const struct lb_survey_view *v, struct lb_str *out)
{
    put_model(out, v);
    put_rows(out, s, v);
    put_histogram(out, s);
    if (v->outlook && v->outlook->len) {
        lb_str_putc(out, '\n');
        lb_str_put(out, v->outlook->data, v->outlook->len);
    }
    put_first(out, s, v);
    put_findings(out, v->audit);
}
