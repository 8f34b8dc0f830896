/* weights_internal.h - what the readers of weights/ fill in.
 *
 * A reader opens its file as a source, adds one entry a tensor, and proves that each lies
 * inside its source. weights.c owns all of it and does the reading. Private to weights/. */
#ifndef WEIGHTS_WEIGHTS_INTERNAL_H
#define WEIGHTS_WEIGHTS_INTERNAL_H

#include <sys/stat.h>

#include "weights/weights.h"

struct source {
    char *path;
    int fd;
    uint64_t size;
    struct stat opened; /* as it was then */
    char *text;         /* the names of its tensors lie in it */
};

struct entry {
    struct tensor tensor; /* first, so that weights_read() finds the rest */
    size_t source;
    uint64_t offset; /* bytes, from the start of the source */
};

struct weights {
    char *folder;
    struct source *sources;
    size_t source_count;
    struct entry *entries;
    size_t count, room;
    const struct entry **by_name; /* [count], sorted */
};

/* The new source is w->sources[w->source_count - 1]; the pointer lasts until the next. */
bool weights_add_source(struct weights *w, const char *path, struct error *err);
/* NULL and *err on failure. The entry names the newest source; the rest is zero. */
struct entry *weights_add_entry(struct weights *w, struct error *err);
/* ERR_IO, also when the file was written to since it was opened, or while it was read. */
bool source_read(const struct source *s, void *dst, size_t n, uint64_t offset, struct error *err);

/* The bytes of a tensor of this dtype and shape; false when they overflow. */
bool tensor_bytes(const struct tensor *t, size_t *bytes);

/* Builds by_name, which weights_find() needs. ERR_FORMAT when a name is there twice. */
bool weights_sort(struct weights *w, struct error *err);

/* The readers: add every tensor of a file, and sort. */
bool safetensors_load(struct weights *w, const char *path, struct error *err);
bool shards_load(struct weights *w, const char *path, struct error *err); /* the index file */
bool pth_load(struct weights *w, const char *path, struct error *err);

/* The tensors of one more safetensors file, unsorted. */
bool safetensors_add(struct weights *w, const char *path, struct error *err);

#endif
