/* GGUF files: numbers and strings at odd addresses, tensors, vocabulary, and every rule of the format broken once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/tests/modelfiles.h"

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

static void open_ok(struct lb_gguf *g, const char *name)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_gguf_open(g, scratch_path(name), &err) != LB_OK)
        fail_msg("%s", err.text);
}

/* The file of o is refused with a message that holds all of the text. Releases o. */
static void refused(struct gguf_out *o, const char *text)
{
    struct lb_gguf g;
    struct lb_err err = LB_ERR_INIT;
    scratch_write("bad.gguf", o->s.data, o->s.len);
    lb_str_release(&o->s);
    assert_int_equal(lb_gguf_open(&g, scratch_path("bad.gguf"), &err), LB_E_INPUT);
    if (!strstr(err.text, text) || strncmp(err.text, scratch_path("bad.gguf"), strlen(scratch_path("bad.gguf"))) != 0)
        fail_msg("'%s' does not begin with the file or lacks '%s'", err.text, text);
    lb_gguf_close(&g);
}

/* Key lengths are chosen so that values lie at all addresses modulo 8. */
static void numbers_at_odd_addresses(void **state)
{
    (void)state;
    struct gguf_out o = {0};
    struct lb_gguf g;
    struct lb_bytes text;
    int64_t i;
    double d;
    gguf_begin(&o, 0, 17);
    gguf_number(&o, "u8", LB_GGUF_U8, 255);
    gguf_number(&o, "i8", LB_GGUF_I8, 0x80);
    gguf_number(&o, "u16.", LB_GGUF_U16, 65535);
    gguf_number(&o, "i16.", LB_GGUF_I16, 0x8000);
    gguf_number(&o, "u32", LB_GGUF_U32, UINT32_MAX);
    gguf_number(&o, "i32..", LB_GGUF_I32, 0x80000000u);
    gguf_float(&o, "f32", -2.5f);
    gguf_float(&o, "f32.whole", -16777216.0f);
    gguf_number(&o, "true", LB_GGUF_BOOL, 1);
    gguf_string(&o, "string", "text \xE2\x82\xAC");
    gguf_number(&o, "u64", LB_GGUF_U64, UINT64_MAX);
    gguf_number(&o, "u64.fits", LB_GGUF_U64, INT64_MAX);
    gguf_number(&o, "i64", LB_GGUF_I64, (uint64_t)INT64_MIN);
    gguf_number(&o, "f64", LB_GGUF_F64, UINT64_C(0x3FF8000000000000));
    gguf_number(&o, "f64.big", LB_GGUF_F64, UINT64_C(0x7FEFFFFFFFFFFFFF));
    gguf_number(&o, "f64.nan", LB_GGUF_F64, UINT64_C(0x7FF8000000000000));
    gguf_array(&o, "array", LB_GGUF_U8, 3);
    put_le(&o.s, 0x010203, 3);
    scratch_write("n.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
    open_ok(&g, "n.gguf");
    assert_int_equal(g.n_kv, 17);
    static const struct {
        const char *key;
        bool whole;
        int64_t i;
        double d;
    } want[] = {
        {"u8", true, 255, 255},
        {"i8", true, -128, -128},
        {"u16.", true, 65535, 65535},
        {"i16.", true, -32768, -32768},
        {"u32", true, UINT32_MAX, 4294967295.0},
        {"i32..", true, INT32_MIN, -2147483648.0},
        {"f32", false, 0, -2.5},
        {"f32.whole", true, -16777216, -16777216},
        {"true", true, 1, 1},
        {"u64", false, 0, 18446744073709551615.0},
        {"u64.fits", true, INT64_MAX, 9223372036854775807.0},
        {"i64", true, INT64_MIN, -9223372036854775808.0},
        {"f64", false, 0, 1.5},
        {"f64.big", false, 0, 1.7976931348623157e308},
    };
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        assert_true(lb_gguf_f64(&g, want[k].key, &d));
        assert_true(d == want[k].d);
        assert_int_equal(lb_gguf_i64(&g, want[k].key, &i), want[k].whole);
        if (want[k].whole)
            assert_true(i == want[k].i);
        assert_false(lb_gguf_str(&g, want[k].key, &text));
    }
    assert_false(lb_gguf_i64(&g, "f64.nan", &i));
    assert_true(lb_gguf_str(&g, "string", &text));
    assert_int_equal(text.len, 8);
    assert_memory_equal(text.data, "text \xE2\x82\xAC", 8);
    assert_false(lb_gguf_i64(&g, "string", &i) || lb_gguf_f64(&g, "string", &d));
    assert_false(lb_gguf_i64(&g, "array", &i) || lb_gguf_f64(&g, "array", &d) || lb_gguf_str(&g, "array", &text));
    assert_false(lb_gguf_i64(&g, "arra", &i) || lb_gguf_i64(&g, "array.", &i) || lb_gguf_i64(&g, "", &i));
    const struct lb_gguf_kv *kv = lb_gguf_find(&g, "array");
    assert_true(kv && kv->elem == LB_GGUF_U8 && kv->n == 3 && kv->data[0] == 3 && kv->data[2] == 1);
    lb_gguf_close(&g);
}

