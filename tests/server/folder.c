#include "tests/server/folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

char folder[64];

static int make_in(const char *where)
{
    snprintf(folder, sizeof(folder), "%s/eddy-test-XXXXXX", where);
    return mkdtemp(folder) ? 0 : -1;
}

int folder_make(void **unused)
{
    (void)unused;
    return make_in("/tmp");
}

int folder_make_in_memory(void **unused)
{
    (void)unused;
    return make_in(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int folder_remove(void **unused)
{
    (void)unused;
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
