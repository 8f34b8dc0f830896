/* holds.h - the tokens that may complete a stop string: the host has to see whether one does.
 *
 * All others end no turn, whatever was said before them, so that a step may follow them before the
 * host knows them. Which they are is looked up in the vocabulary once for each set of stop strings
 * of late. One thread. */
#ifndef SERVER_ENGINE_HOLDS_H
#define SERVER_ENGINE_HOLDS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/limits.h"

enum { HOLDS_MAX = 512 }; /* ids, which each step takes along */

struct holds;
struct tokenizer;

struct holds *holds_create(const struct tokenizer *t); /* borrowed; NULL: no memory */
void holds_destroy(struct holds *h);                   /* takes NULL */

/* *id: the n ids, borrowed until the next call. false: any token may, or more than HOLDS_MAX, or
 * there is no memory to say which. */
bool holds_find(struct holds *h, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops,
                const int32_t **id, int *n);

#endif
