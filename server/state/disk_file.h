/* disk_file.h - checkpoints as files: one each, whole or absent.
 *
 * A file is named by its checkpoint's id in one of 256 folders, chosen by a hash of the id.
 * It is written under a temporary name and renamed: the caller decides what is fsynced in
 * between. Its bytes are not looked into but for the magic and length that format.h puts in
 * front, and for the other files that it names. What is not a checkpoint, but was one, is set aside
 * under another suffix and never touched again. Reading is for any thread, the rest for one. */
#ifndef SERVER_STATE_DISK_FILE_H
#define SERVER_STATE_DISK_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/format.h"

struct disk_io;
struct error;
struct file_buffer;

enum { DISK_FOLDERS = 256 };

struct disk_files {
    const struct disk_io *io;
    int root; /* -1: not open */
    uint64_t drafts;
};

/* A file that has no name of its own yet. */
struct disk_draft {
    int fd;
    char name[40];
};

/* Makes the folders that are missing, under "states" in dir. Every function below fails with
 * ERR_IO or ERR_SPACE, unless it says otherwise. */
bool disk_files_open(struct disk_files *f, const struct disk_io *io, int dir, struct error *err);
void disk_files_close(struct disk_files *f);

unsigned disk_folder_of(const char *id);
/* Whether the id may name a file. */
bool disk_file_valid(const char *id);

/* Removes temporary files and calls seen() for every checkpoint. */
bool disk_files_list(const struct disk_files *f, bool (*seen)(void *arg, const char *id), void *arg,
                     struct error *err);

/* A draft that failed is gone, and its descriptor with it. */
bool disk_draft_write(struct disk_files *f, struct disk_draft *d, const char *id, const void *bytes,
                      size_t len, struct error *err);
bool disk_draft_sync(struct disk_files *f, struct disk_draft *d, const char *id, struct error *err);
bool disk_draft_name(struct disk_files *f, struct disk_draft *d, const char *id, struct error *err);

bool disk_files_sync_folder(const struct disk_files *f, unsigned folder, struct error *err);
bool disk_file_sync(const struct disk_files *f, const char *id, struct error *err);
bool disk_file_remove(const struct disk_files *f, const char *id, struct error *err);
bool disk_file_set_aside(const struct disk_files *f, const char *id, const char *suffix,
                         struct error *err);

/* What a file's front says. */
struct disk_front {
    uint64_t bytes;
    struct format_marks marks; /* without anchors: they are not looked for */
};
/* ERR_FORMAT: it is not a checkpoint, or not whole. */
bool disk_file_look(const struct disk_files *f, const char *id, struct disk_front *front,
                    struct error *err);
/* Moves the bytes of its marks, from malloc, to the caller. Also ERR_NOMEM. */
bool disk_file_read_marks(const struct disk_files *f, const char *id, struct format_marks *marks,
                          void **bytes, struct error *err);
/* Also ERR_FORMAT, ERR_NOMEM. */
bool disk_file_read(const struct disk_files *f, const char *id, struct file_buffer *out,
                    struct error *err);

#endif
