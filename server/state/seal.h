/* seal.h - the proof that a state file was written by a server with our secret, for its owner.
 *
 * Behind the file (format.h) follow:
 *
 *   offset size
 *        0    8  magic "EDDYSEAL"
 *        8    8  owner, little-endian
 *       16   32  HMAC-SHA-256 with the secret over the file and these first 16 bytes
 *
 * A checksum shows what a bad disk did; a seal shows what a person did. Any thread. */
#ifndef SERVER_STATE_SEAL_H
#define SERVER_STATE_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/problem.h"

struct secret;

enum { SEAL_BYTES = 48 };

/* Whose seal stands at the end of the bytes. false: none does. */
bool seal_find(const void *file, size_t len, uint64_t *owner);

/* Adds the seal; *file is from malloc and may move. PROBLEM_OUT_OF_MEMORY. */
bool seal_add(const struct secret *s, uint64_t owner, void **file, size_t *len, struct problem *p);

/* The seal that seal_find() found is right. PROBLEM_SNAPSHOT_SEAL. */
bool seal_check(const struct secret *s, const void *file, size_t len, struct problem *p);

#endif
