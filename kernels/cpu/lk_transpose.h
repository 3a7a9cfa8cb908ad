/* The set that includes this has its intrinsics before it: the processor's or their model. */
#ifndef KERNELS_CPU_LK_TRANSPOSE_H
#define KERNELS_CPU_LK_TRANSPOSE_H

/* to[j] = row j of the transposed 8 x 8 words from[0 .. 7]. */
static inline __attribute__((always_inline)) void lk_transpose8(const __m256i from[8], __m256i to[8])
{
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(from[i], from[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(from[i], from[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

#endif
