#include "core/io/gguf.h"
#include "core/tests/fuzz/fuzz_model.h"
#include "core/tests/fuzz/fuzz_tok.h"
#include "core/text/chat.h"

/* A GGUF file: metadata, tensors, the tokenizer of its vocabulary and its chat template; the model's configuration,
 * plan and weights. */

static void check_metadata(const struct lb_gguf *g)
{
    char key[256];
    for (size_t i = 0; i < g->n_kv; i++) {
        const struct lb_gguf_kv *kv = &g->kv[i];
        int64_t whole;
        double number;
        struct lb_bytes text;
        if (kv->key.len >= sizeof key || memchr(kv->key.data, 0, kv->key.len))
            continue;
        memcpy(key, kv->key.data, kv->key.len);
        key[kv->key.len] = 0;
        FUZZ_REQUIRE(lb_gguf_find(g, key));
        bool is_number = lb_gguf_f64(g, key, &number), is_text = lb_gguf_str(g, key, &text);
        FUZZ_REQUIRE(!lb_gguf_i64(g, key, &whole) || is_number);
        FUZZ_REQUIRE(!(is_number && is_text));
    }
}

static void check_chat(const struct lb_gguf *g, const struct lb_tok *t)
{
    static const struct lb_chat_turn turns[] = {{"system", "Be brief."}, {"user", "Hi"}};
    const struct lb_chat_spec spec = {.v = &g->vocab, .tok = t};
    struct lb_err err = LB_ERR_INIT;
    struct lb_chat *c = NULL;
    struct lb_jinja_ctx *ctx = NULL;
    struct lb_str out = {0};
    if (fuzz_ok(lb_chat_open(&c, &spec, &err), &err) && lb_chat_source(c)) {
        FUZZ_REQUIRE(lb_jinja_ctx_new(&ctx, &err) == LB_OK);
        lb_jinja_ctx_limit(ctx, FUZZ_STEPS);
        fuzz_ok(lb_chat_render_turns(c, ctx, turns, 2, true, &out, &err), &err);
        lb_jinja_ctx_free(ctx);
    }
    lb_str_release(&out);
    lb_chat_free(c);
}

static void check_model(const struct lb_gguf *g)
{
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    const struct lb_log log = {0};
    if (fuzz_ok(lb_config_read_gguf(&c, g, &log, &err), &err)) {
        fuzz_config_check(&c);
        fuzz_weights(&c, &g->w);
    }
    lb_config_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lb_gguf g = {0};
    struct lb_tok *t = NULL;
    struct lb_err err = LB_ERR_INIT;
    fuzz_file("model.gguf", data, size);
    fuzz_files();
    if (fuzz_ok(lb_gguf_open(&g, fuzz_path("model.gguf"), &err), &err)) {
        check_metadata(&g);
        if (fuzz_ok(lb_tok_open_vocab(&t, &g.vocab, &err), &err))
            fuzz_tokenizer(t);
        if (t)
            check_chat(&g, t);
        check_model(&g);
    }
    lb_tok_free(t);
    lb_gguf_close(&g);
    return 0;
}
