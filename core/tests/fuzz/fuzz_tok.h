/* What a tokenizer must keep to whatever file it came from. */
#ifndef CORE_TESTS_FUZZ_FUZZ_TOK_H
#define CORE_TESTS_FUZZ_FUZZ_TOK_H

#include "core/tests/fuzz/fuzz.h"
#include "core/text/tok.h"

/* Appends the text of ids, fed one by one. */
static inline void fuzz_decode(const struct lb_tok *t, const int32_t *id, size_t n, bool skip_special,
                               struct lb_str *out)
{
    struct lb_detok d = {.tok = t, .skip_special = skip_special};
    for (size_t i = 0; i < n; i++)
        lb_detok_put(&d, id[i], out);
    lb_detok_flush(&d, out);
    lb_detok_release(&d);
    FUZZ_REQUIRE(!out->failed);
    FUZZ_REQUIRE(out->len == 0 || lb_utf8_valid_prefix(out->data, out->len) == out->len);
}

/* Encodes a text (valid UTF-8) in every way and decodes it: ids are of the vocabulary, and the added ones stand around
 * those of the text. */
static inline void fuzz_encode(const struct lb_tok *t, struct lb_tok_ctx *c, const char *text, size_t n)
{
    struct lb_ids ids[3] = {{0}};
    for (int add = LB_TOK_PLAIN; add <= LB_TOK_BOS; add++) {
        struct lb_err err = LB_ERR_INIT;
        bool doubled = false;
        if (!fuzz_ok(lb_tok_encode(t, c, text, n, (enum lb_tok_add)add, &ids[add], &doubled, &err), &err))
            continue;
        for (size_t i = 0; i < ids[add].n; i++)
            FUZZ_REQUIRE(ids[add].id[i] >= 0 && ids[add].id[i] < lb_tok_size(t));
        FUZZ_REQUIRE(!doubled || add == LB_TOK_AUTO);
        for (int skip = 0; skip < 2; skip++) {
            struct lb_str out = {0};
            fuzz_decode(t, ids[add].id, ids[add].n, skip, &out);
            lb_str_release(&out);
        }
    }
    for (int i = 0; i < 3; i++)
        lb_ids_release(&ids[i]);
}

/* Everything that a tokenizer just opened is asked. */
static inline void fuzz_tokenizer(const struct lb_tok *t)
{
    static const char *const texts[] = {"", "Hello, world! It's 12345 o'clock\n\n  and   more\t ",
                                        " a\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80",
                                        "<s><|begin_of_text|>[INST] x </s>",
                                        "\xE2\x96\x81 \xE2\x96\x81\xEF\xAC\x81\xC2\xA0\xE2\x84\xAB"};
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = NULL;
    struct lb_str out = {0};
    int64_t more[4];
    int64_t n = lb_tok_size(t), some = n < 3000 ? n : 3000;
    int32_t *all = malloc((size_t)some * sizeof *all + 1);
    for (int64_t i = 0; i < some; i++) {
        struct lb_bytes piece = lb_tok_piece(t, (int32_t)i);
        FUZZ_REQUIRE(piece.len == 0 || piece.data);
        lb_tok_special(t, (int32_t)i);
        all[i] = (int32_t)i;
    }
    FUZZ_REQUIRE(lb_tok_bos(t) < n && lb_tok_eos(t) < n && lb_tok_pad(t) < n && lb_tok_more_eos(t, more) <= 4);
    fuzz_decode(t, all, (size_t)some, false, &out);
    lb_str_release(&out);
    free(all);
    if (lb_tok_missing(t) || !fuzz_ok(lb_tok_ctx_new(&c, t, &err), &err))
        return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        fuzz_encode(t, c, texts[i], strlen(texts[i]));
    lb_tok_ctx_free(c);
}

#endif
