/* The answer of an exchange: whole, refused or as a stream.
 *
 * Every answer begins in begin(), which writes the head, and ends in finish(), which frees
 * the exchange. A late call for a client that is gone does nothing but free. */
#include <stdlib.h>
#include <string.h>

#include "server/http/http_internal.h"
#include "server/http/origin.h"

static const struct {
    int status;
    const char *text;
} reasons[] = {
    { 200, "OK" },
    { 201, "Created" },
    { 202, "Accepted" },
    { 204, "No Content" },
    { 400, "Bad Request" },
    { 401, "Unauthorized" },
    { 403, "Forbidden" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 408, "Request Timeout" },
    { 409, "Conflict" },
    { 410, "Gone" },
    { 412, "Precondition Failed" },
    { 413, "Content Too Large" },
    { 414, "URI Too Long" },
    { 415, "Unsupported Media Type" },
    { 422, "Unprocessable Content" },
    { 429, "Too Many Requests" },
    { 431, "Request Header Fields Too Large" },
    { STATUS_GONE, "Client Closed Request" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 503, "Service Unavailable" },
    { 504, "Gateway Timeout" },
    { 505, "HTTP Version Not Supported" },
    { 507, "Insufficient Storage" },
};

static const char *reason(int status)
{
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return "";
}

/* A value that could end its line early may hold a client's text: it is left out. */
void exchange_set_header(struct exchange *x, const char *name, const char *value)
{
    for (const char *at = value; *at; at++)
        if (((unsigned char)*at < ' ' && *at != '\t') || *at == 0x7f)
            return;
    buffer_printf(&x->headers, "%s: %s\r\n", name, value);
}

static bool add_type(struct buffer *out, const char *type)
{
    bool events = strncmp(type, "text/event-stream", 17) == 0;
    bool fresh = events || strncmp(type, "application/json", 16) == 0;

    return buffer_printf(out, "Content-Type: %s\r\n%s%s", type,
                         fresh ? "Cache-Control: no-store\r\n" : "",
                         events ? "X-Accel-Buffering: no\r\n" : "");
}

/* The head. length: of the body, or -1 for a stream. */
static void begin(struct exchange *x, int status, const char *type, long length)
{
    struct connection *c = x->c;
    struct buffer *out = &c->out;
    size_t before = out->len;
    bool old = x->judged && x->request.minor == 0;
    bool ok;

    x->status = status;
    x->bodyless = status == 204 || (x->judged && x->request.method == HTTP_HEAD);
    x->chunked = length < 0 && !old;
    x->keep = x->request.keep_alive && !x->refused_for_good && !x->server->draining &&
              (length >= 0 || x->chunked);

    ok = buffer_printf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nx-request-id: %s\r\n", status,
                       reason(status), server_date(c->server), x->id.text);
    if (type)
        ok &= add_type(out, type);
    if (x->chunked)
        ok &= buffer_printf(out, "Transfer-Encoding: chunked\r\n");
    else if (length >= 0 && status != 204)
        ok &= buffer_printf(out, "Content-Length: %ld\r\n", length);
    origin_answer(x);
    if (!x->keep || old)
        ok &= buffer_printf(out, "Connection: %s\r\n", x->keep ? "keep-alive" : "close");
    ok &= buffer_append(out, x->headers.bytes, x->headers.len);
    ok &= buffer_append(out, "\r\n", 2);
    x->bytes += out->len - before;
    if (!ok)
        connection_break(c);
}

static void finish(struct exchange *x)
{
    struct connection *c = x->c;
    bool keep = x->keep;

    exchange_report(x, x->status);
    exchange_destroy(x);
    connection_finish(c, keep);
}

void exchange_reply(struct exchange *x, int status, const char *type, const void *body, size_t len)
{
    if (!x->c) {
        exchange_destroy(x);
        return;
    }
    begin(x, status, type, (long)len);
    if (!x->bodyless) {
        connection_write(x->c, body, len);
        x->bytes += len;
    }
    finish(x);
}

void exchange_reply_take(struct exchange *x, int status, const char *type, void *body, size_t len)
{
    if (!x->c) {
        exchange_destroy(x);
        free(body);
        return;
    }
    begin(x, status, type, (long)len);
    if (x->bodyless || x->c->broken) {
        free(body);
    } else {
        x->c->body = body;
        x->c->body_len = len;
        x->c->claim = x->claim;
        x->claim = NULL;
        claim_cut(x->c->claim, len);
        x->bytes += len;
    }
    finish(x);
}

