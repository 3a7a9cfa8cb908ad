/* Packed weights: matrices are drawn, packed here bit by bit as spec/models.md 2.3 to 2.5 lay them out, and must come
 * back as (q - zero) * scale; what does not fit together is refused by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/codes.h"
#include "core/model/config.h"
#include "core/model/pack_read.h"
#include "core/tests/codevalue.h"
#include "core/tests/modelfiles.h"

#define MAX_ROW 24
#define MAX_COL 200
#define MAX_GROUP 16

/* A matrix as the formulas see it. */
struct drawn {
    int64_t n_row, n_col, n_group;
    int bits;
    int q[MAX_ROW][MAX_COL], zero[MAX_ROW][MAX_GROUP], group_of[MAX_COL];
    float scale[MAX_ROW][MAX_GROUP];
};

static struct drawn d;
static uint32_t seed = 1;

static uint32_t draw(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

/* shuffled: groups are not contiguous. zero < 0: any. */
static void draw_matrix(const struct lb_pack_format *f, int64_t n_row, int64_t n_col, bool shuffled, int zero)
{
    int64_t group = f->group > 0 ? f->group : n_col;
    d = (struct drawn){.n_row = n_row, .n_col = n_col, .n_group = (n_col + group - 1) / group, .bits = f->bits};
    assert_true(n_row <= MAX_ROW && n_col <= MAX_COL && d.n_group <= MAX_GROUP);
    for (int64_t c = 0; c < n_col; c++)
        d.group_of[c] = shuffled ? (int)draw((uint32_t)d.n_group) : (int)(c / group);
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_col; c++)
            d.q[r][c] = (int)draw(1u << f->bits);
        for (int64_t g = 0; g < d.n_group; g++) {
            d.zero[r][g] = zero >= 0 ? zero : (int)draw(1u << f->bits);
            d.scale[r][g] = (float)(1 + draw(1000)) / 4096;
        }
    }
}

/* ---- files ---- */

static struct lb_str header, data;

static void file_begin(void)
{
    lb_str_clear(&header);
    lb_str_clear(&data);
    lb_str_putc(&header, '{');
}

/* n_col 0: a vector. The tensor's bytes follow, put into `data` by the caller. */
static void file_add(const char *name, const char *type, int64_t n_row, int64_t n_col, size_t n_bytes)
{
    lb_str_putf(&header, "%s\"w.%s\":{\"dtype\":\"%s\",\"shape\":[%lld", header.len > 1 ? "," : "", name, type,
                (long long)n_row);
    if (n_col > 0)
        lb_str_putf(&header, ",%lld", (long long)n_col);
    lb_str_putf(&header, "],\"data_offsets\":[%zu,%zu]}", data.len, data.len + n_bytes);
}

static void file_add_words(const char *name, int64_t n_row, int64_t n_col, const uint32_t *word)
{
    file_add(name, "I32", n_row, n_col, (size_t)(n_row * n_col) * 4);
    lb_str_put(&data, (const char *)word, (size_t)(n_row * n_col) * 4);
}

/* Scales [rows, groups], or turned over. */
static void file_add_scales(const char *name, bool turned)
{
    int64_t n_row = turned ? d.n_group : d.n_row, n_col = turned ? d.n_row : d.n_group;
    file_add(name, "F32", n_row, n_col, (size_t)(n_row * n_col) * 4);
    for (int64_t i = 0; i < n_row; i++)
        for (int64_t k = 0; k < n_col; k++)
            lb_str_put(&data, (const char *)(turned ? &d.scale[k][i] : &d.scale[i][k]), 4);
}

static void file_end(void)
{
    lb_str_putc(&header, '}');
    scratch_safetensors("model.safetensors", header.data, data.data, data.len);
}

static uint32_t word[MAX_ROW * MAX_COL];

static void put_gptq(const struct lb_pack_format *f, bool g_idx)
{
    int64_t per = 32 / f->bits;
    int mask = (1 << f->bits) - 1;
    file_begin();
    memset(word, 0, sizeof word);
    for (int64_t c = 0; c < d.n_col; c++)
        for (int64_t r = 0; r < d.n_row; r++)
            word[c / per * d.n_row + r] |= (uint32_t)d.q[r][c] << c % per * f->bits;
    file_add_words("qweight", d.n_col / per, d.n_row, word);
    memset(word, 0, sizeof word);
    for (int64_t g = 0; g < d.n_group; g++)
        for (int64_t r = 0; r < d.n_row; r++)
            word[g * (d.n_row / per) + r / per] |= (uint32_t)((d.zero[r][g] - f->zero_less_one) & mask)
                                                   << r % per * f->bits;
    file_add_words("qzeros", d.n_group, d.n_row / per, word);
    file_add_scales("scales", true);
    if (g_idx) {
        file_add("g_idx", "I32", d.n_col, 0, (size_t)d.n_col * 4);
        lb_str_put(&data, (const char *)d.group_of, (size_t)d.n_col * 4);
    }
    file_end();
}

