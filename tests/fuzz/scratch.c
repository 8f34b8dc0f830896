#include "tests/fuzz/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config/error.h"
#include "weights/weights.h"

static struct scratch the;

static void remove_all(void)
{
    unlink(the.path);
    rmdir(the.folder);
}

/* A link to a file in memory: no disk is waited for. */
struct scratch *scratch_open(const char *ending)
{
    char target[32];

    strcpy(the.folder, "/tmp/eddy-fuzz-XXXXXX");
    if (!mkdtemp(the.folder))
        abort();
    snprintf(the.path, sizeof(the.path), "%s/input%s", the.folder, ending);
    the.fd = memfd_create("input", MFD_CLOEXEC);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", the.fd);
    if (the.fd < 0 || symlink(target, the.path) < 0 || atexit(remove_all) != 0)
        abort();
    return &the;
}

void scratch_write(struct scratch *s, const void *bytes, size_t len)
{
    if (ftruncate(s->fd, 0) < 0 || pwrite(s->fd, bytes, len, 0) != (ssize_t)len)
        abort();
}

void scratch_read_weights(const struct scratch *s)
{
    struct error err = { 0 };
    struct weights *w = weights_open(s->path, &err);

    if (!w) {
        if (err.code == ERR_NONE || !*err.message)
            abort();
        return;
    }
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        void *bytes = malloc(t->bytes + 1);

        if (!bytes || weights_find(w, t->name) != t || !weights_read(w, t, bytes, &err))
            abort();
        free(bytes);
    }
    weights_close(w);
}
