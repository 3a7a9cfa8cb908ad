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
 * LB_ROW_UNSUPPORTED (message filled) when the value (not null) would change the result, else LB_ROW_OK. request: of
 * the body of an OpenAI request, which has more of them; in a row such names are the user's own. */
enum lb_row_code lb_member_check(const char *name, const json_t *v, bool request, bool *known, char *message);

/* The known name that an unknown member was likely meant to be, or NULL. */
const char *lb_member_close(const char *name);

/* A member's value, NULL when it is absent or null. */
const json_t *lb_json_member(const json_t *object, const char *name);

/* ---- parts of a row; each fails the row where its value is no good, and returns a status for memory alone ---- */

/* Names the parameter at fault, in rows that are written with it. */
void lb_row_blame(struct lb_row *row, const char *param);

/* Id and key of the random numbers: of a value called `name`, or the row's number (json: what is written as id; NULL:
 * the number). */
enum lb_status lb_row_read_id(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err);
enum lb_status lb_row_number_id(struct lb_row *row, const char *json, struct lb_err *err);

/* The row's prompt from a value called `name`; row->form is left as it is. */
enum lb_status lb_row_read_text(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err);
enum lb_status lb_row_read_ids(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err);

/* Settings of `object` (the row, or the body of a request) and members that are refused; speaks of names that are
 * nearly known. row->form and row->api are known. `key` holds the prompt. */
enum lb_status lb_row_read_settings(struct lb_row *row, const struct lb_row_spec *spec, const json_t *object,
                                    const char *key, struct lb_err *err);

/* A conversation: `messages` (called `name`; a text under the prompt's name becomes one user message) and what object
 * says of it. */
enum lb_status lb_row_read_chat(struct lb_row *row, const struct lb_row_spec *spec, const json_t *object,
                                const char *name, const json_t *messages, struct lb_err *err);

/* Whether lb_row_read_chat reads this member. */
bool lb_row_chat_member(const char *name);

/* Whether a value is a list of messages, not of anything else. */
bool lb_row_is_conversation(const json_t *v);

/* A request of the OpenAI batch format; with --format openai also what is none. */
enum lb_status lb_row_read_request(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                   struct lb_err *err);

/* Tool calls of a chat request as templates want them; changes the parsed line. */
void lb_row_open_calls(struct lb_row *row);

#endif
