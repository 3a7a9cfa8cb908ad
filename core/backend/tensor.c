#include "core/backend/tensor.h"

void lb_cols_init(struct lk_cols *c, int n_seg, const int64_t *begin)
{
    *c = (struct lk_cols){.n_col = begin[n_seg], .n_seg = n_seg};
    for (int is = 0; is < n_seg; is++) {
        int64_t width = begin[is + 1] - begin[is];
        c->begin[is + 1] = begin[is + 1];
        c->packed[is + 1] = c->packed[is] + (width + LK_SEG_ALIGN - 1) / LK_SEG_ALIGN * LK_SEG_ALIGN;
    }
}
