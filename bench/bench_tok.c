/* bench_tok TOKENIZER_DIR [--ids PREFIX] [TEXT...]: how fast the tokenizer of a directory opens, encodes and decodes,
 * on one thread. A text is a file of documents with a zero byte between, as make_texts.py writes them. Figures are
 * processor time, which other work on the machine stretches less than it does time on the clock. tok_peer.py runs this
 * and the peer in turn. One line a figure: text, what, MB/s (seconds for load), number of ids. --ids writes what was
 * encoded to PREFIX<name of the text>.ids, 32 bits each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/file.h"
#include "core/text/tok.h"

#define WARM_PASSES 3

struct bench {
    const struct lb_tok *tok;
    struct lb_tok_ctx *ctx;
    struct lb_err err;
    const char *ids_prefix;
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int failed(const struct bench *b)
{
    fprintf(stderr, "bench_tok: %s\n", b->err.text);
    return 1;
}

/* Encodes every document of text; returns the seconds that it took, or less than 0 after an error. */
static double encode(struct bench *b, const struct lb_str *text, struct lb_ids *ids)
{
    double begin = now();
    ids->n = 0;
    for (size_t at = 0; at < text->len;) {
        size_t n = strlen(text->data + at); /* a zero byte follows the last document too */
        if (lb_tok_encode(b->tok, b->ctx, text->data + at, n, LB_TOK_PLAIN, ids, NULL, &b->err) != LB_OK)
            return -1;
        at += n + 1;
    }
    return now() - begin;
}

static double decode(const struct bench *b, const struct lb_ids *ids, struct lb_str *out)
{
    double begin = now();
    struct lb_detok d = {.tok = b->tok};
    for (size_t i = 0; i < ids->n; i++)
        lb_detok_put(&d, ids->id[i], out);
    lb_detok_flush(&d, out);
    lb_detok_release(&d);
    return now() - begin;
}

static void put(const char *name, const char *what, size_t n_bytes, double seconds, size_t n_id)
{
    printf("%s\t%s\t%.3f\t%zu\n", name, what, (double)n_bytes / 1e6 / seconds, n_id);
}

static void write_ids(const struct bench *b, const char *name, const struct lb_ids *ids)
{
    struct lb_str path = {0};
    lb_str_putf(&path, "%s%s.ids", b->ids_prefix, name);
    FILE *f = path.failed ? NULL : fopen(path.data, "wb");
    if (f) {
        fwrite(ids->id, sizeof *ids->id, ids->n, f);
        fclose(f);
    }
    lb_str_release(&path);
}

static int run_text(struct bench *b, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    struct lb_str text = {0}, out = {0};
    struct lb_ids ids = {0};
    int rc = 0;
    if (lb_file_read(path, SIZE_MAX / 2, &text, &b->err) != LB_OK || text.len == 0 ||
        lb_tok_ctx_new(&b->ctx, b->tok, &b->err) != LB_OK) {
        rc = failed(b);
        goto out;
    }
    double cold = encode(b, &text, &ids), warm = 0;
    for (int i = 0; i < WARM_PASSES && cold >= 0; i++)
        warm += encode(b, &text, &ids) / WARM_PASSES;
    if (cold < 0) {
        rc = failed(b);
        goto out;
    }
    put(name, "cold", text.len, cold, ids.n);
    put(name, "warm", text.len, warm, ids.n);
    put(name, "decode", text.len, decode(b, &ids, &out), ids.n);
    if (b->ids_prefix)
        write_ids(b, name, &ids);
out:
    lb_tok_ctx_free(b->ctx);
    b->ctx = NULL;
    lb_ids_release(&ids);
    lb_str_release(&text);
    lb_str_release(&out);
    return rc;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct lb_tok *tok = NULL;
    int rc = 0, first = 2;
    if (argc < 2) {
        fputs("usage: bench_tok TOKENIZER_DIR [--ids PREFIX] [TEXT...]\n", stderr);
        return 2;
    }
    if (argc > 3 && strcmp(argv[2], "--ids") == 0) {
        b.ids_prefix = argv[3];
        first = 4;
    }
    double begin = now();
    if (lb_tok_open_dir(&tok, argv[1], &b.err) != LB_OK)
        return failed(&b);
    printf("-\tload\t%.4f\t%lld\n", now() - begin, (long long)lb_tok_size(tok));
    b.tok = tok;
    for (int i = first; i < argc && rc == 0; i++)
        rc = run_text(&b, argv[i]);
    lb_tok_free(tok);
    return rc;
}
