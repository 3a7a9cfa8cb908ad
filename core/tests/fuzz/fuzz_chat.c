#include "core/io/row.h"
#include "core/tests/fuzz/fuzz.h"
#include "core/text/chat.h"

/* Conversations from the row to the prompt: chat_template.jinja, a zero byte, tokenizer_config.json, a zero byte, the
 * row. Each part may be absent. */

static void render(const struct lb_chat *c, const struct lb_row *row)
{
    struct lb_jinja_ctx *ctx = NULL;
    struct lb_err err = LB_ERR_INIT, again = LB_ERR_INIT;
    struct lb_str out = {0};
    const struct lb_row_chat *r = &row->chat;
    const struct lb_chat_row chat = {.messages = r->messages,
                                     .tools = r->tools,
                                     .documents = r->documents,
                                     .kwargs = r->kwargs,
                                     .add_generation_prompt = r->add_generation_prompt,
                                     .continue_final_message = r->continue_final_message,
                                     .api = row->api != LB_API_NATIVE};
    static const struct lb_chat_turn turns[] = {{"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};
    FUZZ_REQUIRE(lb_jinja_ctx_new(&ctx, &err) == LB_OK);
    lb_jinja_ctx_limit(ctx, FUZZ_STEPS);
    if (!fuzz_ok(lb_chat_render(c, ctx, &chat, &out, &err), &err))
        FUZZ_REQUIRE(out.len == 0);
    FUZZ_REQUIRE(!out.failed && (!out.len || lb_utf8_valid_prefix(out.data, out.len) == out.len));
    lb_str_clear(&out);
    fuzz_ok(lb_chat_render_turns(c, ctx, turns, 3, true, &out, &again), &again);
    lb_str_release(&out);
    lb_jinja_ctx_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *part;
    struct lb_err err = LB_ERR_INIT;
    struct lb_chat *c = NULL;
    struct lb_row row;
    size_t n = fuzz_part(&data, &size, &part);
    fuzz_file("chat_template.jinja", n ? part : NULL, n);
    n = fuzz_part(&data, &size, &part);
    fuzz_file("tokenizer_config.json", n ? part : NULL, n);
    const struct lb_chat_spec spec = {.dir = fuzz_files(), .now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26}};
    const struct lb_row_spec rows = {.chat = true};
    FUZZ_REQUIRE(lb_row_parse(&row, &rows, 0, (const char *)data, size, &err) == LB_OK);
    if (fuzz_ok(lb_chat_open(&c, &spec, &err), &err)) {
        FUZZ_REQUIRE(lb_chat_source(c) || lb_chat_text(c).len == 0);
        lb_chat_names(c, true, "tools");
        if (row.code == LB_ROW_OK && row.form == LB_FORM_CHAT && lb_chat_source(c))
            render(c, &row);
    }
    lb_chat_free(c);
    lb_row_release(&row);
    return 0;
}
