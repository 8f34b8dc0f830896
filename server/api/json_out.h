/* json_out.h - writes JSON into a growing byte string.
 *
 * Commas are put where they belong; the caller opens, closes and names. Text may hold any
 * bytes: what is not UTF-8 becomes U+FFFD, so the output is always valid.
 * When memory runs out the writer goes quiet and json_out_ok() is false: one check at the
 * end. Every answer and every stream chunk is written with it, cJSON only reads. Any
 * thread. */
#ifndef SERVER_API_JSON_OUT_H
#define SERVER_API_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/detokenizer.h"

struct json_out {
    struct text_buffer *to; /* borrowed */
    bool comma;             /* a value stands before the next one */
    bool failed;
};

void json_out_init(struct json_out *o, struct text_buffer *to);
bool json_out_ok(const struct json_out *o);

void json_open(struct json_out *o, char bracket);  /* '{' or '[' */
void json_close(struct json_out *o, char bracket); /* '}' or ']' */
void json_key(struct json_out *o, const char *key);
void json_key_text(struct json_out *o, const char *bytes, size_t len);

void json_text(struct json_out *o, const char *bytes, size_t len);
void json_string(struct json_out *o, const char *s); /* NULL is null */
void json_int(struct json_out *o, int64_t v);
void json_uint(struct json_out *o, uint64_t v);
/* The shortest digits that read back as the same float; null when not finite. */
void json_float(struct json_out *o, float v);
/* Seconds and the like, to six decimals at most; null when not finite. */
void json_double(struct json_out *o, double v);
void json_bool(struct json_out *o, bool v);
void json_null(struct json_out *o);
/* A value that is JSON already. */
void json_raw(struct json_out *o, const char *json, size_t len);
/* The beginning of one, up to a bracket that opens. */
void json_raw_open(struct json_out *o, const char *json, size_t len);
void json_hex(struct json_out *o, const uint8_t *bytes, size_t len);

#endif
