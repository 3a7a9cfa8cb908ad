#include "kernels/tests/hardware/isa_ops.h"

#include "kernels/cpu/avx512/lk_avx512_isa.h"

/* LK_OPS: the name of the table's function in this compilation. */

#define PS(i) _mm512_loadu_ps(in->x[i])
#define SI(i) _mm512_loadu_si512(in->x[i])
#define PD(i) ((__m512d)_mm512_loadu_ps(in->x[i]))
#define HALF(i) _mm256_loadu_si256((const void *)in->x[i])
#define M8 ((__mmask8)in->mask)
#define M16 ((__mmask16)in->mask)
#define M32 ((__mmask32)in->mask)
#define M64 ((__mmask64)in->mask * 0x100000001u)
#define DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static void put(uint32_t *out, __m512i x)
{
    _mm512_storeu_si512(out, x);
}

static void put_mask(uint32_t *out, unsigned m)
{
    out[0] = m;
}

static void put_float(uint32_t *out, float x)
{
    _mm512_storeu_ps(out, _mm512_set1_ps(x));
}

static void put_double(uint32_t *out, double x)
{
    put(out, (__m512i)_mm512_set1_pd(x));
}

static void put_half(uint32_t *out, __m256i x)
{
    _mm256_storeu_si256((void *)out, x);
}

