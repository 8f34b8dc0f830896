#include "server/cli/load.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"
#include "config/log.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/text/tokenizer.h"

#define DEMO_NAME "eddy-tales"

enum { DEVICE_DIGITS = 4 };

/* Both folders come from the build: the source tree's for a checkout, else the installed. */
const char *model_path(const struct options *o)
{
    if (o->model)
        return o->model;
    return access(EDDY_DEMO_DIR "/config.json", R_OK) == 0 ? EDDY_DEMO_DIR : EDDY_SHARE_DIR;
}

/* Where a model's other files are: the folder itself, or the one its file is in. */
static struct tokenizer *open_tokenizer(const char *path, int vocab, struct error *err)
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

/* "cuda" and "cuda:N". */
static bool read_gpu(const char *name, int *device)
{
    const char *digits = name + strlen("cuda:");
    size_t n;

    *device = 0;
    if (strcmp(name, "cuda") == 0)
        return true;
    if (strncmp(name, "cuda:", strlen("cuda:")) != 0)
        return false;
    n = strspn(digits, "0123456789");
    for (size_t i = 0; i < n && n <= DEVICE_DIGITS; i++)
        *device = *device * 10 + digits[i] - '0';
    return n > 0 && n <= DEVICE_DIGITS && !digits[n];
}

/* With "auto", a machine without a GPU computes on its CPU; a GPU that does not work is an
 * error all the same. */
static struct backend *open_backend(const struct options *o, struct error *err)
{
    struct backend_options with = { .threads = o->threads, .isa = o->isa };
    const bool automatic = strcmp(o->device, "auto") == 0;
    struct backend *be;

    if (strcmp(o->device, "cpu") == 0)
        return backend_open_cpu(&with, err);
    if (!automatic && !read_gpu(o->device, &with.device)) {
        error_set(err, ERR_INPUT, "device is \"%s\"; it is auto, cpu, cuda or cuda:N", o->device);
        return NULL;
    }
    be = backend_open_cuda(&with, err);
    if (be || !automatic || (err->code != ERR_INPUT && err->code != ERR_IO))
        return be;
    log_line(err->code == ERR_IO ? LOG_WARN : LOG_DEBUG, "no GPU is used", "why", err->message,
             NULL);
    return backend_open_cpu(&with, err);
}

bool loaded_device(struct loaded *l, const struct options *o, struct error *err)
{
    *l = (struct loaded){ .backend = open_backend(o, err) };
    return l->backend != NULL;
}

bool loaded_init(struct loaded *l, const struct options *o, const struct model_options *sizes,
                 struct error *err)
{
    if (!loaded_device(l, o, err))
        return false;
    l->model = model_open(model_path(o), l->backend, sizes, err);
    if (!l->model)
        return false;
    l->name = o->model_name ? o->model_name : o->model ? model_info(l->model)->name : DEMO_NAME;
    l->tokenizer = open_tokenizer(model_path(o), model_info(l->model)->vocab, err);
    return l->tokenizer != NULL;
}

void loaded_finish(struct loaded *l)
{
    tokenizer_close(l->tokenizer);
    model_close(l->model);
    backend_close(l->backend);
}
