/* safetensors: values, shapes and types of a good file, each rule of the format broken once, the index and its shards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "core/tests/modelfiles.h"

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define FILE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

static void open_ok(struct lb_wfile *w, const char *dir)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_safetensors_open(w, dir, &err) != LB_OK)
        fail_msg("%s", err.text);
}

static void refused(const char *file, const char *text)
{
    struct lb_wfile w;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_safetensors_open(&w, scratch, &err), LB_E_INPUT);
    if (!strstr(err.text, text) || !strstr(err.text, file))
        fail_msg("'%s' lacks '%s' or '%s'", err.text, file, text);
    lb_wfile_close(&w);
}

/* The header's length is no multiple of 8, so that the F32 data lie at an odd address; entries stand in another order
 * than data. */
static void good_file(void **state)
{
    (void)state;
    static const char header[] = "{\"z.f32\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[6,30]},"
                                 "\"a.bf16\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
                                 "\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"empty\":{\"dtype\":\"F16\",\"shape\":[4,0],\"data_offsets\":[30,30]},"
                                 "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[30,38],\"unknown\":1},"
                                 "\"five\":{\"dtype\":\"F32\",\"shape\":[2,1,3,1,1],\"data_offsets\":[42,66]},"
                                 "\"nibbles\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[38,42]}}     ";
    unsigned char data[66];
    const float value[6] = {1, -2, 3.5f, 1e-30f, 5, 65504};
    memset(data, 0, sizeof data);
    memcpy(data + 6, value, sizeof value);
    struct lb_str padded = {0};
    lb_str_puts(&padded, header);
    while (padded.len % 8 != 3)
        lb_str_putc(&padded, ' ');
    scratch_safetensors(FILE_NAME, padded.data, data, sizeof data);
    lb_str_release(&padded);

    struct lb_wfile w;
    open_ok(&w, scratch);
    assert_int_equal(w.n_tensor, 6);
    static const char *const names[] = {"a.bf16", "empty", "five", "nibbles", "scalar", "z.f32"};
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(w.tensor[i].name, names[i]);
    const struct lb_wtensor *t = lb_wfile_find(&w, "z.f32");
    assert_true(t && t->type == LB_W_F32 && t->n_dim == 2 && t->dim[0] == 2 && t->dim[1] == 3 && t->n_bytes == 24);
    assert_true((uintptr_t)t->data % 4 != 0);
    assert_memory_equal(t->data, value, sizeof value);
    assert_non_null(strstr(t->file, FILE_NAME));
    t = lb_wfile_find(&w, "a.bf16");
    assert_true(t && t->type == LB_W_BF16 && t->n_dim == 1 && t->dim[0] == 3);
    t = lb_wfile_find(&w, "empty");
    assert_true(t && t->type == LB_W_F16 && t->n_bytes == 0 && t->dim[1] == 0);
    t = lb_wfile_find(&w, "scalar");
    assert_true(t && t->type == LB_W_OTHER && t->n_dim == 0 && t->n_bytes == 8);
    assert_string_equal(t->type_name, "I64");
    t = lb_wfile_find(&w, "five"); /* outer dimensions folded */
    assert_true(t && t->type == LB_W_OTHER && t->n_dim == 4 && t->dim[0] == 2 && t->dim[1] == 3 && t->dim[3] == 1);
    t = lb_wfile_find(&w, "nibbles");
    assert_true(t && t->n_bytes == 4);
    assert_null(lb_wfile_find(&w, "z.f3"));
    lb_wfile_close(&w);
}

