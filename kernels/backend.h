/* backend.h - a device: its memory, its stream and its operations.
 *
 * The CPU backend is always there. What a pointer from backend_alloc() points to is the
 * backend's memory: only operations and the copies below may touch it (on the CPU it is host
 * memory, but nothing above kernels/ relies on that). One thread drives a backend. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/ops.h"

struct error;

struct backend_options {
    int threads;     /* CPU: compute threads, the caller's included; 0 = one per core */
    const char *isa; /* CPU: "auto", "plain", "avx2" or "avx512"; ERR_INPUT if the machine
                      * lacks it */
};

struct backend {
    const char *name;   /* "cpu" */
    const char *detail; /* what was chosen: "avx512, 2 threads"; owned by the backend */
    const struct ops *ops;
    struct stream *stream;

    /* Zeroed, aligned to 64 bytes; NULL when there is no room. free takes NULL. */
    void *(*alloc)(struct backend *be, size_t bytes);
    void (*free)(struct backend *be, void *p);

    /* All in stream order. Upload and download have finished with the host side when they
     * return; copy and zero stay on the device. */
    void (*upload)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*download)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*copy)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*zero)(struct backend *be, void *dst, size_t bytes);

    /* Lays out rows x cols elements of `dtype` (row-major, host memory, any alignment) the
     * way this backend's linear and embed want them. ERR_NOMEM. Free with free(m->data). */
    bool (*pack_matrix)(struct backend *be, struct matrix *m, enum dtype dtype, int rows, int cols,
                        const void *src, struct error *err);

    /* Everything enqueued has happened. false and ERR_DEVICE if any of it failed. */
    bool (*sync)(struct backend *be, struct error *err);
    void (*destroy)(struct backend *be);
};

struct backend *backend_open_cpu(const struct backend_options *options, struct error *err);
void backend_close(struct backend *be); /* takes NULL */

#endif
