/* tokenizer.model of SentencePiece: a protobuf message (sentencepiece_model.proto; models.md 3.7). The reader knows the
 * wire format as far as these messages use it; whatever it does not know it steps over. */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* What is left of a message; base is the file, for places in messages. */
struct reader {
    const struct lb_tok_load *l;
    const char *base, *at, *end;
};

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;        /* of a varint or a fixed number */
    struct lb_bytes bytes; /* WIRE_BYTES */
};

static enum lb_status bad(const struct reader *r, const char *what)
{
    return lb_tok_bad(r->l, "%s at byte %zu", what, (size_t)(r->at - r->base));
}

static enum lb_status read_varint(struct reader *r, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (r->at == r->end)
            return bad(r, "a number is cut off");
        unsigned char b = (unsigned char)*r->at++;
        if (shift == 63 && b > 1)
            break;
        *out |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80)
            return LB_OK;
    }
    return bad(r, "a number of more than 64 bits");
}

static enum lb_status read_fixed(struct reader *r, size_t n, uint64_t *out)
{
    if ((size_t)(r->end - r->at) < n)
        return bad(r, "a number is cut off");
    *out = 0;
    for (size_t i = n; i-- > 0;)
        *out = *out << 8 | (unsigned char)r->at[i];
    r->at += n;
    return LB_OK;
}

static enum lb_status read_field(struct reader *r, struct field *f)
{
    uint64_t key, n;
    LB_TRY(read_varint(r, &key));
    *f = (struct field){.number = (uint32_t)(key >> 3), .wire = (enum wire)(key & 7)};
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF)
        return bad(r, "a field without a number");
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value);
    case WIRE_64:
        return read_fixed(r, 8, &f->value);
    case WIRE_32:
        return read_fixed(r, 4, &f->value);
    case WIRE_BYTES:
        LB_TRY(read_varint(r, &n));
        if (n > (uint64_t)(r->end - r->at))
            return bad(r, "a field is longer than what holds it");
        f->bytes = (struct lb_bytes){r->at, (size_t)n};
        r->at += n;
        return LB_OK;
    }
    return bad(r, "a field of a type that is not known");
}

static struct reader inside(const struct reader *r, const struct field *f)
{
    return (struct reader){r->l, r->base, f->bytes.data, f->bytes.data + f->bytes.len};
}

/* What the file says. */
struct model {
    struct lb_vocab v;
    struct lb_bytes *piece;
    float *score;
    int32_t *type;
    size_t cap[3];
    int model_type;
    bool byte_fallback, dummy_prefix, squeeze, escape, at_end;
    int32_t unk, bos, eos, pad;
    struct lb_bytes charsmap;
};

static enum lb_status read_piece(struct reader r, struct model *m)
{
    struct lb_err *err = r.l->err;
    struct field f;
    size_t n = m->v.n_token;
    LB_TRY(lb_mem_grow((void **)&m->piece, &m->cap[0], n + 1, sizeof *m->piece, "pieces", err));
    LB_TRY(lb_mem_grow((void **)&m->score, &m->cap[1], n + 1, sizeof *m->score, "pieces", err));
    LB_TRY(lb_mem_grow((void **)&m->type, &m->cap[2], n + 1, sizeof *m->type, "pieces", err));
    m->piece[n] = (struct lb_bytes){"", 0};
    m->score[n] = 0;
    m->type[n] = LB_VOCAB_NORMAL;
    while (r.at < r.end) {
        LB_TRY(read_field(&r, &f));
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            m->piece[n] = f.bytes;
        } else if (f.number == 2 && f.wire == WIRE_32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&m->score[n], &bits, sizeof bits);
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            if (f.value < LB_VOCAB_NORMAL || f.value > LB_VOCAB_BYTE)
                return bad(&r, "a piece of a type that is not known");
            m->type[n] = (int32_t)f.value;
        }
    }
    m->v.n_token = n + 1;
    return LB_OK;
}

/* Ids are int32 in the message: negative ones come as 64 bits. */
static int32_t id_of(uint64_t value)
{
    return value < LB_TOK_MAX_ID ? (int32_t)value : -1;
}

