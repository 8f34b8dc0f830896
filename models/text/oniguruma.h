/* oniguruma.h - an expression of Oniguruma in the spelling of PCRE2.
 *
 * tokenizer.json's expressions are read by Oniguruma (6.9, its default syntax, which is
 * Ruby's). What PCRE2 reads alike is copied, what it reads otherwise is written in other
 * words, and what is not known to be either is refused by its name. Pure: any thread. */
#ifndef MODELS_TEXT_ONIGURUMA_H
#define MODELS_TEXT_ONIGURUMA_H

#include <stdbool.h>

struct error;
struct text_buffer;

/* Appends to out an expression for PCRE2 with UTF, UCP, MULTILINE and a newline that is \n.
 * It has no captures. ERR_FORMAT: something is not supported; what is wrong in both may be
 * left for PCRE2 to find. On failure, out holds a part that is of no use. */
bool oniguruma_rewrite(const char *text, struct text_buffer *out, struct error *err);

#endif
