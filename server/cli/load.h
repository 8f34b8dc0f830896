/* load.h - what every command that computes needs: devices, a model, its tokenizer. */
#ifndef SERVER_CLI_LOAD_H
#define SERVER_CLI_LOAD_H

#include <stdbool.h>

#include "models/model.h"
#include "server/devices.h"

struct error;
struct options;
struct tokenizer;

struct loaded {
    struct devices devices;
    struct backend *backend; /* the first device's */
    struct model *model;     /* the same */
    struct tokenizer *tokenizer;
    const char *name; /* the model's in the API; borrowed from options or the model */
};

/* The model's folder or file: the option's, or the demonstration model's. */
const char *model_path(const struct options *o);

/* Of the model's folder or file. ERR_FORMAT, ERR_IO, ERR_NOMEM. */
struct tokenizer *model_tokenizer(const char *path, int vocab, struct error *err);

/* Of an option whose choices are f32 and bf16. */
enum dtype chosen_dtype(const char *choice);

/* The sizes' state_dtype is the option's. Their max_rows are more than `batch`, and where they are
 * 0 what suits that and the device (model_info() has it then). ERR_INPUT, ERR_FORMAT, ERR_IO,
 * ERR_NOMEM; loaded_finish() in both cases. */
bool loaded_init(struct loaded *l, const struct options *o, const struct model_options *sizes,
                 int batch, struct error *err);
/* The devices alone, with the rest left empty. */
bool loaded_device(struct loaded *l, const struct options *o, struct error *err);
void loaded_finish(struct loaded *l);

#endif
