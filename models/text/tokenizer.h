/* tokenizer.h - text to token ids and back, for the vocabularies recurrent models ship.
 *
 * tokenizer.json (byte-level BPE and the components that component.h knows; an unknown one is
 * refused by name), the RWKV World vocabulary (greedy longest match
 * over bytes), or plain bytes (id = byte) for a byte-level model without a tokenizer.
 * Encoding n bytes takes O(n log n) steps at worst. Immutable once opened: any thread. */
#ifndef MODELS_TEXT_TOKENIZER_H
#define MODELS_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct tokenizer;

/* A growing list of ids; zero-initialise, free ids with free(). */
struct token_list {
    int32_t *id;
    size_t count, capacity;
};

/* path: tokenizer.json, an RWKV vocabulary file, or a model folder holding either. vocab:
 * the model's; a folder without a tokenizer gives plain bytes when vocab is 256, and
 * ERR_FORMAT otherwise. No id of the tokenizer is >= vocab. */
struct tokenizer *tokenizer_open(const char *path, int vocab, struct error *err);
void tokenizer_close(struct tokenizer *t);

const char *tokenizer_kind(const struct tokenizer *t); /* "bpe", "rwkv-world", "bytes" */
int tokenizer_size(const struct tokenizer *t);         /* ids are below this */

/* Appends the ids of len bytes of valid UTF-8 (the bytes tokenizer takes any bytes).
 * special: let the text of special tokens ("<|endoftext|>") become their ids, and put the
 * post-processor's leading tokens (BOS) in front; *lead is how many those were (NULL if not
 * wanted). ERR_INPUT: invalid UTF-8; ERR_NOMEM. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                      struct token_list *out, size_t *lead, struct error *err);

/* The bytes of one id as the decoder emits them in the middle of a text; *len 0 for an id
 * the vocabulary does not have. Borrowed. special tokens give their text. */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *len);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* -1 when no token has exactly this text; special and added tokens included. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t len);

#endif
