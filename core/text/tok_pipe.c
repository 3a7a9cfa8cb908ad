/* The parts of tokenizer.json around the model: normalizer, pre-tokenizer, decoder, post-processor (models.md 3.4). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_impl.h"

/* Type of one part, or NULL after an error. */
static const char *type_of(const struct lb_tok_load *l, const char *part, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type)
        lb_tok_bad(l, "%s is no object with a type", part);
    return type;
}

static enum lb_status not_built(struct lb_tok_load *l, const char *part, const char *type)
{
    return lb_tok_set_missing(l->t, l->err, "%s %s", part, lb_tok_shown(&l->shown, type, strlen(type)));
}

static enum lb_status flag(const struct lb_tok_load *l, const char *part, const json_t *v, const char *key, bool *out)
{
    const json_t *f = json_object_get(v, key);
    if (!f || json_is_null(f))
        return LB_OK;
    if (!json_is_boolean(f))
        return lb_tok_bad(l, "%s: %s is not true or false", part, key);
    *out = json_is_true(f);
    return LB_OK;
}

/* Visits the members of a Sequence. */
static enum lb_status each(struct lb_tok_load *l, const json_t *v, const char *key, int depth,
                           enum lb_status (*visit)(struct lb_tok_load *l, const json_t *v, int depth))
{
    const json_t *list = json_object_get(v, key);
    if (!json_is_array(list))
        return lb_tok_bad(l, "Sequence without an array '%s'", key);
    if (depth >= LB_TOK_MAX_NEST)
        return lb_tok_bad(l, "'%s' nested more than %d deep", key, LB_TOK_MAX_NEST);
    for (size_t i = 0; i < json_array_size(list) && !l->t->missing; i++)
        LB_TRY(visit(l, json_array_get(list, i), depth + 1));
    return LB_OK;
}

static enum lb_status normalizer(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = type_of(l, "normalizer", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return each(l, v, "normalizers", depth, normalizer);
    if (strcmp(type, "NFC") != 0)
        return not_built(l, "normalizer", type);
    l->t->nfc = true;
    return LB_OK;
}

static enum lb_status behavior_of(const struct lb_tok_load *l, const json_t *v, enum lb_split_behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(v);
    for (int i = 0; name && i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum lb_split_behavior)i;
            return LB_OK;
        }
    }
    return lb_tok_bad(l, "pre_tokenizer: Split without a known behavior");
}

