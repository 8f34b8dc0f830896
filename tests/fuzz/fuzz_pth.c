/* fuzz_pth.c - any archive is opened and read whole, or refused with a message.
 *
 * Twice: the input as a file, and the input as the pickle of an archive that is right and
 * holds a storage "0" of 64 bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/scratch.h"

enum { STORAGE_BYTES = 64, INPUT_MAX = 1 << 16, OVERHEAD = 512 };

struct archive {
    uint8_t bytes[INPUT_MAX + OVERHEAD], directory[OVERHEAD / 2];
    size_t len, directory_len, count;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *to, size_t *len, uint64_t value, int bytes)
{
    for (; bytes > 0; bytes--, value >>= 8)
        to[(*len)++] = (uint8_t)value;
}

static void add_entry(struct archive *a, const char *name, const uint8_t *data, size_t n)
{
    size_t at = a->len, name_len = strlen(name);

    put(a->bytes, &a->len, 0x04034b50, 26);
    put(a->bytes, &a->len, name_len, 4);
    memcpy(a->bytes + a->len, name, name_len);
    a->len += name_len;
    if (n > 0)
        memcpy(a->bytes + a->len, data, n);
    a->len += n;
    put(a->directory, &a->directory_len, 0x02014b50, 20);
    put(a->directory, &a->directory_len, n, 4);
    put(a->directory, &a->directory_len, n, 4);
    put(a->directory, &a->directory_len, name_len, 14);
    put(a->directory, &a->directory_len, at, 4);
    memcpy(a->directory + a->directory_len, name, name_len);
    a->directory_len += name_len;
    a->count++;
}

static void finish(struct archive *a)
{
    size_t directory = a->len;

    memcpy(a->bytes + a->len, a->directory, a->directory_len);
    a->len += a->directory_len;
    put(a->bytes, &a->len, 0x06054b50, 8);
    put(a->bytes, &a->len, a->count, 2);
    put(a->bytes, &a->len, a->count, 2);
    put(a->bytes, &a->len, a->directory_len, 4);
    put(a->bytes, &a->len, directory, 6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t storage[STORAGE_BYTES] = { 1, 2, 3 };
    static struct scratch *file;
    static struct archive a;

    if (!file)
        file = scratch_open(".pth");
    scratch_write(file, data, size);
    scratch_read_weights(file);
    if (size > INPUT_MAX)
        return 0;
    a.len = a.directory_len = a.count = 0;
    add_entry(&a, "m/data.pkl", data, size);
    add_entry(&a, "m/data/0", storage, sizeof(storage));
    finish(&a);
    scratch_write(file, a.bytes, a.len);
    scratch_read_weights(file);
    return 0;
}
