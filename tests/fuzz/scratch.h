/* scratch.h - a file that a fuzz target rewrites for each input. */
#ifndef TESTS_FUZZ_SCRATCH_H
#define TESTS_FUZZ_SCRATCH_H

#include <stddef.h>

struct scratch {
    char folder[32], path[64];
    int fd;
};

/* The file's name ends as given (".pth"). The folder goes when the process exits. One per
 * process. Aborts when the file system refuses. */
struct scratch *scratch_open(const char *ending);
void scratch_write(struct scratch *s, const void *bytes, size_t len);

/* Opens the checkpoint and, when it is one, reads every tensor of it. */
void scratch_read_weights(const struct scratch *s);

#endif
