/* text_buffer.h - growing the byte strings and id lists of the public headers.
 *
 * No text of this folder is longer than TEXT_MAX bytes, so offsets fit in 32 bits. A buffer
 * that would be longer is refused as if memory had run out. One thread at a time. */
#ifndef MODELS_TEXT_TEXT_BUFFER_H
#define MODELS_TEXT_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/detokenizer.h"
#include "models/text/tokenizer.h"

enum { TEXT_MAX = 1 << 30 };

/* Room for `more` bytes after those there are. */
bool text_buffer_reserve(struct text_buffer *b, size_t more);
bool text_buffer_append(struct text_buffer *b, const char *bytes, size_t len);

bool token_list_append(struct token_list *l, int32_t id);

/* The capacity to reallocate to so that `need` items fit: at least doubles; 0 when that is
 * more than TEXT_MAX items. */
size_t grown_capacity(size_t capacity, size_t need);

#endif
