/* pattern.h - what a tokenizer splits or replaces by: a literal or a regular expression.
 *
 * tokenizer.json's expressions are written for Oniguruma. They run here on PCRE2 (JIT where
 * the machine has it) after a rewriting of what differs (oniguruma.h); one that has no
 * faithful rewriting is refused, and so is one that may match the empty string. Immutable
 * once created (any thread); the matcher belongs to one call. */
#ifndef MODELS_TEXT_PATTERN_H
#define MODELS_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

struct error;
struct pattern;

struct pattern *pattern_create(const char *text, bool regex, struct error *err);
void pattern_destroy(struct pattern *p);

/* Zero-initialise. */
struct pattern_matcher {
    void *data; /* pcre2_match_data */
};
void pattern_matcher_finish(struct pattern_matcher *m);

enum pattern_result { PATTERN_MATCH, PATTERN_NONE, PATTERN_FAILED };

/* The first match in text[from, len), as [*begin, *end), never empty. The text is valid UTF-8.
 * PATTERN_FAILED: ERR_INPUT when the text takes more steps than a match may, or ERR_NOMEM. */
enum pattern_result pattern_find(const struct pattern *p, struct pattern_matcher *m,
                                 const char *text, size_t len, size_t from, size_t *begin,
                                 size_t *end, struct error *err);

#endif
