/* Patterns of pre-tokenizers that are matched by hand (models.md 3.5). */
#ifndef CORE_TEXT_TOK_MATCH_H
#define CORE_TEXT_TOK_MATCH_H

#include <stddef.h>

enum lb_match_kind { LB_MATCH_PCRE2, LB_MATCH_LLAMA3, LB_MATCH_QWEN2, LB_MATCH_QWEN35, LB_MATCH_GPT2, LB_MATCH_NUMBER };

/* How a pattern, as a file writes it, can be matched by hand. */
enum lb_match_kind lb_match_find(const char *pattern);

/* End of the piece that begins at `at` < n; the text is valid UTF-8. For LB_MATCH_NUMBER pieces are matches and the
 * gaps between them, for the others all are matches. */
size_t lb_match_next(enum lb_match_kind kind, const char *text, size_t n, size_t at);

extern const char lb_pattern_llama3[], lb_pattern_qwen2[], lb_pattern_qwen35[], lb_pattern_gpt2[];

#endif
