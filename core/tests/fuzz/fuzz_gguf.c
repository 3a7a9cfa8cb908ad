#include "core/io/gguf.h"
#include "core/tests/fuzz/fuzz_tok.h"

/* A GGUF file: metadata, tensors, and the tokenizer of its vocabulary. */

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
    }
    lb_tok_free(t);
    lb_gguf_close(&g);
    return 0;
}
