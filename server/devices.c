#include "server/devices.h"

#include <string.h>

#include "config/error.h"
#include "config/log.h"
#include "kernels/backend.h"
#include "models/model.h"

enum { DEVICE_DIGITS = 4 };

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
static struct backend *open_backend(const char *name, struct backend_options with,
                                    struct error *err)
{
    const bool automatic = strcmp(name, "auto") == 0;
    struct backend *be;

    if (strcmp(name, "cpu") == 0)
        return backend_open_cpu(&with, err);
    if (!automatic && !read_gpu(name, &with.device)) {
        error_set(err, ERR_INPUT, "device is \"%s\"; it is auto, cpu, cuda or cuda:N", name);
        return NULL;
    }
    be = backend_open_cuda(&with, err);
    if (be || !automatic || (err->code != ERR_INPUT && err->code != ERR_IO))
        return be;
    log_line(err->code == ERR_IO ? LOG_WARN : LOG_DEBUG, "no GPU is used", "why", err->message,
             NULL);
    return backend_open_cpu(&with, err);
}

bool devices_open(struct devices *d, const char *name, const struct backend_options *with,
                  struct error *err)
{
    *d = (struct devices){ .count = 1 };
    d->at[0].backend = open_backend(name, *with, err);
    return d->at[0].backend != NULL;
}

bool devices_load(struct devices *d, const char *path, const struct model_options *sizes,
                  struct error *err)
{
    for (int i = 0; i < d->count; i++) {
        d->at[i].model = model_open(path, d->at[i].backend, sizes, err);
        if (!d->at[i].model)
            return false;
    }
    return true;
}

void devices_close(struct devices *d)
{
    for (int i = 0; i < d->count; i++) {
        model_close(d->at[i].model);
        backend_close(d->at[i].backend);
    }
    d->count = 0;
}
