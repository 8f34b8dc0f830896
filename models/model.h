/* model.h - a loaded model: weights on a backend, a state layout, and one forward step.
 *
 * The model owns its weights and scratch memory, never the states: those lie in a pool of slots
 * that the caller hands to model_step(), each of them a record and, where the device keeps logs of
 * steps, the log behind it. A record of zero bytes is the empty state of every architecture. A
 * record is complete while its slot's log is empty. One thread (the engine's) after loading. */
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
    int max_rows;     /* of the options that it was opened with */
    size_t log_bytes; /* behind each record of a pool */
    int log_steps;    /* a slot's log has fewer (ops.h, state_log); 1: there are none */
};

struct model_options {
    int max_rows;           /* T of the largest step */
    int max_logits;         /* L of the largest step */
    enum dtype state_dtype; /* F32 or BF16: of the large fields of a record */
    bool logs;              /* the caller counts what is in them (batch.logged), and settles */
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

/* Of one slot of a pool: record and log. */
size_t model_slot_bytes(const struct model *m);

/* Enqueues one step: T tokens of S sequences go through the network, the records of their
 * slots advance, and logits [L, vocab] of the wanted rows are left in model_logits().
 * records: slot 0's record, backend memory; in: host arrays. in->T <= max_rows, in->L <=
 * max_logits. Follow with backend_sync(). */
void model_step(struct model *m, void *records, const struct batch *in);

/* The `logged` steps in the log of a slot, 1 to log_steps - 1, come into its record: a move of the
 * backend, whose number it returns. */
uint64_t model_settle(const struct model *m, void *records, int slot, int logged);

/* Gets decode steps of up to `most` sequences ready on these records, which stay as they are:
 * a backend that records steps has recorded them when this returns, and has seen prompts of
 * every size and the memory that draws take. ERR_DEVICE when a step cannot be recorded, ERR_NOMEM.
 */
bool model_prepare(struct model *m, void *records, int most, struct error *err);

/* [L, vocab], backend memory, valid until the next step. */
const float *model_logits(const struct model *m);

#endif
