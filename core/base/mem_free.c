/* Free memory: what the kernel says, and what limits of control groups leave of it (Linux, cgroup-v2.rst and
 * cgroup-v1/memory.rst). */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

#define UNKNOWN ((size_t)1 << 30) /* where the kernel says nothing */
#define MAX_PATH 1024

/* The files of a group that tell of its memory, in either version of control groups. */
struct names {
    const char *limit[2], *used;
    const char *cache[3]; /* lines of memory.stat: given back before anything fails for want of memory */
    const char *above;    /* a line of memory.stat: the least limit of the groups above; NULL: none */
};

static const struct names version1 = {.limit = {"memory.limit_in_bytes"},
                                      .used = "memory.usage_in_bytes",
                                      .cache = {"total_inactive_file", "total_active_file"},
                                      .above = "hierarchical_memory_limit"};
static const struct names version2 = {.limit = {"memory.max", "memory.high"},
                                      .used = "memory.current",
                                      .cache = {"inactive_file", "active_file", "slab_reclaimable"}};

/* A hierarchy: where it is mounted, which of its groups the mount shows as its top, and the process's own group. */
struct hierarchy {
    const struct names *names;
    char mount[MAX_PATH], top[MAX_PATH], group[MAX_PATH];
};

/* The number behind `key` in the first line that begins with it and a blank, in units of `unit` bytes. An empty key
 * means the file's first line. SIZE_MAX: none. */
static size_t read_number(const char *path, const char *key, size_t unit)
{
    FILE *f = fopen(path, "re");
    char line[256];
    size_t n = strlen(key), found = SIZE_MAX;
    while (f && found == SIZE_MAX && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) != 0 || (n > 0 && line[n] != ' ' && line[n] != '\t'))
            continue;
        char *end;
        unsigned long long v = strtoull(line + n, &end, 10);
        if (end != line + n)
            found = v > SIZE_MAX / unit ? SIZE_MAX : (size_t)v * unit;
    }
    if (f)
        fclose(f);
    return found;
}

static size_t group_number(const char *dir, const char *name, const char *key)
{
    char path[MAX_PATH];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path ? read_number(path, key, 1) : SIZE_MAX;
}

/* What one group leaves. */
static size_t left_in(const char *dir, const struct names *names)
{
    size_t limit = SIZE_MAX, used = group_number(dir, names->used, ""), cache = 0;
    for (size_t i = 0; i < 2 && names->limit[i]; i++) {
        size_t v = group_number(dir, names->limit[i], ""); /* "max" is no number */
        limit = v < limit ? v : limit;
    }
    if (names->above) {
        size_t v = group_number(dir, "memory.stat", names->above);
        limit = v < limit ? v : limit;
    }
    if (limit == SIZE_MAX || used == SIZE_MAX)
        return SIZE_MAX;
    for (size_t i = 0; i < 3 && names->cache[i]; i++) {
        size_t v = group_number(dir, "memory.stat", names->cache[i]);
        cache += v != SIZE_MAX && v < SIZE_MAX - cache ? v : 0;
    }
    used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

/* Whether a list with commas names the word. */
static bool lists(const char *list, const char *word)
{
    for (size_t n = strlen(word); *list;) {
        size_t len = strcspn(list, ",");
        if (len == n && memcmp(list, word, n) == 0)
            return true;
        list += len + (list[len] == ',');
    }
    return false;
}

static void keep(char *to, const char *text)
{
    size_t n = strlen(text);
    if (n < MAX_PATH)
        memcpy(to, text, n + 1);
}

/* Lines of /proc/self/cgroup: number, controllers, group. */
static void read_group(char *line, struct hierarchy h[2])
{
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return;
    *group++ = 0;
    group[strcspn(group, "\n")] = 0;
    if (lists(controllers + 1, "memory"))
        keep(h[0].group, group);
    else if (!controllers[1])
        keep(h[1].group, group);
}

/* Lines of /proc/self/mountinfo: ... top, mount point, options ... "-", type, source, options. */
static void read_mount(char *line, struct hierarchy h[2])
{
    char *rest = strstr(line, " - "), *at = line, *field[5], *type, *save;
    if (!rest)
        return;
    *rest = 0;
    for (int i = 0; i < 5; i++, at = NULL)
        if ((field[i] = strtok_r(at, " ", &save)) == NULL)
            return;
    type = strtok_r(rest + 3, " ", &save);
    if (!type || !strtok_r(NULL, " ", &save))
        return;
    const char *options = strtok_r(NULL, " \n", &save);
    int i = strcmp(type, "cgroup2") == 0                                         ? 1
            : strcmp(type, "cgroup") == 0 && options && lists(options, "memory") ? 0
                                                                                 : -1;
    if (i < 0 || h[i].mount[0])
        return;
    keep(h[i].top, field[3]);
    keep(h[i].mount, field[4]);
}

static void each_line(const char *root, const char *path, void (*take)(char *line, struct hierarchy h[2]),
                      struct hierarchy h[2])
{
    char full[MAX_PATH], *line = NULL;
    size_t cap = 0;
    int n = snprintf(full, sizeof full, "%s%s", root, path);
    FILE *f = n > 0 && (size_t)n < sizeof full ? fopen(full, "re") : NULL;
    while (f && getline(&line, &cap, f) >= 0)
        take(line, h);
    free(line);
    if (f)
        fclose(f);
}

/* The least that the process's group and those above it leave, as far up as the mount shows them. */
static size_t left_of(const char *root, struct hierarchy *h)
{
    size_t least = SIZE_MAX, n_top = strcmp(h->top, "/") == 0 ? 0 : strlen(h->top);
    if (!h->mount[0] || !h->group[0])
        return least;
    char *group = h->group, dir[3 * MAX_PATH];
    bool inside = strncmp(group, h->top, n_top) == 0 && (group[n_top] == '/' || !group[n_top]) && !strstr(group, "/..");
    group = inside ? group + n_top : group + strlen(group); /* of a group that is not shown the top is the nearest */
    for (size_t len = strlen(group);;) {
        while (len > 0 && group[len - 1] == '/')
            len--;
        snprintf(dir, sizeof dir, "%s%s%.*s", root, h->mount, (int)len, group);
        size_t left = left_in(dir, h->names);
        least = left < least ? left : least;
        if (len == 0)
            return least;
        while (len > 0 && group[len - 1] != '/')
            len--;
    }
}

size_t lb_mem_available_in(const char *root)
{
    char path[MAX_PATH];
    struct hierarchy h[2] = {{.names = &version1}, {.names = &version2}};
    int n = snprintf(path, sizeof path, "%s/proc/meminfo", root);
    size_t least = n > 0 && (size_t)n < sizeof path ? read_number(path, "MemAvailable:", 1024) : SIZE_MAX;
    each_line(root, "/proc/self/cgroup", read_group, h);
    each_line(root, "/proc/self/mountinfo", read_mount, h);
    for (int i = 0; i < 2; i++) {
        size_t left = left_of(root, &h[i]);
        least = left < least ? left : least;
    }
    return least == SIZE_MAX ? UNKNOWN : least;
}

size_t lb_mem_available(void)
{
    return lb_mem_available_in("");
}

size_t lb_mem_peak(void)
{
    size_t peak = read_number("/proc/self/status", "VmHWM:", 1024);
    return peak == SIZE_MAX ? 0 : peak;
}