static void put_awq(void)
{
    static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7}; /* the output that nibble k holds */
    file_begin();
    memset(word, 0, sizeof word);
    for (int64_t c = 0; c < d.n_col; c++)
        for (int64_t w = 0; w < d.n_row / 8; w++)
            for (int k = 0; k < 8; k++)
                word[c * (d.n_row / 8) + w] |= (uint32_t)d.q[8 * w + order[k]][c] << 4 * k;
    file_add_words("qweight", d.n_col, d.n_row / 8, word);
    memset(word, 0, sizeof word);
    for (int64_t g = 0; g < d.n_group; g++)
        for (int64_t w = 0; w < d.n_row / 8; w++)
            for (int k = 0; k < 8; k++)
                word[g * (d.n_row / 8) + w] |= (uint32_t)d.zero[8 * w + order[k]][g] << 4 * k;
    file_add_words("qzeros", d.n_group, d.n_row / 8, word);
    file_add_scales("scales", true);
    file_end();
}

static void put_ints(const struct lb_pack_format *f, bool g_idx)
{
    int64_t per = 32 / f->bits, n_word = (d.n_col + per - 1) / per;
    file_begin();
    memset(word, 0, sizeof word);
    for (int64_t r = 0; r < d.n_row; r++)
        for (int64_t c = 0; c < d.n_col; c++)
            word[r * n_word + c / per] |= (uint32_t)d.q[r][c] << c % per * f->bits;
    file_add_words("weight_packed", d.n_row, n_word, word);
    file_add_scales("weight_scale", false);
    const int64_t shape[2] = {d.n_row, d.n_col};
    file_add("weight_shape", "I64", 2, 0, sizeof shape);
    lb_str_put(&data, (const char *)shape, sizeof shape);
    if (f->zeros) {
        memset(word, 0, sizeof word);
        for (int64_t r = 0; r < d.n_row; r++)
            for (int64_t g = 0; g < d.n_group; g++)
                word[r / per * d.n_group + g] |= (uint32_t)d.zero[r][g] << r % per * f->bits;
        file_add_words("weight_zero_point", (d.n_row + per - 1) / per, d.n_group, word);
    }
    if (g_idx) {
        file_add("weight_g_idx", "I32", d.n_col, 0, (size_t)d.n_col * 4);
        lb_str_put(&data, (const char *)d.group_of, (size_t)d.n_col * 4);
    }
    file_end();
}

/* ---- formulas ---- */

static float out[MAX_ROW * MAX_COL];

/* The same numbers from codes, scales and zero points, where groups are contiguous. */
static void check_codes(const struct lb_wtensor *t, int64_t row, int64_t col, int64_t n_col, const float *want)
{
    struct lk_packed how;
    struct lk_codes c;
    bool shuffled = t->pack->g_idx != NULL;
    assert_int_equal(lb_codes_of(t, col, &how), !shuffled);
    if (shuffled)
        return;
    uint8_t *mem = malloc(lb_codes_bytes(&how, n_col));
    lb_codes_read(t, &how, row, n_col, mem, &c);
    for (int64_t k = 0; k < n_col; k++)
        assert_true(code_value(&how, &c, k) == want[k] || (isnan(want[k]) && isnan(code_value(&how, &c, k))));
    free(mem);
}

