/* Pre-tokenizer and post-processor of tokenizer.json, and what kind of tokenizer the parts make (models.md 3.4). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

/* Word characters of Rust's regex (UTS 18) and what BERT calls punctuation, for classes. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}"
#define PUNCTUATION "[\\p{P}!-/:-@\\[-`{-~]"

/* Type of one part, or NULL after an error. */
const char *lb_tok_part_type(const struct lb_tok_load *l, const char *part, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type)
        lb_tok_bad(l, "%s is no object with a type", part);
    return type;
}

enum lb_status lb_tok_not_built(struct lb_tok_load *l, const char *part, const char *type)
{
    return lb_tok_set_missing(l->t, l->err, "%s %s", part, lb_tok_shown(&l->shown, type, strlen(type)));
}

enum lb_status lb_tok_flag(const struct lb_tok_load *l, const char *part, const json_t *v, const char *key, bool *out)
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
enum lb_status lb_tok_each(struct lb_tok_load *l, const json_t *v, const char *key, int depth,
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
    LB_TRY(lb_tok_flag(l, "pre_tokenizer", v, "invert", &invert));
    if (lb_split_add(l->t, json_string_value(text), text == literal, behavior, invert, &unsupported, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    if (unsupported)
        return lb_tok_set_missing(l->t, l->err, "pre-tokenizer pattern with %s", unsupported);
    return LB_OK;
}

static enum lb_status add_step(struct lb_tok_load *l, struct lb_step step)
{
    if (l->t->n_step == LB_TOK_MAX_STEP)
        return lb_tok_bad(l, "more than %d pre-tokenizer steps", LB_TOK_MAX_STEP);
    l->t->step[l->t->n_step++] = step;
    return LB_OK;
}

/* A step that a fixed pattern stands for. */
static enum lb_status add_pattern(struct lb_tok_load *l, const char *pattern, enum lb_split_behavior behavior,
                                  bool invert)
{
    const char *unsupported;
    if (lb_split_add(l->t, pattern, false, behavior, invert, &unsupported, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    return LB_OK;
}

static enum lb_status add_byte_level(struct lb_tok_load *l, const json_t *v)
{
    bool space = true, use_regex = true;
    LB_TRY(lb_tok_flag(l, "pre_tokenizer", v, "add_prefix_space", &space));
    LB_TRY(lb_tok_flag(l, "pre_tokenizer", v, "use_regex", &use_regex));
    if (space && lb_split_add_space(l->t, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    if (use_regex && lb_split_add_gpt2(l->t, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    return add_step(l, (struct lb_step){.kind = LB_STEP_BYTES});
}

static enum lb_status add_digits(struct lb_tok_load *l, const json_t *v)
{
    bool alone = false;
    LB_TRY(lb_tok_flag(l, "pre_tokenizer", v, "individual_digits", &alone));
    return add_pattern(l, "\\p{N}", alone ? LB_SPLIT_ISOLATED : LB_SPLIT_CONTIGUOUS, false);
}

static enum lb_status add_metaspace(struct lb_tok_load *l, const json_t *v)
{
    struct lb_step s = {.kind = LB_STEP_METASPACE};
    LB_TRY(lb_tok_read_metaspace(l, v, &s.space, &s.prepend, &s.cut));
    return add_step(l, s);
}

static enum lb_status add_delimiter(struct lb_tok_load *l, const json_t *v)
{
    const json_t *text = json_object_get(v, "delimiter");
    const char *unsupported;
    if (!json_is_string(text) || json_string_length(text) == 0 ||
        strlen(json_string_value(text)) != json_string_length(text))
        return lb_tok_bad(l, "pre_tokenizer: CharDelimiterSplit without a delimiter");
    if (lb_split_add(l->t, json_string_value(text), true, LB_SPLIT_REMOVED, false, &unsupported, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': pre_tokenizer", l->path);
    return LB_OK;
}

static enum lb_status add_punctuation(struct lb_tok_load *l, const json_t *v)
{
    enum lb_split_behavior behavior = LB_SPLIT_ISOLATED;
    if (json_object_get(v, "behavior"))
        LB_TRY(behavior_of(l, json_object_get(v, "behavior"), &behavior));
    return add_pattern(l, PUNCTUATION, behavior, false);
}

static enum lb_status pre_tokenizer(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = lb_tok_part_type(l, "pre_tokenizer", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return lb_tok_each(l, v, "pretokenizers", depth, pre_tokenizer);
    if (strcmp(type, "Split") == 0)
        return add_split(l, v);
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level(l, v);
    if (strcmp(type, "Digits") == 0)
        return add_digits(l, v);
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace(l, v);
    if (strcmp(type, "Punctuation") == 0)
        return add_punctuation(l, v);
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return add_delimiter(l, v);
    if (strcmp(type, "Whitespace") == 0)
        return add_pattern(l, "[" WORD "]+|[^\\s" WORD "]+", LB_SPLIT_REMOVED, true);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_pattern(l, "\\s", LB_SPLIT_REMOVED, false);
    if (strcmp(type, "BertPreTokenizer") != 0)
        return lb_tok_not_built(l, "pre-tokenizer", type);
    LB_TRY(add_pattern(l, "\\s", LB_SPLIT_REMOVED, false));
    return add_pattern(l, PUNCTUATION, LB_SPLIT_ISOLATED, false);
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

/* BertProcessing and RobertaProcessing: one token before, one behind. */
static enum lb_status add_cls_sep(struct lb_tok_load *l, const json_t *v)
{
    int32_t cls = lb_tok_json_id(json_array_get(json_object_get(v, "cls"), 1));
    int32_t sep = lb_tok_json_id(json_array_get(json_object_get(v, "sep"), 1));
    struct lb_tok *t = l->t;
    if (cls < 0 || sep < 0 || cls >= t->n_id || sep >= t->n_id)
        return lb_tok_bad(l, "post_processor: cls or sep without an id of the vocabulary");
    LB_TRY(lb_ids_put(&t->prefix, cls, l->err));
    memmove(t->prefix.id + 1, t->prefix.id, (t->prefix.n - 1) * sizeof cls);
    t->prefix.id[0] = cls;
    return lb_ids_put(&t->suffix, sep, l->err);
}

static enum lb_status post_processor(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = lb_tok_part_type(l, "post_processor", v);
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return lb_tok_each(l, v, "processors", depth, post_processor);
    if (strcmp(type, "TemplateProcessing") == 0)
        return add_template(l, v);
    if (strcmp(type, "ByteLevel") == 0)
        return LB_OK; /* changes offsets only */
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return add_cls_sep(l, v);
    return lb_tok_not_built(l, "post-processor", type);
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

/* Byte-level BPE works on bytes where ByteLevel comes last on both ways; else the characters for bytes are text. */
static bool is_byte_level(const struct lb_tok *t, const struct lb_decoder *d, bool plain_bpe)
{
    int n_bytes = 0;
    for (int i = 0; i < t->n_step; i++)
        n_bytes += t->step[i].kind == LB_STEP_BYTES;
    for (int i = 0; i < t->n_norm; i++)
        n_bytes += t->norm[i].kind == LB_NORM_BYTES;
    return plain_bpe && n_bytes == 1 && t->n_step > 0 && t->step[t->n_step - 1].kind == LB_STEP_BYTES && d->bytes &&
           d->n_part == 0;
}

enum lb_status lb_tok_pipeline(struct lb_tok_load *l, enum lb_model model, bool plain_bpe)
{
    struct lb_tok *t = l->t;
    t->kind = lb_kind_new(model);
    if (!t->kind)
        return lb_err_memory(l->err, "a tokenizer", sizeof *t->kind);
    l->decoder = &t->kind->decoder;
    l->decoder->spaced = true; /* without a decoder */
    LB_TRY(part(l, "normalizer", lb_tok_load_normalizer));
    LB_TRY(part(l, "pre_tokenizer", pre_tokenizer));
    LB_TRY(part(l, "decoder", lb_tok_load_decoder));
    LB_TRY(part(l, "post_processor", post_processor));
    if (t->missing || is_byte_level(t, l->decoder, plain_bpe)) {
        t->n_step -= !t->missing;
        lb_kind_free(t->kind);
        t->kind = NULL;
    }
    return LB_OK;
}
