/* Growable byte strings, UTF-8, and the number formats of the command line contract. */
#ifndef CORE_BASE_STR_H
#define CORE_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* A buffer that grows; always followed by a zero byte when data is not NULL. A failed allocation sticks in `failed`
 * and later puts do nothing, so that a caller checks once at the end. Zero-initialize; lb_str_release frees. */
struct lb_str {
    char *data;
    size_t len, cap;
    bool failed;
};

void lb_str_release(struct lb_str *s);
void lb_str_clear(struct lb_str *s); /* len 0, memory kept */
void lb_str_put(struct lb_str *s, const void *bytes, size_t n);
void lb_str_puts(struct lb_str *s, const char *text);
void lb_str_putc(struct lb_str *s, char c);
__attribute__((format(printf, 2, 3))) void lb_str_putf(struct lb_str *s, const char *fmt, ...);

/* A quoted JSON string: only quote, backslash and controls are escaped; invalid UTF-8 becomes U+FFFD. */
void lb_str_put_json(struct lb_str *s, const char *text, size_t n);

/* Shortest decimal that reads back as the same float32 ("1", "-0.25", "1e-07"); NaN and infinities print as null. */
void lb_str_put_f32(struct lb_str *s, float x);

/* Length of the longest prefix of text that is whole, valid UTF-8 (RFC 3629: no surrogates, no overlong forms). */
size_t lb_utf8_valid_prefix(const char *text, size_t n);

/* Appends text with each maximal invalid part replaced by U+FFFD, as Rust's from_utf8_lossy does. */
void lb_str_put_utf8_lossy(struct lb_str *s, const char *text, size_t n);

/* Appends one code point; surrogates and values above U+10FFFF become U+FFFD. */
void lb_str_put_codepoint(struct lb_str *s, uint32_t cp);

/* Decodes one code point of valid UTF-8 at text; *n_bytes (1..4) is its length. Invalid bytes give U+FFFD, length 1. */
uint32_t lb_utf8_decode(const char *text, size_t n, int *n_bytes);

/* "512", "8K", "1.5G" with K M G = 1024-based; false when the text is no size or does not fit. */
bool lb_parse_size(const char *text, size_t *bytes);

/* "90s", "1h30m", "2d" (d h m s, each once, in this order), or "[D-]HH:MM:SS"; false when the text is no duration. */
bool lb_parse_duration(const char *text, int64_t *seconds);

/* Levenshtein distance, capped at 99; used for "did you mean". */
int lb_edit_distance(const char *a, const char *b);

#endif
