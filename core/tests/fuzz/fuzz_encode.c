#include "core/tests/fuzz/fuzz_tok.h"

/* Encoding of any text with the tokenizer of testdata/tiny-llama, which loses nothing: the ids decode to the text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct lb_tok *t;
    static struct lb_tok_ctx *c;
    struct lb_err err = LB_ERR_INIT;
    if (!t) {
        FUZZ_REQUIRE(lb_tok_open_dir(&t, LB_SOURCE_DIR "/testdata/tiny-llama", &err) == LB_OK);
        FUZZ_REQUIRE(lb_tok_ctx_new(&c, t, &err) == LB_OK);
    }
    struct lb_str text = {0}, back = {0};
    struct lb_ids ids = {0};
    lb_str_put_utf8_lossy(&text, (const char *)data, size);
    const char *chars = text.data ? text.data : "";
    fuzz_encode(t, c, chars, text.len);
    FUZZ_REQUIRE(lb_tok_encode(t, c, chars, text.len, LB_TOK_PLAIN, &ids, NULL, &err) == LB_OK);
    fuzz_decode(t, ids.id, ids.n, false, &back);
    FUZZ_REQUIRE(back.len == text.len && (text.len == 0 || memcmp(back.data, text.data, text.len) == 0));
    lb_ids_release(&ids);
    lb_str_release(&back);
    lb_str_release(&text);
    return 0;
}
