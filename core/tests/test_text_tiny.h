/* A tiny byte-level tokenizer for tests, written to a directory of its own: byte b has id b, then the results of
 * tiny_merges from 256 on, then "zz" (281), which no merge makes. */
#ifndef CORE_TESTS_TEST_TEXT_TINY_H
#define CORE_TESTS_TEST_TEXT_TINY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "core/base/mem.h"
#include "core/text/tok.h"

static const char *const tiny_merges[] = {"a b",  "ab c", "Ġ a",  "Ġ Ġ", "1 1",  "11 1", "Ġ 1", "b a", "c a",
                                          "1 a",  ". .",  ".. .", "- -", "Ġ -",  "' s",  "e s", "Ã ©", "a -",
                                          "ab -", "c -",  "- c",  "1 -", "- 11", "a á",  "b â"};
#define TINY_MERGES (sizeof tiny_merges / sizeof tiny_merges[0])
#define TINY_ZZ (256 + (int)TINY_MERGES)

#define BYTE_LEVEL(space, regex) \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" space ",\"trim_offsets\":true,\"use_regex\":" regex "}"

/* The character that byte-level files write for a byte (models.md 3.6), counted out as the section does. */
static inline void tiny_put_byte(struct lb_str *s, int byte)
{
    int next = 256;
    for (int b = 0; b < 256; b++) {
        int own = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int cp = own ? b : next++;
        if (b == byte && (cp == '"' || cp == '\\'))
            lb_str_putc(s, '\\');
        if (b == byte)
            lb_str_put_codepoint(s, (uint32_t)cp);
    }
}

/* model.vocab's members; with `lack` the byte Q has no token. */
static inline void tiny_put_vocab(struct lb_str *s, int lack)
{
    for (int b = 0; b < 256; b++) {
        lb_str_puts(s, b ? ",\"" : "\"");
        tiny_put_byte(s, b);
        lb_str_putf(s, "%s\":%d", lack && b == 'Q' ? "QQ" : "", b);
    }
    for (size_t i = 0; i < TINY_MERGES; i++) {
        const char *space = strchr(tiny_merges[i], ' ');
        lb_str_putf(s, ",\"%.*s%s\":%zu", (int)(space - tiny_merges[i]), tiny_merges[i], space + 1, 256 + i);
    }
    lb_str_putf(s, ",\"zz\":%d", TINY_ZZ);
}

struct tiny {
    const char *normalizer, *pre, *added, *model, *post; /* JSON; NULL is null, added and model: members */
};

static inline void tiny_put(struct lb_str *s, const struct tiny *t)
{
    lb_str_putf(s, "{\"added_tokens\":[%s],\"normalizer\":%s,", t->added ? t->added : "",
                t->normalizer ? t->normalizer : "null");
    lb_str_putf(s, "\"pre_tokenizer\":%s,", t->pre ? t->pre : BYTE_LEVEL("false", "false"));
    lb_str_putf(s, "\"post_processor\":%s,\"decoder\":{\"type\":\"ByteLevel\"},", t->post ? t->post : "null");
    lb_str_putf(s, "\"model\":{\"type\":\"BPE\",%s%s\"merges\":[", t->model ? t->model : "", t->model ? "," : "");
    for (size_t i = 0; i < TINY_MERGES; i++)
        lb_str_putf(s, "%s\"%s\"", i ? "," : "", tiny_merges[i]);
    lb_str_puts(s, "],\"vocab\":{");
    tiny_put_vocab(s, t->model && strstr(t->model, "unk_token") != NULL);
    lb_str_puts(s, "}}}");
    assert_false(s->failed);
}

/* Writes DIR/name. */
static inline void tiny_write(const char *dir, const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void tiny_remove(const char *dir)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"};
    char path[256];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
}

/* A fresh directory; the caller removes its files and it. */
static inline void tiny_dir(char dir[64])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, 64, "%.40s/lb_text_XXXXXX", tmp && strlen(tmp) <= 40 ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
}

/* Opens a tokenizer that is these texts (config may be NULL); the status is lb_tok_open_dir's. */
static inline enum lb_status tiny_open(struct lb_tok **out, const char *json, size_t n, const char *config,
                                       struct lb_err *err)
{
    char dir[64];
    tiny_dir(dir);
    if (json)
        tiny_write(dir, "tokenizer.json", json, n);
    if (config)
        tiny_write(dir, "tokenizer_config.json", config, strlen(config));
    enum lb_status status = lb_tok_open_dir(out, dir, err);
    tiny_remove(dir);
    rmdir(dir);
    return status;
}

#endif
