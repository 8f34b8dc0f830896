/* added_tokens.c - see added_tokens.h; the rules are those of Hugging Face tokenizers'
 * tokenizer/added_vocabulary. */
#include "models/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

void added_tokens_finish(struct added_tokens *a)
{
    trie_finish(&a->raw);
    trie_finish(&a->normalized);
    free(a->flags);
    *a = (struct added_tokens){ 0 };
}

bool added_tokens_add(struct added_tokens *a, struct trie *trie, int32_t id, unsigned flags,
                      const char *text, size_t len)
{
    if (id >= a->size) {
        size_t size = grown_capacity((size_t)a->size, (size_t)id + 1);
        unsigned char *grown = realloc(a->flags, size);

        if (!grown)
            return false;
        memset(grown + a->size, 0, size - (size_t)a->size);
        a->flags = grown;
        a->size = (int32_t)size;
    }
    a->flags[id] = (unsigned char)(flags | ADDED);
    return trie_add(trie, text, len, id);
}

/* The character that ends before `at`, which is not 0, and where it begins. */
static int32_t decode_before(const char *text, size_t at, size_t *begin)
{
    size_t len;

    for (at--; ((unsigned char)text[at] & 0xc0) == 0x80; at--)
        ;
    *begin = at;
    return utf8_decode(text + at, &len);
}

static bool is_single_word(const char *text, size_t len, size_t begin, size_t end)
{
    size_t at;

    return (begin == 0 || !utf8_is_word(decode_before(text, begin, &at))) &&
           (end == len || !utf8_is_word(utf8_decode(text + end, &at)));
}

int32_t added_tokens_find(const struct added_tokens *a, const struct trie *trie, const char *text,
                          size_t len, size_t from, bool special, size_t *begin, size_t *end)
{
    size_t step, at;

    for (size_t i = from; i < len; i += step) {
        int32_t id = trie_longest(trie, text + i, len - i, &step);
        unsigned flags = added_tokens_flags(a, id);

        if (id < 0) {
            step = 1;
            continue;
        }
        if (((flags & ADDED_SPECIAL) && !special) ||
            ((flags & ADDED_SINGLE_WORD) && !is_single_word(text, len, i, i + step)))
            continue;
        *begin = i;
        *end = i + step;
        while ((flags & ADDED_LSTRIP) && *begin > from &&
               utf8_is_space(decode_before(text, *begin, &at)))
            *begin = at;
        while ((flags & ADDED_RSTRIP) && *end < len &&
               utf8_is_space(utf8_decode(text + *end, &step)))
            *end += step;
        return id;
    }
    return -1;
}
