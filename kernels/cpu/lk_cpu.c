#define _GNU_SOURCE /* syscall */
#include "kernels/cpu/lk_cpu.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef LK_NO_AVX512 /* a sanitized build, which has these sets on modeled instructions alone */
#define lk_avx512_init NULL
#define lk_amx_init NULL
#endif

static const struct set {
    const char *name;
    unsigned bit;
    void (*init)(struct lk_cpu *t, enum lk_type type);
} sets[] = {
    {"ref", LK_ISA_REF, lk_ref_init},
    {"avx2", LK_ISA_AVX2, lk_avx2_init},
    {"avx512bf16", LK_ISA_AVX512BF16, lk_avx512_init},
    {"amx", LK_ISA_AMX, lk_amx_init},
};

#define N_SET (sizeof sets / sizeof sets[0])

unsigned lk_cpu_hardware(void)
{
    unsigned have = LK_ISA_REF;
#ifdef __x86_64__
    /* the compiler's answer includes whether the operating system saves the registers (xgetbv) */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return have;
    have |= LK_ISA_AVX2;
#ifndef LK_NO_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        have |= LK_ISA_AVX512BF16;
    /* Linux gives a process the use of tiles when it asks for it, all its threads at once: ARCH_REQ_XCOMP_PERM of
     * XFEATURE_XTILEDATA. To ask again does no harm. */
    if ((have & LK_ISA_AVX512BF16) && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
        __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("avx512vbmi") &&
        syscall(SYS_arch_prctl, 0x1023, 18) == 0)
        have |= LK_ISA_AMX;
#endif
#endif
    return have;
}

unsigned lk_cpu_detect(void)
{
#ifdef LK_ISA_MODEL /* tests: these sets are compiled against a model of their instructions */
    return LK_ISA_REF | LK_ISA_AVX512BF16 | LK_ISA_AMX;
#else
    return lk_cpu_hardware();
#endif
}

const char *lk_cpu_set(int i, unsigned *bit)
{
    if (i < 0 || (size_t)i >= N_SET)
        return NULL;
    *bit = sets[i].bit;
    return sets[i].name;
}

int64_t lk_cpu_l2_bytes(void)
{
    long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? bytes : 0;
}

unsigned lk_cpu_parse(const char *list)
{
    unsigned bits = 0;
    for (const char *at = list;;) {
        size_t n = strcspn(at, ","), i = 0;
        while (i < N_SET && (strlen(sets[i].name) != n || memcmp(sets[i].name, at, n) != 0))
            i++;
        if (i == N_SET)
            return 0;
        bits |= sets[i].bit;
        if (at[n] == '\0')
            return bits;
        at += n + 1;
    }
}

void lk_cpu_init(struct lk_cpu *t, enum lk_type type, unsigned allowed)
{
    lk_ref_init(t, type);
    for (size_t i = 1; i < N_SET; i++)
        if (allowed & sets[i].bit)
            sets[i].init(t, type);
}
