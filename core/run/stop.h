/* When a row ends (spec: models.md 6.4): end tokens, stop ids, stop strings, then length. Stop strings count once there
 * are more than min_tokens new ids. */
#ifndef CORE_RUN_STOP_H
#define CORE_RUN_STOP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/model/config.h"
#include "core/run/flow.h"
#include "core/text/tok.h"

/* The text of a row while it is searched for stop strings: only its end is kept, as long as the longest stop string
 * needs. Made by the window thread, used by the forward thread. */
struct lb_stop_text {
    struct lb_detok detok;
    struct lb_str tail;
    size_t tail_at;  /* offset of the tail in the text, in bytes */
    size_t keep_max; /* bytes of the longest stop string, less one */
};

/* room: bytes of text that one id can give at most; the forward thread then allocates nothing. NULL without memory. */
struct lb_stop_text *lb_stop_text_new(const struct lb_tok *tok, const struct lb_settings *set, size_t room);
void lb_stop_text_free(struct lb_stop_text *t); /* NULL is allowed */

/* Adds an id's text and, where `search`, looks for what ends in it. Of several matches the one that ends first wins,
 * then the order of the list. Returns the stop string, *at is the offset of its first byte in the text; NULL when there
 * is none. */
const char *lb_stop_text_put(struct lb_stop_text *t, const struct lb_settings *set, int32_t id, bool search,
                             size_t *at);

/* Searches in `tail` from byte `old_len` on for matches that end after it; as above, *at is relative to tail. */
const char *lb_stop_find(const struct lb_str *tail, size_t old_len, char *const *stop, size_t n_stop, size_t *at);

/* Takes a row's newest id (w->out[w->n_out - 1]) into account. True when the row has ended: finish, ended_by_id,
 * stop_string and text_bytes are set. An end token as the last allowed id is "stop". */
bool lb_stop_check(struct lb_work *w, const struct lb_config *config);

#endif
