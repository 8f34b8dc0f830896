#include "tests/bench/event_reader.h"

#include <string.h>

void event_reader_init(struct event_reader *r, void (*take)(void *arg, const char *line), void *arg)
{
    r->take = take;
    r->arg = arg;
    r->head[0] = 0;
    r->head_len = r->line_len = r->left = 0;
    r->at = BODY_HEAD;
    r->midline = r->extension = false;
}

static bool take_head(struct event_reader *r, char c)
{
    if (r->head_len == READER_HEAD_BYTES)
        return false;
    r->head[r->head_len++] = c;
    r->head[r->head_len] = 0;
    if (r->head_len < 4 || memcmp(r->head + r->head_len - 4, "\r\n\r\n", 4) != 0)
        return true;
    r->at = strcasestr(r->head, "\r\ntransfer-encoding: chunked") ? BODY_SIZE : BODY_RAW;
    return strncmp(r->head, "HTTP/1.1 200 ", 13) == 0;
}

static void take_text(struct event_reader *r, char c)
{
    if (c == '\n') {
        r->line[r->line_len] = 0;
        r->line_len = 0;
        r->take(r->arg, r->line);
    } else if (c != '\r' && r->line_len < READER_LINE_BYTES) {
        r->line[r->line_len++] = c;
    }
}

static void take_size(struct event_reader *r, char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *digit = c ? strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c) : NULL;

    if (c == ';')
        r->extension = true;
    if (digit && !r->extension)
        r->left = r->left * 16 + (size_t)(digit - digits);
    if (c == '\n') {
        r->at = r->left ? BODY_DATA : BODY_TRAILER;
        r->extension = false;
    }
}

/* Lines until an empty one. */
static void take_trailer(struct event_reader *r, char c)
{
    if (c == '\n' && !r->midline)
        r->at = BODY_OVER;
    else if (c != '\r')
        r->midline = c != '\n';
}

enum reading event_reader_add(struct event_reader *r, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (r->at) {
        case BODY_HEAD:
            if (!take_head(r, bytes[i]))
                return READ_WRONG;
            break;
        case BODY_RAW:
            take_text(r, bytes[i]);
            break;
        case BODY_SIZE:
            take_size(r, bytes[i]);
            break;
        case BODY_DATA:
            take_text(r, bytes[i]);
            if (--r->left == 0)
                r->at = BODY_DATA_END;
            break;
        case BODY_DATA_END:
            if (bytes[i] == '\n')
                r->at = BODY_SIZE;
            break;
        case BODY_TRAILER:
            take_trailer(r, bytes[i]);
            break;
        case BODY_OVER:
            break;
        }
    }
    return r->at == BODY_OVER ? READ_WHOLE : READING;
}

bool event_reader_keeps(const struct event_reader *r)
{
    return r->at == BODY_OVER && !strcasestr(r->head, "\r\nconnection: close");
}
