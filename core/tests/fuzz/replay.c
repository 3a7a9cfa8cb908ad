#include <dirent.h>
#include <stdbool.h>
#include <time.h>

#include "core/tests/fuzz/fuzz.h"

/* Runs a fuzz target over files: replay PATH ..., each a file or a folder of files. Each input is a block of its own
 * size, so that a sanitizer sees the first byte that is read beyond it. One that takes longer than it may is named. */

static int n_run;

static bool run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        return false;
    }
    size_t n = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(n + !n);
    bool ok = data && fread(data, 1, n, f) == n;
    fclose(f);
    if (ok) {
        struct timespec t0, t1;
        alarm(60); /* a hang ends here, with the name that was printed before */
        printf("%s\n", path);
        fflush(stdout);
        clock_gettime(CLOCK_MONOTONIC, &t0);
        LLVMFuzzerTestOneInput(data, n);
        clock_gettime(CLOCK_MONOTONIC, &t1);
        alarm(0);
        double seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        if (seconds > 1)
            printf("  %.1f s\n", seconds);
        n_run++;
    }
    free(data);
    return ok;
}

static bool run_path(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return run_file(path);
    bool ok = true;
    for (struct dirent *e; (e = readdir(d));) {
        char name[1024];
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            ok = run_file(name) && ok;
    }
    closedir(d);
    return ok;
}

int main(int argc, char **argv)
{
    bool ok = true;
    for (int i = 1; i < argc; i++)
        ok = run_path(argv[i]) && ok;
    printf("%d inputs\n", n_run);
    return ok && n_run > 0 ? 0 : 1;
}
