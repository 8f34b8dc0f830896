/* oracle_mamba.h - Mamba in float64, straight from the equations, for models that a test
 * makes up. Shares no code with models/arch/mamba.c. */
#ifndef TESTS_MODELS_ORACLE_MAMBA_H
#define TESTS_MODELS_ORACLE_MAMBA_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/models/made_model.h"

struct oracle_mamba {
    int vocab, hidden, layers, inner, state, rank, conv;
    bool mixer_norms; /* Falcon-Mamba's, of eps mixer_eps */
    double mixer_eps;
};

/* Random weights under transformers' names, all biases there and the head untied. */
void oracle_mamba_make(struct made_model *m, const struct oracle_mamba *o);
/* logits [T, vocab] */
void oracle_mamba_run(struct made_model *m, const struct oracle_mamba *o, const int32_t *token,
                      int T, double *logits);

#endif