static enum lb_status add_split(struct lb_tok_load *l, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
    const json_t *text = json_is_string(regex) ? regex : literal;
    const char *unsupported;
    enum lb_split_behavior behavior = LB_SPLIT_ISOLATED;
    bool invert = false;
    if (!json_is_string(text) || strlen(json_string_value(text)) != json_string_length(text))
        return lb_tok_bad(l, "pre_tokenizer: Split without a pattern of type Regex or String");
    LB_TRY(behavior_of(l, json_object_get(v, "behavior"), &behavior));
    LB_TRY(flag(l, "pre_tokenizer", v, "invert", &invert));
    if (lb_split_add(l->t, json_string_value(text), text == literal, behavior, invert, &unsupported, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    if (unsupported)
        return lb_tok_set_missing(l->t, l->err, "pre-tokenizer pattern with %s", unsupported);
    return LB_OK;
}

static enum lb_status add_byte_level(struct lb_tok_load *l, const json_t *v)
{
    bool space = true, use_regex = true;
    LB_TRY(flag(l, "pre_tokenizer", v, "add_prefix_space", &space));
    LB_TRY(flag(l, "pre_tokenizer", v, "use_regex", &use_regex));
    l->byte_level = true;
    if (space && lb_split_add_space(l->t, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    if (use_regex && lb_split_add_gpt2(l->t, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    return LB_OK;
}

static enum lb_status add_digits(struct lb_tok_load *l, const json_t *v)
{
    bool alone = false;
    const char *unsupported;
    LB_TRY(flag(l, "pre_tokenizer", v, "individual_digits", &alone));
    if (lb_split_add(l->t, "\\p{N}", false, alone ? LB_SPLIT_ISOLATED : LB_SPLIT_CONTIGUOUS, false, &unsupported,
                     l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    return LB_OK;
}

static enum lb_status pre_tokenizer(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = type_of(l, "pre_tokenizer", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return each(l, v, "pretokenizers", depth, pre_tokenizer);
    if (l->byte_level) /* it would see the characters that stand for bytes */
        return lb_tok_set_missing(l->t, l->err, "a pre-tokenizer after ByteLevel");
    if (strcmp(type, "Split") == 0)
        return add_split(l, v);
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level(l, v);
    if (strcmp(type, "Digits") == 0)
        return add_digits(l, v);
    return not_built(l, "pre-tokenizer", type);
}

static enum lb_status decoder(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = type_of(l, "decoder", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return each(l, v, "decoders", depth, decoder);
    if (strcmp(type, "Fuse") == 0 && l->byte_decoder)
        return LB_OK; /* ByteLevel has joined everything */
    if (strcmp(type, "ByteLevel") != 0 || l->byte_decoder)
        return not_built(l, "decoder", type);
    l->byte_decoder = true;
    return LB_OK;
}

/* Ids that one SpecialToken of a template stands for, appended to out. */
static enum lb_status template_ids(const struct lb_tok_load *l, const json_t *v, const char *name, struct lb_ids *out)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(v, "special_tokens"), name), "ids");
    struct lb_str shown = {0};
    enum lb_status status = LB_OK;
    if (!json_is_array(ids))
        status = lb_tok_bad(l, "post_processor: special_tokens lacks %s", lb_tok_shown(&shown, name, strlen(name)));
    for (size_t i = 0; status == LB_OK && i < json_array_size(ids); i++) {
        int32_t id = lb_tok_json_id(json_array_get(ids, i));
        if (id < 0 || id >= l->t->n_id)
            status = lb_tok_bad(l, "post_processor: special_tokens[%s] has an id outside the vocabulary",
                                lb_tok_shown(&shown, name, strlen(name)));
        else
            status = lb_ids_put(out, id, l->err);
    }
    lb_str_release(&shown);
    return status;
}

/* What a template puts before and after the text goes outside of what earlier processors put there. */
static enum lb_status add_template(struct lb_tok_load *l, const json_t *v)
{
    const json_t *single = json_object_get(v, "single");
    struct lb_ids before = {0};
    enum lb_status status = LB_OK;
    int n_text = 0;
    if (!json_is_array(single))
        return lb_tok_bad(l, "post_processor: TemplateProcessing without an array 'single'");
    for (size_t i = 0; status == LB_OK && i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const char *text = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        if (name)
            status = template_ids(l, v, name, n_text ? &l->t->suffix : &before);
        else if (text && strcmp(text, "A") == 0)
            n_text++;
        else
            status = lb_tok_bad(l, "post_processor: single[%zu] is neither a SpecialToken nor Sequence A", i);
    }
    if (status == LB_OK && n_text != 1)
        status = lb_tok_bad(l, "post_processor: 'single' has the text %d times", n_text);
    for (size_t i = 0; status == LB_OK && i < l->t->prefix.n; i++)
        status = lb_ids_put(&before, l->t->prefix.id[i], l->err);
    if (status == LB_OK) {
        lb_ids_release(&l->t->prefix);
        l->t->prefix = before;
    } else {
        lb_ids_release(&before);
    }
    return status;
}

static enum lb_status post_processor(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = type_of(l, "post_processor", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return each(l, v, "processors", depth, post_processor);
    if (strcmp(type, "TemplateProcessing") == 0)
        return add_template(l, v);
    if (strcmp(type, "ByteLevel") == 0)
        return LB_OK; /* changes offsets only */
    return not_built(l, "post-processor", type);
}

/* One part of tokenizer.json, if it is there and nothing was missing before it. */
static enum lb_status part(struct lb_tok_load *l, const char *name,
                           enum lb_status (*visit)(struct lb_tok_load *l, const json_t *v, int depth))
{
    const json_t *v = json_object_get(l->root, name);
    if (!v || json_is_null(v) || l->t->missing)
        return LB_OK;
    return visit(l, v, 0);
}

enum lb_status lb_tok_pipeline(struct lb_tok_load *l)
{
    LB_TRY(part(l, "normalizer", normalizer));
    LB_TRY(part(l, "pre_tokenizer", pre_tokenizer));
    if (!l->byte_level)
        LB_TRY(lb_tok_set_missing(l->t, l->err, "BPE without a ByteLevel pre-tokenizer"));
    LB_TRY(part(l, "decoder", decoder));
    if (!l->byte_decoder)
        LB_TRY(lb_tok_set_missing(l->t, l->err, "BPE without a ByteLevel decoder"));
    return part(l, "post_processor", post_processor);
}