/* 24 bytes of tensors follow each header. */
static void rules(void **state)
{
    (void)state;
#define T(dtype, shape, offsets) "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header, *text;
    } bad[] = {
        {"", "does not begin with '{'"},
        {" {}", "does not begin with '{'"},
        {"{}", "the tensors end at byte 0 of 24"},
        {"{\"t\":1}", "tensor 't': its entry is not an object"},
        {"{\"\":{}}", "empty name"},
        {"{\"t\":{},\"t\":{}}", "not valid JSON"},
        {T("\"F32\"", "[6]", "[0,24]") "x", "not valid JSON"},
        {T("\"F32\"", "[6", "[0,24]"), "not valid JSON"},
        {T("\"F32\xFF\"", "[6]", "[0,24]"), "not valid JSON"},
        {T("\"F33\"", "[6]", "[0,24]"), "tensor 't': dtype 'F33' is not known"},
        {T("7", "[6]", "[0,24]"), "tensor 't': dtype is missing or not a string"},
        {T("\"F32\"", "6", "[0,24]"), "tensor 't': shape is not a list"},
        {T("\"F32\"", "[6.0]", "[0,24]"), "tensor 't': shape[0] is not a whole number"},
        {T("\"F32\"", "[1,-6]", "[0,24]"), "tensor 't': shape[1] is not a whole number"},
        {T("\"F32\"", "[4294967296,4294967296]", "[0,24]"), "product of its shape overflows"},
        {T("\"F32\"", "[4611686018427387904]", "[0,24]"), "not a whole number of bytes of F32"},
        {T("\"F6_E2M3\"", "[33]", "[0,24]"), "not a whole number of bytes of F6_E2M3"},
        {T("\"F32\"", "[6]", "[24]"), "data_offsets is not a list of two"},
        {T("\"F32\"", "[6]", "[0,24.0]"), "data_offsets are not whole numbers"},
        {T("\"F32\"", "[6]", "[-1,23]"), "data_offsets are not whole numbers"},
        {T("\"F32\"", "[6]", "[24,0]"), "data_offsets end at 0, before they begin at 24"},
        {T("\"F32\"", "[7]", "[0,28]"), "data_offsets end at 28, but the file holds 24"},
        {T("\"F32\"", "[5]", "[0,24]"), "data_offsets hold 24 bytes, but its shape asks for 20 of F32"},
        {T("\"F16\"", "[6]", "[0,24]"), "data_offsets hold 24 bytes, but its shape asks for 12 of F16"},
        {T("\"F32\"", "[5]", "[4,24]"), "tensor 't': data_offsets begin at 4, not at 0"},
        {T("\"F32\"", "[5]", "[0,20]"), "the tensors end at byte 20 of 24"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[12,24]}}",
         "tensor 'b': data_offsets begin at 12, not at 16"},
        {"{\"__metadata__\":{\"a\":1}}", "__metadata__ holds something that is not a string"},
        {"{\"__metadata__\":[]}", "__metadata__ is not an object"},
        {"{\"a\\nb\":1}", "tensor 'a?b'"},
    };
#undef T
    const unsigned char data[24] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_safetensors(FILE_NAME, bad[i].header, data, sizeof data);
        refused(FILE_NAME, bad[i].text);
    }
    scratch_text(FILE_NAME, "");
    refused(FILE_NAME, "only 0 bytes long");
    scratch_write(FILE_NAME, "\x10\0\0\0\0\0\0\0{}", 10);
    refused(FILE_NAME, "file is shorter than its header says");
    scratch_write(FILE_NAME, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10);
    refused(FILE_NAME, "too long");
    scratch_empty(state);
    refused(scratch, "no model.safetensors and no model.safetensors.index.json");
}

#define SHARD(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"

static void index_rules(void **state)
{
    (void)state;
    const float one = 1, two = 2;
    struct lb_wfile w;
    scratch_empty(state);
    scratch_safetensors("m1", SHARD("a"), &one, 4);
    scratch_safetensors("m2", SHARD("b"), &two, 4);
    scratch_safetensors("m3", SHARD("a"), &two, 4);
    scratch_text(INDEX_NAME, "{\"metadata\":{},\"weight_map\":{\"b\":\"m2\",\"a\":\"m1\"}}");
    open_ok(&w, scratch);
    assert_true(w.n_tensor == 2 && w.n_map == 2);
    assert_memory_equal(lb_wfile_find(&w, "a")->data, &one, 4);
    assert_memory_equal(lb_wfile_find(&w, "b")->data, &two, 4);
    assert_non_null(strstr(lb_wfile_find(&w, "b")->file, "/m2"));
    lb_wfile_close(&w);
    static const struct {
        const char *index, *text;
    } bad[] = {
        {"", "not valid JSON"},
        {"[]", "not a JSON object"},
        {"{\"weight_map\":{\"a\":\"m1\"}}", "metadata is missing"},
        {"{\"metadata\":{}}", "weight_map is missing"},
        {"{\"metadata\":{},\"weight_map\":{}}", "weight_map is missing, empty"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":1}}", "the file of tensor 'a' is not a string"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"m1\",\"a\":\"m2\"}}", "not valid JSON"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"../m1\"}}", "'../m1' is not the name of a file beside"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is not the name of a file beside"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"\"}}", "is not the name of a file beside"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"..\"}}", "not a regular file"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"m9\"}}", "m9': No such file"},
        {"{\"metadata\":{},\"weight_map\":{\"c\":\"m1\"}}", "tensor 'c' is not in 'm1'"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"m1\",\"b\":\"m1\",\"c\":\"m2\"}}", "' is not in 'm"},
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"m1\",\"b\":\"m3\"}}", "tensor 'a' is also in"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_text(INDEX_NAME, bad[i].index);
        refused(scratch, bad[i].text);
    }
    scratch_empty(state);
}

