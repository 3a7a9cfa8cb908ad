/* checkcuda [--kernels | --first | --brief] [OP ...]: every kernel against the reference. With --kernels: the most
 * threads and shared memory that a block of each had; with --first it ends at a failure; --brief: what a sanitizer
 * asks, few and short cases of each kernel, unless LB_TEST_FULL=1. */
#include "kernels/tests/cuda/checkcuda.cuh"

#include <stdarg.h>

static int n_check, n_failed;
static bool first_alone, brief;

static const struct {
    const char *name;
    void (*run)(void);
} ops[] = {
    {"rows", check_rows},           {"rope", check_rope},         {"linear", check_linear},
    {"index", check_index},         {"experts", check_experts},   {"candidates", check_candidates},
    {"attention", check_attention}, {"adapters", check_adapters},
};

void check(bool ok, const char *op, const char *format, ...)
{
    n_check++;
    if (ok || n_failed++ > 20)
        return;
    va_list args;
    va_start(args, format);
    printf("FAILED %s: ", op);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    if (first_alone)
        exit(1);
}

void check_launch(int code, const char *op)
{
    const char *error = dev_error(code);
    check(!error, op, "%s", error);
}

bool check_full(void)
{
    const char *full = getenv("LB_TEST_FULL");
    return full && strcmp(full, "1") == 0;
}

bool check_brief(void)
{
    return brief && !check_full();
}

uint32_t random_bits(void)
{
    static uint64_t state = 0x853c49e6748fea9bu;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

float random_in(float low, float high)
{
    return low + (high - low) * (float)random_bits() / 2147483648.0f;
}

host<float> random_row(int64_t n, float low, float high)
{
    host<float> x((size_t)n);
    for (float &v : x)
        v = random_in(low, high);
    return x;
}

bool is_near(double a, double b, double size, double rel)
{
    return fabs(a - b) <= rel * size || (isnan(a) && isnan(b)) || a == b;
}

bool is_close(float a, float b, enum lk_type type)
{
    return is_near((double)a, (double)b, fmax(fabs((double)a), fabs((double)b)), type == LK_F32 ? 0x1p-19 : 0x1p-7) ||
           fabsf(a - b) < 1e-6f;
}

struct lk_cols even_cols(int64_t n_col, int n_seg, int64_t unit)
{
    struct lk_cols c = {};
    int64_t n_unit = lk_ceil_div(n_col, unit);
    c.n_col = n_col;
    c.n_seg = n_seg;
    for (int s = 0; s <= n_seg; s++)
        c.begin[s] = lk_min(n_col, unit * (s * n_unit / n_seg));
    for (int s = 0; s < n_seg; s++)
        c.packed[s + 1] = c.packed[s] + lk_ceil_div(c.begin[s + 1] - c.begin[s], LK_SEG_ALIGN) * LK_SEG_ALIGN;
    return c;
}

const struct lk_cpu *ref_set(enum lk_type type)
{
    static struct lk_cpu set[2];
    if (!set[0].name) {
        lk_ref_init(&set[0], LK_F32);
        lk_ref_init(&set[1], LK_BF16);
    }
    return &set[type];
}

template <typename T> static void compare(const char *op, const struct lk_act *want, const host<T> &got)
{
    int64_t n = lk_cols_packed(want->cols);
    for (int64_t i = 0; i < want->n_row; i++) {
        for (int64_t k = 0; k < n; k++) {
            float g = stored(got.data(), i * n + k), w = stored((const T *)want->data, i * n + k);
            if (!is_close(g, w, type_of<T>())) {
                check(false, op, "row %lld, packed column %lld of %lld: %g, not %g", (long long)i, (long long)k,
                      (long long)n, (double)g, (double)w);
                return;
            }
        }
    }
    check(true, op, "%s", "");
}

void compare_act(const char *op, const struct lk_act *want, const host<uint16_t> &got)
{
    compare(op, want, got);
}

void compare_act(const char *op, const struct lk_act *want, const host<float> &got)
{
    compare(op, want, got);
}

int main(int argc, char **argv)
{
    bool kernels = argc > 1 && strcmp(argv[1], "--kernels") == 0;
    first_alone = argc > 1 && strcmp(argv[1], "--first") == 0;
    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
    const int n_option = kernels || first_alone || brief;
    argc -= n_option;
    argv += n_option;
    for (const auto &op : ops) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++)
            wanted = wanted || strcmp(argv[i], op.name) == 0;
        if (wanted)
            op.run();
    }
    if (kernels)
        dev_print_kernels();
    printf("%d checks, %d failed\n", n_check, n_failed);
    return n_failed ? 1 : 0;
}