static void tiny_model_opens(void **state)
{
    (void)state;
    struct gguf_out o;
    struct lb_gguf g;
    gguf_tiny(&o);
    scratch_write("tiny.gguf", o.s.data, o.s.len);
    open_ok(&g, "tiny.gguf");
    assert_int_equal(g.w.n_tensor, 12);
    for (size_t i = 1; i < g.w.n_tensor; i++)
        assert_true(strcmp(g.w.tensor[i - 1].name, g.w.tensor[i].name) < 0);
    const struct lb_wtensor *t = lb_wfile_find(&g.w, "blk.0.ffn_down.weight");
    assert_true(t && t->type == LB_W_F32 && t->n_dim == 2 && t->dim[0] == 32 && t->dim[1] == 64 && t->n_bytes == 8192);
    assert_string_equal(t->type_name, "F32");
    t = lb_wfile_find(&g.w, "blk.0.ffn_up.weight");
    assert_true(t && t->type == LB_W_Q4_1 && t->n_bytes == 64 * 20 && t->data[0] == 0 && t->data[9] == 63);
    t = lb_wfile_find(&g.w, "token_embd.weight"); /* the last in the file: its last byte is the file's */
    assert_true(t && t->data + t->n_bytes == g.w.map[0].data + o.s.len);
    assert_null(lb_wfile_find(&g.w, "blk.0.ffn_up"));

    const struct lb_vocab *v = &g.vocab;
    assert_true(v->n_token == 8 && v->n_merge == 2 && v->bos == 0 && v->eos == 1 && v->eot == 7);
    assert_true(v->eom == -1 && v->unk == -1 && v->pad == -1 && v->add_bos == 1 && v->add_space_prefix == -1);
    assert_true(v->model.len == 4 && memcmp(v->model.data, "gpt2", 4) == 0);
    assert_true(v->pre.len == 6 && memcmp(v->pre.data, "smollm", 6) == 0 && v->chat_template.len == 0);
    assert_true(v->token[5].len == 3 && memcmp(v->token[5].data, "abc", 3) == 0);
    assert_true(v->merge[1].len == 4 && memcmp(v->merge[1].data, "ab c", 4) == 0);
    assert_true(v->type[7] == LB_VOCAB_CONTROL && v->type[2] == LB_VOCAB_NORMAL);
    assert_true(v->score[0] == 1.0f && v->score[7] > 1.0f);

    lb_gguf_drop_vocab(&g); /* the lists, once; texts, ids and tensors stay */
    assert_true(v->n_token == 0 && v->n_merge == 0 && !v->token && !v->merge && !v->type && !v->score);
    assert_true(v->bos == 0 && v->eot == 7 && memcmp(v->pre.data, "smollm", 6) == 0);
    assert_non_null(lb_wfile_find(&g.w, "blk.0.ffn_up.weight"));
    lb_gguf_close(&g);
    lb_str_release(&o.s);
}

