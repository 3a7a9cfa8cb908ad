/* The CPU backend's step of wanted tokens. Behind the last layer's K and V only these matter: of a prompt its last
 * token, of a row with a draft all of it. They are a step like any other whose other tokens stand in the cache, so that
 * all ops that follow take it without knowing. Tokens of a sequence that do not lie side by side become several
 * sequences over the same pages. */
#include <string.h>

#include "core/backend/backend_cpu.h"

enum lb_status lb_cpu_wanted_reserve(struct lb_cpu *c, struct lb_err *err)
{
    static const char *what = "wanted tokens";
    struct lb_step *w = &c->wanted;
    const size_t n = (size_t)c->max_out;
    if ((w->pos = lb_cpu_take(c, n, sizeof *w->pos, what, err)) == NULL ||
        (w->tok_page = lb_cpu_take(c, n, sizeof *w->tok_page, what, err)) == NULL ||
        (w->out_tok = lb_cpu_take(c, n, sizeof *w->out_tok, what, err)) == NULL ||
        (w->seq_start = lb_cpu_take(c, n + 1, sizeof *w->seq_start, what, err)) == NULL ||
        (w->page_start = lb_cpu_take(c, n + 1, sizeof *w->page_start, what, err)) == NULL ||
        (w->adapter = lb_cpu_take(c, n, sizeof *w->adapter, what, err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

/* What of the step later ops read: neither ids nor what is done at its beginning. */
static void narrow(struct lb_step *w, const struct lb_step *s)
{
    int32_t is = 0, n_seq = 0;
    for (int32_t j = 0; j < s->n_out; j++) {
        const int32_t t = s->out_tok[j];
        while (t >= s->seq_start[is + 1])
            is++;
        if (j == 0 || t == s->seq_start[is] || s->out_tok[j - 1] != t - 1) {
            w->seq_start[n_seq] = j;
            w->page_start[n_seq] = s->page_start[is];
            w->adapter[n_seq++] = s->adapter[is];
        }
        w->pos[j] = s->pos[t];
        w->tok_page[j] = s->tok_page[t];
        w->out_tok[j] = j;
    }
    w->seq_start[n_seq] = s->n_out;
    w->page_start[n_seq] = s->n_page;
    w->number = s->number;
    w->n_tok = w->n_out = s->n_out;
    w->n_seq = n_seq;
    w->n_page = s->n_page;
    w->n_later = s->n_later;
    w->page = s->page;
    w->out_flags = s->out_flags;
    w->draw = s->draw;
}

/* Rows of wanted tokens, in their order: out_tok ascends, so that no row is overwritten that is still to be read. */
static void keep_rows(const struct lb_step *s, float *x, int64_t width)
{
    for (int32_t j = 0; j < s->n_out; j++)
        if (s->out_tok[j] != j)
            memcpy(x + j * width, x + s->out_tok[j] * width, (size_t)width * sizeof *x);
}

void lb_cpu_keep_wanted(struct lb_backend *be, struct lb_buf *x, const struct lb_attend_args *before)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    const double begin = lb_cpu_now();
    const struct lb_step *s = c->step;
    if (before) {
        lb_cpu_rope_kv(c, before);
        keep_rows(s, before->qkv->data, before->qkv->width);
        keep_rows(s, c->cos, c->n_rot / 2);
        keep_rows(s, c->sin, c->n_rot / 2);
    }
    keep_rows(s, x->data, x->width);
    narrow(&c->wanted, s);
    c->step = &c->wanted;
    c->soon_tune = NULL; /* attention has less to do than in other layers */
    if (before)
        lb_cpu_make_items(c, before->n_head);
    lb_cpu_lora_begin(c, c->step, &c->err);
    c->base.counts.attend_s += lb_cpu_now() - begin;
}
