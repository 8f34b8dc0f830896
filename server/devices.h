/* devices.h - what one engine computes on: backends, each with a replica of the model.
 *
 * Devices are alike: which of them a session's state is on can change from turn to turn, and
 * nobody above the slots knows of it. One thread drives them all (the engine's, after loading);
 * it enqueues on each before it waits for any, so that GPUs compute side by side. */
#ifndef SERVER_DEVICES_H
#define SERVER_DEVICES_H

#include <stdbool.h>
#include <stddef.h>

struct backend;
struct backend_options;
struct error;
struct model;
struct model_options;

enum { DEVICES_MAX = 16, DEVICES_TEXT = 1024 };

struct device {
    struct backend *backend;
    struct model *model; /* NULL until devices_load() */
};

struct devices {
    struct device at[DEVICES_MAX];
    int count;
};

/* list: "cpu", "cuda" or "cuda:N", or several of a kind with commas between them, no GPU twice; or
 * "auto": the first GPU if there is one. `with` says the rest; CPUs share its threads. Errors as
 * of backend.h; devices_close() in both cases. */
bool devices_open(struct devices *d, const char *list, const struct backend_options *with,
                  struct error *err);
/* Errors as of model_open(); each device reads the files. */
bool devices_load(struct devices *d, const char *path, const struct model_options *sizes,
                  struct error *err);
void devices_close(struct devices *d);

/* What each was chosen to be: "cuda:0, NVIDIA H200; cuda:1, NVIDIA H200", cut where DEVICES_TEXT
 * bytes would not do. */
void devices_describe(const struct devices *d, char *text, size_t size);

#endif
