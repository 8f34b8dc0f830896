/* text_buffer.c - growing byte strings and id lists. */
#include "models/text/text_buffer.h"

#include <stdlib.h>
#include <string.h>

size_t grown_capacity(size_t capacity, size_t need)
{
    if (need > TEXT_MAX)
        return 0;
    capacity = capacity < 32 ? 64 : capacity * 2;
    return capacity < need ? need : capacity;
}

bool text_buffer_reserve(struct text_buffer *b, size_t more)
{
    size_t capacity;
    char *bytes;

    if (more <= b->capacity - b->len)
        return true;
    if (more > TEXT_MAX)
        return false;
    capacity = grown_capacity(b->capacity, b->len + more);
    bytes = capacity ? realloc(b->bytes, capacity) : NULL;
    if (!bytes)
        return false;
    b->bytes = bytes;
    b->capacity = capacity;
    return true;
}

bool text_buffer_append(struct text_buffer *b, const char *bytes, size_t len)
{
    if (!text_buffer_reserve(b, len))
        return false;
    if (len)
        memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    return true;
}

bool token_list_append(struct token_list *l, int32_t id)
{
    if (l->count == l->capacity) {
        size_t capacity = grown_capacity(l->capacity, l->count + 1);
        int32_t *ids = capacity ? realloc(l->id, capacity * sizeof(*ids)) : NULL;

        if (!ids)
            return false;
        l->id = ids;
        l->capacity = capacity;
    }
    l->id[l->count++] = id;
    return true;
}
