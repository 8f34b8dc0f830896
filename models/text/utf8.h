/* utf8.h - one character at a time, as the Unicode standard (3.9, table 3-7) defines it.
 *
 * The strict definition of valid UTF-8 that the tokenizer checks its input with and the
 * detokenizer its output. Pure functions: any thread. */
#ifndef MODELS_TEXT_UTF8_H
#define MODELS_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum utf8_step {
    UTF8_CHARACTER,
    UTF8_BROKEN,  /* *len bytes are a maximal subpart that can never become a character */
    UTF8_PARTIAL, /* all n bytes are the beginning of a character */
};

/* Looks at the first character of n > 0 bytes; *len is its length, or that of the part. */
enum utf8_step utf8_next(const char *text, size_t n, size_t *len);
/* The position of the first byte that is not valid UTF-8; n when all of it is. */
size_t utf8_valid_prefix(const char *text, size_t n);
/* The code point of a valid character and its length. */
int32_t utf8_decode(const char *text, size_t *len);

/* Unicode property White_Space. */
bool utf8_is_space(int32_t code);
/* What Rust calls char::is_numeric: categories Nd, Nl, No. */
bool utf8_is_numeric(int32_t code);
/* ASCII punctuation, or one of the categories P*. */
bool utf8_is_punctuation(int32_t code);
/* A word character of the regular expressions: \w. */
bool utf8_is_word(int32_t code);

#endif
