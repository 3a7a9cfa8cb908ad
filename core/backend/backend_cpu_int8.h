/* Inside the CPU backend: products in int8, of weights quantized by row (kernels/args_int8.h) or of codes of 4 bits,
 * which stay packed (kernels/args_w4a8.h). */
#ifndef CORE_BACKEND_BACKEND_CPU_INT8_H
#define CORE_BACKEND_BACKEND_CPU_INT8_H

#include "core/backend/backend_cpu.h"

/* What both ways have. */
struct lb_int8_ops {
    size_t (*act_bytes)(int64_t n_row, const struct lk_cols *cols);
    int64_t (*quantize_items)(const struct lk_quantize *a);
    void (*quantize)(const struct lk_quantize *a, int64_t begin, int64_t end);
    int64_t (*linear_items)(const struct lk_linear *a);
    void (*linear)(const struct lk_linear *a, int64_t begin, int64_t end);
};

struct lb_int8_ops lb_cpu_int8_ops(const struct lk_cpu *lk, bool packed);

/* Whether the matrix can be had in int8. */
enum lb_status lb_cpu_int8_check(const struct lb_matrix_spec *spec, struct lb_err *err);
/* Part of reserve. */
enum lb_status lb_cpu_int8_reserve(struct lb_cpu *c, struct lb_err *err);
/* lb_cpu_run_product's part of it: args->a as the backend's other ops write it, the hints are there. */
void lb_cpu_run_int8(const struct lb_cpu *c, const struct lk_linear *args);

#endif
