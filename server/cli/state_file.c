#include "server/cli/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"

static bool fail(struct error *err, const char *path)
{
    return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
}

static bool write_all(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = write(fd, bytes, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static bool sync_folder(const char *path)
{
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    int fd;
    bool ok;

    if (slash)
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* The file that a path leads to, links followed, in `real`: it need not be there yet. */
static bool find_file(const char *path, char real[PATH_MAX], struct error *err)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        if (errno != ENOENT)
            return fail(err, path);
        if (lstat(path, &st) == 0)
            return error_set(err, ERR_IO, "%s: a link to what is not there", path);
        memcpy(real, path, strlen(path) + 1); /* a longer one is no ENOENT */
        return true;
    }
    if (!S_ISREG(st.st_mode))
        return error_set(err, ERR_IO, "%s: not a regular file", path);
    return realpath(path, real) || fail(err, path);
}

bool state_file_write(const char *path, const void *bytes, size_t len, struct error *err)
{
    char real[PATH_MAX], name[PATH_MAX];
    int fd;
    bool ok;

    if (!find_file(path, real, err))
        return false;
    if (snprintf(name, sizeof(name), "%s.XXXXXX", real) >= (int)sizeof(name))
        return error_set(err, ERR_IO, "%.64s...: %s", path, strerror(ENAMETOOLONG));
    fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        return fail(err, name);
    ok = write_all(fd, bytes, len) && fsync(fd) == 0;
    if (close(fd) < 0)
        ok = false;
    if (!ok || rename(name, real) < 0) {
        fail(err, path);
        unlink(name);
        return false;
    }
    return sync_folder(real) || fail(err, path);
}

static bool read_all(int fd, char *bytes, size_t len)
{
    while (len) {
        ssize_t n = read(fd, bytes, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO; /* shorter than it was a moment ago */
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

bool state_file_read(const char *path, size_t max, void **bytes, size_t *len, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    char *to = NULL;
    bool ok;

    if (fd < 0 || fstat(fd, &st) < 0)
        ok = fail(err, path);
    else if (!S_ISREG(st.st_mode))
        ok = error_set(err, ERR_IO, "%s: not a regular file", path);
    else if ((size_t)st.st_size > max)
        ok = error_set(err, ERR_LIMIT, "%s: %lld bytes; a state of this model has at most %zu",
                       path, (long long)st.st_size, max);
    else if (!(to = malloc((size_t)st.st_size + 1)))
        ok = error_set(err, ERR_NOMEM, "%s: no memory for %lld bytes", path, (long long)st.st_size);
    else
        ok = read_all(fd, to, (size_t)st.st_size) || fail(err, path);
    if (fd >= 0)
        close(fd);
    if (!ok) {
        free(to);
        return false;
    }
    *bytes = to;
    *len = (size_t)st.st_size;
    return true;
}
