/* devices.h - what one engine computes on: backends, each with a replica of the model.
 *
 * Devices are alike: which of them a session's state is on can change from turn to turn, and
 * nobody above the slots knows of it. One thread drives them all (the engine's, after loading);
 * it enqueues on each before it waits for any, so that GPUs compute side by side. */
#ifndef SERVER_DEVICES_H
#define SERVER_DEVICES_H

#include <stdbool.h>

struct backend;
struct backend_options;
struct error;
struct model;
struct model_options;

enum { DEVICES_MAX = 16 };

struct device {
    struct backend *backend;
    struct model *model; /* NULL until devices_load() */
};

struct devices {
    struct device at[DEVICES_MAX];
    int count;
};

/* name: "cpu", "cuda", "cuda:N", or "auto": a GPU if there is one. `with` says the rest. Errors
 * as of backend.h; devices_close() in both cases. */
bool devices_open(struct devices *d, const char *name, const struct backend_options *with,
                  struct error *err);
/* Errors as of model_open(). */
bool devices_load(struct devices *d, const char *path, const struct model_options *sizes,
                  struct error *err);
void devices_close(struct devices *d);

#endif