/* Whole, and in cuts as ranks take them. */
static void check_numbers(const struct lb_pack_format *f, float (*want)(int64_t row, int64_t col), const char *what)
{
    struct lb_wfile w;
    struct lb_err err = LB_ERR_INIT;
    if (lb_pack_open(&w, scratch, f, &err) != LB_OK)
        fail_msg("%s: %s", what, err.text);
    assert_int_equal(w.n_tensor, 1); /* parts are no tensors any more */
    const struct lb_wtensor *t = lb_wfile_find(&w, "w.weight");
    assert_true(t && t->type == LB_W_PACKED && t->n_dim == 2 && t->dim[0] == d.n_row && t->dim[1] == d.n_col);
    for (int i = 0; i < 20; i++) {
        int64_t row = i ? draw((uint32_t)d.n_row) : 0, n_row = i ? 1 + draw((uint32_t)(d.n_row - row)) : d.n_row;
        int64_t col = i ? draw((uint32_t)d.n_col) : 0, n_col = i ? 1 + draw((uint32_t)(d.n_col - col)) : d.n_col;
        lb_pack_read(t->pack, row, n_row, col, n_col, out);
        for (int64_t r = 0; r < n_row; r++)
            for (int64_t c = 0; c < n_col; c++)
                if (out[r * n_col + c] != want(row + r, col + c))
                    fail_msg("%s: [%lld, %lld] is %g, not %g", what, (long long)(row + r), (long long)(col + c),
                             (double)out[r * n_col + c], (double)want(row + r, col + c));
        check_codes(t, row, col, n_col, out);
    }
    lb_wfile_close(&w);
}

static float want_int(int64_t row, int64_t col)
{
    int g = d.group_of[col];
    return (float)(d.q[row][col] - d.zero[row][g]) * d.scale[row][g];
}

static void gptq(void **state)
{
    (void)state;
    for (int i = 0; i < 48; i++) {
        const int bits[] = {2, 4, 8};
        const struct lb_pack_format f = {
            .kind = LB_PACK_GPTQ, .bits = bits[i % 3], .group = i / 3 % 2 ? 32 : 0, .zero_less_one = i / 6 % 2};
        char what[64];
        bool shuffled = i >= 36, g_idx = i >= 24;
        snprintf(what, sizeof what, "GPTQ case %d", i);
        draw_matrix(&f, 16, 160, shuffled, -1);
        put_gptq(&f, g_idx);
        check_numbers(&f, want_int, what);
    }
}

static void awq(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        const struct lb_pack_format f = {.kind = LB_PACK_AWQ, .bits = 4, .group = i % 2 ? 32 : 0};
        draw_matrix(&f, 24, 130 + 2 * i, false, -1);
        put_awq();
        check_numbers(&f, want_int, "AWQ");
    }
}

static void packed_ints(void **state)
{
    (void)state;
    for (int i = 0; i < 24; i++) {
        char what[64];
        const struct lb_pack_format f = {
            .kind = LB_PACK_INT, .bits = i % 2 ? 4 : 8, .group = i / 2 % 2 ? 32 : 0, .zeros = i / 4 % 2};
        snprintf(what, sizeof what, "packed integers, case %d", i);
        draw_matrix(&f, 21, i % 3 ? 192 : 155, i >= 16, f.zeros ? -1 : 1 << (f.bits - 1));
        put_ints(&f, i >= 8);
        check_numbers(&f, want_int, what);
    }
}

/* E4M3 by its definition: 4 bits of exponent with bias 7, 3 of fraction, no infinity. */
static float e4m3(int b)
{
    int exponent = b >> 3 & 15, fraction = b & 7;
    double x = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    return (float)(b & 0x80 ? -x : x);
}

static int64_t block[2]; /* rows and columns that share a scale */

static float want_fp8(int64_t row, int64_t col)
{
    return e4m3(d.q[row][col]) * d.scale[row / block[0]][col / block[1]];
}

static void fp8(void **state)
{
    (void)state;
    static const int64_t cases[][2] = {{MAX_ROW, MAX_COL}, {1, MAX_COL}, {16, 64}, {7, 100}, {128, 128}};
    const struct lb_pack_format draw_as = {.bits = 8};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_pack_format f = {.kind = LB_PACK_FP8, .bits = 8};
        int64_t n_row = 20, n_col = 180;
        draw_matrix(&draw_as, n_row, n_col, false, 0);
        block[0] = cases[i][0];
        block[1] = cases[i][1];
        for (int k = 0; k < 2 && i >= 2; k++)
            f.block[k] = block[k];
        int64_t nr = (n_row + block[0] - 1) / block[0], nc = (n_col + block[1] - 1) / block[1];
        file_begin();
        file_add("weight", "F8_E4M3", n_row, n_col, (size_t)(n_row * n_col));
        for (int64_t r = 0; r < n_row; r++)
            for (int64_t c = 0; c < n_col; c++) {
                d.q[r][c] = r * n_col + c < 256 ? (int)(r * n_col + c) : d.q[r][c]; /* each once at least */
                d.q[r][c] -= (d.q[r][c] & 127) == 127;                              /* no NaN */
                lb_str_putc(&data, (char)d.q[r][c]);
            }
        file_add(i % 2 ? "weight_scale" : "weight_scale_inv", "F32", nr, nc, (size_t)(nr * nc) * 4);
        for (int64_t r = 0; r < nr; r++)
            for (int64_t c = 0; c < nc; c++) {
                d.scale[r][c] = (float)(1 + draw(1000)) / 512;
                lb_str_put(&data, (const char *)&d.scale[r][c], 4);
            }
        file_end();
        check_numbers(&f, want_fp8, "FP8");
    }
}

