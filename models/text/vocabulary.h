/* vocabulary.h - the texts of a tokenizer's ids, in both directions.
 *
 * Ids may have gaps; texts are byte strings without a terminator, each held once. Empty
 * texts and ids that are given twice are refused: no tokenizer needs them and both hide
 * mistakes. Zero-initialise. Writing: one thread; finding afterwards: any. */
#ifndef MODELS_TEXT_VOCABULARY_H
#define MODELS_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/detokenizer.h"

struct error;

/* More than any vocabulary in use (2^18); bounds the tables a file can ask for. */
enum { VOCABULARY_MAX = 1 << 22 };

struct vocabulary {
    struct text_buffer arena; /* every text, one after the other */
    struct vocabulary_text {
        uint32_t begin, len; /* in the arena; len 0: no such id */
    } * text;
    int32_t size, capacity; /* ids are below size */
    int32_t *bucket;        /* [buckets] ids by the hash of their text, -1: free */
    size_t buckets, count;
};

void vocabulary_finish(struct vocabulary *v);

/* ERR_FORMAT: empty text, id below 0 or not below limit, id or text already there. */
bool vocabulary_add(struct vocabulary *v, int64_t id, const char *text, size_t len, int limit,
                    struct error *err);
/* -1 when no id has exactly this text. */
int32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t len);

/* Borrowed; *len 0 for an id that is not there. */
static inline const char *vocabulary_text(const struct vocabulary *v, int32_t id, size_t *len)
{
    if (id < 0 || id >= v->size) {
        *len = 0;
        return "";
    }
    *len = v->text[id].len;
    return *len ? v->arena.bytes + v->text[id].begin : "";
}

#endif
