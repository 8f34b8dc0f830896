/* pretokenizer.h - cutting a text into the pieces that BPE never merges across.
 *
 * Immutable once created (any thread); the pieces belong to one call. */
#ifndef MODELS_TEXT_PRETOKENIZER_H
#define MODELS_TEXT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "models/text/detokenizer.h"
#include "models/text/pattern.h"

struct error;
struct pretokenizer;

/* A text and where its pieces end; the last piece ends with the text. None is empty. */
struct pieces {
    struct text_buffer text;
    uint32_t *end;
    size_t count, capacity;
};

void pieces_finish(struct pieces *p);

/* What one call works with; zero-initialise. */
struct pretokenizer_run {
    struct pattern_matcher matcher;
    struct pieces pieces; /* the result */
    struct pieces next;   /* what a stage makes of it */
    bool first;           /* the text to cut begins where the whole input begins */
};

void pretokenizer_run_finish(struct pretokenizer_run *r);

/* The "pre_tokenizer" of a tokenizer.json, which may be NULL: then a text is one piece.
 * ERR_FORMAT: an unknown component, by its name. */
struct pretokenizer *pretokenizer_create(const cJSON *component, struct error *err);
void pretokenizer_destroy(struct pretokenizer *p);

/* Cuts len bytes of valid UTF-8 into r->pieces. ERR_INPUT, ERR_NOMEM. */
bool pretokenizer_cut(const struct pretokenizer *p, struct pretokenizer_run *r, const char *text,
                      size_t len, struct error *err);

/* The byte-level alphabet: printable characters stand for all 256 bytes. The byte a
 * character stands for; -1 for one outside the alphabet. */
int byte_level_byte(int32_t code);

#endif