/* Bytes of the UTF-8 sequence at s, 0 when it is none. NUL-ended text only. */
static size_t sequence(const unsigned char *s)
{
    size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    if (s[0] > 0xf4 || (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

/* A problem may quote the client, and may be cut inside a character. */
static bool add_string(struct buffer *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    bool ok = buffer_append(out, "\"", 1);

    while (*s) {
        size_t len = sequence(s);

        if (len == 0)
            ok &= buffer_append(out, "\xef\xbf\xbd", 3);
        else if (*s == '"' || *s == '\\')
            ok &= buffer_printf(out, "\\%c", *s);
        else if (*s < ' ' || *s == 0x7f)
            ok &= buffer_printf(out, "\\u%04x", *s);
        else
            ok &= buffer_append(out, s, len);
        s += len ? len : 1;
    }
    return buffer_append(out, "\"", 1) && ok;
}

void exchange_refuse(struct exchange *x, const struct problem *p)
{
    const struct problem_row *row = problem_row(p->what);
    struct buffer body = { 0 };
    int status = row->status;
    bool retried = status == 409 || status == 412 || status == 429 || status >= 500;
    bool ok = buffer_printf(&body, "{\"error\":{\"message\":") && add_string(&body, p->message) &&
              buffer_printf(&body, ",\"type\":\"%s\",\"param\":", row->type) &&
              (p->param[0] ? add_string(&body, p->param) : buffer_append(&body, "null", 4)) &&
              buffer_printf(&body, ",\"code\":\"%s\"}}", row->code);

    x->problem = row;
    if (status == 401)
        exchange_set_header(x, "WWW-Authenticate", "Bearer");
    if (status == 405)
        exchange_set_header(x, "Allow", x->allow);
    if ((status == 409 || status == 429 || status == 503) && row->retry)
        exchange_set_header(x, "Retry-After", "1");
    if (retried && !row->retry)
        exchange_set_header(x, "x-should-retry", "false");
    if (!ok)
        buffer_finish(&body);
    exchange_reply_take(x, status, "application/json", body.bytes, body.len);
}

void exchange_stream(struct exchange *x, int status, const char *type)
{
    if (x->c)
        begin(x, status, type, -1);
}

/* What is sent as one piece, in up to three parts: one chunk on HTTP/1.1. */
static void write_piece(struct exchange *x, const char *before, const void *bytes, size_t len,
                        const char *after)
{
    struct connection *c = x->c;
    size_t head = strlen(before), tail = strlen(after);
    size_t start;

    if (!c || c->broken || x->bodyless || head + len + tail == 0)
        return;
    start = c->out.len;
    if (!buffer_reserve(&c->out, head + len + tail + 32)) {
        connection_break(c);
        return;
    }
    if (x->chunked)
        buffer_printf(&c->out, "%zx\r\n", head + len + tail);
    buffer_append(&c->out, before, head);
    buffer_append(&c->out, bytes, len);
    buffer_append(&c->out, after, tail);
    if (x->chunked)
        buffer_append(&c->out, "\r\n", 2);
    x->bytes += c->out.len - start;
    x->over |= connection_backlog(c) > LIMIT_WRITE_QUEUE_BYTES;
}

void exchange_write(struct exchange *x, const void *bytes, size_t len)
{
    write_piece(x, "", bytes, len, "");
}

void exchange_event(struct exchange *x, const void *data, size_t len)
{
    write_piece(x, "data: ", data, len, "\n\n");
}

void exchange_flush(struct exchange *x)
{
    if (x->c)
        connection_flush(x->c);
}

void exchange_end(struct exchange *x, bool whole)
{
    if (!x->c) {
        exchange_destroy(x);
        return;
    }
    if (!whole) {
        if (x->problem && x->problem->status == STATUS_GONE)
            x->status = STATUS_GONE;
        x->keep = false;
        x->c->reset = !x->chunked;
    } else if (x->chunked && !x->bodyless) {
        connection_write(x->c, "0\r\n\r\n", 5);
        x->bytes += 5;
    }
    finish(x);
}

size_t exchange_backlog(const struct exchange *x)
{
    return x->c ? connection_backlog(x->c) : 0;
}
