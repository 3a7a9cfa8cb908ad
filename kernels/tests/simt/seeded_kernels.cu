#include "kernels/tests/simt/seeded.cuh"

#include "kernels/cuda/cuda_util.cuh"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS) reverse_kernel(const __grid_constant__ seeded a)
{
    float *room = (float *)lk_smem();
    int i = (int)threadIdx.x;
    if (a.bug == THREAD_LEFT && i == 77)
        return;
    for (int round = 0; round < 2; round++) {
        if (a.bug != NEVER_WRITTEN || i != 9)
            room[a.bug == ONE_PLACE && i == 5 ? 4 : a.bug == BEHIND_SHARED ? i + 1 : i] = a.x[i];
        if (a.bug == OTHER_BARRIER && i < THREADS / 2)
            __syncthreads();
        else if (a.bug != NO_BARRIER || round == 0)
            __syncthreads();
        float v = room[THREADS - 1 - i];
        if (a.bug != READ_THEN_WRITTEN)
            __syncthreads();
        a.y[i] = v;
    }
    if (a.bug == STORE_TO_INPUT)
        ((float *)a.x)[i] = 0;
}

static __global__ void __launch_bounds__(THREADS) sum_kernel(const __grid_constant__ seeded a)
{
    float *room = (float *)lk_smem();
    int i = (int)threadIdx.x, lane = lk_lane();
    float x = a.x[i];
    if (a.bug == LANE_LEFT && lane == 3)
        return;
    for (int step = 16; step > 1; step /= 2)
        x += lk_shuffle_f32(x, a.bug == OFF_BY_ONE_LANE ? (lane + step + 1) % LK_WARP : lane ^ step);
    if (a.bug == OTHER_SHUFFLE && lane < 7)
        x += lk_shuffle_f32(x, lane ^ 1);
    else
        x += lk_shuffle_f32(x, lane ^ 1);
    room[i] = 0;
    __syncwarp();
    room[i] = x;
    if (a.bug != NO_WARP_BARRIER)
        __syncwarp();
    a.y[i] = room[i ^ 1];
}

static __global__ void __launch_bounds__(THREADS) pages_kernel(const __grid_constant__ seeded a)
{
    int i = 4 * (int)threadIdx.x;
    if (i >= 256)
        return;
    int page = a.page[i / 16] + (a.bug == PAGE_TOO_FAR ? 1 : 0);
    float4 v = lk_ld<float4>(a.x + 16 * page + i % 16 + (a.bug == UNALIGNED ? 1 : 0));
    lk_st<float4>(a.y + i, v);
}

static __global__ void __launch_bounds__(LK_WARP) product_kernel(const __grid_constant__ seeded a)
{
    uint16_t *m = (uint16_t *)lk_smem(), *n = m + 16 * 16;
    int lane = lk_lane(), g = lane / 4, k = lane % 4 * 2;
    for (int i = lane; i < 256; i += LK_WARP)
        m[i] = lk_bf16(a.x[i]);
    for (int i = lane; i < 128; i += LK_WARP)
        n[i] = lk_bf16(a.x[i + 128]);
    __syncwarp();
    uint32_t f[4], b[2];
    lk_ldmatrix4(f, m + (lane % 16) * 16 + lane / 16 * 8);
    if (a.bug == WRONG_FRAGMENT_ROW) {
        uint32_t t = f[0];
        f[0] = f[1];
        f[1] = t;
    }
    if (a.bug == NOT_TRANSPOSED)
        lk_ldmatrix2(b, n + lane % 16 * 8);
    else
        lk_ldmatrix2_t(b, n + lane % 16 * 8);
    float c[4] = {0, 0, 0, 0};
    lk_mma(c, f, b);
    for (int i = 0; i < 4; i++)
        a.y[(g + i / 2 * 8) * 8 + k + i % 2] = c[i];
}

static __global__ void __launch_bounds__(LK_WARP) copies_kernel(const __grid_constant__ seeded a)
{
    enum { PART = 64 };
    float *room = (float *)lk_smem();
    int i = (int)threadIdx.x;
    for (int part = 0; part < 5; part++) {
        if (part < 4 && i < PART / 4)
            lk_cp_async(room + part % 2 * PART + 4 * i, a.x + part * PART + 4 * i, 16);
        lk_cp_commit();
        if (part == 0)
            continue;
        if (a.bug == WAIT_TOO_LITTLE)
            lk_cp_wait<2>();
        else if (a.bug != NO_WAIT)
            lk_cp_wait<1>();
        if (a.bug != WAIT_NO_BARRIER || part < 3)
            __syncthreads();
        for (int j = i; j < PART; j += LK_WARP)
            a.y[(part - 1) * PART + j] = room[(part - 1) % 2 * PART + j];
        __syncthreads();
    }
    if (i < PART / 4)
        lk_cp_async(a.bug == COPY_TO_OUTPUT ? a.y + 4 * i : room + 4 * i, a.x + 4 * i, 16);
}

