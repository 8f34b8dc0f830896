/* made_model.h - a model folder that a test writes: tensors of its own or copied from a
 * checkpoint, renamed, bent or dropped at will. Lives in a temporary folder. */
#ifndef TESTS_MODELS_MADE_MODEL_H
#define TESTS_MODELS_MADE_MODEL_H

#include <stdint.h>

#include "config/dtype.h"

enum { MADE_TENSORS = 512 };

struct made_tensor {
    char name[96];
    enum dtype dtype;
    int rank;
    int64_t shape[4];
    size_t bytes;
    void *data; /* owned */
};

struct made_model {
    char folder[64];
    int tensors;
    struct made_tensor tensor[MADE_TENSORS];
};

struct made_model *made_create(void);
void made_destroy(struct made_model *m); /* removes the folder too */

void made_copy(struct made_model *m, const char *path); /* every tensor of a checkpoint */
/* Float32, uniform in [-scale, scale] around center, the same in every run. */
struct made_tensor *made_random(struct made_model *m, const char *name, int rows, int cols,
                                float center, float scale);
struct made_tensor *made_find(struct made_model *m, const char *name); /* fails the test */
void made_drop(struct made_model *m, const char *name);
void made_rename(struct made_model *m, const char *from, const char *to); /* in every name */
void made_transpose(struct made_tensor *t);
/* Rounds every float32 tensor to bf16 but those whose name holds `but`, if that is not NULL. */
void made_narrow(struct made_model *m, const char *but);

/* The first layers of the model in a folder with a config.json, written; returns the folder. */
const char *made_first_layers(struct made_model *m, const char *path, int layers);

/* Writes model.safetensors and, unless config is NULL, config.json; returns the folder. */
const char *made_write(const struct made_model *m, const char *config);

/* One more file of the folder. */
void made_put(const struct made_model *m, const char *name, const char *text);

#endif
