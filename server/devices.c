#include "server/devices.h"

#include <stdio.h>
#include <string.h>

#include "config/error.h"
#include "config/log.h"
#include "kernels/backend.h"
#include "models/model.h"

enum { DEVICE_DIGITS = 4, CPU = -1 };

/* "cpu", "cuda" or "cuda:N", len bytes of a list: the number of a GPU, or CPU. */
static bool read_name(const char *name, size_t len, int *device)
{
    const size_t cuda = strlen("cuda");
    const char *digits = name + cuda + 1;

    *device = CPU;
    if (len == strlen("cpu") && strncmp(name, "cpu", len) == 0)
        return true;
    if (len < cuda || strncmp(name, "cuda", cuda) != 0)
        return false;
    *device = 0;
    if (len == cuda)
        return true;
    len -= cuda + 1;
    if (name[cuda] != ':' || len == 0 || len > DEVICE_DIGITS || strspn(digits, "0123456789") < len)
        return false;
    for (size_t i = 0; i < len; i++)
        *device = *device * 10 + digits[i] - '0';
    return true;
}

/* A state goes on alike on devices of one kind only; and one GPU has one engine's work. */
static bool fits_in(const char *list, const int *device, int n, struct error *err)
{
    for (int i = 0; i < n; i++) {
        if ((device[i] == CPU) != (device[n] == CPU))
            return error_set(err, ERR_INPUT, "device is \"%s\"; several are all cpu or all cuda",
                             list);
        if (device[n] != CPU && device[i] == device[n])
            return error_set(err, ERR_INPUT, "device is \"%s\", which names cuda:%d twice", list,
                             device[n]);
    }
    return true;
}

static bool read_list(const char *list, int device[DEVICES_MAX], int *count, struct error *err)
{
    size_t len;

    *count = 0;
    for (const char *at = list;; at += len + 1) {
        len = strcspn(at, ",");
        if (*count == DEVICES_MAX)
            return error_set(err, ERR_INPUT, "device names more than %d devices", DEVICES_MAX);
        if (!read_name(at, len, &device[*count]))
            return error_set(err, ERR_INPUT,
                             "device is \"%s\"; it is auto, cpu, cuda or cuda:N, or several of a "
                             "kind as in cuda:0,cuda:1",
                             list);
        if (!fits_in(list, device, (*count)++, err))
            return false;
        if (!at[len])
            return true;
    }
}

/* A machine without a GPU computes on its CPU; a GPU that does not work is an error all the
 * same. */
static struct backend *open_any(const struct backend_options *with, struct error *err)
{
    struct backend *be = backend_open_cuda(with, err);

    if (be || (err->code != ERR_INPUT && err->code != ERR_IO))
        return be;
    log_note(err->code == ERR_IO ? LOG_WARN : LOG_DEBUG, "no GPU is used", "%s", err->message);
    return backend_open_cpu(with, err);
}

bool devices_open(struct devices *d, const char *list, const struct backend_options *with,
                  struct error *err)
{
    struct backend_options each = *with;
    int device[DEVICES_MAX], count;

    *d = (struct devices){ 0 };
    if (strcmp(list, "auto") == 0) {
        d->at[d->count++].backend = open_any(with, err);
        return d->at[0].backend != NULL;
    }
    if (!read_list(list, device, &count, err))
        return false;
    each.share = count;
    while (d->count < count) {
        struct backend **to = &d->at[d->count].backend;

        each.device = device[d->count++];
        *to = each.device == CPU ? backend_open_cpu(&each, err) : backend_open_cuda(&each, err);
        if (!*to)
            return false;
    }
    return true;
}

bool devices_load(struct devices *d, const char *path, const struct model_options *sizes,
                  struct error *err)
{
    for (int i = 0; i < d->count; i++) {
        d->at[i].model = model_open(path, d->at[i].backend, sizes, err);
        if (!d->at[i].model)
            return false;
        if (memcmp(model_info(d->at[i].model)->fingerprint, model_info(d->at[0].model)->fingerprint,
                   sizeof(model_info(d->at[0].model)->fingerprint)) != 0)
            return error_set(err, ERR_FORMAT, "%s: changed while it was loaded", path);
    }
    return true;
}

void devices_describe(const struct devices *d, char *text, size_t size)
{
    size_t len = 0;

    for (int i = 0; i < d->count && len < size; i++)
        len += (size_t)snprintf(text + len, size - len, "%s%s", i ? "; " : "",
                                d->at[i].backend->detail);
}

void devices_close(struct devices *d)
{
    for (int i = 0; i < d->count; i++) {
        model_close(d->at[i].model);
        backend_close(d->at[i].backend);
    }
    d->count = 0;
}
