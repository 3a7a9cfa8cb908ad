/* Every intrinsic that kernels/cpu/avx512 uses, as a function of registers in memory. isa_ops.c is compiled twice: with
 * the model in C and with the processor's instructions. */
#ifndef KERNELS_TESTS_HARDWARE_ISA_OPS_H
#define KERNELS_TESTS_HARDWARE_ISA_OPS_H

#include <stdint.h>

struct isa_in {
    _Alignas(64) uint32_t x[3][16];
    uint32_t mask;
};

/* How results are compared: a NaN equals any NaN of its lane, or bit for bit. */
enum isa_out { ISA_F32, ISA_F64, ISA_BITS };

struct isa_op {
    const char *name;
    enum isa_out kind;
    void (*run)(const struct isa_in *in, uint32_t out[16]);
};

/* The table, behind its last row a NULL name. */
const struct isa_op *isa_ops_model(void);
const struct isa_op *isa_ops_native(void);

#endif
