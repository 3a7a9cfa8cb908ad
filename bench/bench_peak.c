/* bench_peak [--json] [--table FILE] [THREADS]: what the machine can do at most, to compare products with: each set's
 * product instruction in registers and with operands from the first cache, and reading memory, by one thread and by
 * all. Each figure is held against the best recorded for the processor in FILE (bench/peaks.tsv): shares of a peak that
 * was measured while something else ran would flatter. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/backend/team.h"
#include "core/base/mem.h"
#include "kernels/cpu/lk_cpu.h"

#define READ_BYTES ((size_t)256 << 20) /* a thread */
#define RUNS 8                         /* of which the fastest counts */
#define MAX_FIGURE 64
#define NEAR 0.95 /* share of the best recorded from which a figure may be used */
#define N_FIELD 11

/* A line of the table, and a figure beside it. Texts are "-" where they do not apply. */
struct figure {
    char set[32], type[8], where[16];
    int n_thread;
    double value, best; /* best 0: none recorded */
    const char *unit;
};

struct processor {
    char name[64], vendor[32];
    int family, model; /* -1: not known */
};

struct bench {
    struct lb_team *team;
    struct processor cpu;
    struct figure figure[MAX_FIGURE];
    int n_figure;
    double *flop;  /* [n_thread] */
    uint64_t *sum; /* [n_thread] */
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* ---- measuring ---- */

struct multiplying {
    const struct lk_cpu *lk;
    bool from_l1;
    double *flop; /* [n_thread] */
};

static void multiply(void *ctx, int64_t begin, int64_t end)
{
    const struct multiplying *m = ctx;
    for (int64_t i = begin; i < end; i++)
        m->flop[i] = m->lk->peak(m->from_l1, 400000);
}

struct reading {
    const uint64_t *data;
    uint64_t *sum; /* [n_thread] */
    size_t n_stream;
};

/* Each line of each stream in turn. The loads of 16 bytes that every x86-64 has keep up with memory. */
static inline uint64_t read_streams(const uint64_t *data, size_t n_stream)
{
    const size_t n = READ_BYTES / sizeof *data / n_stream;
    uint64_t sum[8] = {0};
    for (size_t j = 0; j < n; j += 8)
        for (size_t s = 0; s < n_stream; s++)
            for (size_t k = 0; k < 8; k++)
                sum[k] += data[s * n + j + k];
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static void read_share(void *ctx, int64_t begin, int64_t end)
{
    const struct reading *r = ctx;
    for (int64_t i = begin; i < end; i++) {
        const uint64_t *share = r->data + (size_t)i * (READ_BYTES / sizeof *share);
        r->sum[i] = r->n_stream == 1 ? read_streams(share, 1) : read_streams(share, 4);
    }
}

/* Seconds of the fastest of a few runs of one item a thread. */
static double fastest(struct lb_team *team, void (*fn)(void *, int64_t, int64_t), void *ctx, int n)
{
    double best = 1e9;
    for (int i = 0; i < RUNS; i++) {
        double begin = now();
        lb_team_run(team, fn, ctx, n, 1);
        double took = now() - begin;
        best = took < best ? took : best;
    }
    return best;
}

static void add(struct bench *b, const char *set, const char *type, const char *where, int n_thread, double value)
{
    if (b->n_figure == MAX_FIGURE)
        return;
    struct figure *f = &b->figure[b->n_figure++];
    *f = (struct figure){.n_thread = n_thread, .value = value, .unit = set[0] == '-' ? "GB/s" : "GFLOP/s"};
    snprintf(f->set, sizeof f->set, "%s", set);
    snprintf(f->type, sizeof f->type, "%s", type);
    snprintf(f->where, sizeof f->where, "%s", where);
}

static void measure_sets(struct bench *b, int n)
{
    unsigned bit;
    const char *name;
    for (int i = 0; (name = lk_cpu_set(i, &bit)) != NULL; i++) {
        for (int type = LK_F32; type <= LK_BF16; type++) {
            struct lk_cpu lk;
            lk_cpu_init(&lk, (enum lk_type)type, lk_cpu_detect() & bit);
            if (!lk.peak || strcmp(lk.name, name) != 0)
                continue;
            for (int from_l1 = 0; from_l1 < 2; from_l1++) {
                struct multiplying m = {&lk, from_l1, b->flop};
                double took = fastest(b->team, multiply, &m, n);
                add(b, name, type == LK_F32 ? "f32" : "bf16", from_l1 ? "l1" : "registers", n,
                    b->flop[0] * n / took * 1e-9);
            }
        }
    }
}

/* Some processors read one stream a thread faster, some several, whose pages are fetched ahead side by side. */
static void measure_memory(struct bench *b, const uint64_t *data, int n)
{
    struct reading one = {data, b->sum, 1}, four = {data, b->sum, 4};
    double took = fastest(b->team, read_share, &one, n), other = fastest(b->team, read_share, &four, n);
    add(b, "-", "-", "memory", n, (double)READ_BYTES * n / (other < took ? other : took) * 1e-9);
}

static int measure(struct bench *b)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_arena arena;
    int n_thread = lb_team_size(b->team);
    b->flop = lb_mem_new((size_t)n_thread, sizeof *b->flop);
    b->sum = lb_mem_new((size_t)n_thread, sizeof *b->sum);
    if (!b->flop || !b->sum || lb_arena_init(&arena, READ_BYTES * (size_t)n_thread, &err) != LB_OK) {
        fprintf(stderr, "bench_peak: no memory\n");
        return 4;
    }
    uint64_t *data = lb_arena_take(&arena, READ_BYTES * (size_t)n_thread);
    for (size_t i = 0; i < READ_BYTES / sizeof *data * (size_t)n_thread; i++)
        data[i] = i;
    for (int n = 1; n <= n_thread; n += n_thread > 1 ? n_thread - 1 : 1) {
        measure_sets(b, n);
        measure_memory(b, data, n);
    }
    lb_arena_release(&arena);
    return 0;
}

/* ---- the best recorded ---- */

/* The value of "KEY : VALUE" when the line is of that key, else NULL; ends it at its newline. */
static const char *value_of(char *line, const char *key)
{
    size_t n = strlen(key);
    char *at = strchr(line, ':');
    if (!at || strncmp(line, key, n) != 0 || (line[n] != '\t' && line[n] != ' ' && line[n] != ':'))
        return NULL;
    at[strcspn(at, "\n")] = 0;
    return at + 1 + strspn(at + 1, " ");
}

static void read_processor(struct processor *cpu)
{
    *cpu = (struct processor){.name = "unknown", .vendor = "unknown", .family = -1, .model = -1};
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[1024];
    const char *v;
    while (f && fgets(line, sizeof line, f) && line[0] != '\n') {
        if ((v = value_of(line, "vendor_id")) != NULL)
            snprintf(cpu->vendor, sizeof cpu->vendor, "%s", v);
        else if ((v = value_of(line, "cpu family")) != NULL)
            cpu->family = atoi(v);
        else if ((v = value_of(line, "model name")) != NULL)
            snprintf(cpu->name, sizeof cpu->name, "%s", v);
        else if ((v = value_of(line, "model")) != NULL)
            cpu->model = atoi(v);
    }
    if (f)
        fclose(f);
}

/* Cuts a line at its tabs; false when it has not N_FIELD fields. */
static bool cut(char *line, char *field[N_FIELD])
{
    int n = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *at = line; at && n < N_FIELD; n++) {
        field[n] = at;
        at = strchr(at, '\t');
        if (at)
            *at++ = 0;
    }
    return n == N_FIELD;
}