/* The rows of the embedding table that attention.json's prompt picks are what transformers put into the first layer. */
static void golden_values(void **state)
{
    (void)state;
    if (access(GOLDENS, R_OK) != 0) {
        print_message("skip: test_io_safetensors: no ../shared\n");
        skip();
    }
    struct lb_wfile w;
    json_error_t je;
    json_t *golden = json_load_file(GOLDENS "llama-gqa-tied/attention.json", 0, &je);
    assert_non_null(golden);
    const json_t *ids = json_object_get(golden, "prompt_token_ids"), *rows = json_object_get(golden, "embedding");
    assert_true(json_is_array(ids) && json_array_size(ids) == 12);
    open_ok(&w, GOLDENS "llama-gqa-tied");
    const struct lb_wtensor *t = lb_wfile_find(&w, "model.embed_tokens.weight");
    assert_true(t && t->type == LB_W_F32 && t->dim[0] == 512 && t->dim[1] == 64);
    for (size_t i = 0; i < 12; i++) {
        size_t id = (size_t)json_integer_value(json_array_get(ids, i));
        for (size_t j = 0; j < 64; j++) {
            float x;
            memcpy(&x, t->data + 4 * (64 * id + j), sizeof x);
            double want = json_number_value(json_array_get(json_array_get(rows, i), j));
            assert_true(x - want < 1e-7 && want - x < 1e-7);
        }
    }
    lb_wfile_close(&w);
    json_decref(golden);
}

static void goldens_open(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n_tensor, n_map; /* 9 a layer, embedding, norm and, when not tied, head; biases: 7 more a layer */
        enum lb_wtype type;
    } dir[] = {{"llama-mha", 30, 1, LB_W_F32},         {"llama-gqa-tied", 38, 1, LB_W_F32},
               {"llama-linear-rope", 30, 1, LB_W_F32}, {"llama-yarn", 30, 1, LB_W_F32},
               {"llama-dynamic-ntk", 30, 1, LB_W_F32}, {"llama-bias", 51, 1, LB_W_F32},
               {"llama-headdim", 30, 1, LB_W_F32},     {"llama-sharded", 30, 5, LB_W_F32},
               {"llama-bf16", 39, 1, LB_W_BF16}};
    if (access(GOLDENS, R_OK) != 0)
        skip();
    for (size_t i = 0; i < sizeof dir / sizeof *dir; i++) {
        char path[512];
        struct lb_wfile w;
        snprintf(path, sizeof path, GOLDENS "%s", dir[i].name);
        open_ok(&w, path);
        assert_int_equal(w.n_tensor, dir[i].n_tensor);
        assert_int_equal(w.n_map, dir[i].n_map);
        for (size_t k = 0; k < w.n_tensor; k++)
            assert_int_equal(w.tensor[k].type, dir[i].type);
        assert_non_null(lb_wfile_find(&w, "model.layers.2.self_attn.k_proj.weight"));
        lb_wfile_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file),     cmocka_unit_test(rules),        cmocka_unit_test(index_rules),
        cmocka_unit_test(golden_values), cmocka_unit_test(goldens_open),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
