/* said.h - what a test, and what it starts, says on stderr for a while. */
#ifndef TESTS_SERVER_SAID_H
#define TESTS_SERVER_SAID_H

#include <stddef.h>
#include <stdio.h>

struct said {
    FILE *to;
    int before;
};

/* Asserts on failure, as does said_end(). */
struct said said_begin(void);
/* Its beginning, as text of less than `size` bytes. */
void said_end(struct said *s, char *text, size_t size);

#endif
