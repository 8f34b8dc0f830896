#include "server/http/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 256 };

bool buffer_reserve(struct buffer *b, size_t more)
{
    size_t cap = b->cap ? b->cap : SMALLEST;
    char *bytes;

    if (more <= b->cap - b->len)
        return true;
    while (cap - b->len < more)
        cap *= 2;
    bytes = realloc(b->bytes, cap);
    if (!bytes)
        return false;
    b->bytes = bytes;
    b->cap = cap;
    return true;
}

bool buffer_append(struct buffer *b, const void *bytes, size_t len)
{
    if (!buffer_reserve(b, len))
        return false;
    if (len > 0)
        memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    return true;
}

bool buffer_printf(struct buffer *b, const char *fmt, ...)
{
    va_list args;
    int len;

    for (int attempt = 0; attempt < 2; attempt++) {
        size_t room = b->cap - b->len;

        va_start(args, fmt);
        len = vsnprintf(room > 0 ? b->bytes + b->len : NULL, room, fmt, args);
        va_end(args);
        if ((size_t)len < room) {
            b->len += (size_t)len;
            return true;
        }
        if (!buffer_reserve(b, (size_t)len + 1))
            return false;
    }
    return false;
}

void buffer_finish(struct buffer *b)
{
    free(b->bytes);
    *b = (struct buffer){ 0 };
}
