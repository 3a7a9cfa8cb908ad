/* Model files made by tests: a safetensors file, and a GGUF file that remembers where each header
 * field lies so that a test can bend it. */
#ifndef CORE_TESTS_MODELFILES_H
#define CORE_TESTS_MODELFILES_H

#include <string.h>

#include "core/base/err.h"
#include "core/base/str.h"
#include "core/io/gguf.h"
#include "core/tests/scratch.h"

static inline void scratch_text(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

static inline void put_le(struct lb_str *s, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        lb_str_putc(s, (char)(v >> 8 * i & 0xFF));
}

/* A safetensors file: the header's text as it is, then data. */
static inline void scratch_safetensors(const char *name, const char *header, const void *data, size_t n)
{
    struct lb_str s = {0};
    put_le(&s, strlen(header), 8);
    lb_str_puts(&s, header);
    lb_str_put(&s, data, n);
    scratch_write(name, s.data, s.len);
    lb_str_release(&s);
}

/* A header field of a GGUF file. strict: no other value leaves the file valid. */
struct gguf_field {
    char name[64];
    size_t at;
    int n_bytes;
    bool strict;
};

struct gguf_out {
    struct lb_str s;
    uint64_t next; /* offset of the next tensor */
    struct gguf_field field[256];
    size_t n_field;
};

static inline void gguf_field(struct gguf_out *o, const char *what, const char *of, uint64_t v, int n_bytes,
                              bool strict)
{
    struct gguf_field *f = &o->field[o->n_field < 256 ? o->n_field++ : 255];
    snprintf(f->name, sizeof f->name, "%s of %.40s", what, of);
    f->at = o->s.len;
    f->n_bytes = n_bytes;
    f->strict = strict;
    put_le(&o->s, v, n_bytes);
}

static inline void gguf_text(struct gguf_out *o, const char *what, const char *of, const char *text)
{
    gguf_field(o, what, of, strlen(text), 8, true);
    lb_str_puts(&o->s, text);
}

static inline void gguf_begin(struct gguf_out *o, uint64_t n_tensor, uint64_t n_kv)
{
    gguf_field(o, "magic", "file", 0x46554747, 4, true);
    gguf_field(o, "version", "file", 3, 4, false);
    gguf_field(o, "n_tensors", "file", n_tensor, 8, true);
    gguf_field(o, "n_kv", "file", n_kv, 8, true);
}

/* A number of any type but string and array; bits as they are stored. */
static inline void gguf_number(struct gguf_out *o, const char *key, enum lb_gguf_type type, uint64_t bits)
{
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    gguf_text(o, "key length", key, key);
    gguf_field(o, "type", key, type, 4, false);
    gguf_field(o, "value", key, bits, bytes[type], false);
}

static inline void gguf_float(struct gguf_out *o, const char *key, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    gguf_number(o, key, LB_GGUF_F32, bits);
}

static inline void gguf_string(struct gguf_out *o, const char *key, const char *text)
{
    gguf_text(o, "key length", key, key);
    gguf_field(o, "type", key, LB_GGUF_STRING, 4, true);
    gguf_text(o, "length", key, text);
}

static inline void gguf_array(struct gguf_out *o, const char *key, enum lb_gguf_type elem, uint64_t n)
{
    gguf_text(o, "key length", key, key);
    gguf_field(o, "type", key, LB_GGUF_ARRAY, 4, true);
    gguf_field(o, "element type", key, elem, 4, true);
    gguf_field(o, "count", key, n, 8, true);
}

static inline void gguf_strings(struct gguf_out *o, const char *key, const char *const *list, size_t n)
{
    gguf_array(o, key, LB_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        gguf_text(o, "element length", key, list[i]);
}

/* The info of a tensor of n_bytes; ne innermost first, 0 ends it early. */
static inline void gguf_tensor(struct gguf_out *o, const char *name, uint32_t type, const uint64_t ne[4],
                               uint64_t n_bytes)
{
    uint32_t n_dims = 0;
    while (n_dims < 4 && ne[n_dims])
        n_dims++;
    gguf_text(o, "name length", name, name);
    gguf_field(o, "n_dims", name, n_dims, 4, true);
    for (uint32_t i = 0; i < n_dims; i++)
        gguf_field(o, "ne", name, ne[i], 8, false);
    gguf_field(o, "type", name, type, 4, false);
    gguf_field(o, "offset", name, o->next, 8, true);
    o->next += (n_bytes + 31) / 32 * 32;
}

/* Pads to the data's start; the caller appends the tensors, each padded to 32 bytes. */
static inline void gguf_pad(struct gguf_out *o)
{
    while (o->s.len % 32)
        lb_str_putc(&o->s, 0);
}

/* A Llama of one layer, 32 wide, 2 heads of 16, 8 tokens, all F32, Q8_0 for one matrix; token_embd comes last. */
static inline void gguf_tiny(struct gguf_out *o)
{
    static const char *const token[] = {"<s>", "</s>", "a", "b", "ab", "abc", "\xC4\xA0", "<eot>"};
    static const char *const merge[] = {"a b", "ab c"};
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t ne[4], n_bytes;
    } t[] = {
        {"output_norm.weight", 0, {32}, 128},
        {"rope_freqs.weight", 0, {8}, 32},
        {"blk.0.attn_norm.weight", 0, {32}, 128},
        {"blk.0.attn_q.weight", 8, {32, 32}, 32 * 34},
        {"blk.0.attn_k.weight", 0, {32, 16}, 2048},
        {"blk.0.attn_v.weight", 1, {32, 16}, 1024},
        {"blk.0.attn_output.weight", 30, {32, 32}, 2048},
        {"blk.0.ffn_norm.weight", 0, {32}, 128},
        {"blk.0.ffn_gate.weight", 2, {32, 64}, 64 * 18},
        {"blk.0.ffn_up.weight", 3, {32, 64}, 64 * 20},
        {"blk.0.ffn_down.weight", 0, {64, 32}, 8192},
        {"token_embd.weight", 0, {32, 8}, 1024},
    };
    const size_t n = sizeof t / sizeof *t;
    *o = (struct gguf_out){0};
    gguf_begin(o, n, 22);
    gguf_string(o, "general.architecture", "llama");
    gguf_number(o, "general.alignment", LB_GGUF_U32, 32);
    o->field[o->n_field - 1].strict = true;
    gguf_number(o, "llama.vocab_size", LB_GGUF_U32, 8);
    gguf_number(o, "llama.context_length", LB_GGUF_U32, 64);
    gguf_number(o, "llama.embedding_length", LB_GGUF_U32, 32);
    gguf_number(o, "llama.block_count", LB_GGUF_U32, 1);
    gguf_number(o, "llama.feed_forward_length", LB_GGUF_U32, 64);
    gguf_number(o, "llama.attention.head_count", LB_GGUF_U32, 2);
    gguf_number(o, "llama.attention.head_count_kv", LB_GGUF_U32, 1);
    gguf_float(o, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_number(o, "llama.rope.dimension_count", LB_GGUF_U32, 16);
    gguf_float(o, "llama.rope.freq_base", 10000.0f);
    gguf_string(o, "tokenizer.ggml.model", "gpt2");
    gguf_string(o, "tokenizer.ggml.pre", "smollm");
    gguf_strings(o, "tokenizer.ggml.tokens", token, 8);
    gguf_array(o, "tokenizer.ggml.token_type", LB_GGUF_I32, 8);
    for (int i = 0; i < 8; i++)
        put_le(&o->s, i < 2 || i == 7 ? 3 : 1, 4);
    gguf_array(o, "tokenizer.ggml.scores", LB_GGUF_F32, 8);
    for (int i = 0; i < 8; i++)
        put_le(&o->s, UINT32_C(0x3F800000) + (uint32_t)i, 4);
    gguf_strings(o, "tokenizer.ggml.merges", merge, 2);
    gguf_number(o, "tokenizer.ggml.bos_token_id", LB_GGUF_U32, 0);
    gguf_number(o, "tokenizer.ggml.eos_token_id", LB_GGUF_U32, 1);
    gguf_number(o, "tokenizer.ggml.eot_token_id", LB_GGUF_U32, 7);
    gguf_number(o, "tokenizer.ggml.add_bos_token", LB_GGUF_BOOL, 1);
    for (size_t i = 0; i < n; i++)
        gguf_tensor(o, t[i].name, t[i].type, t[i].ne, t[i].n_bytes);
    gguf_pad(o);
    for (size_t i = 0; i < n; i++) {
        size_t at = 0;
        if (strcmp(t[i].name, "rope_freqs.weight") == 0)
            for (; at < t[i].n_bytes; at += 4)
                put_le(&o->s, at < 16 ? 0x3F800000 : 0x40800000, 4); /* 1, 4 */
        for (; at < t[i].n_bytes; at++)
            lb_str_putc(&o->s, (char)(at * 7 % 64));
        if (i + 1 < n)
            gguf_pad(o);
    }
}

#endif
