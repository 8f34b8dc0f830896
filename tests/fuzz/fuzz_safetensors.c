/* fuzz_safetensors.c - any file is opened and read whole, or refused with a message.
 *
 * Twice: the input as a file, and the input as the header of a file whose length field and
 * buffer are right, so that the fuzzer need not find them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/scratch.h"

enum { BUFFER_BYTES = 16, INPUT_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct scratch *file;
    static uint8_t bytes[8 + INPUT_MAX + BUFFER_BYTES];

    if (!file)
        file = scratch_open(".safetensors");
    scratch_write(file, data, size);
    scratch_read_weights(file);
    if (size > INPUT_MAX)
        return 0;
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)size >> 8 * i);
    if (size > 0)
        memcpy(bytes + 8, data, size);
    memset(bytes + 8 + size, 7, BUFFER_BYTES);
    scratch_write(file, bytes, 8 + size + BUFFER_BYTES);
    scratch_read_weights(file);
    return 0;
}
