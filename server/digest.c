#include "server/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

bool digest_of(const void *bytes, size_t len, struct digest *out)
{
    return EVP_Digest(bytes, len, out->bytes, NULL, EVP_sha256(), NULL) == 1;
}

bool digest_keyed(const void *key, size_t key_len, const void *bytes, size_t len,
                  struct digest *out)
{
    return HMAC(EVP_sha256(), key, (int)key_len, bytes, len, out->bytes, NULL) != NULL;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return CRYPTO_memcmp(a->bytes, b->bytes, DIGEST_BYTES) == 0;
}

void digest_wipe(void *bytes, size_t len)
{
    OPENSSL_cleanse(bytes, len);
}
