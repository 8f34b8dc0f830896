#include "server/state/seal.h"

#include <stdlib.h>
#include <string.h>

#include "server/digest.h"
#include "server/keys.h"

enum { OWNER_AT = 8, DIGEST_AT = 16 };

_Static_assert(SEAL_BYTES == DIGEST_AT + DIGEST_BYTES, "the digest comes last");

static const char magic[8] = "EDDYSEAL";

bool seal_find(const void *file, size_t len, uint64_t *owner)
{
    const unsigned char *seal;

    if (len < SEAL_BYTES)
        return false;
    seal = (const unsigned char *)file + len - SEAL_BYTES;
    if (memcmp(seal, magic, sizeof(magic)) != 0)
        return false;
    memcpy(owner, seal + OWNER_AT, sizeof(*owner));
    return true;
}

bool seal_add(const struct secret *s, uint64_t owner, void **file, size_t *len, struct problem *p)
{
    unsigned char *grown = realloc(*file, *len + SEAL_BYTES), *seal;
    struct digest digest;

    if (!grown)
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for a seal");
    *file = grown;
    seal = grown + *len;
    memcpy(seal, magic, sizeof(magic));
    memcpy(seal + OWNER_AT, &owner, sizeof(owner));
    if (!digest_keyed(s->bytes, s->len, grown, *len + DIGEST_AT, &digest))
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for a seal");
    memcpy(seal + DIGEST_AT, digest.bytes, sizeof(digest.bytes));
    *len += SEAL_BYTES;
    return true;
}

bool seal_check(const struct secret *s, const void *file, size_t len, struct problem *p)
{
    struct digest ours, theirs;

    if (!digest_keyed(s->bytes, s->len, file, len - DIGEST_BYTES, &ours))
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory to check a seal");
    memcpy(theirs.bytes, (const unsigned char *)file + len - DIGEST_BYTES, DIGEST_BYTES);
    if (!digest_equal(&ours, &theirs))
        return problem_set(p, PROBLEM_SNAPSHOT_SEAL, NULL,
                           "the snapshot's seal was made with another secret, or for another "
                           "snapshot");
    return true;
}
