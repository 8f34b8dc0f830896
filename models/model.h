/* model.h - a loaded model: weights on a backend, a state layout, and one forward step.
 *
 * The model owns its weights and scratch memory, never the states: those lie in a pool of
 * equal records that the caller hands to model_step(). A record of zero bytes is the empty
 * state of every architecture. One thread (the engine's) after loading. */
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

struct backend;
struct error;
struct model;

enum { STATE_FIELDS_MAX = 8, STATE_FIELD_RANK = 3, MODEL_STOP_IDS_MAX = 8 };

/* One named part of a session's record; `layers` equal pieces lie one after another. */
struct state_field {
    const char *name; /* "ssm", "conv", "shift" */
    int layers;
    int rank;
    int shape[STATE_FIELD_RANK]; /* per layer, row-major */
    bool large;                  /* may be kept as bf16 */
    enum dtype dtype;            /* F32, or BF16 if it is large */
    size_t offset;               /* bytes from the record's start */
    size_t layer_bytes;
};

struct state_layout {
    size_t bytes;      /* of one record, a multiple of 64 */
    size_t bf16_bytes; /* at its end; what is before is float32 */
    int fields;
    struct state_field field[STATE_FIELDS_MAX];
    uint64_t id; /* hash of names, shapes, dtypes and offsets: equal ids, equal meaning */
};

/* Gives the fields, whose names and shapes are there, their places: the large ones, which come
 * last, as `large`, F32 or BF16. */
void state_layout_pack(struct state_layout *layout, enum dtype large);

struct model_info {
    char name[128];           /* the folder's or file's name */
    const char *architecture; /* "mamba2" */
    int vocab;                /* rows of the logits */
    int hidden, layers;
    uint64_t parameters, weight_bytes; /* weight_bytes as held on the backend */
    uint64_t scratch_bytes;            /* of activations, on the backend */
    enum dtype dtype;                  /* of the largest weights */
    int bos;                           /* begin-of-text id, or -1 */
    int stop[MODEL_STOP_IDS_MAX];      /* end-of-text ids */
    int stops;
    uint8_t fingerprint[16]; /* XXH3-128 over architecture, sizes and every weight's bytes */
    struct state_layout layout;
};

struct model_options {
    int max_rows;           /* T of the largest step */
    int max_logits;         /* L of the largest step */
    enum dtype state_dtype; /* F32 or BF16: of the large fields of a record */
};

/* path as in weights_open(). The backend is borrowed and must outlive the model. NULL and
 * ERR_FORMAT when a tensor is missing, surplus, misshaped or of a wrong type (named, with
 * expected and found), when the architecture is not known, or ERR_IO, ERR_NOMEM. */
struct model *model_open(const char *path, struct backend *be, const struct model_options *options,
                         struct error *err);
void model_close(struct model *m); /* takes NULL */

/* What model_open() would load, without loading it: everything of model_info but the
 * fingerprint and weight_bytes, with a layout of float32. For `eddy inspect`. */
bool model_describe(const char *path, struct model_info *info, struct error *err);

const struct model_info *model_info(const struct model *m);

/* Enqueues one step: T tokens of S sequences go through the network, the records of their
 * slots advance, and logits [L, vocab] of the wanted rows are left in model_logits().
 * records: slot 0's record, backend memory; in: host arrays. in->T <= max_rows, in->L <=
 * max_logits. Follow with backend_sync(). */
void model_step(struct model *m, void *records, const struct batch *in);

/* Gets decode steps of up to `most` sequences ready on these records, which stay as they are:
 * a backend that records steps has recorded them when this returns, and has seen prompts of
 * every size. ERR_DEVICE when a step cannot be recorded, ERR_NOMEM. */
bool model_prepare(struct model *m, void *records, int most, struct error *err);

/* [L, vocab], backend memory, valid until the next step. */
const float *model_logits(const struct model *m);

#endif
