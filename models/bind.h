/* bind.h - an architecture's weight table against a checkpoint's tensors.
 *
 * First all rows are resolved and proved: names, shapes, types, nothing missing and nothing
 * surplus. Only then is anything read. The resolved list borrows the checkpoint. */
#ifndef MODELS_BIND_H
#define MODELS_BIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/arch.h"

struct backend;
struct error;
struct tensor;
struct weights;
struct XXH3_state_s;

struct binding {
    int row, layer;
    const struct tensor *tensor; /* borrowed: weights */
    bool transposed;
};

struct bindings {
    const struct model_arch *arch;
    const struct hyper *hyper;     /* borrowed: whoever called bind_resolve() */
    const struct weights *weights; /* borrowed: the same */
    struct binding *list;
    size_t count;
    uint64_t parameters;
    enum dtype dtype; /* of the largest matrix */
    bool one_dtype;   /* of every matrix */
};

/* The architecture's structs, whose fields the table's offsets name. */
struct bound {
    char *model;    /* model_size bytes, zeroed */
    char *layers;   /* LAYERS times layer_size bytes, zeroed */
    uint64_t bytes; /* on the backend */
};

/* The tensor that goes by one of the names under any prefix, or NULL. */
const struct tensor *bind_find(const struct model_arch *arch, const struct weights *w,
                               const char *names, int layer, bool *transposed);

/* Fills the sizes that are still 0 from the shapes of the tensors that are there. */
void bind_infer(const struct model_arch *arch, const struct weights *w, struct hyper *h);

/* ERR_FORMAT names the first tensor that breaks a rule, with expected and found; path stands
 * in the message. Free with bind_finish() in both cases. */
bool bind_resolve(struct bindings *b, const struct model_arch *arch, const struct hyper *h,
                  const struct weights *w, const char *path, struct error *err);
void bind_finish(struct bindings *b);

/* Reads every tensor onto the backend and into the hash: type, shape and bytes as stored, in
 * the table's order and orientation, so that two namings of one model hash alike. What was
 * bound before a failure is freed by bind_release(). */
bool bind_load(const struct bindings *b, struct backend *be, struct bound *out,
               struct XXH3_state_s *hash, struct error *err);
void bind_release(struct bound *out, const struct model_arch *arch, const struct hyper *h,
                  struct backend *be);

#endif
