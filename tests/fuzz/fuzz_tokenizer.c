/* fuzz_tokenizer.c - no file and no text makes a tokenizer crash, and what decodes is UTF-8.
 *
 * The input is a tokenizer file, a NUL byte, then a text: the file is opened and the text
 * encoded and decoded with it. An input without a file is tried on a small tokenizer of
 * many components, which must open. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/detokenizer.h"
#include "models/text/tokenizer_internal.h"
#include "models/text/utf8.h"

enum { VOCAB = 1024 };

static const char small[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<|x|>\",\"special\":true},"
    "{\"id\":1,\"content\":\"Zz\",\"normalized\":true},"
    "{\"id\":9,\"content\":\"word\",\"single_word\":true,\"lstrip\":true,\"rstrip\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},"
    "{\"type\":\"Lowercase\"},{\"type\":\"Strip\"},{\"type\":\"Replace\",\"pattern\":"
    "{\"Regex\":\"q+\"},\"content\":\"qu\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},"
    "{\"type\":\"Punctuation\",\"behavior\":\"MergedWithPrevious\"},"
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s)|\\\\s+(?!\\\\S)|\\\\w+\"},"
    "\"behavior\":\"MergedWithNext\",\"invert\":true},{\"type\":\"Metaspace\"}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"byte_fallback\":true,\"vocab\":"
    "{\"?\":2,\"a\":3,\"b\":4,\"ab\":5,\"aba\":6,\"<0xC3>\":7,\"<0xA9>\":8},"
    "\"merges\":[\"a b\",[\"ab\",\"a\"]]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
    "{\"type\":\"Metaspace\"}]}}";

static void check_stream(const struct tokenizer *t, const struct token_list *ids)
{
    struct text_buffer out = { 0 };
    struct detokenizer d;

    detokenizer_init(&d, t, true);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = out.len;

        if (ids->id[i] < 0 || ids->id[i] >= tokenizer_size(t) || ids->id[i] >= VOCAB)
            abort();
        detokenizer_add(&d, ids->id[i], &out);
        if (out.len > before &&
            utf8_valid_prefix(out.bytes + before, out.len - before) != out.len - before)
            abort();
    }
    detokenizer_finish(&d, &out);
    free(out.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t len = end ? (size_t)(end - data) : 0, text_len = size - (end ? len + 1 : 0);
    const char *file = end ? (const char *)data : small;
    const char *text = end ? (const char *)end + 1 : (const char *)data;
    struct error err;
    struct tokenizer *t = tokenizer_parse(file, end ? len : sizeof(small) - 1, VOCAB, &err);

    if (!t && !end)
        abort();
    if (!t)
        return 0;
    for (int special = 0; special < 2; special++) {
        struct token_list ids = { 0 };

        if (text_len && tokenizer_encode(t, text, text_len, special, &ids, NULL, &err))
            check_stream(t, &ids);
        free(ids.id);
    }
    tokenizer_close(t);
    return 0;
}
