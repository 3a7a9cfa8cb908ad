#include "core/model/config_quant.h"

#include <string.h>
#include <strings.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/model/config.h"

static enum lb_status unsupported(const struct lb_cfg *s, const char *key, const char *is, const char *supported,
                                  struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s '%s' is not supported; supported: %s", s->path, s->prefix, key,
                      lb_wfile_show(shown, is, strlen(is)), supported);
}

/* Text of a member that must be one word, whatever its case. */
static enum lb_status expect(const struct lb_cfg *s, const char *key, const char *want, struct lb_err *err)
{
    const char *is = want;
    LB_TRY(lb_cfg_text(s, key, &is, err));
    return strcasecmp(is, want) == 0 ? LB_OK : unsupported(s, key, is, want, err);
}

/* A member that changes the numbers when it is true, or not empty. */
static enum lb_status refuse_if_set(const struct lb_cfg *s, const char *key, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, key);
    if (!v || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0))
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s is not supported", s->path, s->prefix, key);
}

static enum lb_status read_bits(const struct lb_cfg *s, const char *key, const int *known, struct lb_pack_format *f,
                                struct lb_err *err)
{
    static const int64_t range[2] = {1, 64};
    int64_t bits = 0;
    LB_TRY(lb_cfg_need(s, key, err));
    LB_TRY(lb_cfg_int(s, key, range, &bits, err));
    for (; *known > 0; known++)
        if (bits == *known)
            f->bits = *known;
    if (f->bits > 0)
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s %lld is not supported", s->path, s->prefix, key, (long long)bits);
}

/* group_size -1: one for a whole row. */
static enum lb_status read_group(const struct lb_cfg *s, struct lb_pack_format *f, struct lb_err *err)
{
    static const int64_t range[2] = {-1, LB_MAX_DIM};
    int64_t group = -1;
    LB_TRY(lb_cfg_need(s, "group_size", err));
    LB_TRY(lb_cfg_int(s, "group_size", range, &group, err));
    if (group == 0)
        return lb_cfg_wrong(s, "group_size", "-1 or a number of inputs", err);
    f->group = group > 0 ? group : 0;
    return LB_OK;
}

static enum lb_status read_gptq(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    const char *format = "gptq";
    f->kind = LB_PACK_GPTQ;
    LB_TRY(read_bits(s, "bits", (const int[]){2, 4, 8, 0}, f, err));
    LB_TRY(read_group(s, f, err));
    LB_TRY(lb_cfg_text(s, "format", &format, err));
    LB_TRY(lb_cfg_text(s, "checkpoint_format", &format, err));
    f->zero_less_one = strcmp(format, "gptq") == 0;
    if (!f->zero_less_one && strcmp(format, "gptq_v2") != 0)
        return unsupported(s, lb_cfg_member(s, "checkpoint_format") ? "checkpoint_format" : "format", format,
                           "gptq, gptq_v2", err);
    LB_TRY(expect(s, "pack_dtype", "int32", err));
    LB_TRY(refuse_if_set(s, "is_marlin_format", err));
    return refuse_if_set(s, "dynamic", err); /* other bits and groups for some modules */
}

static enum lb_status read_awq(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    bool zero_point = true;
    f->kind = LB_PACK_AWQ;
    LB_TRY(read_bits(s, "bits", (const int[]){4, 0}, f, err));
    LB_TRY(read_group(s, f, err));
    LB_TRY(expect(s, "version", "gemm", err));
    LB_TRY(lb_cfg_bool(s, "zero_point", &zero_point, err));
    return zero_point ? LB_OK : unsupported(s, "zero_point", "false", "true", err);
}

static enum lb_status read_block(struct lb_pack_format *f, const struct lb_cfg *s, const char *key, struct lb_err *err)
{
    const json_t *list = lb_cfg_member(s, key);
    if (!list)
        return LB_OK;
    for (size_t i = 0; i < 2; i++) {
        const json_t *n = json_array_get(list, i);
        if (json_array_size(list) != 2 || !json_is_integer(n) || json_integer_value(n) < 1 ||
            json_integer_value(n) > LB_MAX_DIM)
            return lb_cfg_wrong(s, key, "a list of two sizes", err);
        f->block[i] = json_integer_value(n);
    }
    return LB_OK;
}

static enum lb_status read_fp8(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    f->kind = LB_PACK_FP8;
    LB_TRY(expect(s, "fmt", "e4m3", err));
    return read_block(f, s, "weight_block_size", err);
}

