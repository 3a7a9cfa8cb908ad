/* tokenizer.model: which form it has, tiktoken's form (lines of base64 and rank), and what these files leave to the
 * code beside them: special tokens and prefixes (models.md 3.7). */
#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_FILE_BYTES ((size_t)1 << 26)
#define GLM4_BASE 151329
#define LLAMA3_BASE 128000
#define LLAMA3_SPECIAL 256

static const char *const glm4_special[] = {"<|endoftext|>",
                                           "[MASK]",
                                           "[gMASK]",
                                           "[sMASK]",
                                           "<sop>",
                                           "<eop>",
                                           "<|system|>",
                                           "<|user|>",
                                           "<|assistant|>",
                                           "<|observation|>",
                                           "<|begin_of_image|>",
                                           "<|end_of_image|>",
                                           "<|begin_of_video|>",
                                           "<|end_of_video|>"};
static const char *const llama3_special[] = {"<|begin_of_text|>",
                                             "<|end_of_text|>",
                                             "<|reserved_special_token_0|>",
                                             "<|reserved_special_token_1|>",
                                             "<|finetune_right_pad_id|>",
                                             "<|step_id|>",
                                             "<|start_header_id|>",
                                             "<|end_header_id|>",
                                             "<|eom_id|>",
                                             "<|eot_id|>",
                                             "<|python_tag|>"};
static const char *const chatglm_special[] = {"[MASK]",   "[gMASK]",       "[sMASK]",        "sop", "eop", "<|system|>",
                                              "<|user|>", "<|assistant|>", "<|observation|>"};
#define N_OF(list) (sizeof(list) / sizeof(list)[0])

static const char *class_of(const struct lb_tok_load *l)
{
    const char *name = json_string_value(json_object_get(l->config, "tokenizer_class"));
    return name ? name : "";
}

static enum lb_status add_extra(struct lb_tok_load *l, const char *text, int64_t id, bool single_word)
{
    struct lb_added a = {.text = (char *)(uintptr_t)text,
                         .len = strlen(text),
                         .id = (int32_t)id,
                         .special = true,
                         .single_word = single_word};
    return lb_added_put(&l->extra, &a, l->err);
}

/* One line: base64, a space, a rank. */
static enum lb_status add_line(struct lb_tok_load *l, const char *line, size_t n, size_t n_line, size_t nth)
{
    const char *space = memchr(line, ' ', n);
    size_t n_text = space ? (size_t)(space - line) : 0, rank = 0, i = n_text + 1;
    lb_str_clear(&l->text);
    bool good = space && i < n && n - i <= 8 && lb_base64_decode(line, n_text, &l->text) && l->text.len > 0;
    for (; good && i < n; i++) {
        good = line[i] >= '0' && line[i] <= '9';
        rank = rank * 10 + (size_t)(line[i] - '0');
    }
    if (!good || rank >= n_line)
        return lb_tok_bad(l, "line %zu is not base64 and a rank below %zu", nth + 1, n_line);
    if (lb_tok_find(l->t, l->text.data, l->text.len, false) >= 0 ||
        !lb_tok_set(l->t, (int32_t)rank, l->text.data, l->text.len, LB_TOKEN_JOINS, true))
        return lb_tok_bad(l, "line %zu has a token or a rank that came before", nth + 1);
    return LB_OK;
}

static size_t count_lines(struct lb_bytes file)
{
    size_t n = 0;
    for (size_t i = 0; i < file.len; i++)
        n += file.data[i] == '\n' && i > 0 && file.data[i - 1] != '\n';
    return n + (file.len > 0 && file.data[file.len - 1] != '\n');
}

static enum lb_status add_lines(struct lb_tok_load *l, struct lb_bytes file, size_t n_line)
{
    size_t nth = 0;
    for (size_t i = 0; i < file.len;) {
        const char *end = memchr(file.data + i, '\n', file.len - i);
        size_t n = end ? (size_t)(end - file.data) - i : file.len - i;
        size_t own = n > 0 && file.data[i + n - 1] == '\r' ? n - 1 : n;
        if (own > 0)
            LB_TRY(add_line(l, file.data + i, own, n_line, nth));
        nth += n > 0;
        i += n + 1;
    }
    return l->t->pool.failed ? lb_err_memory(l->err, "the vocabulary", file.len) : LB_OK;
}

/* The merges follow from ranks: what two neighbors make together has a rank, the lowest merges first. */
static enum lb_status rank_by_id(struct lb_tok_load *l, size_t n)
{
    uint32_t *rank = lb_mem_new((size_t)l->t->n_id, sizeof *rank);
    if (!rank)
        return lb_err_memory(l->err, "merges", n * sizeof *rank);
    for (size_t i = 0; i < n; i++)
        rank[i] = (uint32_t)i;
    enum lb_status status = lb_tok_merges_from_splits(l->t, rank, false, l->err);
    lb_mem_free(rank);
    return status == LB_OK ? LB_OK : lb_err_where(l->err, "cannot use '%s'", l->path);
}