/* The worked examples of spec/models.md: AWQ's order, and GPTQ's zero point 8 as both formats store it. */
static void examples(void **state)
{
    (void)state;
    static const float want[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const struct lb_pack_format awq_format = {.kind = LB_PACK_AWQ, .bits = 4};
    struct lb_wfile w;
    struct lb_err err = LB_ERR_INIT;
    const float one[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    file_begin();
    file_add_words("qweight", 1, 1, (const uint32_t[]){0x76543210});
    file_add_words("qzeros", 1, 1, (const uint32_t[]){0});
    file_add("scales", "F32", 1, 8, sizeof one);
    lb_str_put(&data, (const char *)one, sizeof one);
    file_end();
    assert_int_equal(lb_pack_open(&w, scratch, &awq_format, &err), LB_OK);
    lb_pack_read(lb_wfile_find(&w, "w.weight")->pack, 0, 8, 0, 1, out);
    assert_memory_equal(out, want, sizeof want);
    lb_wfile_close(&w);
    for (int v2 = 0; v2 < 2; v2++) {
        const struct lb_pack_format f = {.kind = LB_PACK_GPTQ, .bits = 4, .zero_less_one = !v2};
        const uint32_t zeros = v2 ? 0x88888888 : 0x77777777, q[8] = {0x88888888, 0x99999999};
        file_begin();
        file_add_words("qweight", 1, 8, q);
        file_add_words("qzeros", 1, 1, &zeros);
        file_add("scales", "F32", 1, 8, sizeof one);
        lb_str_put(&data, (const char *)one, sizeof one);
        file_end();
        assert_int_equal(lb_pack_open(&w, scratch, &f, &err), LB_OK);
        lb_pack_read(lb_wfile_find(&w, "w.weight")->pack, 0, 3, 0, 8, out);
        assert_true(out[0] == 0 && out[7] == 0 && out[8] == 1 && out[15] == 1 && out[16] == -8);
        lb_wfile_close(&w);
    }
}

/* ---- refusals ---- */

/* The header of the file that was put last with `from` replaced, which must be refused and say `text`. */
static void refused(const struct lb_pack_format *f, const char *from, const char *to, const char *text)
{
    struct lb_str bent = {0};
    struct lb_wfile w;
    struct lb_err err = LB_ERR_INIT;
    const char *at = strstr(header.data, from);
    assert_non_null(at);
    lb_str_put(&bent, header.data, (size_t)(at - header.data));
    lb_str_puts(&bent, to);
    lb_str_puts(&bent, at + strlen(from));
    scratch_safetensors("model.safetensors", bent.data, data.data, data.len);
    if (lb_pack_open(&w, scratch, f, &err) != LB_E_INPUT || !strstr(err.text, text) ||
        !strstr(err.text, "model.safetensors"))
        fail_msg("%s for %s: status %d, '%s' does not say '%s'", to, from, (int)err.status, err.text, text);
    lb_wfile_close(&w);
    lb_str_release(&bent);
}

static void misfits(void **state)
{
    (void)state;
    struct lb_pack_format f = {.kind = LB_PACK_GPTQ, .bits = 4, .group = 32};
    draw_matrix(&f, 16, 64, true, -1);
    put_gptq(&f, true);
    refused(&f, "w.qzeros", "w.qzero", "no tensor 'w.qzeros'");
    refused(&f, "w.scales", "w.scale", "no tensor 'w.scales'");
    refused(&f, "\"I32\",\"shape\":[8,16]", "\"F32\",\"shape\":[8,16]", "'w.qweight' is not a matrix of I32");
    refused(&f, "[8,16]", "[16,8]", "'w.scales' has another shape than [4, 8]");
    refused(&f, "[8,16]", "[128]", "'w.qweight' is not a matrix");
    refused(&f, "[2,2]", "[4,1]", "'w.qzeros' has another shape than [2, 2]");
    refused(&f, "[2,16]", "[16,2]", "'w.scales' has another shape than [2, 16]");
    refused(&f, "\"F32\",\"shape\":[2,16]", "\"I32\",\"shape\":[2,16]", "'w.scales' has type I32");
    refused(&f, "[64]", "[64,1]", "'w.g_idx' is not a vector");
    f.group = 64; /* the file has two groups */
    refused(&f, "w", "w", "another shape than [1, 16]");
    f.group = 32;
    f.bits = 8;
    refused(&f, "w", "w", "[1, 16]");
    f.bits = 4;
    d.group_of[63] = 2;
    put_gptq(&f, true);
    refused(&f, "w", "w", "'w.g_idx' names a group that is not there");
    d.group_of[63] = -1;
    put_gptq(&f, true);
    refused(&f, "w", "w", "'w.g_idx' names a group that is not there");

    f = (struct lb_pack_format){.kind = LB_PACK_INT, .bits = 4, .group = 32};
    draw_matrix(&f, 16, 60, false, 8);
    put_ints(&f, false);
    refused(&f, "w.weight_scale", "w.weight_scal", "no tensor 'w.weight_scale'");
    refused(&f, "[16,8]", "[8,16]", "'w.weight_shape' names another shape");
    refused(&f, "I64\",\"shape\":[2]", "F64\",\"shape\":[2]", "'w.weight_shape' is not a vector of two I64");
    refused(&f, "[16,2]", "[2,16]", "'w.weight_scale' has another shape than [16, 2]");
    f.zeros = true;
    refused(&f, "w", "w", "no tensor 'w.weight_zero_point'");

    f = (struct lb_pack_format){.kind = LB_PACK_FP8, .bits = 8};
    file_begin();
    file_add("weight", "F8_E4M3", 4, 6, 24);
    for (int i = 0; i < 24; i++)
        lb_str_putc(&data, (char)i);
    file_add("weight_scale", "F32", 4, 1, 16);
    lb_str_put(&data, (const char *)out, 16);
    file_end();
    refused(&f, "w.weight_scale", "w.scale", "no tensor 'w.weight_scale'");
    refused(&f, "[4,1]", "[2,2]", "'w.weight_scale' has another shape than [4, 1]");
    refused(&f, "F32", "I32", "'w.weight_scale' has type I32");
    refused(&f, "[4,6]", "[24]", "'w.weight' is not a matrix");
    f.block[0] = f.block[1] = 4;
    refused(&f, "w", "w", "'w.weight_scale' has another shape than [1, 2]");
}

/* ---- config.json ---- */

static const char *const model = "{\"model_type\":\"llama\",\"quantization_config\":";

static enum lb_status read_format(const char *quant, struct lb_pack_format *f, struct lb_err *err)
{
    char text[1024];
    struct lb_config c;
    snprintf(text, sizeof text, "%s%s}", model, quant);
    scratch_text("config.json", text);
    enum lb_status status = lb_config_read_dir(&c, scratch, NULL, err);
    *f = c.pack;
    if (status == LB_OK)
        lb_config_release(&c);
    return status;
}

#define CT(format, weights)                                                                  \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"" format "\",\"config_groups\":{" \
    "\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"

static void formats_are_read(void **state)
{
    scratch_empty(state);
    static const struct {
        const char *config;
        struct lb_pack_format want;
    } t[] = {
        {"null", {0}},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"desc_act\":true}",
         {LB_PACK_GPTQ, 4, 128, true, false, {0}}},
        {"{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":-1,\"checkpoint_format\":\"gptq_v2\"}",
         {LB_PACK_GPTQ, 8, 0, false, false, {0}}},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":64,\"version\":\"GEMM\"}",
         {LB_PACK_AWQ, 4, 64, false, false, {0}}},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,64]}",
         {LB_PACK_FP8, 0, 0, false, false, {128, 64}}},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}", {LB_PACK_FP8, 0, 0, false, false, {0}}},
        {CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\""),
         {LB_PACK_FP8, 8, 0, false, false, {0}}},
        {CT("float-quantized",
            "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\",\"block_structure\":[128,128]"),
         {LB_PACK_FP8, 8, 0, false, false, {128, 128}}},
        {CT("pack-quantized",
            "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32,\"symmetric\":false"),
         {LB_PACK_INT, 4, 32, false, true, {0}}},
        {CT("pack-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\""),
         {LB_PACK_INT, 8, 0, false, false, {0}}},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_pack_format f;
        struct lb_err err = LB_ERR_INIT;
        if (read_format(t[i].config, &f, &err) != LB_OK)
            fail_msg("%s: %s", t[i].config, err.text);
        const struct lb_pack_format *w = &t[i].want;
        assert_true(f.kind == w->kind && f.bits == w->bits && f.group == w->group);
        assert_true(f.zero_less_one == w->zero_less_one && f.zeros == w->zeros);
        assert_true(f.block[0] == w->block[0] && f.block[1] == w->block[1]);
    }
    /* beside config.json, as older GPTQ models have it */
    struct lb_pack_format f;
    struct lb_err err = LB_ERR_INIT;
    scratch_text("quantize_config.json", "{\"bits\":4,\"group_size\":128,\"desc_act\":false,\"damp_percent\":0.01}");
    assert_int_equal(read_format("null", &f, &err), LB_OK);
    assert_true(f.kind == LB_PACK_GPTQ && f.bits == 4 && f.group == 128 && f.zero_less_one);
    scratch_text("quantize_config.json", "{\"bits\":3,\"group_size\":128}");
    assert_int_equal(read_format("null", &f, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "quantize_config.json: bits 3"));
}