static void compare(struct bench *b, char *field[N_FIELD])
{
    bool any = strcmp(field[3], "-") == 0;
    if (strcmp(field[1], b->cpu.vendor) != 0 || atoi(field[2]) != b->cpu.family ||
        (!any && atoi(field[3]) != b->cpu.model))
        return;
    for (int i = 0; i < b->n_figure; i++) {
        struct figure *f = &b->figure[i];
        double best = atof(field[8]);
        if (strcmp(field[4], f->set) == 0 && strcmp(field[5], f->type) == 0 && strcmp(field[6], f->where) == 0 &&
            atoi(field[7]) == f->n_thread && strcmp(field[9], f->unit) == 0 && best > f->best)
            f->best = best;
    }
}

/* The table that is named, else that of the folder in which one stands, else that of the source. */
static int read_table(struct bench *b, const char *path)
{
    const char *const paths[] = {path ? path : "bench/peaks.tsv", path ? NULL : LB_SOURCE_DIR "/bench/peaks.tsv"};
    FILE *f = NULL;
    for (int i = 0; i < 2 && !f && paths[i]; i++)
        f = fopen(paths[i], "r");
    if (!f) {
        fprintf(stderr, "bench_peak: cannot open the table '%s'\n", paths[0]);
        return path ? 2 : 0;
    }
    char line[1024], *field[N_FIELD];
    int rc = 0;
    for (int number = 1; rc == 0 && fgets(line, sizeof line, f); number++) {
        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (cut(line, field)) {
            compare(b, field);
        } else {
            fprintf(stderr, "bench_peak: line %d of the table has not %d fields\n", number, N_FIELD);
            rc = 2;
        }
    }
    fclose(f);
    return rc;
}

