/* detokenizer.c - see detokenizer.h. */
#include "models/text/detokenizer.h"

#include <string.h>

#include "models/text/text_buffer.h"
#include "models/text/tokenizer_internal.h"
#include "models/text/utf8.h"

static const char replacement[] = "\xef\xbf\xbd";

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool special)
{
    *d = (struct detokenizer){ .tokenizer = t, .special = special };
}

/* One byte of a token after what is held; the room was reserved. A byte that breaks what is
 * held is looked at again as the beginning of a character. */
static void take_byte(struct detokenizer *d, char byte, struct text_buffer *out)
{
    size_t len;

    for (;;) {
        d->held[d->held_len] = (unsigned char)byte;
        switch (utf8_next((const char *)d->held, (size_t)d->held_len + 1, &len)) {
        case UTF8_PARTIAL:
            d->held_len++;
            return;
        case UTF8_CHARACTER:
            memcpy(out->bytes + out->len, d->held, len);
            out->len += len;
            d->held_len = 0;
            return;
        case UTF8_BROKEN:
            memcpy(out->bytes + out->len, replacement, 3);
            out->len += 3;
            if (d->held_len == 0)
                return;
            d->held_len = 0;
            break;
        }
    }
}

bool detokenizer_add(struct detokenizer *d, int32_t id, struct text_buffer *out)
{
    const struct tokenizer *t = d->tokenizer;
    size_t len, skip = 0;
    const char *bytes;

    if (!d->special && tokenizer_is_special(t, id))
        return true;
    bytes = tokenizer_token_bytes(t, id, &len);
    /* A byte writes at most a replacement for what is held and one for itself. */
    if (len == 0 || !text_buffer_reserve(out, 3 * len + 3))
        return len == 0;
    if (!d->started) {
        while (skip < len && skip < t->decoded.lead && bytes[skip] == ' ')
            skip++;
        d->started = true;
    }
    for (size_t i = skip; i < len; i++)
        take_byte(d, bytes[i], out);
    return true;
}

bool detokenizer_finish(struct detokenizer *d, struct text_buffer *out)
{
    if (d->held_len > 0 && !text_buffer_append(out, replacement, 3))
        return false;
    d->held_len = 0;
    return true;
}
