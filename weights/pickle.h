/* pickle.h - the tensors that a pickled PyTorch state dictionary describes.
 *
 * A reader of the few opcodes such a dictionary needs; nothing is executed, imported or
 * looked up. Any other opcode or global is refused by its name. The value must be a dict
 * or an OrderedDict from strings to tensors (or parameters). Sources: the opcodes of
 * protocols 2 to 5 in CPython's pickletools, torch/_utils.py, torch/serialization.py.
 * Private to weights/. */
#ifndef WEIGHTS_PICKLE_H
#define WEIGHTS_PICKLE_H

#include "weights/weights.h"

struct pickle_tensor {
    struct tensor tensor; /* row-major, proved; name and bytes too */
    const char *storage;  /* the key of the data it lies in */
    uint64_t first;       /* elements from the start of the storage */
    uint64_t elements;    /* of the storage; first + the tensor's are at most as many */
};

/* A malloc'd list of *count in the dictionary's order, or NULL. Strings lie in `bytes`,
 * which is changed. At most 2^32 - 1 bytes. `path` stands in the messages. */
struct pickle_tensor *pickle_take_tensors(char *bytes, size_t len, const char *path, size_t *count,
                                          struct error *err);

#endif