/* Sizes of the block types as spec/models.md 2.2.1 has them: with a wrong one the next offset would not fit. */
static void block_types_are_sized(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
        uint64_t block, bytes;
        enum lb_wtype type_here;
    } t[] = {
        {6, "Q5_0", 32, 22, LB_W_Q5_0},    {7, "Q5_1", 32, 24, LB_W_Q5_1},      {10, "Q2_K", 256, 84, LB_W_Q2_K},
        {11, "Q3_K", 256, 110, LB_W_Q3_K}, {12, "Q4_K", 256, 144, LB_W_Q4_K},   {13, "Q5_K", 256, 176, LB_W_Q5_K},
        {14, "Q6_K", 256, 210, LB_W_Q6_K}, {20, "IQ4_NL", 32, 18, LB_W_IQ4_NL}, {23, "IQ4_XS", 256, 136, LB_W_IQ4_XS},
        {24, "I8", 1, 1, LB_W_OTHER},      {28, "F64", 1, 8, LB_W_OTHER},       {39, "MXFP4", 32, 17, LB_W_OTHER}};
    struct gguf_out o = {0};
    struct lb_gguf g;
    const size_t n = sizeof t / sizeof *t;
    gguf_begin(&o, n, 0);
    for (size_t i = 0; i < n; i++)
        gguf_tensor(&o, t[i].name, t[i].type, (const uint64_t[4]){256, 3, 2}, 1536 / t[i].block * t[i].bytes);
    gguf_pad(&o);
    for (uint64_t i = 0; i < o.next; i++)
        lb_str_putc(&o.s, 0);
    scratch_write("types.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
    open_ok(&g, "types.gguf");
    for (size_t i = 0; i < n; i++) {
        const struct lb_wtensor *w = lb_wfile_find(&g.w, t[i].name);
        assert_true(w && w->type == t[i].type_here && w->n_dim == 3 && w->dim[0] == 2 && w->dim[2] == 256);
        assert_string_equal(w->type_name, t[i].name);
        assert_int_equal(w->n_bytes, 1536 / t[i].block * t[i].bytes);
    }
    lb_gguf_close(&g);
}

static struct gguf_out with_key(enum lb_gguf_type type, const char *key, uint64_t bits)
{
    struct gguf_out o = {0};
    gguf_begin(&o, 0, 1);
    gguf_number(&o, key, type, bits);
    return o;
}

