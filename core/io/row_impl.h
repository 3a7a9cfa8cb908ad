/* What the files of the row reader share: JSON helpers, settings, and the members that are known by name. */
#ifndef CORE_IO_ROW_IMPL_H
#define CORE_IO_ROW_IMPL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/str.h"
#include "core/io/row.h"

#define LB_ROW_MESSAGE_BYTES 512

/* An integer, or a real without a fraction (8.0), within 64 bits. */
bool lb_json_int(const json_t *v, int64_t *out);

/* Appends a value as compact JSON, members in their order, reals as shortest decimals. Depth is the parser's limit. */
void lb_json_put(struct lb_str *out, const json_t *v);

/* A value as a message names it: scalars as JSON, shortened to fit, containers by their kind. */
void lb_json_show(char *buf, size_t n, const json_t *v);

/* Parses a line; integers beyond 64 bits become reals. NULL: not JSON, *why and its byte say what is wrong, or *memory
 * is set. The caller owns the result. */
json_t *lb_json_load(const char *line, size_t n, json_error_t *why, bool *memory);

/* Sets the setting `name` from a value that is not null. *known false: no setting has this name. LB_ROW_BAD_PARAM,
 * LB_ROW_UNSUPPORTED (message filled) or LB_ROW_NO_MEMORY (the run is out of memory). */
enum lb_row_code lb_gen_read(struct lb_gen *g, const char *name, const json_t *v, bool *known, char *message);

/* Name of the i-th setting of a row, aliases included; NULL behind the last. */
const char *lb_gen_name(size_t i);

/* Members that other engines know and this version does not have: *known tells whether `name` is one. The answer is
 * LB_ROW_UNSUPPORTED (message filled) when the value (not null) would change the result, else LB_ROW_OK. */
enum lb_row_code lb_member_check(const char *name, const json_t *v, bool *known, char *message);

/* The known name that an unknown member was likely meant to be, or NULL. */
const char *lb_member_close(const char *name);

#endif
