/* K and V of chosen positions into pages of their own. */
#include "kernels/cuda/cuda_util.cuh"
#include "kernels/cuda/lk_cuda.h"

#define WARPS 4
#define PAGE LK_PAGE_TOKENS

/* A row of `bytes`, a multiple of 16; from NULL: zeros. */
static __device__ __forceinline__ void copy_row(uint8_t *to, const uint8_t *from, int64_t bytes)
{
    for (int64_t i = 16 * lk_lane(); i < bytes; i += 16 * LK_WARP)
        lk_st<uint4>(to + i, from ? lk_ld<uint4>(from + i) : uint4{0, 0, 0, 0});
}

/* A block a page, a warp a position at a time. */
static __global__ void __launch_bounds__(WARPS *LK_WARP) gather_kernel(const __grid_constant__ lk_gather a)
{
    int64_t x = blockIdx.x, n_k = a.from.k_page_bytes / PAGE, n_v = a.from.v_page_bytes / PAGE;
    lk_attn_item item = a.item[x / a.n_page];
    uint8_t *k = a.to.k + x * a.to.k_page_bytes, *v = a.to.v + x * a.to.v_page_bytes;
    for (int slot = lk_warp(); slot < PAGE; slot += WARPS) {
        int64_t i = x % a.n_page * PAGE + slot;
        const uint8_t *from_k = NULL, *from_v = NULL;
        if (i < a.topk) {
            int pos = a.chosen[item.tok * a.topk + i];
            int64_t page = a.page[a.page_start[item.seq] + pos / PAGE];
            from_k = a.from.k + page * a.from.k_page_bytes + pos % PAGE * n_k;
            from_v = a.from.v + page * a.from.v_page_bytes + pos % PAGE * n_v;
        }
        copy_row(k + slot * n_k, from_k, n_k);
        copy_row(v + slot * n_v, from_v, n_v);
    }
}

int lk_cuda_gather(const struct lk_gather *a, int64_t n_item, void *stream)
{
    lk_shape s = {"gather", dim3((unsigned)(n_item * a->n_page)), WARPS * LK_WARP, 0, stream};
    return lk_launch(gather_kernel, s, *a);
}
