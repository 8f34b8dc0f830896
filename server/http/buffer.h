/* buffer.h - bytes that grow: the only container of this folder.
 *
 * Zeroed is empty. A false return means out of memory and leaves the bytes as they were. */
#ifndef SERVER_HTTP_BUFFER_H
#define SERVER_HTTP_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct buffer {
    char *bytes;
    size_t len, cap;
};

bool buffer_reserve(struct buffer *b, size_t more);
bool buffer_append(struct buffer *b, const void *bytes, size_t len);
bool buffer_printf(struct buffer *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), nonnull(2)));
/* Frees the bytes; empty again afterwards. */
void buffer_finish(struct buffer *b);

#endif
