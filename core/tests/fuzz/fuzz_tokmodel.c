#include "core/tests/fuzz/fuzz_tok.h"

/* tokenizer.model, SentencePiece's or tiktoken's: tokenizer_config.json (may be absent), a zero byte, the file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *part;
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    size_t n = fuzz_part(&data, &size, &part);
    fuzz_file("tokenizer_config.json", n ? part : NULL, n);
    fuzz_file("tokenizer.model", size ? data : NULL, size);
    if (fuzz_ok(lb_tok_open_dir(&t, fuzz_files(), &err), &err))
        fuzz_tokenizer(t);
    lb_tok_free(t);
    return 0;
}
