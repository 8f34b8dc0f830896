/* text_file.h - a whole small file in memory, and whether a file is there at all. Any thread. */
#ifndef CONFIG_TEXT_FILE_H
#define CONFIG_TEXT_FILE_H

#include <stdbool.h>
#include <stddef.h>

struct error;

/* A malloc'd copy with a NUL after its *len bytes. NULL and ERR_IO, ERR_NOMEM, or
 * ERR_FORMAT when it is no regular file or longer than max. */
char *text_file_read(const char *path, size_t max, size_t *len, struct error *err);

/* Nothing has this name, which is how a file is left out. A link that leads nowhere or a folder
 * that may not be searched leaves nothing out: opening the file says what is wrong. */
bool text_file_absent(const char *path);

#endif
