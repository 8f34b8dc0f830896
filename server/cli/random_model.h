/* random_model.h - model folders of published sizes with random bf16 weights, to measure.
 *
 * Speed does not depend on what the weights say, as long as nothing overflows or is zero:
 * matrices are normal with deviation 0.02, the rest is what training starts from. The
 * vocabulary is made up too. Weights are written by all cores: a model has gigabytes. */
#ifndef SERVER_CLI_RANDOM_MODEL_H
#define SERVER_CLI_RANDOM_MODEL_H

#include <stdbool.h>

struct error;

enum { RANDOM_RANK = 3 };

/* Which layers have a tensor; 0 ends a table. */
enum { RANDOM_EVERY_LAYER = 1, RANDOM_LATER_LAYERS, RANDOM_ENDS };

/* Values are normal around center with the deviation; RANDOM_A_LOG: log(1 + column) instead. */
struct random_tensor {
    const char *name;       /* "%d" is the layer */
    int shape[RANDOM_RANK]; /* 0 ends it */
    int where;
    float center, deviation;
};

#define RANDOM_A_LOG (-1.0f)

struct random_model {
    const char *title;
    const char *config; /* config.json without the number of layers */
    int layers, vocab;
    const struct random_tensor *tensors; /* of the layers and of the ends */
};

/* random_sizes.c */
extern const struct random_model random_mamba_130m, random_mamba_2_8b, random_mamba2_2_7b,
    random_rwkv7_0_1b, random_rwkv7_1_5b, random_rwkv7_7_2b;

/* Writes the files into an existing folder. ERR_IO. */
bool random_model_write(const struct random_model *m, const char *folder, struct error *err);
/* Removes them, and the folder. */
void random_model_remove(const char *folder);

#endif
