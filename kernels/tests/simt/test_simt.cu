/* What the model of a CUDA block finds: kernels with one bug each, and the same without. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/tests/simt/seeded.cuh"
#include "kernels/tests/simt/simt_state.h"

#define N 256

static float *x, *y, want[N];
static int32_t *page;

static float rounded(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    memcpy(&v, &u, sizeof v);
    return v;
}

static void want_reverse(void)
{
    for (int i = 0; i < N; i++)
        want[i] = x[N - 1 - i];
}

static void want_sum(void)
{
    for (int i = 0; i < N; i++) {
        want[i] = 0;
        for (int j = 0; j < 32; j++)
            want[i] += x[i / 32 * 32 + j];
    }
}

static void want_pages(void)
{
    for (int i = 0; i < N; i++)
        want[i] = x[16 * page[i / 16] + i % 16];
}

static void want_product(void)
{
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum += rounded(x[i * 16 + k]) * rounded(x[128 + k * 8 + j]);
            want[i * 8 + j] = sum;
        }
    }
    for (int i = 128; i < N; i++)
        want[i] = 0;
}

static void want_copies(void)
{
    for (int i = 0; i < N; i++)
        want[i] = x[i];
}

/* A bug shows by a fault, or (SIMT_OK) by other numbers than those wanted. */
static const struct {
    const char *name;
    int (*run)(const seeded &a);
    void (*want)(void);
    enum seeded_bug bug;
    enum simt_fault fault;
} cases[] = {
    {"a sound reversal", seeded_reverse, want_reverse, SOUND, SIMT_OK},
    {"a missing barrier", seeded_reverse, want_reverse, NO_BARRIER, SIMT_RACE},
    {"two stores at one place", seeded_reverse, want_reverse, ONE_PLACE, SIMT_RACE},
    {"a store while others read", seeded_reverse, want_reverse, READ_THEN_WRITTEN, SIMT_RACE},
    {"a store behind shared memory", seeded_reverse, want_reverse, BEHIND_SHARED, SIMT_BOUNDS},
    {"a store to the input", seeded_reverse, want_reverse, STORE_TO_INPUT, SIMT_READONLY},
    {"two barriers at once", seeded_reverse, want_reverse, OTHER_BARRIER, SIMT_BARRIER},
    {"a barrier that a thread does not reach", seeded_reverse, want_reverse, THREAD_LEFT, SIMT_BARRIER},
    {"shared memory as it was found", seeded_reverse, want_reverse, NEVER_WRITTEN, SIMT_UNWRITTEN},
    {"a block of one warp and a half", seeded_reverse, want_reverse, ODD_WARP, SIMT_LAUNCH},
    {"a sound sum", seeded_sum, want_sum, SOUND, SIMT_OK},
    {"a lane off by one", seeded_sum, want_sum, OFF_BY_ONE_LANE, SIMT_OK},
    {"a missing barrier of a warp", seeded_sum, want_sum, NO_WARP_BARRIER, SIMT_RACE},
    {"a shuffle that a lane does not reach", seeded_sum, want_sum, LANE_LEFT, SIMT_WARP},
    {"two shuffles at once", seeded_sum, want_sum, OTHER_SHUFFLE, SIMT_WARP},
    {"sound pages", seeded_pages, want_pages, SOUND, SIMT_OK},
    {"a vector off its alignment", seeded_pages, want_pages, UNALIGNED, SIMT_ALIGNMENT},
    {"a page behind the last", seeded_pages, want_pages, PAGE_TOO_FAR, SIMT_BOUNDS},
    {"a sound product", seeded_product, want_product, SOUND, SIMT_OK},
    {"swapped rows of a fragment", seeded_product, want_product, WRONG_FRAGMENT_ROW, SIMT_OK},
    {"a fragment that is not transposed", seeded_product, want_product, NOT_TRANSPOSED, SIMT_OK},
    {"sound copies", seeded_copies, want_copies, SOUND, SIMT_OK},
    {"copies that nobody waits for", seeded_copies, want_copies, NO_WAIT, SIMT_PENDING},
    {"a copy too many left open", seeded_copies, want_copies, WAIT_TOO_LITTLE, SIMT_PENDING},
    {"copies without a barrier", seeded_copies, want_copies, WAIT_NO_BARRIER, SIMT_PENDING},
    {"sound halves of words", seeded_halves, want_copies, SOUND, SIMT_OK},
    {"two stores at one half", seeded_halves, want_copies, ONE_HALF, SIMT_RACE},
    {"a half that is still missing", seeded_halves, want_copies, HALF_MISSING, SIMT_UNWRITTEN},
    {"a store where all read", seeded_halves, want_copies, ALL_READ, SIMT_RACE},
    {"a sum that grows while it is read", seeded_halves, want_copies, ADDED_UNSEEN, SIMT_RACE},
    {"an addition before the zero", seeded_halves, want_copies, ADDED_EARLY, SIMT_RACE},
    {"half of a word that another thread writes", seeded_halves, want_copies, HALF_OF_SUM, SIMT_RACE},
    {"copies to the output", seeded_copies, want_copies, COPY_TO_OUTPUT, SIMT_BOUNDS},
    {"sound words", seeded_words, want_copies, SOUND, SIMT_OK},
    {"a word of which half is new", seeded_words, want_copies, HALF_SEEN, SIMT_RACE},
    {"a word over a half that is read", seeded_words, want_copies, WORD_BEHIND, SIMT_RACE},
    {"a store where all lanes read", seeded_words, want_copies, READ_AGAIN, SIMT_RACE},
    {"the last lane's store behind a barrier", seeded_words, want_copies, LAST_LANE, SIMT_RACE},
};

