/* Three ways to merge a word: in place (up to 120 bytes), by scanning (up to 40 symbols) and with a heap. One result,
 * and that of the rule as models.md 3.3 writes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/tests/whole.h"
#include "core/text/tok_impl.h"

#define MAX_WORD 180

static struct lb_tok *tok;
static struct lb_tok_ctx *ctx;

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Rank of the pair and the token that it becomes, by looking at every merge there is. */
static uint32_t rank_of(int32_t left, int32_t right, int32_t *id)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = 0; i < tok->n_merge_slot; i++) {
        if (tok->merge[i].key == key) {
            *id = tok->merge[i].id;
            return tok->merge[i].rank;
        }
    }
    return LB_NO_RANK;
}

static size_t by_rule(const unsigned char *word, size_t n, int32_t *id)
{
    for (size_t i = 0; i < n; i++)
        id[i] = tok->byte_id[word[i]];
    for (;;) {
        uint32_t best = LB_NO_RANK;
        int32_t to = -1, merged;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t rank = rank_of(id[i], id[i + 1], &merged);
            if (rank < best) {
                best = rank;
                to = merged;
                at = i;
            }
        }
        if (best == LB_NO_RANK)
            return n;
        id[at] = to;
        memmove(&id[at + 1], &id[at + 2], (n - at - 2) * sizeof *id);
        n--;
    }
}

/* A word of pieces of the vocabulary and some stray bytes: it has much to merge. */
static size_t random_word(uint64_t *seed, unsigned char *word, size_t most)
{
    size_t want = 1 + next(seed) % most, n = 0;
    while (n < want) {
        struct lb_bytes piece = lb_tok_piece(tok, (int32_t)(next(seed) % (uint64_t)tok->n_id));
        if (piece.len == 0 || piece.len > want - n || next(seed) % 8 == 0) {
            word[n++] = (unsigned char)(next(seed) % 4 ? 'a' + next(seed) % 26 : next(seed) % 256);
            continue;
        }
        memcpy(word + n, piece.data, piece.len);
        n += piece.len;
    }
    return n;
}

static void check_word(const unsigned char *word, size_t n, bool rule)
{
    struct lb_ids fast = {0}, slow = {0};
    struct lb_err err = LB_ERR_INIT;
    int32_t want[MAX_WORD];
    struct lb_pair *pair = tok->pair;
    assert_int_equal(lb_bpe_encode(tok, ctx, (const char *)word, n, &fast, &err), LB_OK);
    tok->pair = NULL;
    assert_int_equal(lb_bpe_encode(tok, ctx, (const char *)word, n, &slow, &err), LB_OK);
    tok->pair = pair;
    assert_int_equal(fast.n, slow.n);
    assert_memory_equal(fast.id, slow.id, fast.n * sizeof *fast.id);
    if (rule) {
        assert_int_equal(by_rule(word, n, want), fast.n);
        assert_memory_equal(fast.id, want, fast.n * sizeof *fast.id);
    }
    lb_ids_release(&fast);
    lb_ids_release(&slow);
}

static void check_dir(const char *dir, int n_round, size_t most, bool rule)
{
    struct lb_err err = LB_ERR_INIT;
    uint64_t seed = 20251122;
    unsigned char word[MAX_WORD];
    if (!lb_file_is_dir(dir))
        return;
    assert_int_equal(lb_tok_open_dir(&tok, dir, &err), LB_OK);
    assert_int_equal(lb_tok_ctx_new(&ctx, tok, &err), LB_OK);
    assert_non_null(tok->pair);
    tok->ignore_merges = false;
    for (int i = 0; i < n_round; i++)
        check_word(word, random_word(&seed, word, most), rule);
    lb_tok_ctx_free(ctx);
    lb_tok_free(tok);
}

static void test_rule(void **state)
{
    (void)state;
    check_dir(LB_SOURCE_DIR "/testdata/tiny-llama", 1500 / whole_or(4), 60, true);
}

static void test_three_ways(void **state)
{
    (void)state;
    check_dir(LB_SOURCE_DIR "/testdata/tiny-llama", 50000 / whole_or(20), MAX_WORD, false);
    check_dir(LB_SOURCE_DIR "/../shared/tokenizers/qwen3", 50000 / whole_or(20), MAX_WORD, false);
}

/* Runs of one byte: ties of rank, where the leftmost pair goes first. */
static void test_runs(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    unsigned char word[MAX_WORD];
    const char *dir = LB_SOURCE_DIR "/../shared/tokenizers/smollm2";
    if (!lb_file_is_dir(dir)) {
        print_message("skip: test_text_tokmerge: no ../shared\n");
        skip();
    }
    assert_int_equal(lb_tok_open_dir(&tok, dir, &err), LB_OK);
    assert_int_equal(lb_tok_ctx_new(&ctx, tok, &err), LB_OK);
    for (size_t n = 1; n <= MAX_WORD; n++) {
        for (size_t k = 0; k < 4; k++) {
            memset(word, " a=-"[k], n);
            check_word(word, n, false);
        }
    }
    lb_tok_ctx_free(ctx);
    lb_tok_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rule),
        cmocka_unit_test(test_three_ways),
        cmocka_unit_test(test_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
