#include <jansson.h>

#include "core/base/str.h"
#include "core/io/row_scan.h"
#include "core/tests/fuzz/fuzz.h"

/* Input rows: a line as --input has it. */

static void note_close(void *ctx, int64_t index, const char *member, const char *known)
{
    (void)ctx;
    FUZZ_REQUIRE(index == 7 && *known && strcmp(member, known) != 0);
}

static bool is_json(const char *text)
{
    json_t *v = text ? json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL) : NULL;
    json_decref(v);
    return v;
}

static void check_gen(const struct lb_gen *g)
{
    char message[256];
    struct lb_gen copy = {0};
    struct lb_err err = LB_ERR_INIT;
    /* min_tokens above max_tokens is found once the command line's are known */
    static const uint32_t each[] = {LB_GEN_MIN_TOKENS, LB_GEN_MAX_TOKENS};
    for (int i = 0; i < 2; i++) {
        struct lb_gen part = *g;
        part.set &= ~each[i];
        FUZZ_REQUIRE(lb_gen_check(&part, message, sizeof message) == LB_ROW_OK);
    }
    FUZZ_REQUIRE(lb_gen_merge(&copy, g, &err) == LB_OK && copy.set == g->set);
    FUZZ_REQUIRE(g->n_stop <= LB_MAX_STOP);
    for (size_t i = 0; i < g->n_stop; i++)
        FUZZ_REQUIRE(*copy.stop[i] && strcmp(copy.stop[i], g->stop[i]) == 0);
    lb_gen_release(&copy);
}

static void check_row(const struct lb_row *row, const struct lb_row_spec *spec)
{
    FUZZ_REQUIRE(row->index == 7 && row->code < LB_N_ROW_CODE && is_json(row->id_json));
    FUZZ_REQUIRE(!row->kept_json || is_json(row->kept_json));
    if (row->code != LB_ROW_OK) {
        FUZZ_REQUIRE(row->message && *row->message && !row->text && !row->ids && !row->chat.messages);
        return;
    }
    FUZZ_REQUIRE(!row->message);
    FUZZ_REQUIRE(row->form != LB_FORM_TEXT || lb_utf8_valid_prefix(row->text, row->n_text) == row->n_text);
    FUZZ_REQUIRE(row->form != LB_FORM_IDS || row->n_ids > 0);
    FUZZ_REQUIRE(row->form != LB_FORM_CHAT || json_array_size(row->chat.messages) > 0);
    FUZZ_REQUIRE(!spec->keep_all || row->kept_json);
    check_gen(&row->gen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char *keep[] = {"id", "prompt", "messages", "temperature"};
    const struct lb_row_spec specs[] = {
        {.keep_all = true, .close_name = note_close},
        {.input_key = "question", .keep = keep, .n_keep = sizeof keep / sizeof *keep},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct lb_row row;
        struct lb_err err = LB_ERR_INIT;
        FUZZ_REQUIRE(lb_row_parse(&row, &specs[i], 7, (const char *)data, size, &err) == LB_OK);
        check_row(&row, &specs[i]);
        struct lb_row_look look;
        lb_row_scan(&look, &specs[i], (const char *)data, size);
        FUZZ_REQUIRE(look.n <= size && look.has_id >= look.plain_id);
        lb_row_release(&row);
    }
    return 0;
}
