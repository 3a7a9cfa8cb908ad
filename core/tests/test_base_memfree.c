/* Free memory by made-up trees of the kernel's files. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <ftw.h>
#include <sys/stat.h>

#include "core/base/mem.h"
#include "core/tests/scratch.h"

#define V1_MOUNT "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define V2_MOUNT "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define OTHER_MOUNT "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
#define V2 "/sys/fs/cgroup"
#define V1 "/sys/fs/cgroup/memory"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static int empty(void **state)
{
    (void)state;
    nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return mkdir(scratch, 0700);
}

/* A file below the scratch folder, with the folders that it stands in. */
static void put(const char *path, const char *text)
{
    char full[1024];
    snprintf(full, sizeof full, "%s%s", scratch, path);
    for (char *at = full + strlen(scratch) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void put_host(const char *group, const char *mounts)
{
    put("/proc/meminfo", "MemTotal:       2000 kB\nMemFree:  100 kB\nMemAvailable:    1000 kB\n");
    put("/proc/self/cgroup", group);
    put("/proc/self/mountinfo", mounts);
}

static void expect(size_t bytes)
{
    assert_int_equal(lb_mem_available_in(scratch), bytes);
}

static void test_host(void **state)
{
    (void)state;
    expect((size_t)1 << 30); /* nothing is known */
    put("/proc/meminfo", "MemTotal:       2000 kB\nMemAvailable:    1000 kB\n");
    expect(1024000);
    put_host("0::/\n", OTHER_MOUNT V2_MOUNT); /* the root group has no limit */
    expect(1024000);
}

static void test_version2(void **state)
{
    (void)state;
    put_host("0::/a.slice/b.scope\n", OTHER_MOUNT V2_MOUNT);
    put(V2 "/a.slice/b.scope/memory.max", "max\n");
    put(V2 "/a.slice/b.scope/memory.high", "max\n");
    put(V2 "/a.slice/b.scope/memory.current", "5000\n");
    expect(1024000);
    put(V2 "/a.slice/b.scope/memory.max", "105000\n");
    expect(100000);
    put(V2 "/a.slice/b.scope/memory.high", "65000\n"); /* beyond it the process is slowed down */
    expect(60000);
    put(V2 "/a.slice/memory.max", "90000\n"); /* a group above, with others in it */
    put(V2 "/a.slice/memory.current", "50000\n");
    expect(40000);
    /* caches of files are given back; other lines that begin alike do not count */
    put(V2 "/a.slice/memory.stat",
        "anon 20000\nfile 9\ninactive_file 10000\nactive_file 5000\nactive_file_x 77\nslab_reclaimable 1000\n");
    expect(56000);
    put(V2 "/a.slice/memory.stat", "inactive_file 60000\n"); /* more than is used: read a moment later */
    expect(60000);
    put(V2 "/a.slice/memory.max", "0\n");
    put(V2 "/a.slice/memory.stat", "inactive_file 0\n");
    expect(0);
}

static void test_version1(void **state)
{
    (void)state;
    put_host("9:cpu,cpuacct:/else\n4:hugetlb,memory:/slurm/job_1/step_0\n0::/\n", OTHER_MOUNT V1_MOUNT);
    put(V1 "/slurm/job_1/step_0/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put(V1 "/slurm/job_1/step_0/memory.usage_in_bytes", "40000\n");
    expect(1024000);
    put(V1 "/slurm/job_1/memory.limit_in_bytes", "140000\n");
    put(V1 "/slurm/job_1/memory.usage_in_bytes", "40000\n");
    expect(100000);
    put(V1 "/slurm/job_1/memory.stat", "inactive_file 1\ntotal_inactive_file 30000\ntotal_active_file 5000\n");
    expect(135000);
    /* a limit above what is mounted is known from the line of the group itself */
    put(V1 "/slurm/job_1/step_0/memory.stat", "hierarchical_memory_limit 90000\ntotal_inactive_file 10000\n");
    expect(60000);
}

/* A container sees its own group as the top of the mount, whatever the host calls it. */
static void test_container(void **state)
{
    (void)state;
    static const char mount[] = "50 49 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n";
    put_host("4:memory:/docker/c0ffee\n", mount);
    put(V1 "/memory.limit_in_bytes", "50000\n");
    put(V1 "/memory.usage_in_bytes", "10000\n");
    expect(40000);
    put_host("4:memory:/docker/c0ffee/inner\n", mount);
    put(V1 "/inner/memory.limit_in_bytes", "30000\n");
    put(V1 "/inner/memory.usage_in_bytes", "10000\n");
    expect(20000);
    put_host("4:memory:/docker/c0ffeeee/inner\n", mount); /* another group, not shown */
    expect(40000);
    put_host("4:memory:/../x\n", mount);
    expect(40000);
}

static void test_broken_files(void **state)
{
    (void)state;
    put_host("\n:\n0:\n4:memory\n0::\n0::/a\n", " - \n1 2 3\n- cgroup2\n1 2 3 / /m rw - cgroup2\n" V2_MOUNT);
    put(V2 "/a/memory.max", "-5\n");
    put(V2 "/a/memory.current", "\n");
    expect(1024000);
    put(V2 "/a/memory.max", "7\n");
    put(V2 "/a/memory.current", "99999999999999999999999999\n"); /* no number of bytes */
    expect(1024000);
    put(V2 "/a/memory.current", "8\n");
    expect(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_host, empty),         cmocka_unit_test_setup(test_version2, empty),
        cmocka_unit_test_setup(test_version1, empty),     cmocka_unit_test_setup(test_container, empty),
        cmocka_unit_test_setup(test_broken_files, empty),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return failed;
}
