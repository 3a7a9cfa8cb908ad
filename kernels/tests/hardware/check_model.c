/* The model of AVX-512 (kernels/tests/isa_model) against the processor, intrinsic by intrinsic, on special and on
 * random operands. Skipped where the processor lacks the instructions. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/lk_cpu.h"
#include "kernels/tests/hardware/isa_ops.h"

static uint32_t random32(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* Zeros, infinities, NaNs (one signaling), subnormals, the ends of the normal range, halves between whole numbers and
 * between bf16 numbers, exponents at the ends of scalef's range. */
static const uint32_t special32[] = {
    0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc01234, 0x7f800001, 0x00000001,
    0x807fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x3f000000, 0xbf000000, 0x3fc00000,
    0x40200000, 0xc0200000, 0x3f800000, 0xbf800000, 0x3f808000, 0x3f818000, 0x3f80ffff, 0x7f7f8000,
    0xc2fc0000, 0xc3150000, 0x42fe0000, 0x43000000, 0x43960000, 0xc3960000, 0x4b000001, 0x3effffff,
};

static const double special64[] = {0.0,       -0.0,    INFINITY, -INFINITY, NAN, 0x1p-1074, -0x1.fp-1023,
                                   0x1p-1022, 1.0,     0.5,      -0.5,      1.5, 2.5,       -800.0,
                                   0x1.8p52,  -1022.5, 1023.0,   1024.0,    3e9, -3e300};

/* Kinds of operands: special f32 or f64 in every pairing over the runs, floats of a common size, any bits. */
static void fill(struct isa_in *in, int run)
{
    const size_t n32 = sizeof special32 / sizeof *special32, n64 = sizeof special64 / sizeof *special64;
    for (int i = 0; i < 3; i++) {
        for (size_t lane = 0; lane < 16; lane++) {
            uint32_t bits = random32();
            if (run % 4 == 0)
                bits = special32[bits % n32];
            else if (run % 4 == 1 && lane % 2 == 0)
                memcpy(&in->x[i][lane], &special64[bits % n64], sizeof(double));
            else if (run % 4 == 2)
                bits = (bits & 0x807fffffu) | (0x7cu + random32() % 8) << 23;
            if (run % 4 != 1)
                in->x[i][lane] = bits;
        }
    }
    in->mask = random32();
}

static int same(enum isa_out kind, const uint32_t *a, const uint32_t *b)
{
    for (int lane = 0; lane < 16; lane += 1 + (kind == ISA_F64)) {
        float x, y;
        double u, v;
        memcpy(&x, a + lane, sizeof x);
        memcpy(&y, b + lane, sizeof y);
        if (kind == ISA_F64) {
            memcpy(&u, a + lane, sizeof u);
            memcpy(&v, b + lane, sizeof v);
            if (memcmp(&u, &v, sizeof u) != 0 && !(u != u && v != v))
                return 0;
        } else if (a[lane] != b[lane] && !(kind == ISA_F32 && x != x && y != y)) {
            return 0;
        }
    }
    return 1;
}

static void show(const char *what, const uint32_t *x)
{
    printf("  %-8s", what);
    for (int i = 0; i < 16; i++)
        printf(" %08x", x[i]);
    printf("\n");
}

int main(void)
{
    if ((lk_cpu_detect() & LK_ISA_AVX512BF16) == 0 || !__builtin_cpu_supports("avx512vbmi")) {
        printf("skip: check_model: no avx512bf16 or no avx512vbmi\n");
        return 77;
    }
    int n_check = 0, n_failed = 0;
    for (const struct isa_op *model = isa_ops_model(), *native = isa_ops_native(); model->name; model++, native++) {
        int failed = 0;
        for (int run = 0; run < 4000; run++) {
            struct isa_in in;
            _Alignas(64) uint32_t want[16] = {0}, got[16] = {0};
            fill(&in, run);
            model->run(&in, got);
            native->run(&in, want);
            n_check++;
            if (same(model->kind, got, want) || failed++ > 0)
                continue;
            printf("FAILED %s, mask %08x\n", model->name, in.mask);
            for (int i = 0; i < 3; i++)
                show("operand", in.x[i]);
            show("model", got);
            show("native", want);
        }
        n_failed += failed;
    }
    printf("%d checks, %d failed\n", n_check, n_failed);
    return n_failed ? 1 : 0;
}
