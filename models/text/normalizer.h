/* normalizer.h - what is done to a text before it is split: NFC and its kin.
 *
 * Immutable once created: any thread. */
#ifndef MODELS_TEXT_NORMALIZER_H
#define MODELS_TEXT_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "models/text/detokenizer.h"
#include "models/text/pattern.h"

struct error;
struct normalizer;

/* The "normalizer" of a tokenizer.json, which may be NULL: then nothing is done. ERR_FORMAT:
 * an unknown component, by its name. */
struct normalizer *normalizer_create(const cJSON *component, struct error *err);
void normalizer_destroy(struct normalizer *n);

/* Replaces *text, which is valid UTF-8 and stays so. ERR_INPUT, ERR_NOMEM. */
bool normalizer_apply(const struct normalizer *n, struct pattern_matcher *m,
                      struct text_buffer *text, struct error *err);

#endif
