/* Groups: sums of ranks bit for bit against the contract's order written out, on every path; broadcasts, gathers. */
#include <stdint.h>
#include <string.h>

#include "core/dist/world_impl.h"
#include "core/tests/mpi/mpi_check.h"
#include "core/tests/whole.h"

#define AREA (128 << 10) /* numbers that one exchange takes */
#define EDGE 1024

static float number(int rank, int64_t i, int round)
{
    uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)rank * 40503u + (uint32_t)round * 97u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    float f = (float)(int32_t)x / 2147483648.0f;
    return f * (x & 1 ? 1.0f : 4096.0f) * (x & 2 ? 1.0f : 0.001f);
}

static float balanced(int base, int begin, int end, int64_t i, int round)
{
    if (end - begin == 1)
        return number(base + begin, i, round);
    int middle = (begin + end) / 2;
    return balanced(base, begin, middle, i, round) + balanced(base, middle, end, i, round);
}

static float expected(int base, int n, int64_t i, int round)
{
    if ((n & (n - 1)) == 0)
        return balanced(base, 0, n, i, round);
    float sum = number(base, i, round);
    for (int r = 1; r < n; r++)
        sum += number(base + r, i, round);
    return sum;
}

/* Any memory or, in odd rounds, the communicator's own, at a place that moves. */
static void check_reduce(struct lb_comm *c, int base, int64_t n, int round)
{
    float *part = round & 1 ? c->ops->buffer(c, n + 5) : NULL, *own = NULL;
    part = part ? part + round % 5 : (own = malloc((size_t)(n + 1) * sizeof *part));
    CHECK(part);
    part[n] = 7;
    for (int64_t i = 0; i < n; i++)
        part[i] = number(base + c->rank, i, round);
    c->ops->reduce(c, part, n);
    /* what comes first and last, and of the rest of a sample every seventh number: the lanes of a register in turn */
    for (int64_t i = 0; i < n; i += i < EDGE || i >= n - EDGE ? 1 : whole_or(7)) {
        float want = expected(base, c->size, i, round);
        if (memcmp(&want, &part[i], sizeof want) != 0) {
            fprintf(stderr, "rank %d, %d ranks, %s, n %lld, number %lld: %a instead of %a\n", c->rank, c->size, c->name,
                    (long long)n, (long long)i, (double)part[i], (double)want);
            _exit(1);
        }
    }
    CHECK(part[n] == 7);
    free(own);
}

/* Minus zero stays: rows of other ranks' vocabulary count as -0.0, which adds nothing to any number. */
static void check_zero(struct lb_comm *c)
{
    float part[3] = {-0.0f, c->rank == 0 ? 5.0f : -0.0f, c->rank == c->size - 1 ? -3.0f : -0.0f};
    c->ops->reduce(c, part, 3);
    const float want[3] = {-0.0f, 5.0f, -3.0f};
    CHECK(memcmp(part, want, sizeof want) == 0);
}

static void check_bcast(struct lb_comm *c, size_t bytes, int round)
{
    unsigned char *data = malloc(bytes + 1);
    CHECK(data);
    for (size_t i = 0; i <= bytes; i++)
        data[i] = c->rank == 0 ? (unsigned char)(i * 7 + (size_t)round) : 255;
    c->ops->bcast(c, data, bytes);
    for (size_t i = 0; i < bytes; i++)
        CHECK(data[i] == (unsigned char)(i * 7 + (size_t)round));
    CHECK(c->rank == 0 || data[bytes] == 255);
    free(data);
}

static void check_gather(struct lb_comm *c, size_t bytes, int in_place)
{
    size_t counts[LB_COMM_MAX_RANKS], at[LB_COMM_MAX_RANKS], sum = 0;
    for (int r = 0; r < c->size; r++) {
        counts[r] = r == 1 ? 0 : bytes + (size_t)r * 13;
        at[r] = sum;
        sum += counts[r];
    }
    unsigned char *all = c->rank == 0 ? malloc(sum + 1) : NULL, *own = malloc(counts[c->rank] + 1);
    CHECK(own && (c->rank != 0 || all));
    unsigned char *mine = all && in_place ? all : own;
    for (size_t i = 0; i < counts[c->rank]; i++)
        mine[i] = (unsigned char)(i * 3 + (size_t)c->rank);
    c->ops->gather(c, mine, all, counts);
    for (int r = 0; r < c->size && c->rank == 0; r++)
        for (size_t i = 0; i < counts[r]; i++)
            CHECK(all[at[r] + i] == (unsigned char)(i * 3 + (size_t)r));
    free(all);
    free(own);
}

static void check_group(struct lb_world *w, int tp)
{
    static const int64_t sizes[] = {
        1, 2, 15, 16, 17, 33, 1000, 2047, 2048, 2049, 16 * 257, 9999, AREA - 1, AREA + 16 + 1, 2 * AREA + 5};
    struct lb_err err = LB_ERR_INIT;
    struct lb_comm *c;
    CHECK_OK(lb_world_group(w, tp, &c, &err), &err);
    CHECK(c->size == tp && c->rank == w->rank % tp);
    int base = w->rank - c->rank;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes && (round < 2 || sizes[i] < 10000); i++) {
            c->ops->beat(c, "layer", (int64_t)i);
            check_reduce(c, base, sizes[i], round);
            if (i % 4 == 0)
                check_bcast(c, (size_t)sizes[i] * 3, round);
            if (i % 4 == 1)
                check_gather(c, (size_t)sizes[i] * 5, round & 1);
        }
    check_zero(c);
    for (int i = 0; i < 300; i++) /* one after the other, without time between them */
        check_reduce(c, base, 1 + i % 40, i);
    CHECK_OK(c->ops->status(c, &err), &err);
    CHECK(tp == 1 || c->seconds > 0);
    c->ops->close(c);
}

int main(int argc, char **argv)
{
    struct lb_world *w = open_world(argc, argv);
    struct lb_err err = LB_ERR_INIT;
    struct lb_comm *c;
    for (int tp = 1; tp <= w->size; tp++) {
        if (w->size % tp)
            continue;
        int last = tp == w->size ? LB_PATH_GATHER : LB_PATH_AUTO; /* several groups: once is enough */
        for (int path = LB_PATH_AUTO; path <= last; path++) {
            w->impl->spec.path = (enum lb_path)path;
            check_group(w, tp);
        }
    }
    CHECK(lb_world_group(w, w->size + 1, &c, &err) == LB_E_USAGE);
    if (w->rank == 0)
        printf("%d ranks on %d hosts: sums as in the contract\n", w->size, w->n_host);
    lb_world_close(w);
    return 0;
}
