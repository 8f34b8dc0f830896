#include "server/cli/load.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/text/tokenizer.h"

#define DEMO_NAME "eddy-tales"

/* Both folders come from the build: the source tree's for a checkout, else the installed. */
const char *model_path(const struct options *o)
{
    if (o->model)
        return o->model;
    return access(EDDY_DEMO_DIR "/config.json", R_OK) == 0 ? EDDY_DEMO_DIR : EDDY_SHARE_DIR;
}

/* Where a model's other files are: the folder itself, or the one its file is in. */
struct tokenizer *model_tokenizer(const char *path, int vocab, struct error *err)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return tokenizer_open(path, vocab, err);
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path + 1) : 1,
             slash ? path : ".");
    return tokenizer_open(folder, vocab, err);
}

bool loaded_device(struct loaded *l, const struct options *o, struct error *err)
{
    const struct backend_options with = { .threads = o->threads,
                                          .isa = o->isa,
                                          .round_x = strcmp(o->activations, "bf16") == 0 };
    bool ok;

    *l = (struct loaded){ 0 };
    ok = devices_open(&l->devices, o->device, &with, err);
    l->backend = l->devices.at[0].backend;
    return ok;
}

enum dtype chosen_dtype(const char *choice)
{
    return strcmp(choice, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
}

/* Of a step of at most `batch` sequences. */
static int choose_rows(int wanted, const struct backend *be, int batch)
{
    const int suits = be->step_rows > 2 * batch ? be->step_rows : 2 * batch;
    const int rows = wanted ? wanted : suits;

    return rows > batch ? rows : batch + 1;
}

bool loaded_init(struct loaded *l, const struct options *o, const struct model_options *sizes,
                 int batch, struct error *err)
{
    struct model_options with = *sizes;

    with.state_dtype = chosen_dtype(o->state_dtype);
    if (!loaded_device(l, o, err))
        return false;
    with.max_rows = choose_rows(with.max_rows, l->backend, batch);
    if (!devices_load(&l->devices, model_path(o), &with, err))
        return false;
    l->model = l->devices.at[0].model;
    l->name = o->model_name ? o->model_name : o->model ? model_info(l->model)->name : DEMO_NAME;
    l->tokenizer = model_tokenizer(model_path(o), model_info(l->model)->vocab, err);
    return l->tokenizer != NULL;
}

void loaded_finish(struct loaded *l)
{
    tokenizer_close(l->tokenizer);
    devices_close(&l->devices);
}
