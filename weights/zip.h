/* zip.h - the directory of a zip archive whose entries are stored, as PyTorch writes them.
 *
 * Compression, encryption and archives in several parts are refused by name. Offsets and
 * sizes may have 64 bits; each is proved to lie in the file. Checksums are not looked at:
 * a tensor's bytes are as free as they are in safetensors. Private to weights/. */
#ifndef WEIGHTS_ZIP_H
#define WEIGHTS_ZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct source;

struct zip_entry {
    const char *name;
    uint64_t header, size; /* bytes: where its local header stands, length of its data */
};

struct zip {
    const struct source *source; /* borrowed */
    char *directory;             /* as in the file, but for the ends of the names */
    uint64_t directory_at;
    struct zip_entry *entries; /* sorted by name, all distinct */
    size_t count;
};

/* zip_finish() also takes what a failed zip_init() leaves. */
bool zip_init(struct zip *z, const struct source *s, struct error *err);
void zip_finish(struct zip *z);

const struct zip_entry *zip_find(const struct zip *z, const char *name);
/* Where the entry's data begin; they are proved to end before the directory. */
bool zip_locate(const struct zip *z, const struct zip_entry *e, uint64_t *offset,
                struct error *err);

#endif
