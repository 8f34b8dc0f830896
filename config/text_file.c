#include "config/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"

/* Reads until the end of the file or until `room` bytes; the count, or -1 and errno. */
static ssize_t read_up_to(int fd, char *to, size_t room)
{
    size_t n = 0;

    while (n < room) {
        ssize_t got = read(fd, to + n, room - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

char *text_file_read(const char *path, size_t max, size_t *len, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *text = NULL;
    struct stat st;
    ssize_t got;

    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set(err, ERR_IO, "%.200s: %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max) {
        error_set(err, ERR_FORMAT, "%.200s: expected a regular file of at most %zu bytes", path,
                  max);
        goto fail;
    }
    text = malloc((size_t)st.st_size + 1);
    if (!text) {
        error_set(err, ERR_NOMEM, "%.200s: out of memory", path);
        goto fail;
    }
    got = read_up_to(fd, text, (size_t)st.st_size);
    if (got < 0) {
        error_set(err, ERR_IO, "%.200s: %s", path, strerror(errno));
        goto fail;
    }
    if (got < st.st_size) {
        error_set(err, ERR_IO, "%.200s: shrank while it was read", path);
        goto fail;
    }
    close(fd);
    text[got] = '\0';
    *len = (size_t)got;
    return text;

fail:
    if (fd >= 0)
        close(fd);
    free(text);
    return NULL;
}

bool text_file_absent(const char *path)
{
    struct stat st;

    return lstat(path, &st) < 0 && (errno == ENOENT || errno == ENOTDIR);
}
