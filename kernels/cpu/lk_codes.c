#include "kernels/cpu/lk_codes.h"

/* The low halves of 8 bytes, the first one lowest. */
static uint32_t word_of_halves(const uint8_t q[8])
{
    uint64_t x;
    memcpy(&x, q, sizeof x);
    x &= 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

/* Word o of one column's block. */
static uint32_t word_of(int bits, const uint8_t q[LK_BLOCK], int o)
{
    uint32_t word;
    if (bits == 4)
        return word_of_halves(q + 8 * o);
    if (bits == 8) {
        memcpy(&word, q + 4 * o, sizeof word);
        return word;
    }
    const uint8_t *part = q + o / 3 * 16;
    word = (part[15] >> o % 3 * 2 & 3u) << 30;
    for (int i = 0; i < 5; i++)
        word |= (part[o % 3 * 5 + i] & 63u) << 6 * i;
    return word;
}

/* Where a block's codes of 4 bits are, by tile: column i of output j in the bits from `shift` on of the byte at
 * at + j * row + i * step, or with `halves` of that at at + j * row + i / 2, odd columns in the upper half. */
struct place {
    int64_t at, row, step;
    int shift;
    bool halves;
};

static struct place place_of(const struct lk_packed_panel *p, int64_t block)
{
    const int64_t n_block = lk_cols_packed(p->cols) / LK_BLOCK, whole = n_block / 4 * 4, at = block / 4 * 4;
    const int in = (int)(block % 4), pair = n_block - whole >= 2 ? 2 : 0;
    if (block < whole)
        return (struct place){at * p->code_bytes + in / 2, 64, 2, in % 2 * 4, false};
    if (in < pair)
        return (struct place){whole * p->code_bytes, 32, 1, in * 4, false};
    return (struct place){(whole + pair) * p->code_bytes, 16, 0, 0, true};
}

/* Of 6 bits by tile: the first of the three words for column i of output j, and which of the 16 numbers it is. */
static int64_t word_by_tile(const struct lk_packed_panel *p, int64_t block, int64_t j, int i, int *number)
{
    *number = (int)(2 * (j % 8)) + i / 16;
    return block * p->code_bytes + j / 8 * 192 + i % 16 * 4;
}

/* Of 8 bits by tile: column i of output j. */
static int64_t byte_by_tile(const struct lk_packed_panel *p, int64_t block, int64_t j, int i)
{
    return block * p->code_bytes + j / 16 * 16 * LK_BLOCK + i / 2 * 32 + j % 16 * 2 + i % 2;
}

static void put_by_tile(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    const int bits = lk_packed_bits(p->q.kind);
    if (bits == 8) {
        for (int i = 0; i < LK_BLOCK; i++)
            codes[byte_by_tile(p, block, j, i)] = q[i];
        return;
    }
    if (bits == 4) {
        const struct place to = place_of(p, block);
        uint8_t *at = codes + to.at + j * to.row;
        for (int i = 0; i < LK_BLOCK && to.halves; i += 2)
            at[i / 2] = (uint8_t)((q[i] & 15) | q[i + 1] << 4);
        for (int i = 0; i < LK_BLOCK && !to.halves; i++)
            at[i * to.step] |= (uint8_t)((q[i] & 15) << to.shift);
        return;
    }
    for (int i = 0; i < LK_BLOCK; i++) {
        int n;
        uint8_t *at = codes + word_by_tile(p, block, j, i, &n);
        for (int w = 0; w < 3; w++, at += 64) {
            uint32_t word;
            memcpy(&word, at, sizeof word);
            word |= n == 15 ? (q[i] >> 2 * w & 3u) << 30 : n / 5 == w ? (q[i] & 63u) << n % 5 * 6 : 0;
            memcpy(at, &word, sizeof word);
        }
    }
}

/* Code i of column j. */
static unsigned code_by_tile(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int i)
{
    const int bits = lk_packed_bits(p->q.kind);
    if (bits == 8)
        return codes[byte_by_tile(p, block, j, i)];
    if (bits == 4) {
        const struct place from = place_of(p, block);
        const uint8_t *at = codes + from.at + j * from.row;
        const unsigned both = from.halves ? at[i / 2] : at[i * from.step];
        return both >> (from.halves ? i % 2 * 4 : from.shift) & 15u;
    }
    int n;
    uint32_t word[3];
    const uint8_t *at = codes + word_by_tile(p, block, j, i, &n);
    for (int w = 0; w < 3; w++)
        memcpy(&word[w], at + 64 * w, sizeof word[w]);
    return n == 15 ? word[0] >> 30 | word[1] >> 30 << 2 | word[2] >> 30 << 4 : word[n / 5] >> n % 5 * 6 & 63u;
}

/* By pair: word o of the even or odd numbers of column j's block. */
static int64_t word_by_pair(const struct lk_packed_panel *p, int64_t block, int64_t j, int o, int odd)
{
    return block * p->code_bytes + ((o * (p->width / 16) + j / 16) * 32 + j % 16 * 2 + odd) * 4;
}

static uint32_t turned_left(uint32_t x, int n)
{
    return n % 32 ? x << n % 32 | x >> (32 - n % 32) : x;
}

/* Where number i of a word of 4 or 8 bits begins. */
static int place_by_pair(int bits, int i)
{
    static const uint8_t place[8] = {12, 16, 4, 8, 20, 24, 28, 0};
    return bits == 4 ? place[i] : 4 + 8 * i;
}

/* Word o of the 16 numbers q[0], q[2] ... */
static uint32_t pair_word(int bits, const uint8_t *q, int o)
{
    uint32_t word = 0;
    if (bits == 6) {
        word = (q[30] >> 2 * o & 3u) << 30;
        for (int i = 0; i < 5; i++)
            word |= (q[2 * (5 * o + i)] & 63u) << 6 * i;
    } else if (bits == 8) {
        for (int i = 0; i < 4; i++)
            word |= turned_left(q[2 * (4 * o + i)], place_by_pair(8, i));
    } else {
        for (int i = 0; i < 8; i++)
            word |= (q[2 * (8 * o + i)] & 15u) << place_by_pair(4, i);
    }
    return word;
}

static void put_by_pair(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    const int bits = lk_packed_bits(p->q.kind);
    for (int o = 0; o < bits / 2; o++) {
        for (int odd = 0; odd < 2; odd++) {
            const uint32_t word = pair_word(bits, q + odd, o);
            memcpy(codes + word_by_pair(p, block, j, o, odd), &word, sizeof word);
        }
    }
}

/* Code k of column j. */
static unsigned code_by_pair(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int k)
{
    const int bits = lk_packed_bits(p->q.kind), i = k / 2, per = 32 / bits;
    uint32_t word[4];
    for (int o = 0; o < bits / 2; o++)
        memcpy(&word[o], codes + word_by_pair(p, block, j, o, k % 2), sizeof word[o]);
    if (bits != 6)
        return turned_left(word[i / per], 32 - place_by_pair(bits, i % per)) & ((1u << bits) - 1u);
    return i == 15 ? word[0] >> 30 | word[1] >> 30 << 2 | word[2] >> 30 << 4 : word[i / 5] >> i % 5 * 6 & 63u;
}

/* By byte: word o of column j. */
static int64_t word_by_byte(const struct lk_packed_panel *p, int64_t block, int64_t j, int o)
{
    return block * p->code_bytes + (o * p->width + j) * 4;
}

static void put_by_byte(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    for (int o = 0; o < LK_BLOCK / 8; o++) {
        uint32_t low, up;
        memcpy(&low, q + 8 * o, sizeof low);
        memcpy(&up, q + 8 * o + 4, sizeof up);
        const uint32_t word = (low & 0x0f0f0f0fu) | (up & 0x0f0f0f0fu) << 4;
        memcpy(codes + word_by_byte(p, block, j, o), &word, sizeof word);
    }
}

static unsigned code_by_byte(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int k)
{
    const unsigned both = codes[word_by_byte(p, block, j, k / 8) + k % 4];
    return both >> k / 4 % 2 * 4 & 15u;
}

void lk_codes_put(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block, uint8_t *codes)
{
    static void (*const put[])(const struct lk_packed_panel *, const uint8_t *, int64_t, int64_t, uint8_t *) = {
        [LK_BY_TILE] = put_by_tile, [LK_BY_PAIR] = put_by_pair, [LK_BY_BYTE] = put_by_byte};
    if (p->order != LK_BY_WORD) {
        put[p->order](p, q, j, block, codes);
        return;
    }
    const int bits = lk_packed_bits(p->q.kind);
    for (int o = 0; o < bits; o++) {
        uint32_t word = word_of(bits, q, o);
        memcpy(codes + block * p->code_bytes + (o * p->width + j) * 4, &word, sizeof word);
    }
}

static uint32_t word_at(const struct lk_packed_panel *p, const uint8_t *codes, int64_t o, int64_t j)
{
    uint32_t word;
    memcpy(&word, codes + (o * p->width + j) * 4, sizeof word);
    return word;
}

void lk_codes_get(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, uint8_t q[LK_BLOCK])
{
    const int bits = lk_packed_bits(p->q.kind), per = 32 / bits;
    static unsigned (*const code[])(const struct lk_packed_panel *, const uint8_t *, int64_t, int64_t, int) = {
        [LK_BY_TILE] = code_by_tile, [LK_BY_PAIR] = code_by_pair, [LK_BY_BYTE] = code_by_byte};
    if (p->order != LK_BY_WORD) {
        for (int i = 0; i < LK_BLOCK; i++)
            q[i] = (uint8_t)code[p->order](p, codes, block, j, i);
        return;
    }
    codes += block * p->code_bytes;
    if (bits == 6)
        q[15] = q[31] = 0;
    for (int o = 0; o < bits; o++) {
        const uint32_t word = word_at(p, codes, o, j);
        uint8_t *to = q + (bits == 6 ? o / 3 * 16 + o % 3 * 5 : o * per);
        for (int i = 0; i < per; i++)
            to[i] = (uint8_t)(word >> i * bits & ((1u << bits) - 1u));
        if (bits == 6)
            q[o / 3 * 16 + 15] |= (uint8_t)(word >> 30 << o % 3 * 2);
    }
}
