/* backend.h - a device: its memory, its stream and its operations.
 *
 * The CPU backend is always there; the CUDA backend is a module of its own, loaded when it is
 * asked for, so that the program needs nothing of CUDA to start. What a pointer from
 * backend_alloc() points to is the backend's memory: only operations and the copies below may touch
 * it (on the CPU it is host memory, but nothing above kernels/ relies on that). One thread drives a
 * backend, and may drive several in turns: between begin() and end() it calls no other. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

struct error;

struct backend_options {
    int threads;     /* CPU: compute threads, the caller's included; 0 = one per core */
    const char *isa; /* CPU: "auto", "plain", "avx2", "avx512" or "avx512bf16"; ERR_INPUT if the
                      * machine lacks it */
    bool round_x;    /* CPU: of all bf16 matrices, see ops.h */
    int device;      /* CUDA: which of the machine's, from 0 */
    int share;       /* CPU: so many backends have the threads between them; 0: this one alone */
};

enum ceiling {
    CEILING_READ, /* bytes a second that are only read from memory, beyond any cache */
    CEILING_COPY, /* bytes a second read and written, both counted; 0 on a CPU */
    CEILING_FMA,  /* float32 operations a second; a multiply-add is two */
    CEILING_BF16, /* bf16 operations a second; 0: no such instruction in use */
};

/* What a step is recorded under: equal keys, and batches of equal sizes, enqueue the same
 * operations on the same memory. A key with a NULL model is never recorded. */
struct step_key {
    const void *model, *records;
    int rows; /* up to which a batch may be filled with rows that mean nothing */
};

struct backend {
    const char *name;   /* "cpu", "cuda" */
    const char *detail; /* what was chosen: "avx512, 2 threads"; owned by the backend */
    const struct ops *ops;
    struct stream *stream;
    bool lost;      /* after wait(), sync() or a move failed: the device, with all that it held */
    bool bf16_rows; /* its operations know y_bf16 and x_bf16 (ops.h), and gain by them */
    bool follows;   /* it computes beside the host, and a batch may follow draws (ops.h) */
    int log_steps;  /* 1: it keeps no logs (ops.h, state_log), and has no settle() */
    int step_rows;  /* of a step with prompts; more make it longer, and little faster a row */

    /* Sizes of decode steps that are recorded and replayed, ascending and ended by 0; a step
     * in between is filled up to the next. NULL: the backend records nothing. */
    const int *sizes;

    /* Zeroed, aligned to 64 bytes; NULL when there is no room. free takes NULL. */
    void *(*alloc)(struct backend *be, size_t bytes);
    void (*free)(struct backend *be, void *p);
    /* How much alloc() could still give, about; 0: not known. */
    size_t (*room)(struct backend *be);

    /* All in stream order. Upload and download have finished with the host side when they
     * return; copy and zero stay on the device. */
    void (*upload)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*download)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*copy)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*zero)(struct backend *be, void *dst, size_t bytes);

    /* Moves: copies between host memory and the backend's, beside what is enqueued. They happen
     * in order, behind every upload(), copy() and zero() so far, and have nothing to do with the
     * operations that were not waited for, which must not touch their memory. The host's side is
     * in use until the move is done if it is alloc_host's; any other is free on return. Returned
     * is its number, above those before; 0: it is done. */
    uint64_t (*move_in)(struct backend *be, void *dst, const void *src, size_t bytes);
    uint64_t (*move_out)(struct backend *be, void *dst, const void *src, size_t bytes);
    /* Whether this move is done, and with it all before; `wait`: returns when it is. One that
     * failed is done, and the device lost. */
    bool (*moved)(struct backend *be, uint64_t move, bool wait);
    /* What is enqueued from now on happens behind this move. */
    void (*follow)(struct backend *be, uint64_t move);

    /* The numbers of one layer's log, a multiple of 16; 0: it keeps none of such states. Of `log`
     * only the sizes are read. */
    size_t (*log_numbers)(struct backend *be, const struct state_log *log);
    /* A move (see there) that brings the steps in a slot's log, `logged` of them, into its states:
     * the log is empty then. */
    uint64_t (*settle)(struct backend *be, const struct state_log *log, int slot, int logged);

    /* Host memory that moves take from and bring to without a detour; its content is undefined.
     * alloc_host is NULL where any memory is as good; it returns NULL when there is no room. Any
     * thread may call it, at any time. */
    void *(*alloc_host)(struct backend *be, size_t bytes);
    void (*free_host)(struct backend *be, void *p, size_t bytes); /* takes NULL */

    /* Lays out rows x cols elements of `dtype` (row-major, host memory, any alignment) the
     * way this backend's linear and embed want them. ERR_NOMEM. Free with free(m->data). */
    bool (*pack_matrix)(struct backend *be, struct matrix *m, enum dtype dtype, int rows, int cols,
                        const void *src, struct error *err);

    /* A step, or any operations on a batch: begin() takes in what the host knows of it and
     * returns the batch to enqueue with, until end(). That is `in`, or one of more rows whose
     * first are those of `in`. NULL: the step was recorded before and has been enqueued whole.
     * Only tokens, slots, positions, logs, what it follows and the row limits of `in` may differ
     * from the time of the recording. */
    const struct batch *(*begin)(struct backend *be, const struct step_key *key,
                                 const struct batch *in);
    void (*end)(struct backend *be);

    /* What the machine could do, measured, to compare operations with: the best of some runs,
     * which take tenths of a second while nothing else runs. 0: no room to measure. */
    double (*ceiling)(struct backend *be, enum ceiling which);

    /* A place in what is enqueued, above or at those before. */
    uint64_t (*mark)(struct backend *be);
    /* Whether wait() would wait. */
    bool (*busy)(struct backend *be, uint64_t mark);
    /* Everything enqueued before the mark has happened, and the results of its draws are there.
     * false and ERR_DEVICE if any of it failed, or a move. */
    bool (*wait)(struct backend *be, uint64_t mark, struct error *err);
    /* The same of everything enqueued. */
    bool (*sync)(struct backend *be, struct error *err);
    void (*destroy)(struct backend *be);
};

struct backend *backend_open_cpu(const struct backend_options *options, struct error *err);
/* ERR_INPUT when the machine has no such device or driver, or the program no module for it;
 * ERR_IO when there is a module that cannot be loaded; ERR_DEVICE when there is a device that
 * does not work, because of its driver's age, say; ERR_NOMEM. */
struct backend *backend_open_cuda(const struct backend_options *options, struct error *err);
void backend_close(struct backend *be); /* takes NULL */

/* What the module offers under the name BACKEND_MODULE_SYMBOL. The number is that of the
 * interface it was built for. */
struct backend_module {
    unsigned interface;
    struct backend *(*open)(const struct backend_options *options, struct error *err);
};
#define BACKEND_MODULE_INTERFACE 13u
#define BACKEND_MODULE_SYMBOL    "eddy_backend_module"

#endif
