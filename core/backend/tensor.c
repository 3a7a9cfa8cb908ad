#include "core/backend/tensor.h"

#include <string.h>

void lb_cols_init(struct lk_cols *c, int n_seg, const int64_t *begin)
{
    *c = (struct lk_cols){.n_col = begin[n_seg], .n_seg = n_seg};
    for (int is = 0; is < n_seg; is++) {
        int64_t width = begin[is + 1] - begin[is];
        c->begin[is + 1] = begin[is + 1];
        c->packed[is + 1] = c->packed[is] + (width + LK_SEG_ALIGN - 1) / LK_SEG_ALIGN * LK_SEG_ALIGN;
    }
}

uint16_t lb_bf16_round(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float lb_bf16_widen(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
