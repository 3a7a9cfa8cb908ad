#include "core/tests/fuzz/fuzz_tok.h"

/* Tokenizers of Hugging Face folders: tokenizer.json, a zero byte, tokenizer_config.json (both may be absent). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *part;
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    size_t n = fuzz_part(&data, &size, &part);
    fuzz_file("tokenizer.json", n ? part : NULL, n);
    n = fuzz_part(&data, &size, &part);
    fuzz_file("tokenizer_config.json", n ? part : NULL, n);
    if (fuzz_ok(lb_tok_open_dir(&t, fuzz_files(), &err), &err))
        fuzz_tokenizer(t);
    lb_tok_free(t);
    return 0;
}