static void header_rules(void **state)
{
    (void)state;
    struct gguf_out o = {0};
    lb_str_puts(&o.s, "GGML");
    put_le(&o.s, 3, 4);
    refused(&o, "not a GGUF file");
    o = (struct gguf_out){0};
    refused(&o, "not a GGUF file");
    static const struct {
        uint32_t version;
        const char *text;
    } v[] = {{1, "version 1"}, {4, "version 4"}, {0, "version 0"}, {0x03000000, "big-endian"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        o = (struct gguf_out){0};
        lb_str_puts(&o.s, "GGUF");
        put_le(&o.s, v[i].version, 4);
        put_le(&o.s, 0, 8);
        put_le(&o.s, 0, 8);
        refused(&o, v[i].text);
    }
    o = with_key(LB_GGUF_U16, "split.count", 3);
    refused(&o, "split files are not supported yet");
    o = with_key(LB_GGUF_U32, "general.alignment", 48);
    refused(&o, "'general.alignment': not a u32 that is a power of two");
    o = with_key(LB_GGUF_U64, "general.alignment", 32);
    refused(&o, "'general.alignment'");
    o = with_key(LB_GGUF_BOOL, "flag", 2);
    refused(&o, "'flag': a bool is neither 0 nor 1");
    o = with_key(LB_GGUF_U64, "", 2);
    refused(&o, "key 1 of 1 is empty");
    o = (struct gguf_out){0};
    gguf_begin(&o, 0, 3);
    gguf_number(&o, "one", LB_GGUF_U8, 1);
    gguf_number(&o, "two", LB_GGUF_U8, 1);
    gguf_number(&o, "one", LB_GGUF_U8, 1);
    refused(&o, "key 'one': is there twice");
    o = (struct gguf_out){0};
    gguf_begin(&o, 0, 1);
    gguf_array(&o, "nested", LB_GGUF_ARRAY, 1);
    put_le(&o.s, 0, 8);
    put_le(&o.s, 0, 8);
    refused(&o, "'nested': arrays of arrays");
    o = (struct gguf_out){0};
    gguf_begin(&o, 0, 1);
    gguf_array(&o, "long", LB_GGUF_U64, UINT64_MAX / 8 + 2); /* times 8 it would be 8 */
    put_le(&o.s, 0, 8);
    refused(&o, "'long': an array of 2305843009213693953 elements is longer than the file");
    /* metadata alone, cut anywhere: nothing behind the file's end is taken for a value */
    for (size_t cut = 24, n = cut + 1; cut < n; cut++) {
        o = (struct gguf_out){0};
        gguf_begin(&o, 0, 2);
        gguf_number(&o, "number", LB_GGUF_U64, 1);
        gguf_string(&o, "text", "1234567890");
        n = o.s.len;
        o.s.len = cut;
        refused(&o, cut < 24 + 2 * 14 ? "do not fit" : "file ends inside");
    }
    /* a name is shown without its line break */
    o = with_key(LB_GGUF_BOOL, "a\nb", 2);
    refused(&o, "key 'a?b'");
}

static void vocabulary_rules(void **state)
{
    (void)state;
    static const char *const token[] = {"x", "y"};
    for (int i = 0; i < 7; i++) {
        struct gguf_out o = {0};
        gguf_begin(&o, 0, 2);
        gguf_strings(&o, "tokenizer.ggml.tokens", token, 2);
        const char *text = NULL;
        if (i == 0) {
            gguf_array(&o, "tokenizer.ggml.token_type", LB_GGUF_I32, 1);
            put_le(&o.s, 1, 4);
            text = "'tokenizer.ggml.token_type': 1 elements for 2 tokens";
        } else if (i == 1) {
            gguf_array(&o, "tokenizer.ggml.scores", LB_GGUF_F32, 3);
            put_le(&o.s, 0, 8);
            put_le(&o.s, 0, 4);
            text = "'tokenizer.ggml.scores': 3 elements for 2 tokens";
        } else if (i == 2) {
            gguf_number(&o, "tokenizer.ggml.bos_token_id", LB_GGUF_U32, 2);
            text = "'tokenizer.ggml.bos_token_id': 2 is not the id of one of 2 tokens";
        } else if (i == 3) {
            gguf_number(&o, "tokenizer.ggml.add_bos_token", LB_GGUF_U8, 1);
            text = "'tokenizer.ggml.add_bos_token': not a bool";
        } else if (i == 4) {
            gguf_array(&o, "tokenizer.ggml.token_type", LB_GGUF_I32, 2);
            put_le(&o.s, 1, 4);
            put_le(&o.s, 7, 4);
            text = "token 1 has type 7";
        } else if (i == 5) {
            gguf_number(&o, "tokenizer.ggml.model", LB_GGUF_U32, 2);
            text = "'tokenizer.ggml.model': not a string";
        } else {
            gguf_array(&o, "tokenizer.ggml.merges", LB_GGUF_U8, 0);
            text = "'tokenizer.ggml.merges': not an array of strings";
        }
        refused(&o, text);
    }
    struct gguf_out o = with_key(LB_GGUF_U32, "tokenizer.ggml.padding_token_id", UINT32_MAX);
    struct lb_gguf g;
    scratch_write("pad.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
    open_ok(&g, "pad.gguf"); /* -1 says "none" */
    assert_int_equal(g.vocab.pad, -1);
    lb_gguf_close(&g);
}

static void tensor_rules(void **state)
{
    (void)state;
    static const char long_name[] = "0123456789012345678901234567890123456789012345678901234567890123";
    const uint64_t plain[4] = {32, 2}, odd[4] = {33, 2}, huge[4] = {1u << 31, 1u << 31, 4},
                   wide[4] = {UINT64_C(1) << 62, 1};
    static const struct {
        const char *name;
        uint32_t type;
        int ne;
        const char *text;
    } t[] = {
        {"a", 99, 0, "tensor 'a': ggml type 99 is not known"},
        {"a", 4, 0, "tensor 'a': ggml type 4 is not known"},
        {"a", 8, 1, "tensor 'a': rows of 33 elements are no multiple of the 32 of a block of Q8_0"},
        {"a", 0, 2, "tensor 'a': the product of its dimensions overflows"},
        {"a", 0, 3, "tensor 'a': its size in bytes overflows"},
        {"a", 0, 0, "tensor 'a': file is shorter than its header says"},
        {"", 0, 0, "a name has 1 to 63 bytes"},
        {long_name, 0, 0, "a name has 1 to 63 bytes"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct gguf_out o = {0};
        gguf_begin(&o, 1, 0);
        gguf_tensor(&o, t[i].name, t[i].type, (const uint64_t *[]){plain, odd, huge, wide}[t[i].ne], 0);
        gguf_pad(&o);
        refused(&o, t[i].text);
    }
    struct gguf_out o = {0};
    gguf_begin(&o, 2, 0);
    gguf_tensor(&o, "a", 24, (const uint64_t[4]){5}, 5);
    o.next = 5; /* not padded to 32 */
    gguf_tensor(&o, "b", 24, (const uint64_t[4]){5}, 5);
    gguf_pad(&o);
    for (int i = 0; i < 64; i++)
        lb_str_putc(&o.s, 0);
    refused(&o, "tensor 'b': offset 5 is not 32, where the tensor before it ends (aligned to 32)");
    o = (struct gguf_out){0};
    gguf_begin(&o, 2, 0);
    gguf_tensor(&o, "a", 24, (const uint64_t[4]){5}, 5);
    gguf_tensor(&o, "a", 24, (const uint64_t[4]){5}, 5);
    gguf_pad(&o);
    for (int i = 0; i < 64; i++)
        lb_str_putc(&o.s, 0);
    refused(&o, "tensor 'a' is there twice");
    o = (struct gguf_out){0};
    gguf_begin(&o, 1, 0);
    gguf_text(&o, "name", "", "a");
    put_le(&o.s, 5, 4);
    for (int i = 0; i < 60; i++)
        lb_str_putc(&o.s, 1);
    refused(&o, "tensor 'a': 5 dimensions are more than 4");
}

/* Each golden file holds one model of 2 layers; matrices have the folder's type, norms and rope_freqs F32. */
static void goldens_open(void **state)
{
    (void)state;
    static const struct {
        const char *name, *type;
        enum lb_wtype wtype;
        size_t block, bytes;
    } file[] = {{"f32", "F32", LB_W_F32, 1, 4},        {"f16", "F16", LB_W_F16, 1, 2},
                {"bf16", "BF16", LB_W_BF16, 1, 2},     {"q8_0", "Q8_0", LB_W_Q8_0, 32, 34},
                {"q4_0", "Q4_0", LB_W_Q4_0, 32, 18},   {"q4_1", "Q4_1", LB_W_Q4_1, 32, 20},
                {"q4_k", "Q4_K", LB_W_Q4_K, 256, 144}, {"q6_k", "Q6_K", LB_W_Q6_K, 256, 210}};
    if (access(GOLDENS, R_OK) != 0) {
        print_message("skip: test_io_gguf: no ../shared\n");
        skip();
    }
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char path[512];
        struct lb_gguf g;
        struct lb_err err = LB_ERR_INIT;
        snprintf(path, sizeof path, GOLDENS "llama-gguf-%s/llama-gguf-%s.gguf", file[i].name, file[i].name);
        if (lb_gguf_open(&g, path, &err) != LB_OK)
            fail_msg("%s", err.text);
        assert_int_equal(g.w.n_tensor, 3 + 2 * 9);
        const struct lb_wtensor *t = lb_wfile_find(&g.w, "blk.1.attn_k.weight");
        assert_true(t && t->type == file[i].wtype && t->dim[0] == 64 && t->dim[1] == 256);
        assert_string_equal(t->type_name, file[i].type);
        assert_int_equal(t->n_bytes, 64 * 256 / file[i].block * file[i].bytes);
        t = lb_wfile_find(&g.w, "rope_freqs.weight");
        assert_true(t && t->type == LB_W_F32 && t->n_dim == 1 && t->dim[0] == 16);
        float first, last; /* divisors run from 1 (kept) to the factor */
        memcpy(&first, t->data, 4);
        memcpy(&last, t->data + 60, 4);
        assert_true(first == 1.0f && last > 1.0f);
        assert_true(g.vocab.n_token == 512 && g.vocab.bos == 496 && g.vocab.eos == 505 && g.vocab.pad == 500);
        assert_true(g.vocab.pre.len == 9 && memcmp(g.vocab.pre.data, "llama-bpe", 9) == 0);
        assert_true(g.vocab.token[0].len == 1 && g.vocab.token[0].data[0] == '!');
        assert_true(g.vocab.merge[1].len == 3 && memcmp(g.vocab.merge[1].data, "h e", 3) == 0);
        assert_true(g.vocab.chat_template.len > 20 && g.vocab.add_bos == 1);
        lb_gguf_close(&g);
    }
}

static void missing_file_is_named(void **state)
{
    (void)state;
    struct lb_gguf g;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_gguf_open(&g, scratch_path("none.gguf"), &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "none.gguf"));
    lb_gguf_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_at_odd_addresses),
        cmocka_unit_test(tiny_model_opens),
        cmocka_unit_test(block_types_are_sized),
        cmocka_unit_test(header_rules),
        cmocka_unit_test(vocabulary_rules),
        cmocka_unit_test(tensor_rules),
        cmocka_unit_test(goldens_open),
        cmocka_unit_test(missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
