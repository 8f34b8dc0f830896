/* state_file.h - a session's state in a file of its own, as `eddy run` saves and loads it.
 *
 * The bytes are those of server/state/format.h. A file is whole or absent: it is written
 * under a temporary name beside its own, synced, renamed, and its folder synced. A link is
 * followed, and what is no regular file stays what it is. */
#ifndef SERVER_CLI_STATE_FILE_H
#define SERVER_CLI_STATE_FILE_H

#include <stdbool.h>
#include <stddef.h>

struct error;

/* ERR_IO; what was at path before is then still there. */
bool state_file_write(const char *path, const void *bytes, size_t len, struct error *err);

/* *bytes is from malloc. ERR_IO, ERR_LIMIT when the file is longer than max, ERR_NOMEM. */
bool state_file_read(const char *path, size_t max, void **bytes, size_t *len, struct error *err);

#endif
