/* keys.h - who may call: the API keys of --api-keys, and the secret of --state-key.
 *
 * A key file has one key a line, 16 to LIMIT_API_KEY_BYTES printable characters without a
 * space, and behind it, if wanted, a name: two keys of one name are one owner, so that a key
 * can be replaced. Empty lines and lines that begin with # do not count. An owner is a number
 * made from the name, or from a key without one: it stays the same when lines move, and says
 * nothing about the key. Only digests of the keys stay in memory.
 *
 * Read once at start; read-only afterwards: any thread. */
#ifndef SERVER_KEYS_H
#define SERVER_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/limits.h"
#include "server/digest.h"

struct error;
struct keys;

/* ERR_IO; ERR_INPUT names the line; ERR_LIMIT: too long a file, too many keys; ERR_NOMEM. */
struct keys *keys_open(const char *path, struct error *err);
void keys_close(struct keys *k); /* takes NULL */

size_t keys_count(const struct keys *k);

/* Whose the key in an Authorization header ("Bearer KEY", NULL when absent) is. Every key is
 * looked at, whatever matches. false: nobody's. */
bool keys_find(const struct keys *k, const char *authorization, uint64_t *owner);

/* A secret of 32 to LIMIT_SECRET_BYTES bytes; white space around it does not count. ERR_IO,
 * ERR_INPUT, ERR_LIMIT. */
struct secret {
    char bytes[LIMIT_SECRET_BYTES];
    size_t len;
};

bool secret_read(const char *path, struct secret *s, struct error *err);

/* Others than the file's owner can read it. */
bool key_file_is_open(const char *path);

#endif
