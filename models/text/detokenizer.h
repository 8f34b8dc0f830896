/* detokenizer.h - ids to text, one at a time, never a broken UTF-8 sequence.
 *
 * Bytes that may still become a character are held back until they are complete or cannot
 * be any more; then each invalid byte sequence becomes one U+FFFD, as the Unicode standard
 * (3.9, table 3-8) recommends. Small and copyable: it is part of a turn's state. One thread
 * at a time. */
#ifndef MODELS_TEXT_DETOKENIZER_H
#define MODELS_TEXT_DETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct detokenizer {
    const struct tokenizer *tokenizer; /* borrowed */
    bool special;                      /* emit the text of special tokens */
    bool started;                      /* a leading space was already dealt with */
    unsigned char held[4];             /* the beginning of a character */
    int held_len;
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool special);

/* A growing byte string; zero-initialise, free bytes with free(). Not NUL-terminated. */
struct text_buffer {
    char *bytes;
    size_t len, capacity;
};

/* Appends what id makes final. false when memory ran out (nothing is appended). */
bool detokenizer_add(struct detokenizer *d, int32_t id, struct text_buffer *out);
/* The end of the text: what is still held becomes U+FFFD. */
bool detokenizer_finish(struct detokenizer *d, struct text_buffer *out);

#endif
