/* text_file.h - a whole small file in memory. Private to weights/. */
#ifndef WEIGHTS_TEXT_FILE_H
#define WEIGHTS_TEXT_FILE_H

#include <stddef.h>

struct error;

/* A malloc'd copy with a NUL after its *len bytes. NULL and ERR_IO, ERR_NOMEM, or
 * ERR_FORMAT when it is no regular file or longer than max. */
char *text_file_read(const char *path, size_t max, size_t *len, struct error *err);

#endif
