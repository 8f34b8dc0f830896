/* weights.h - a checkpoint on disk as a list of named host tensors.
 *
 * Opens what the Hub ships: a model folder (config.json with *.safetensors, single or
 * sharded through model.safetensors.index.json, or one RWKV .pth), one .safetensors file,
 * or one .pth file. Opening reads and proves the headers only; weights_read() copies a
 * tensor's bytes, so a file that is truncated or replaced later can neither crash the
 * process nor change a loaded model; one that is written to in place before all is read is
 * refused. Nothing in a file is ever executed.
 *
 * Any one thread at a time. Sources: safetensors README "Format" and its tensor.rs;
 * PyTorch's zip container and the pickle protocol-2 opcodes of a tensor dictionary. */
#ifndef WEIGHTS_WEIGHTS_H
#define WEIGHTS_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/dtype.h"

struct error;
struct weights;

enum { TENSOR_MAX_RANK = 8 };

struct tensor {
    const char *name; /* owned by struct weights */
    enum dtype dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK]; /* row-major; the last dimension is contiguous */
    size_t bytes;
};

/* path: a folder or a file. NULL and ERR_IO (missing, unreadable) or ERR_FORMAT (any rule
 * broken, with the file, the tensor, what was expected and what was found). */
struct weights *weights_open(const char *path, struct error *err);
void weights_close(struct weights *w);

/* The folder that holds the files: where config.json and the tokenizer are looked for. */
const char *weights_folder(const struct weights *w);

size_t weights_count(const struct weights *w);
const struct tensor *weights_at(const struct weights *w, size_t i); /* i < count, file order */
const struct tensor *weights_find(const struct weights *w, const char *name);

/* Copies t->bytes bytes into dst. ERR_IO when the file can no longer give them as they were. */
bool weights_read(const struct weights *w, const struct tensor *t, void *dst, struct error *err);

/* Asked when all is read: ERR_IO if a file was written to since it was opened, for then its
 * tensors and those of the others may belong to two models. */
bool weights_unchanged(const struct weights *w, struct error *err);

#endif
