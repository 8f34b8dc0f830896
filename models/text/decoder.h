/* decoder.h - the bytes every id stands for, worked out once when a tokenizer is opened.
 *
 * Immutable once built: any thread. */
#ifndef MODELS_TEXT_DECODER_H
#define MODELS_TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "models/text/added_tokens.h"
#include "models/text/vocabulary.h"

struct error;

struct decoded {
    struct text_buffer arena;
    struct vocabulary_text *text; /* [size] in the arena */
    int32_t size;
    size_t lead; /* so many spaces that the first token begins with are dropped */
};

/* The "decoder" of a tokenizer.json. ERR_FORMAT: a component, or an order of them, that is
 * not supported, by its name; a byte token that is not <0xHH>. */
bool decoded_init(struct decoded *d, const cJSON *component, const struct vocabulary *v,
                  const struct added_tokens *added, struct error *err);
void decoded_finish(struct decoded *d);

#endif
