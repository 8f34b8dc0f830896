/* id.h - names of sessions and checkpoints that nobody can guess. Any thread. */
#ifndef SERVER_STATE_ID_H
#define SERVER_STATE_ID_H

#include <stdbool.h>
#include <stdint.h>

#include "config/limits.h"

struct id {
    char text[LIMIT_ID_BYTES + 1]; /* "" is none */
};

/* "prefix_" and 128 bits of getrandom() in hex. */
void id_generate(struct id *id, const char *prefix);
/* The same with the time before them, in hex: what this process makes is in the order of its
 * bytes, unless the clock is set back between two of its lives. */
void id_generate_next(struct id *id, const char *prefix);

/* Copies a client's id. false unless it is 1 to LIMIT_ID_BYTES of [A-Za-z0-9._-] and does not
 * begin with a dot. */
bool id_parse(struct id *id, const char *text);

/* 64 bits of getrandom(), for seeds. */
uint64_t id_random(void);

bool id_equal(const struct id *a, const struct id *b);

#endif