/* The settings of weights in a group of modules. */
static enum lb_status read_ct_weights(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    bool symmetric = true, fp8 = f->kind == LB_PACK_FP8;
    const char *strategy = "";
    LB_TRY(read_bits(s, "num_bits", fp8 ? (const int[]){8, 0} : (const int[]){4, 8, 0}, f, err));
    LB_TRY(lb_cfg_need(s, "type", err));
    LB_TRY(expect(s, "type", fp8 ? "float" : "int", err));
    LB_TRY(lb_cfg_need(s, "strategy", err));
    LB_TRY(lb_cfg_text(s, "strategy", &strategy, err));
    LB_TRY(lb_cfg_bool(s, "symmetric", &symmetric, err));
    if (fp8 && !symmetric)
        return unsupported(s, "symmetric", "false", "true", err);
    f->zeros = !symmetric;
    if (strcmp(strategy, "channel") == 0 || strcmp(strategy, "tensor") == 0)
        return LB_OK;
    if (!fp8 && strcmp(strategy, "group") == 0)
        return read_group(s, f, err);
    if (!fp8 || strcmp(strategy, "block") != 0)
        return unsupported(s, "strategy", strategy, fp8 ? "tensor, channel, block" : "tensor, channel, group", err);
    LB_TRY(lb_cfg_need(s, "block_structure", err));
    return read_block(f, s, "block_structure", err);
}

/* config_groups: modules with settings of their own. All must store their weights alike: then which module belongs to
 * which group need not be known, since its tensors say whether it is packed. */
static enum lb_status read_ct_groups(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    const json_t *groups = lb_cfg_member(s, "config_groups"), *first = NULL;
    const char *name;
    json_t *group;
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        return lb_cfg_wrong(s, "config_groups", "an object of groups", err);
    json_object_foreach((json_t *)(uintptr_t)groups, name, group)
    {
        const struct lb_cfg in = {s->path, "quantization_config.config_groups.*.", group};
        const json_t *weights = json_is_object(group) ? lb_cfg_member(&in, "weights") : NULL;
        const struct lb_cfg of = {s->path, "quantization_config.config_groups.*.weights.", weights};
        const char *format = NULL, *all = NULL;
        if (!json_is_object(weights))
            return lb_cfg_wrong(&in, "weights", "an object", err);
        LB_TRY(lb_cfg_text(&in, "format", &format, err));
        LB_TRY(lb_cfg_text(s, "format", &all, err));
        if (format && strcmp(format, all) != 0)
            return unsupported(&in, "format", format, "that of the whole quantization_config", err);
        if (first && !json_equal((json_t *)(uintptr_t)first, (json_t *)(uintptr_t)weights))
            return lb_err_set(err, LB_E_INPUT, "%s: config_groups with different weights are not supported", s->path);
        if (!first)
            LB_TRY(read_ct_weights(f, &of, err));
        first = weights;
    }
    return LB_OK;
}

static enum lb_status read_compressed(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err)
{
    const char *format = "";
    LB_TRY(lb_cfg_need(s, "format", err));
    LB_TRY(lb_cfg_text(s, "format", &format, err));
    bool fp8 = strcmp(format, "float-quantized") == 0 || strcmp(format, "naive-quantized") == 0;
    if (!fp8 && strcmp(format, "pack-quantized") != 0)
        return unsupported(s, "format", format, "float-quantized, naive-quantized of floats, pack-quantized", err);
    f->kind = fp8 ? LB_PACK_FP8 : LB_PACK_INT;
    const struct lb_cfg sparse = {s->path, "quantization_config.sparsity_config.", lb_cfg_member(s, "sparsity_config")};
    if (sparse.object && !json_is_object(sparse.object))
        return lb_cfg_wrong(s, "sparsity_config", "an object", err);
    if (sparse.object)
        LB_TRY(expect(&sparse, "format", "dense", err));
    LB_TRY(refuse_if_set(s, "transform_config", err)); /* rotations of activations */
    return read_ct_groups(f, s, err);
}

static enum lb_status read_method(struct lb_pack_format *f, const struct lb_cfg *s, const char *method,
                                  struct lb_err *err)
{
    static const struct {
        const char *name;
        enum lb_status (*read)(struct lb_pack_format *f, const struct lb_cfg *s, struct lb_err *err);
    } known[] = {{"gptq", read_gptq}, {"awq", read_awq}, {"fp8", read_fp8}, {"compressed-tensors", read_compressed}};
    if (!json_is_object(s->object))
        return lb_err_set(err, LB_E_INPUT, "%s: quantization_config is not an object", s->path);
    LB_TRY(lb_cfg_text(s, "quant_method", &method, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(method, known[i].name) == 0)
            return known[i].read(f, s, err);
    return unsupported(s, "quant_method", method, "gptq, awq, fp8, compressed-tensors, or no quantization", err);
}

enum lb_status lb_config_read_quant(struct lb_pack_format *f, const struct lb_cfg *s, const char *dir,
                                    struct lb_err *err)
{
    const struct lb_cfg in = {s->path, "quantization_config.", lb_cfg_member(s, "quantization_config")};
    json_t *beside = NULL;
    *f = (struct lb_pack_format){0};
    if (in.object)
        return read_method(f, &in, "unknown", err);
    char *path = lb_path_join(dir, "quantize_config.json"); /* older GPTQ files name no method */
    if (!path)
        return lb_err_memory(err, dir, strlen(dir));
    enum lb_status status = lb_file_exists(path) ? lb_cfg_open(path, &beside, err) : LB_OK;
    if (beside) {
        const struct lb_cfg old = {path, "", beside};
        status = read_method(f, &old, "gptq", err);
    }
    json_decref(beside);
    lb_mem_free(path);
    return status;
}
