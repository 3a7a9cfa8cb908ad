/* Checks every op of every kernel set that this processor has, or of those that the objects linked in model; --bench
 * times them; --exhaustive tries the exponential on every float of its range; --without leaves out a set that another
 * program has checked. */
#include "kernels/tests/check.h"

static const struct {
    const char *name;
    void (*check)(const struct lk_cpu *t);
} ops[] = {
    {"round", check_round}, {"latent", check_latent},   {"sparse", check_sparse}, {"gather", check_gather},
    {"embed", check_embed}, {"norm", check_norm},       {"linear", check_linear}, {"packed", check_packed},
    {"head", check_head},   {"rope_table", check_rope}, {"attend", check_attend}, {"top", check_top},
    {"moe", check_moe},     {"int8", check_int8},       {"w4a8", check_w4a8},     {"screen", check_screen},
    {"lora", check_lora},
};

static void check_lists(void)
{
    unsigned both = LK_ISA_REF | LK_ISA_AVX512BF16;
    check_that(lk_cpu_parse("ref") == LK_ISA_REF && lk_cpu_parse("avx512bf16,ref") == both, NULL, "parse", "names");
    check_that(lk_cpu_parse("amx") == LK_ISA_AMX, NULL, "parse", "amx");
    check_that(!lk_cpu_parse("") && !lk_cpu_parse("ref,") && !lk_cpu_parse("sse") && !lk_cpu_parse("re"), NULL, "parse",
               "unknown names");
    check_that(lk_cpu_detect() & LK_ISA_REF, NULL, "detect", "ref is missing");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        check_bench(argc > 2 && strcmp(argv[2], "all") != 0 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);
        return 0;
    }
    int exhaustive = argc > 1 && strcmp(argv[1], "--exhaustive") == 0;
    const char *without = argc == 3 && strcmp(argv[1], "--without") == 0 ? argv[2] : "";
    if (argc > 1 && !exhaustive && !*without) {
        fprintf(stderr, "usage: checkkernels [--bench [OP | all [SET]] | --exhaustive | --without SET]\n");
        return 2;
    }
    struct lk_cpu t[CHECK_MAX_SETS];
    int n = check_sets(t);
    check_lists();
    check_sample(*without);
    for (int i = 0; i < n; i++) {
        if (strcmp(t[i].name, without) == 0)
            continue;
        printf("%s, %s\n", t[i].name, t[i].type == LK_F32 ? "f32" : "bf16");
        for (size_t op = 0; op < sizeof ops / sizeof ops[0]; op++)
            ops[op].check(&t[i]);
        check_exp(&t[i], exhaustive ? 1 : check_cases > 1 ? check_every > 1 ? 9081 : 1009 : 101);
    }
    return check_failures() ? 1 : 0;
}