/* X(name, how it is compared, what it does) */
#define EACH(X)                                                                                                \
    X(set1_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_set1_ps(_mm512_cvtss_f32(PS(0)))))                        \
    X(set1_epi32, ISA_BITS, put(out, _mm512_set1_epi32((int)in->x[0][0])))                                     \
    X(setr_epi32, ISA_BITS, put(out, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))) \
    X(setzero, ISA_BITS, put(out, _mm512_setzero_si512()))                                                     \
    X(setzero_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_setzero_ps()))                                        \
    X(setzero_pd, ISA_BITS, put(out, (__m512i)_mm512_setzero_pd()))                                            \
    X(setzero_256, ISA_BITS, put_half(out, _mm256_setzero_si256()))                                            \
    X(maskz_loadu_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_maskz_loadu_ps(M16, in->x[0])))                   \
    X(maskz_loadu_epi16, ISA_BITS, put(out, _mm512_maskz_loadu_epi16(M32, in->x[0])))                          \
    X(maskz_loadu_ps_256, ISA_BITS, put_half(out, (__m256i)_mm256_maskz_loadu_ps(M8, in->x[0])))               \
    X(maskz_loadu_epi16_256, ISA_BITS, put_half(out, _mm256_maskz_loadu_epi16(M16, in->x[0])))                 \
    X(mask_storeu_ps, ISA_BITS, _mm512_mask_storeu_ps(out, M16, PS(0)))                                        \
    X(mask_storeu_epi32, ISA_BITS, _mm512_mask_storeu_epi32(out, M16, SI(0)))                                  \
    X(mask_storeu_epi16, ISA_BITS, _mm512_mask_storeu_epi16(out, M32, SI(0)))                                  \
    X(mask_storeu_epi32_256, ISA_BITS, _mm256_mask_storeu_epi32(out, M8, HALF(0)))                             \
    X(store_si512, ISA_BITS, _mm512_store_si512(out, SI(0)))                                                   \
    X(add_epi32, ISA_BITS, put(out, _mm512_add_epi32(SI(0), SI(1))))                                           \
    X(sub_epi32, ISA_BITS, put(out, _mm512_sub_epi32(SI(0), SI(1))))                                           \
    X(max_epu32, ISA_BITS, put(out, _mm512_max_epu32(SI(0), SI(1))))                                           \
    X(dpbusd_epi32, ISA_BITS, put(out, _mm512_dpbusd_epi32(SI(0), SI(1), SI(2))))                              \
    X(cvtepi32_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_cvtepi32_ps(SI(0))))                                  \
    X(cvtps_epi32, ISA_BITS, put(out, _mm512_cvtps_epi32(PS(0))))                                              \
    X(and_si512, ISA_BITS, put(out, _mm512_and_si512(SI(0), SI(1))))                                           \
    X(slli_epi32, ISA_BITS, put(out, _mm512_slli_epi32(SI(0), 16)))                                            \
    X(srli_epi32, ISA_BITS, put(out, _mm512_srli_epi32(SI(0), 30)))                                            \
    X(rol_epi32_0, ISA_BITS, put(out, _mm512_rol_epi32(SI(0), 0)))                                             \
    X(rol_epi32_24, ISA_BITS, put(out, _mm512_rol_epi32(SI(0), 24)))                                           \
    X(srai_epi32, ISA_BITS, put(out, _mm512_srai_epi32(SI(0), 4)))                                             \
    X(or_si512, ISA_BITS, put(out, _mm512_or_si512(SI(0), SI(1))))                                             \
    X(cvtepu8_epi32, ISA_BITS, put(out, _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)in->x[0]))))        \
    X(permutexvar_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_permutexvar_ps(SI(0), PS(1))))                    \
    X(permutexvar_epi16, ISA_BITS, put(out, _mm512_permutexvar_epi16(SI(0), SI(1))))                           \
    X(set1_epi64, ISA_BITS, put(out, _mm512_set1_epi64((long long)in->x[0][0] << 20)))                         \
    X(permutexvar_epi8, ISA_BITS, put(out, _mm512_permutexvar_epi8(SI(0), SI(1))))                             \
    X(mask_permutexvar_epi8, ISA_BITS, put(out, _mm512_mask_permutexvar_epi8(SI(0), M64, SI(1), SI(2))))       \
    X(maskz_permutexvar_epi8, ISA_BITS, put(out, _mm512_maskz_permutexvar_epi8(M64, SI(0), SI(1))))            \
    X(multishift_epi64_epi8, ISA_BITS, put(out, _mm512_multishift_epi64_epi8(SI(0), SI(1))))                   \
    X(cvtepu8_epi16, ISA_BITS, put(out, _mm512_cvtepu8_epi16(HALF(0))))                                        \
    X(ternarylogic_ea, ISA_BITS, put(out, _mm512_ternarylogic_epi32(SI(0), SI(1), SI(2), 0xea)))               \
    X(permutex2var_epi32, ISA_BITS, put(out, _mm512_permutex2var_epi32(SI(0), SI(1), SI(2))))                  \
    X(cvtepu16_epi32, ISA_BITS, put(out, _mm512_cvtepu16_epi32(HALF(0))))                                      \
    X(castsi512_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_castsi512_ps(SI(0))))                               \
    X(mask_mov_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_mask_mov_ps(PS(0), M16, PS(1))))                     \
    X(mask_mov_epi32, ISA_BITS, put(out, _mm512_mask_mov_epi32(SI(0), M16, SI(1))))                            \
    X(maskz_mov_ps, ISA_BITS, _mm512_storeu_ps(out, _mm512_maskz_mov_ps(M16, PS(0))))                          \
    X(unpacklo_epi32, ISA_BITS, put_half(out, _mm256_unpacklo_epi32(HALF(0), HALF(1))))                        \
    X(unpackhi_epi32, ISA_BITS, put_half(out, _mm256_unpackhi_epi32(HALF(0), HALF(1))))                        \
    X(unpacklo_epi64, ISA_BITS, put_half(out, _mm256_unpacklo_epi64(HALF(0), HALF(1))))                        \
    X(unpackhi_epi64, ISA_BITS, put_half(out, _mm256_unpackhi_epi64(HALF(0), HALF(1))))                        \
    X(permute2x128_20, ISA_BITS, put_half(out, _mm256_permute2x128_si256(HALF(0), HALF(1), 0x20)))             \
    X(permute2x128_31, ISA_BITS, put_half(out, _mm256_permute2x128_si256(HALF(0), HALF(1), 0x31)))             \
    X(permute2x128_83, ISA_BITS, put_half(out, _mm256_permute2x128_si256(HALF(0), HALF(1), 0x83)))             \
    X(add_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_add_ps(PS(0), PS(1))))                                     \
    X(sub_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_sub_ps(PS(0), PS(1))))                                     \
    X(mul_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_mul_ps(PS(0), PS(1))))                                     \
    X(div_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_div_ps(PS(0), PS(1))))                                     \
    X(max_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_max_ps(PS(0), PS(1))))                                     \
    X(min_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_min_ps(PS(0), PS(1))))                                     \
    X(fmadd_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_fmadd_ps(PS(0), PS(1), PS(2))))                          \
    X(fmsub_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_fmsub_ps(PS(0), PS(1), PS(2))))                          \
    X(roundscale_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_roundscale_ps(PS(0), NEAREST)))                     \
    X(reduce_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_reduce_ps(PS(0), DOWN)))                                \
    X(scalef_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_scalef_ps(PS(0), PS(1))))                               \
    X(sub_pd, ISA_F64, put(out, (__m512i)_mm512_sub_pd(PD(0), PD(1))))                                         \
    X(mul_pd, ISA_F64, put(out, (__m512i)_mm512_mul_pd(PD(0), PD(1))))                                         \
    X(max_pd, ISA_F64, put(out, (__m512i)_mm512_max_pd(PD(0), PD(1))))                                         \
    X(fmadd_pd, ISA_F64, put(out, (__m512i)_mm512_fmadd_pd(PD(0), PD(1), PD(2))))                              \
    X(fnmadd_pd, ISA_F64, put(out, (__m512i)_mm512_fnmadd_pd(PD(0), PD(1), PD(2))))                            \
    X(mask_add_pd, ISA_F64, put(out, (__m512i)_mm512_mask_add_pd(PD(0), M8, PD(1), PD(2))))                    \
    X(roundscale_pd, ISA_F64, put(out, (__m512i)_mm512_roundscale_pd(PD(0), NEAREST)))                         \
    X(scalef_pd, ISA_F64, put(out, (__m512i)_mm512_scalef_pd(PD(0), PD(1))))                                   \
    X(cvtph_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_cvtph_ps(HALF(0))))                                      \
    X(cvtps_pd, ISA_F64, put(out, (__m512i)_mm512_cvtps_pd((__m256)HALF(0))))                                  \
    X(cmp_gt, ISA_BITS, put_mask(out, _mm512_cmp_ps_mask(PS(0), PS(1), _CMP_GT_OQ)))                           \
    X(mask_cmp_gt, ISA_BITS, put_mask(out, _mm512_mask_cmp_ps_mask(M16, PS(0), PS(1), _CMP_GT_OQ)))            \
    X(mask_cmp_ord, ISA_BITS, put_mask(out, _mm512_mask_cmp_ps_mask(M16, PS(0), PS(1), _CMP_ORD_Q)))           \
    X(fpclass_99, ISA_BITS, put_mask(out, _mm512_fpclass_ps_mask(PS(0), 0x99)))                                \
    X(fpclass_66, ISA_BITS, put_mask(out, _mm512_fpclass_ps_mask(PS(0), 0x66)))                                \
    X(mask_fpclass_99, ISA_BITS, put_mask(out, _mm512_mask_fpclass_ps_mask(M16, PS(0), 0x99)))                 \
    X(reduce_add_ps, ISA_F32, put_float(out, _mm512_reduce_add_ps(PS(0))))                                     \
    X(reduce_max_ps, ISA_F32, put_float(out, _mm512_reduce_max_ps(PS(0))))                                     \
    X(reduce_add_pd, ISA_F64, put_double(out, _mm512_reduce_add_pd(PD(0))))                                    \
    X(cvtne2ps_pbh, ISA_BITS, put(out, (__m512i)_mm512_cvtne2ps_pbh(PS(0), PS(1))))                            \
    X(cvtneps_pbh, ISA_BITS, put_half(out, (__m256i)_mm512_cvtneps_pbh(PS(0))))                                \
    X(dpbf16_ps, ISA_F32, _mm512_storeu_ps(out, _mm512_dpbf16_ps(PS(0), (__m512bh)SI(1), (__m512bh)SI(2))))

#define FUNCTION(name, kind, body)                              \
    static void name(const struct isa_in *in, uint32_t out[16]) \
    {                                                           \
        (void)in;                                               \
        body;                                                   \
    }
EACH(FUNCTION)

const struct isa_op *LK_OPS(void)
{
#define ROW(name, kind, body) {#name, kind, name},
    static const struct isa_op ops[] = {EACH(ROW){NULL, ISA_BITS, NULL}};
    return ops;
}
