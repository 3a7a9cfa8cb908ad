/* Folders of test programs. */
#ifndef CORE_TESTS_FOLDER_H
#define CORE_TESTS_FOLDER_H

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

/* Unlinks a folder's files and links, but for those whose names begin with a dot. */
static inline void folder_empty(const char *folder)
{
    char path[512];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
}

#endif
