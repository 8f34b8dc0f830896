/* added_tokens.h - the tokens that are found in a text before it is split.
 *
 * Special ones ("<|endoftext|>") and ordinary ones (runs of spaces). Most are looked for in
 * the text as it came, those with `normalized` in the normalized text. Zero-initialise.
 * Writing: one thread; finding afterwards: any. */
#ifndef MODELS_TEXT_ADDED_TOKENS_H
#define MODELS_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/trie.h"

enum added_flags {
    ADDED = 1, /* every added token has it */
    ADDED_SPECIAL = 2,
    ADDED_LSTRIP = 4, /* takes the white space before it along */
    ADDED_RSTRIP = 8,
    ADDED_SINGLE_WORD = 16, /* not inside a word */
};

struct added_tokens {
    struct trie raw, normalized;
    unsigned char *flags; /* [size] enum added_flags of each id */
    int32_t size;
};

void added_tokens_finish(struct added_tokens *a);

/* trie: &a->raw or &a->normalized; len > 0. false when memory ran out. */
bool added_tokens_add(struct added_tokens *a, struct trie *trie, int32_t id, unsigned flags,
                      const char *text, size_t len);

static inline unsigned added_tokens_flags(const struct added_tokens *a, int32_t id)
{
    return id >= 0 && id < a->size ? a->flags[id] : 0;
}

/* The first token in text[from, len), the longest where it begins, as [*begin, *end); -1
 * when there is none. special: special tokens count; otherwise their text is passed over. */
int32_t added_tokens_find(const struct added_tokens *a, const struct trie *trie, const char *text,
                          size_t len, size_t from, bool special, size_t *begin, size_t *end);

#endif
