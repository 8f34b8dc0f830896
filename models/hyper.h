/* hyper.h - config.json's keys to the sizes of an architecture.
 *
 * Every function leaves what is already there when the key is absent, so a default is what
 * was set before; 0 is no size, and a size still 0 afterwards is ERR_FORMAT. */
#ifndef MODELS_HYPER_H
#define MODELS_HYPER_H

#include <stdbool.h>

#include "models/arch.h"

struct error;
struct model_config;

enum { HYPER_DIM_MAX = 1 << 24 }; /* of any size: products of two stay within 64 bits */

bool hyper_dim(const struct model_config *c, const char *keys, int least, int *dim,
               struct error *err);
bool hyper_flag(const struct model_config *c, const char *keys, int *dim, struct error *err);
bool hyper_number(const struct model_config *c, const char *keys, float *number, struct error *err);
/* ERR_FORMAT when the key is there and its word is not among the two allowed ones. */
bool hyper_word(const struct model_config *c, const char *keys, const char *allowed,
                const char *also, struct error *err);

/* VOCAB, HIDDEN, LAYERS, TIED and UNTIED, EPS, in the spellings of transformers and of
 * state-spaces/mamba, which also pads the vocabulary. TIED must hold its default. */
bool hyper_common(const struct model_config *c, struct hyper *h, struct error *err);

/* The mixers' inner size: the explicit one, else expand * HIDDEN. */
bool hyper_inner(const struct model_config *c, const struct hyper *h, int *inner,
                 struct error *err);

#endif