static __global__ void __launch_bounds__(THREADS) halves_kernel(const __grid_constant__ seeded a)
{
    uint32_t *word = (uint32_t *)lk_smem(), *sum = word + THREADS;
    uint16_t *half = (uint16_t *)word;
    int i = (int)threadIdx.x, next = (i + 1) % THREADS;
    half[2 * i] = (uint16_t)lk_as_bits(a.x[i]);
    half[a.bug == ONE_HALF && i == 7 ? 2 * i + 1 : 2 * next + 1] = (uint16_t)(lk_as_bits(a.x[next]) >> 16);
    if (i == 0)
        *sum = 0;
    if (a.bug == HALF_OF_SUM && i == 5)
        *(uint16_t *)sum = 0;
    if (a.bug == ADDED_EARLY && i == 9)
        lk_atomic_add(sum, 1);
    if (a.bug != HALF_MISSING)
        __syncthreads();
    a.y[i] = lk_as_float(word[i]);
    if (a.bug != ADDED_UNSEEN || i != 9)
        lk_atomic_add(sum, 1);
    if (a.bug != ADDED_UNSEEN)
        __syncthreads();
    uint32_t all = *sum;
    if (a.bug != ALL_READ)
        __syncthreads();
    if (i == 0)
        *sum = 1;
    if (all != THREADS)
        a.y[i] = 0;
}

static __global__ void __launch_bounds__(THREADS) words_kernel(const __grid_constant__ seeded a)
{
    uint32_t *word = (uint32_t *)lk_smem();
    uint16_t *half = (uint16_t *)word;
    int i = (int)threadIdx.x, lane = lk_lane();
    word[i] = lk_as_bits(a.x[i]);
    __syncthreads();
    uint32_t v = word[i], seen = 0;
    if (a.bug == HALF_SEEN && i == 7) {
        half[2 * 7 + 1] = 1;
        seen = word[7];
    }
    if (a.bug == HALF_SEEN && i == 70)
        seen = word[7];
    if (a.bug == WORD_BEHIND && i == 40)
        seen = half[2 * 3 + 1];
    if (a.bug == WORD_BEHIND && i == 3)
        word[3] = 0;
    __syncwarp();
    if (a.bug == READ_AGAIN)
        seen = word[i - lane];
    if (a.bug == LAST_LANE && lane == LK_WARP - 1)
        word[i] = 0;
    v = lk_shuffle(v, lane);
    if (a.bug == READ_AGAIN && lane == 0)
        word[i] = 0;
    if (a.bug == LAST_LANE && lane == 5)
        seen = word[i - 5 + LK_WARP - 1];
    a.y[i] = lk_as_float(a.bug == SOUND ? v : seen);
}

int seeded_reverse(const seeded &a)
{
    return lk_launch(reverse_kernel, {"reverse", dim3(1), a.bug == ODD_WARP ? 48 : THREADS, 1024, NULL}, a);
}

int seeded_sum(const seeded &a)
{
    return lk_launch(sum_kernel, {"sum", dim3(1), THREADS, 1024, NULL}, a);
}

int seeded_pages(const seeded &a)
{
    return lk_launch(pages_kernel, {"pages", dim3(1), THREADS, 0, NULL}, a);
}

int seeded_product(const seeded &a)
{
    return lk_launch(product_kernel, {"product", dim3(1), LK_WARP, 768, NULL}, a);
}

int seeded_copies(const seeded &a)
{
    return lk_launch(copies_kernel, {"copies", dim3(2), LK_WARP, 512, NULL}, a);
}

int seeded_halves(const seeded &a)
{
    return lk_launch(halves_kernel, {"halves", dim3(1), THREADS, 1028, NULL}, a);
}

int seeded_words(const seeded &a)
{
    return lk_launch(words_kernel, {"words", dim3(1), THREADS, 1024, NULL}, a);
}