/* ---- telling ---- */

static bool usable(const struct figure *f)
{
    return f->best > 0 && f->value >= NEAR * f->best;
}

static void put_text(const struct bench *b)
{
    printf("%s, %s family %d model %d\n", b->cpu.name, b->cpu.vendor, b->cpu.family, b->cpu.model);
    for (int i = 0; i < b->n_figure; i++) {
        const struct figure *f = &b->figure[i];
        if (f->set[0] == '-')
            printf("memory read, %d threads: %.1f %s; ", f->n_thread, f->value, f->unit);
        else
            printf("%s %s, operands %s, %d threads: %.1f %s; ", f->set, f->type,
                   strcmp(f->where, "l1") == 0 ? "from the first cache" : "in registers", f->n_thread, f->value,
                   f->unit);
        if (f->best == 0)
            printf("nothing is recorded for this processor\n");
        else if (usable(f))
            printf("%.0f %% of best recorded or more (%.1f)\n", 100 * NEAR, f->best);
        else
            printf("below: only %.1f %% of the best recorded (%.1f), do not use this sitting's shares\n",
                   100 * f->value / f->best, f->best);
    }
    bool first = true;
    for (int i = 0; i < b->n_figure; i++) {
        const struct figure *f = &b->figure[i];
        if (f->value <= f->best)
            continue;
        if (first)
            printf("\nbetter than what is recorded; lines for bench/peaks.tsv in place of those:\n");
        first = false;
        printf("%s\t%s\t%d\t%d\t%s\t%s\t%s\t%d\t%.1f\t%s\tbench_peak\n", b->cpu.name, b->cpu.vendor, b->cpu.family,
               b->cpu.model, f->set, f->type, f->where, f->n_thread, f->value, f->unit);
    }
}

/* A processor's name holds no quotes or controls: it needs no escapes. */
static void put_json(const struct bench *b)
{
    printf("{\"processor\":{\"name\":\"%s\",\"vendor\":\"%s\",\"family\":%d,\"model\":%d},\"figures\":[", b->cpu.name,
           b->cpu.vendor, b->cpu.family, b->cpu.model);
    for (int i = 0; i < b->n_figure; i++) {
        const struct figure *f = &b->figure[i];
        printf("%s\n{\"set\":\"%s\",\"type\":\"%s\",\"where\":\"%s\",\"threads\":%d,\"value\":%.1f,\"unit\":\"%s\",",
               i ? "," : "", f->set, f->type, f->where, f->n_thread, f->value, f->unit);
        if (f->best > 0)
            printf("\"best\":%.1f,\"share\":%.3f,\"usable\":%s}", f->best, f->value / f->best,
                   usable(f) ? "true" : "false");
        else
            printf("\"best\":null,\"share\":null,\"usable\":null}");
    }
    printf("\n]}\n");
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_peak [--json] [--table FILE] [THREADS]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct lb_err err = LB_ERR_INIT;
    const char *table = NULL;
    bool json = false;
    int n_thread = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--table") == 0 && i + 1 < argc)
            table = argv[++i];
        else if ((n_thread = atoi(argv[i])) < 1)
            return usage();
    }
    if (lb_team_new(&b.team, n_thread, &err) != LB_OK) {
        fprintf(stderr, "bench_peak: %s\n", err.text);
        return 2;
    }
    read_processor(&b.cpu);
    int rc = measure(&b);
    if (rc == 0)
        rc = read_table(&b, table);
    if (rc == 0) {
        if (json)
            put_json(&b);
        else
            put_text(&b);
    }
    lb_mem_free(b.flop);
    lb_mem_free(b.sum);
    lb_team_free(b.team);
    return rc;
}
