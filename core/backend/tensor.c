#include "core/backend/tensor.h"

#include <string.h>

#include "core/backend/op_args.h"

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

void lb_dtype_round(enum lb_dtype dtype, float *x, int64_t n)
{
    for (int64_t i = 0; dtype == LB_BF16 && i < n; i++)
        x[i] = lb_bf16_widen(lb_bf16_round(x[i]));
}

enum lb_status lb_lora_spec_check(const struct lb_lora_spec *spec, int64_t n_col, int64_t n_out, int64_t n_head,
                                  struct lb_err *err)
{
    bool fits = spec->n_part >= 1 && spec->n_part <= LB_LORA_MAX_PART && spec->adapter >= 0 &&
                spec->adapter < spec->n_adapter && n_head == 1;
    for (int i = 0; i < spec->n_part && fits; i++) {
        const struct lb_lora_part *p = &spec->part[i];
        fits = p->a->n_col == n_col && p->a->n_row == p->b->n_col && p->first >= 0 && p->first + p->b->n_row <= n_out;
    }
    return fits ? LB_OK : lb_err_set(err, LB_E_INPUT, "%s: the adapter does not fit the matrix", spec->name);
}
