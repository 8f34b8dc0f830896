/* random_model.h - model folders of published sizes with random bf16 weights, to measure.
 *
 * Speed does not depend on what the weights say, as long as nothing overflows or is zero:
 * matrices are normal with deviation 0.02, the rest is what training starts from. The
 * vocabulary is made up too. */
#ifndef SERVER_CLI_RANDOM_MODEL_H
#define SERVER_CLI_RANDOM_MODEL_H

#include <stdbool.h>

struct error;

struct random_model {
    const char *title;
    const char *config; /* config.json */
    int layers, vocab;
    const struct random_tensor *tensors; /* of the layers and of the ends */
};

extern const struct random_model random_mamba_130m, random_rwkv7_01b;

/* Writes the files into an existing folder. ERR_IO. */
bool random_model_write(const struct random_model *m, const char *folder, struct error *err);
/* Removes them, and the folder. */
void random_model_remove(const char *folder);

#endif
