/* digest.h - what the server takes from cryptography: SHA-256, HMAC, equality in constant time.
 *
 * The only file that knows libcrypto. Any thread. */
#ifndef SERVER_DIGEST_H
#define SERVER_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 32 };

struct digest {
    uint8_t bytes[DIGEST_BYTES];
};

/* false: libcrypto has no memory, or a policy of the system forbids the function. */
bool digest_of(const void *bytes, size_t len, struct digest *out);
bool digest_keyed(const void *key, size_t key_len, const void *bytes, size_t len,
                  struct digest *out);

/* Takes the same time whatever the bytes are. */
bool digest_equal(const struct digest *a, const struct digest *b);

/* Zeros that the compiler does not leave out. */
void digest_wipe(void *bytes, size_t len);

#endif
