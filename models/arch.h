/* arch.h - the contract between a model and its architecture.
 *
 * An architecture is tables and two functions. The tables speak of sizes by index ("INNER"),
 * so that one loop binds the weights of every model, one lays out every state and one sizes
 * every scratch buffer; configure() fills the sizes in, step() is the mathematics. What all
 * language models share (embedding, last norm, head) is model.c's. Private to models/. */
#ifndef MODELS_ARCH_H
#define MODELS_ARCH_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/ops.h"
#include "models/model.h"

struct error;
struct model_config;
struct weights;

enum { DIMS_MAX = 24, NUMBERS_MAX = 4, WEIGHT_RANK = 2, PREFIXES_MAX = 3 };

/* The sizes that every architecture has; its own begin at OWN_DIMS. Index 0 ends a shape. A
 * size that is 0 or 1 also serves as a condition of table rows. */
enum { DIM_END, VOCAB, HIDDEN, LAYERS, TIED, UNTIED, OWN_DIMS };
enum { EPS, OWN_NUMBERS };

/* All that shapes the function beside the weights; hashed whole into the fingerprint. */
struct hyper {
    int dim[DIMS_MAX];
    float number[NUMBERS_MAX];
};

enum weight_kind {
    VECTOR,  /* const float *: float32 on the backend, whatever the rank */
    MATRIX,  /* struct matrix, packed, in the stored dtype */
    IGNORED, /* published checkpoints carry it and nothing reads it; may be absent */
};

enum weight_flags {
    NEGATE_EXP = 1,  /* the field is -exp(stored) */
    FIRST_LAYER = 2, /* of layer 0 only */
    LATER_LAYERS = 4 /* of every layer but 0 */
};

/* A flag of a MATRIX whose field is two, one behind the other: the first dim[size] rows, and the
 * rest. */
#define CUT_AT(size) ((unsigned)(size) << 8)

/* One weight. Every naming in the wild is a name of its row, separated by '|': "%d" stands for
 * the layer, and a name that ends in "^T" stores the matrix transposed. Shapes are compared without
 * dimensions of 1; an empty shape fits everything. `at` is the field's place in the architecture's
 * layer struct if the names hold a layer, else in its model struct. */
struct weight_row {
    const char *names;
    int shape[WEIGHT_RANK];
    enum weight_kind kind;
    size_t at;
    unsigned flags;
    int when; /* the row exists only if this size is not 0; 0: always */
};

/* What every model struct begins with. */
struct model_ends {
    struct matrix embed;    /* [VOCAB, HIDDEN] */
    struct matrix head;     /* [VOCAB, HIDDEN], empty when tied to embed */
    const float *norm;      /* [HIDDEN], the norm before the head */
    const float *norm_bias; /* [HIDDEN] or NULL */
};

/* A field of the session's record, one piece for each layer. The large ones come last: their
 * operations take either format. */
struct state_row {
    const char *name;
    int shape[STATE_FIELD_RANK];
    bool large;
};

/* A `float *` at `at` of the architecture's scratch struct: [max_rows, columns]. */
struct scratch_row {
    size_t at;
    int columns;
};

/* One step, as step() sees it. */
struct arch_step {
    const struct ops *ops;
    struct stream *stream;
    const struct batch *in;
    const struct hyper *hyper;
    enum norm_kind norm;
    const void *model, *layers; /* the architecture's structs, bound */
    const void *scratch;
    float *x; /* [T, HIDDEN], the residual stream */
    const struct state_layout *layout;
    char *records;
    size_t slot_bytes;           /* from one record to the next */
    const struct state_log *log; /* layers 0: none */
    bool bf16_rows;              /* what products read is bf16, see ops.h */
};

struct model_arch {
    const char *name;
    const char *model_type; /* config.json's */
    /* A weight that only this architecture has, by all its names, for checkpoints that do not
     * name their type: the original state-spaces ones, RWKV's .pth. NULL: there is none. */
    const char *signature;
    const char *prefix[PREFIXES_MAX]; /* any of them may stand before a name; "" is one */
    int text_end;                     /* id that always ends a text and may begin it, or -1 */
    enum norm_kind norm;              /* of the residual stream, with eps number[EPS] */

    /* config is empty when the checkpoint has none. ERR_FORMAT. */
    bool (*configure)(const struct model_arch *arch, const struct model_config *config,
                      const struct weights *w, struct hyper *h, struct error *err);
    const struct weight_row *weights; /* ended by a row without a name */
    size_t model_size, layer_size;
    const struct state_row *state; /* ended by a row without a name */
    /* The sizes of its large field, which is the last one, for logs. */
    void (*log)(const struct hyper *h, struct state_log *log);
    size_t rates; /* A of a diagonal state, in the layer struct: const float * */
    const struct scratch_row *scratch; /* ended by a row without columns */
    size_t scratch_size;
    /* The product that is left to complete x before the last norm, as arch_added() makes it. */
    struct linear (*step)(const struct arch_step *s);
};

/* NULL and ERR_FORMAT when nothing here can run it. path stands in the message. */
const struct model_arch *arch_find(const struct model_config *config, const struct weights *w,
                                   const char *path, struct error *err);

/* Field `i` of the state table, of one layer. */
struct field arch_state(const struct arch_step *a, int i, int layer);

/* Scratch rows that only products read, as the two places an operation can write them to: one
 * of them is NULL. */
float *arch_f32_rows(const struct arch_step *a, float *rows);
uint16_t *arch_bf16_rows(const struct arch_step *a, float *rows);

/* y = norm(x) * weight + bias of the residual stream, y only for products: to be enqueued by the
 * caller. bias may be NULL, and so may added: what arch_added() made and nobody enqueued, or all
 * zeros. */
struct norm arch_norm(const struct arch_step *a, float *y, const float *weight, const float *bias,
                      const struct linear *added);

/* y = act(W x + bias) on tight rows, x only for products: to be enqueued by the caller, alone or
 * with others. */
struct linear arch_linear(const struct arch_step *a, float *y, const float *x,
                          const struct matrix *w, const float *bias, enum activation act);

/* The same whose y is only for products. */
struct linear arch_inner_linear(const struct arch_step *a, float *y, const float *x,
                                const struct matrix *w, const float *bias, enum activation act);

/* The residual stream += W x + bias, x only for products: for the next norm, or to be enqueued by
 * the caller. */
struct linear arch_added(const struct arch_step *a, const float *x, const struct matrix *w,
                         const float *bias);

extern const struct model_arch arch_mamba, arch_falcon_mamba, arch_mamba2, arch_rwkv7;

#endif
