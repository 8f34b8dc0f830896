/* A state file from anywhere: the first byte says what is done with the rest. The checksum is
 * made right first, so that the numbers behind it are reached. What the reader takes converts
 * both ways, and is still taken. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "models/model.h"
#include "server/keys.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "server/state/seal.h"

enum { VOCAB = 1000, HEADER = 128, SUM_AT = 112, RECORD = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct model_info model = { .name = "fuzzed",
                                         .architecture = "mamba2",
                                         .layout = { .bytes = RECORD, .id = 42 } };

static void correct(uint8_t *file, size_t len)
{
    XXH3_state_t state;
    XXH128_canonical_t sum;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, file, SUM_AT);
    XXH3_128bits_update(&state, file + HEADER, len - HEADER);
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(&state));
    memcpy(file + SUM_AT, sum.digest, sizeof(sum.digest));
}

/* Of a record of one number in front and 32 of the large field behind. */
static const struct state_layout *layout(void)
{
    static struct state_layout l = {
        .fields = 2,
        .field = { { .name = "conv", .layers = 1, .rank = 1, .shape = { 1 } },
                   { .name = "ssm", .layers = 1, .rank = 1, .shape = { 32 }, .large = true } }
    };

    state_layout_pack(&l, DTYPE_BF16);
    return &l;
}

static void must_convert(const uint8_t *file, size_t len)
{
    struct problem p = { 0 };
    struct format_info info;
    void *narrow, *wide;
    size_t narrow_len, wide_len;

    if (format_adopt(file, len, layout(), &wide, &wide_len, &p)) {
        if (!format_check(wide, wide_len, &info, &p))
            abort();
        free(wide);
    }
    if (!format_convert(file, len, layout(), DTYPE_BF16, &narrow, &narrow_len, &p))
        return; /* out of range, or of another layout */
    if (!format_check(narrow, narrow_len, &info, &p) ||
        !format_convert(narrow, narrow_len, NULL, DTYPE_F32, &wide, &wide_len, &p) ||
        !format_check(wide, wide_len, &info, &p))
        abort();
    free(narrow);
    free(wide);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct secret secret = { .bytes = "0123456789abcdef0123456789abcdef", .len = 32 };
    struct problem p = { 0 };
    struct format_info info;
    struct checkpoint *c;
    uint64_t owner;
    uint8_t *file;
    size_t len;

    if (size < 1)
        return 0;
    len = size - 1;
    file = calloc(1, len ? len : 1); /* exact, so that a sanitizer sees an over-read */
    if (!file)
        return 0;
    if (len)
        memcpy(file, data + 1, len);
    if (seal_find(file, len, &owner) && seal_check(&secret, file, len, &p))
        abort(); /* nobody guesses one */
    if (data[0] & 1 && len >= HEADER)
        correct(file, len);
    if (format_check(file, len, &info, &p)) {
        must_convert(file, len);
        c = format_decode(file, len, &model, VOCAB, &p);
        if (c && c->position && !c->record)
            abort();
        checkpoint_destroy(c);
    }
    free(file);
    return 0;
}
