#include "core/run/stop.h"

#include <string.h>

#include "core/base/mem.h"

struct lb_stop_text *lb_stop_text_new(const struct lb_tok *tok, const struct lb_settings *set, size_t room)
{
    struct lb_stop_text *t = lb_mem_new(1, sizeof *t);
    if (!t)
        return NULL;
    size_t longest = 1;
    for (size_t i = 0; i < set->n_stop; i++) {
        size_t n = strlen(set->stop[i]);
        longest = n > longest ? n : longest;
    }
    t->keep_max = longest - 1;
    t->detok.tok = tok;
    t->detok.skip_special = set->skip_special;
    /* Memory is taken once here: a put that is cleared leaves its capacity. */
    static const char zeros[64];
    for (size_t n = 0; n < room; n += sizeof zeros)
        lb_str_put(&t->detok.held, zeros, sizeof zeros);
    for (size_t n = 0; n < t->keep_max + room; n += sizeof zeros)
        lb_str_put(&t->tail, zeros, sizeof zeros);
    if (t->detok.held.failed || t->tail.failed) {
        lb_stop_text_free(t);
        return NULL;
    }
    lb_str_clear(&t->detok.held);
    lb_str_clear(&t->tail);
    return t;
}

void lb_stop_text_free(struct lb_stop_text *t)
{
    if (!t)
        return;
    lb_detok_release(&t->detok);
    lb_str_release(&t->tail);
    lb_mem_free(t);
}

const char *lb_stop_find(const struct lb_str *tail, size_t old_len, char *const *stop, size_t n_stop, size_t *at)
{
    const char *found = NULL;
    size_t found_end = 0;
    for (size_t i = 0; i < n_stop; i++) {
        size_t n = strlen(stop[i]);
        size_t end = n > old_len + 1 ? n : old_len + 1;
        if (n == 0)
            continue;
        for (; end <= tail->len && (!found || end < found_end); end++) {
            if (memcmp(tail->data + end - n, stop[i], n) == 0) {
                found = stop[i];
                found_end = end;
                *at = end - n;
                break;
            }
        }
    }
    return found;
}

const char *lb_stop_text_put(struct lb_stop_text *t, const struct lb_settings *set, int32_t id, bool search, size_t *at)
{
    size_t old_len = t->tail.len;
    lb_detok_put(&t->detok, id, &t->tail);
    if (t->tail.len == old_len)
        return NULL;
    const char *found = search ? lb_stop_find(&t->tail, old_len, set->stop, set->n_stop, at) : NULL;
    if (found) {
        *at += t->tail_at;
        return found;
    }
    if (t->tail.len > t->keep_max) {
        size_t drop = t->tail.len - t->keep_max;
        memmove(t->tail.data, t->tail.data + drop, t->keep_max);
        t->tail.len = t->keep_max;
        t->tail_at += drop;
    }
    return NULL;
}

static bool is_end(const struct lb_work *w, const struct lb_config *config, int32_t id)
{
    if (!w->set.ignore_eos)
        for (int i = 0; i < config->n_eos; i++)
            if (config->eos[i].id == id)
                return true;
    for (size_t i = 0; i < w->set.n_stop_ids; i++)
        if (w->set.stop_ids[i] == id)
            return true;
    return false;
}

bool lb_stop_check(struct lb_work *w, const struct lb_config *config)
{
    int32_t id = w->out[w->n_out - 1];
    if (is_end(w, config, id)) {
        w->finish = LB_FINISH_STOP;
        w->ended_by_id = true;
        return true;
    }
    if (w->stop_at) {
        bool search = w->n_out > w->set.min_tokens;
        w->stop_string = lb_stop_text_put(w->stop_at, &w->set, id, search, &w->text_bytes);
        if (w->stop_string) {
            w->text_bytes += w->set.include_stop ? strlen(w->stop_string) : 0;
            w->finish = LB_FINISH_STOP;
            return true;
        }
    }
    w->finish = LB_FINISH_LENGTH;
    return w->n_out >= w->set.max_tokens;
}