static enum lb_status read_trainer(struct reader r, struct model *m)
{
    struct field f;
    while (r.at < r.end) {
        LB_TRY(read_field(&r, &f));
        if (f.wire != WIRE_VARINT)
            continue;
        if (f.number == 3)
            m->model_type = f.value < 100 ? (int)f.value : 100;
        else if (f.number == 24)
            m->at_end = f.value != 0;
        else if (f.number == 35)
            m->byte_fallback = f.value != 0;
        else if (f.number == 40)
            m->unk = id_of(f.value);
        else if (f.number == 41)
            m->bos = id_of(f.value);
        else if (f.number == 42)
            m->eos = id_of(f.value);
        else if (f.number == 43)
            m->pad = id_of(f.value);
    }
    return LB_OK;
}

static enum lb_status read_normalizer(struct reader r, struct model *m)
{
    struct field f;
    while (r.at < r.end) {
        LB_TRY(read_field(&r, &f));
        if (f.number == 2 && f.wire == WIRE_BYTES)
            m->charsmap = f.bytes;
        if (f.wire != WIRE_VARINT)
            continue;
        if (f.number == 3)
            m->dummy_prefix = f.value != 0;
        else if (f.number == 4)
            m->squeeze = f.value != 0;
        else if (f.number == 5)
            m->escape = f.value != 0;
    }
    return LB_OK;
}

static enum lb_status read_model(struct reader r, struct model *m)
{
    struct field f;
    while (r.at < r.end) {
        LB_TRY(read_field(&r, &f));
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == 1)
            LB_TRY(read_piece(inside(&r, &f), m));
        else if (f.number == 2)
            LB_TRY(read_trainer(inside(&r, &f), m));
        else if (f.number == 3)
            LB_TRY(read_normalizer(inside(&r, &f), m));
    }
    m->v.token = m->piece;
    m->v.score = m->score;
    m->v.type = m->type;
    return LB_OK;
}

/* An id that the trainer names counts where its piece is a control piece. */
static int64_t control_id(const struct model *m, int32_t id, int type)
{
    return id >= 0 && (size_t)id < m->v.n_token && m->type[id] == type ? id : -1;
}

static enum lb_status build(struct lb_tok_load *l, struct model *m)
{
    struct lb_tok *t = l->t;
    struct lb_sentence_spec spec = {.unigram = m->model_type == 1, .byte_fallback = m->byte_fallback};
    if (m->model_type != 1 && m->model_type != 2)
        return lb_tok_set_missing(t, l->err, "SentencePiece model of type %d", m->model_type);
    l->n_piece = (int64_t)m->v.n_token;
    spec.n_id = l->n_piece + (int64_t)l->n_more;
    spec.n_id = t->n_id > spec.n_id ? t->n_id : spec.n_id;
    spec.named = &l->extra;
    spec.norm = (struct lb_norm){.kind = LB_NORM_SENTENCE,
                                 .dummy_prefix = m->dummy_prefix,
                                 .squeeze = m->squeeze,
                                 .escape = m->escape,
                                 .at_end = m->at_end};
    enum lb_status status = LB_OK;
    if (m->charsmap.len > 0)
        status = lb_charsmap_new(&spec.norm.map, m->charsmap.data, m->charsmap.len, l->err);
    if (status == LB_OK)
        status = lb_sentence_build(t, &m->v, &spec, l->err);
    lb_norm_release(&spec.norm);
    if (status != LB_OK)
        return lb_err_where(l->err, "cannot use '%s'", l->path);
    if (t->unk < 0)
        return lb_tok_bad(l, "no piece is the unknown one");
    t->bos = control_id(m, m->bos, LB_VOCAB_CONTROL);
    t->eos = control_id(m, m->eos, LB_VOCAB_CONTROL);
    t->pad = control_id(m, m->pad, LB_VOCAB_CONTROL);
    t->unk_token = t->unk;
    return LB_OK;
}

enum lb_status lb_tok_load_sentence(struct lb_tok_load *l, struct lb_bytes file)
{
    struct model m = {.model_type = 1, .dummy_prefix = true, .squeeze = true, .escape = true};
    m.bos = 1;
    m.eos = 2;
    m.pad = -1;
    struct reader r = {l, file.data, file.data, file.data + file.len};
    enum lb_status status = read_model(r, &m);
    if (status == LB_OK)
        status = build(l, &m);
    lb_mem_free(m.piece);
    lb_mem_free(m.score);
    lb_mem_free(m.type);
    return status;
}
