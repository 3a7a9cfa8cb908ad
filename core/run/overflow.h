/* What becomes of a row whose prompt and new tokens exceed the limit of the model or of --max-model-len (--overflow).
 */
#ifndef CORE_RUN_OVERFLOW_H
#define CORE_RUN_OVERFLOW_H

#include <stdint.h>

enum lb_overflow { LB_OVERFLOW_ERROR, LB_OVERFLOW_CUT_LEFT, LB_OVERFLOW_CUT_MIDDLE, LB_OVERFLOW_SHORTEN };

const char *lb_overflow_name(enum lb_overflow how); /* "error", "cut-left", ... */

struct lb_work;

/* Makes a sequence of a tokenized row fit: its max_tokens, where nobody set it or it is to be shortened, or its prompt.
 * What cannot be made to fit fails the row with LB_ROW_TOO_LONG.
 *
 * A cut leaves the tokens that begin a text (w->n_begin) where they are. cut-left takes what follows them; cut-middle
 * keeps as many tokens behind them as at the end, the odd one in front. Where nobody set max_tokens, a prompt that has
 * to be cut leaves room for LB_DEFAULT_MAX_TOKENS new tokens, or half of the limit. w->n_cut says how many tokens went;
 * a position from which the prompt is scored moves with the tokens behind the cut. */
void lb_overflow_fit(struct lb_work *w, enum lb_overflow how, int64_t limit);

#endif
