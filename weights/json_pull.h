/* json_pull.h - reads a JSON text in place, one value after the other, without a tree.
 *
 * For the headers of checkpoints: up to 100 MB, with whole numbers of 64 bits, which a tree
 * of doubles multiplies and rounds. The text must have passed json_scan(), so grammar is
 * not checked again: each call only says whether the next value is of the kind asked for.
 * Strings are unescaped where they stand and end in a NUL. Private to weights/. */
#ifndef WEIGHTS_JSON_PULL_H
#define WEIGHTS_JSON_PULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct json_bounds;

struct json_pull {
    char *at, *end;
};

/* json_scan() with ERR_FORMAT and a message that begins with "path: invalid part"; then *p
 * stands before the value. */
bool json_pull_init(struct json_pull *p, char *text, size_t len, const struct json_bounds *bounds,
                    const char *path, const char *part, struct error *err);

/* Takes this punctuation mark if it comes next. */
bool json_pull_mark(struct json_pull *p, char mark);
/* Steps through a container that json_pull_mark() has opened: true before each element (an
 * object's key), false after the closing mark has been taken. *first is true at the start. */
bool json_pull_next(struct json_pull *p, char close, bool *first);

/* NULL when the next value is not a string; lasts as long as the text. */
char *json_pull_string(struct json_pull *p);
/* A key and its colon. */
char *json_pull_key(struct json_pull *p);
/* A number without sign, fraction and exponent that fits. */
bool json_pull_u64(struct json_pull *p, uint64_t *out);
void json_pull_skip(struct json_pull *p);

#endif