/* Special tokens that Meta's and Zhipu's code adds after as many base tokens. */
static enum lb_status add_known_special(struct lb_tok_load *l, size_t n)
{
    char name[64];
    for (size_t i = 0; n == GLM4_BASE && i < N_OF(glm4_special); i++)
        LB_TRY(add_extra(l, glm4_special[i], (int64_t)(n + i), false));
    for (size_t i = 0; n == LLAMA3_BASE && i < LLAMA3_SPECIAL; i++) {
        snprintf(name, sizeof name, "<|reserved_special_token_%zu|>", i - N_OF(llama3_special) + 2);
        LB_TRY(add_extra(l, i < N_OF(llama3_special) ? llama3_special[i] : name, (int64_t)(n + i), false));
    }
    return LB_OK;
}

enum lb_status lb_tok_load_tiktoken(struct lb_tok_load *l, struct lb_bytes file)
{
    struct lb_tok *t = l->t;
    const char *unsupported;
    size_t n = count_lines(file), n_known = n == GLM4_BASE ? N_OF(glm4_special) : n == LLAMA3_BASE ? LLAMA3_SPECIAL : 0;
    if (n == 0 || n + n_known >= LB_TOK_MAX_ID)
        return lb_tok_bad(l, "%zu lines are no vocabulary", n);
    int64_t n_id = t->n_id > (int64_t)(n + n_known) ? t->n_id : (int64_t)(n + n_known);
    LB_TRY(lb_tok_reserve(t, n_id, n, 0, l->err));
    LB_TRY(add_lines(l, file, n));
    LB_TRY(rank_by_id(l, n));
    LB_TRY(add_known_special(l, n));
    lb_tok_find_bytes(t);
    t->ignore_merges = true;
    l->as_written = true;
    return lb_split_add(t, lb_pattern_llama3, false, LB_SPLIT_ISOLATED, false, &unsupported, l->err);
}

/* ChatGLM2 and 3 put their commands after the pieces. "sop" and "eop" are words too: they count where they stand
 * alone. */
static enum lb_status add_chatglm_special(struct lb_tok_load *l, int64_t from)
{
    for (size_t i = 0; i < N_OF(chatglm_special); i++)
        LB_TRY(add_extra(l, chatglm_special[i], from + (int64_t)i,
                         chatglm_special[i][0] != '<' && chatglm_special[i][0] != '['));
    return LB_OK;
}

static enum lb_status load(struct lb_tok_load *l, struct lb_bytes file)
{
    struct lb_tok *t = l->t;
    if (file.len == 0)
        return lb_tok_bad(l, "the file is empty");
    if (file.data[0] != 0x0A) /* the tag of a model's first piece */
        return lb_tok_load_tiktoken(l, file);
    if (strcmp(class_of(l), "ChatGLMTokenizer") != 0)
        return lb_tok_load_sentence(l, file);
    l->n_more = N_OF(chatglm_special);
    LB_TRY(lb_tok_load_sentence(l, file));
    return t->missing ? LB_OK : add_chatglm_special(l, l->n_piece);
}

enum lb_status lb_tok_load_model_file(struct lb_tok_load *l)
{
    struct lb_str file = {0};
    enum lb_status status = lb_file_read(l->path, MAX_FILE_BYTES, &file, l->err);
    if (status == LB_OK)
        status = load(l, (struct lb_bytes){file.data ? file.data : "", file.len});
    lb_str_release(&file);
    return status;
}

static enum lb_status put_prefix(struct lb_tok_load *l, int64_t id)
{
    return id >= 0 ? lb_ids_put(&l->t->prefix, (int32_t)id, l->err) : LB_OK;
}

enum lb_status lb_tok_model_file_prefix(struct lb_tok_load *l)
{
    struct lb_tok *t = l->t;
    const char *name = class_of(l);
    if (strstr(name, "ChatGLM")) {
        int64_t sop = lb_tok_id(t, "<sop>", 5);
        LB_TRY(put_prefix(l, lb_tok_id(t, "[gMASK]", 7)));
        return put_prefix(l, sop >= 0 ? sop : lb_tok_id(t, "sop", 3));
    }
    if (!t->kind && t->bos < 0 && t->eos < 0) { /* Meta's Llama 3: no file says more */
        t->bos = lb_tok_id(t, llama3_special[0], strlen(llama3_special[0]));
        t->eos = t->bos < 0 ? -1 : lb_tok_id(t, llama3_special[1], strlen(llama3_special[1]));
        int64_t more[2] = {lb_tok_id(t, "<|eot_id|>", 10), lb_tok_id(t, "<|eom_id|>", 10)};
        for (int i = 0; i < 2; i++)
            if (t->bos >= 0 && more[i] >= 0)
                t->more_eos[t->n_more_eos++] = more[i];
    }
    return name[0] == 0 || strstr(name, "Llama") ? put_prefix(l, t->bos) : LB_OK;
}
