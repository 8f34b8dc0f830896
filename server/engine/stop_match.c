#include "server/engine/stop_match.h"

#include <stdlib.h>
#include <string.h>

#include "models/text/text_buffer.h"

void stop_match_init(struct stop_match *m, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops)
{
    *m = (struct stop_match){ .stop = stop, .stops = stops };
}

void stop_match_finish(struct stop_match *m)
{
    free(m->held.bytes);
    m->held = (struct text_buffer){ 0 };
}

/* The first n bytes that are held are no stop string. */
static bool let_go(struct stop_match *m, size_t n, struct text_buffer *out)
{
    if (!n)
        return true;
    if (!text_buffer_append(out, m->held.bytes, n))
        return false;
    memmove(m->held.bytes, m->held.bytes + n, m->held.len - n);
    m->held.len -= n;
    m->passed -= n < m->passed ? n : m->passed;
    return true;
}

/* Where the first stop string begins; b->len when there is none. */
static size_t find_stop(const struct stop_match *m, const char **hit)
{
    size_t best = m->held.len;

    *hit = NULL;
    for (int i = 0; i < m->stops; i++) {
        const size_t len = strlen(m->stop[i]);
        const size_t from = m->passed < len ? 0 : m->passed - len + 1;
        const char *at = memmem(m->held.bytes + from, m->held.len - from, m->stop[i], len);

        if (at && (size_t)(at - m->held.bytes) < best) {
            best = (size_t)(at - m->held.bytes);
            *hit = m->stop[i];
        }
    }
    return best;
}

/* How many bytes at the end of the text may be the beginning of a stop string. */
static size_t open_suffix(const struct stop_match *m)
{
    size_t longest = 0;

    for (int i = 0; i < m->stops; i++) {
        size_t n = strlen(m->stop[i]) - 1;

        for (n = n < m->held.len ? n : m->held.len; n > longest; n--)
            if (memcmp(m->held.bytes + m->held.len - n, m->stop[i], n) == 0)
                longest = n;
    }
    return longest;
}

bool stop_match_add(struct stop_match *m, const char *text, size_t len, struct text_buffer *out,
                    const char **hit)
{
    size_t safe;

    *hit = NULL;
    if (!len)
        return true;
    if (!m->stops)
        return text_buffer_append(out, text, len);
    if (!text_buffer_append(&m->held, text, len))
        return false;
    safe = find_stop(m, hit);
    if (!*hit)
        safe = m->held.len - open_suffix(m);
    return let_go(m, safe, out);
}

bool stop_match_pass(struct stop_match *m, const char *text, size_t len, struct text_buffer *out)
{
    if (!len)
        return true;
    if (!m->stops)
        return text_buffer_append(out, text, len);
    if (!text_buffer_append(&m->held, text, len))
        return false;
    m->passed = m->held.len;
    return let_go(m, m->held.len - open_suffix(m), out);
}

bool stop_match_flush(struct stop_match *m, struct text_buffer *out)
{
    return let_go(m, m->held.len, out);
}