static void formats_not_read(void **state)
{
    scratch_empty(state);
    static const struct {
        const char *config, *text;
    } t[] = {
        {"[]", "quantization_config is not an object"},
        {"{\"quant_method\":\"bitsandbytes\"}", "quant_method 'bitsandbytes' is not supported; supported: gptq, awq"},
        {"{\"quant_method\":5}", "quant_method is not a string"},
        {"{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":128}", "bits 3 is not supported"},
        {"{\"quant_method\":\"gptq\",\"group_size\":128}", "bits is missing"},
        {"{\"quant_method\":\"gptq\",\"bits\":4}", "group_size is missing"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0}", "group_size is not -1 or"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-2}", "group_size is -2"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"checkpoint_format\":\"marlin\"}",
         "checkpoint_format 'marlin' is not supported; supported: gptq, gptq_v2"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"dynamic\":{\"-:lm_head\":{}}}",
         "dynamic is not supported"},
        {"{\"quant_method\":\"awq\",\"bits\":8,\"group_size\":32}", "bits 8 is not supported"},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"version\":\"gemv\"}", "version 'gemv'"},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"zero_point\":false}", "zero_point 'false'"},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", "fmt 'e5m2'"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}", "weight_block_size is not a list of two sizes"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128,0]}", "weight_block_size is not"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"int-quantized\"}", "format 'int-quantized'"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}", "config_groups is not"},
        {CT("pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"strategy\":\"group\",\"group_size\":16"),
         "weights.type 'float'"},
        {CT("pack-quantized", "\"num_bits\":3,\"type\":\"int\",\"strategy\":\"channel\""), "num_bits 3"},
        {CT("pack-quantized", "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"block\""), "strategy 'block'"},
        {CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"token\""), "strategy 'token'"},
        {CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\""),
         "block_structure is missing"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"a\":{\"weights\":"
         "{\"num_bits\":4,\"type\":\"int\",\"strategy\":\"channel\"}},\"b\":{\"weights\":{\"num_bits\":8,\"type\":"
         "\"int\",\"strategy\":\"channel\"}}}}",
         "config_groups with different weights"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"transform_config\":{\"a\":1}}",
         "transform_config is not supported"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"sparsity_config\":{\"format\":"
         "\"sparse-24-bitmask\"}}",
         "sparsity_config.format 'sparse-24-bitmask'"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_pack_format f;
        struct lb_err err = LB_ERR_INIT;
        if (read_format(t[i].config, &f, &err) != LB_E_INPUT || !strstr(err.text, t[i].text) ||
            !strstr(err.text, "config.json"))
            fail_msg("%s: status %d, '%s' does not say '%s'", t[i].config, (int)err.status, err.text, t[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gptq),
        cmocka_unit_test(awq),
        cmocka_unit_test(packed_ints),
        cmocka_unit_test(fp8),
        cmocka_unit_test(examples),
        cmocka_unit_test(misfits),
        cmocka_unit_test(formats_are_read),
        cmocka_unit_test(formats_not_read),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, scratch_remove);
    lb_str_release(&header);
    lb_str_release(&data);
    return failed;
}
