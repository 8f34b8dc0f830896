/* faults.c - a library to preload: the calls that write states fail when a test says so. */
#include "tests/server/e2e/faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct faults *faults;

/* The calls that this library stands before. */
static struct {
    ssize_t (*pwrite)(int fd, const void *bytes, size_t len, off64_t at);
    int (*fallocate)(int fd, int mode, off64_t at, off64_t len);
    int (*fsync)(int fd);
    int (*renameat)(int from, const char *path, int to, const char *new_path);
} next;

static void find(void *to, const char *name)
{
    void *at = dlsym(RTLD_NEXT, name);

    memcpy(to, &at, sizeof(at)); /* C has no conversion of one to a function */
    if (!at)
        _exit(126);
}

__attribute__((constructor)) static void open_faults(void)
{
    const char *path = getenv("EDDY_TEST_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED)
        _exit(126);
    close(fd);
    faults = at;
    find(&next.pwrite, "pwrite64");
    find(&next.fallocate, "fallocate64");
    find(&next.fsync, "fsync");
    find(&next.renameat, "renameat");
}

static bool is_faulty(enum fault_call call)
{
    int n, from;

    if (atomic_load(&faults->call) != (int)call)
        return false;
    n = atomic_fetch_add(&faults->seen, 1) + 1;
    from = atomic_load(&faults->from);
    if (n < from || n - from >= atomic_load(&faults->count))
        return false;
    atomic_fetch_add(&faults->hits, 1);
    errno = atomic_load(&faults->code);
    return true;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at)
{
    int kind;

    if (!is_faulty(FAULT_WRITE))
        return next.pwrite(fd, bytes, len, at);
    kind = atomic_load(&faults->kind);
    if (kind == FAULT_SHORT && len > 1)
        return next.pwrite(fd, bytes, len / 2, at);
    if (kind == FAULT_SHORT)
        return next.pwrite(fd, bytes, len, at);
    if (kind == FAULT_PART && next.pwrite(fd, bytes, len / 2, at) >= 0)
        errno = atomic_load(&faults->code);
    return -1;
}

int fallocate64(int fd, int mode, off64_t at, off64_t len)
{
    return is_faulty(FAULT_RESERVE) ? -1 : next.fallocate(fd, mode, at, len);
}

int fsync(int fd)
{
    return is_faulty(FAULT_SYNC) ? -1 : next.fsync(fd);
}

int renameat(int from, const char *path, int to, const char *new_path)
{
    return is_faulty(FAULT_RENAME) ? -1 : next.renameat(from, path, to, new_path);
}