static bool as_wanted(void)
{
    bool same = true;
    for (int i = 0; i < N; i++)
        same = same && fabsf(y[i] - want[i]) <= 1e-5f * fabsf(want[i]) + 1e-5f;
    return same;
}

/* Zeros times infinity are no zeros. */
static bool test_infinity(void)
{
    memset(x, 0, N * sizeof *x);
    x[128 + 3 * 8 + 5] = INFINITY; /* of B row 3, column 5; of A row 9 */
    bool ok = seeded_product({x, y, page, SOUND}) == SIMT_OK;
    for (int i = 0; i < 128; i++)
        ok = ok && (i % 8 == 5 || i / 8 == 9 ? isnan(y[i]) : y[i] == 0);
    printf("%s: a product of zeros and infinity\n", ok ? "ok" : "FAILED");
    return ok;
}

/* Returns how many failed; says so of those, and of all if asked to. */
static int run_cases(bool say)
{
    int n_failed = 0;
    for (const auto &c : cases) {
        for (int order = 0; order < 2; order++) { /* threads take turns in either order */
            memset(y, 0, N * sizeof *y);
            c.want();
            enum simt_fault fault = (enum simt_fault)c.run({x, y, page, c.bug});
            bool right = as_wanted(), ok = fault == c.fault && (fault != SIMT_OK || right == (c.bug == SOUND));
            n_failed += !ok;
            if ((say && order == 0) || !ok)
                printf("%s: %s: %s\n", ok ? "ok" : "FAILED", c.name,
                       fault   ? simt_message()
                       : right ? "right numbers"
                               : "wrong numbers");
        }
    }
    return n_failed;
}

int main(void)
{
    int n_failed = 0;
    x = (float *)aligned_alloc(64, N * sizeof *x);
    y = (float *)aligned_alloc(64, N * sizeof *y);
    page = (int32_t *)aligned_alloc(64, 16 * sizeof *page);
    if (!x || !y || !page)
        return 1;
    for (int i = 0; i < N; i++)
        x[i] = (float)((i * 37 + 11) % 101) / 16;
    for (int i = 0; i < 16; i++)
        page[i] = 15 - i;
    simt_add(x, N * sizeof *x, false);
    simt_add(y, N * sizeof *y, true);
    simt_add(page, 16 * sizeof *page, false);
    n_failed += run_cases(true);
    for (int i = 0; i < 1 << 21; i++) /* what a long run has behind it: times no longer fit into half a stamp */
        simt_next_time();
    n_failed += run_cases(false);
    n_failed += !test_infinity();
    free(x);
    free(y);
    free(page);
    printf("%zu kernels, %d failed\n", sizeof cases / sizeof *cases, n_failed);
    return n_failed ? 1 : 0;
}
