/* A model with the first of its layers alone, for runs that are compared with other runs: what happens around the model
 * is the same, and its kernels, slow under a sanitizer, have less to do. LB_TEST_FULL=1 has all layers. */
#ifndef CORE_TESTS_SHALLOW_H
#define CORE_TESTS_SHALLOW_H

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/folder.h"
#include "core/tests/whole.h"

static char shallow_dir[64];

static inline void shallow_remove(void)
{
    folder_empty(shallow_dir);
    rmdir(shallow_dir);
}

/* The folder, whose other files are links to those of `model`, the same one in all calls; the first call makes it, the
 * program's end removes it. */
static inline const char *shallow_model(const char *model)
{
    char from[512], to[512];
    if (is_whole())
        return model;
    if (shallow_dir[0])
        return shallow_dir;
    snprintf(shallow_dir, sizeof shallow_dir, "/tmp/llmbatch-shallow-XXXXXX");
    snprintf(from, sizeof from, "%s/config.json", model);
    DIR *d = opendir(model);
    json_t *config = json_load_file(from, 0, NULL);
    if (!d || !config || !mkdtemp(shallow_dir) || atexit(shallow_remove) != 0)
        abort();
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(from, sizeof from, "%s/%s", model, e->d_name);
        snprintf(to, sizeof to, "%s/%s", shallow_dir, e->d_name);
        if (e->d_name[0] != '.' && strcmp(e->d_name, "config.json") != 0 && symlink(from, to) != 0)
            abort();
    }
    closedir(d);
    snprintf(to, sizeof to, "%s/config.json", shallow_dir);
    json_object_set_new(config, "num_hidden_layers", json_integer(1));
    if (json_dump_file(config, to, 0) != 0)
        abort();
    json_decref(config);
    return shallow_dir;
}

#endif
