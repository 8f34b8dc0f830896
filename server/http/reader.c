#include "server/http/reader.h"

#include <ctype.h>
#include <string.h>

/* A chunk line's size: at most 16 digits, CR and LF. What is longer counts as extension. */
enum { CHUNK_LINE = 18 };

static int refuse(struct reader *r, enum problem_code what, const char *why)
{
    problem_set(&r->problem, what, NULL, "%s", why);
    return HPE_USER;
}

static bool count_head(struct reader *r)
{
    if (++r->head <= LIMIT_HEADER_BYTES)
        return true;
    if (reader_blank(r))
        refuse(r, PROBLEM_BAD_REQUEST, "only blank lines where a request was expected");
    else
        refuse(r, PROBLEM_HEADERS_TOO_LARGE, "the request's head is too large");
    return false;
}

static bool count_body(struct reader *r)
{
    if (r->phase == READER_IN_TRAILERS) {
        if (++r->trailers > LIMIT_TRAILER_BYTES) {
            refuse(r, PROBLEM_HEADERS_TOO_LARGE, "the trailers are too large");
            return false;
        }
    } else if (r->line > CHUNK_LINE && ++r->extension > LIMIT_CHUNK_EXTENSION_BYTES) {
        refuse(r, PROBLEM_CHUNK_EXTENSION, "the chunk extensions are too large");
        return false;
    }
    return true;
}

/* The rules of every byte that is not body data: CR and LF only as a pair, no other control
 * character but a tab, no line that begins with white space (a folded header), and CRLF
 * directly behind a chunk's data. llhttp's loose build lets each of these pass somewhere. */
static bool well_formed(struct reader *r, char byte)
{
    unsigned char b = (unsigned char)byte;

    if (r->data_end > 0 && b != (r->data_end == 2 ? '\r' : '\n'))
        return false;
    if (r->data_end > 0)
        r->data_end--;
    if (r->after_cr != (b == '\n'))
        return false;
    if (r->line == 1 && (b == ' ' || b == '\t'))
        return false;
    return (b >= ' ' && b != 0x7f) || b == '\t' || b == '\r' || b == '\n';
}

static bool check_lines(struct reader *r, const char *end)
{
    for (const char *at = r->checked; at < end; at++) {
        r->line++;
        if (!well_formed(r, *at)) {
            refuse(r, PROBLEM_BAD_REQUEST, "a line is not ended by CRLF or holds a bad character");
            return false;
        }
        if (r->phase == READER_IN_HEAD ? !count_head(r) : !count_body(r))
            return false;
        r->after_cr = *at == '\r';
        if (r->request->line == 0 && r->after_space)
            r->request->protocol = *at;
        r->after_space = *at == ' ';
        if (*at != '\n')
            continue;
        if (r->request->line == 0)
            r->request->line = r->line - 2;
        r->line = 0;
    }
    r->checked = end;
    return true;
}

static bool keep(struct reader *r, const char *bytes, size_t len)
{
    struct buffer *text = &r->request->text;

    if (text->len + len > LIMIT_HEADER_BYTES + 2 * LIMIT_HEADER_COUNT) {
        refuse(r, PROBLEM_HEADERS_TOO_LARGE, "the request's head is too large");
        return false;
    }
    if (!buffer_append(text, bytes, len)) {
        refuse(r, PROBLEM_OUT_OF_MEMORY, "out of memory");
        return false;
    }
    return true;
}

static int on_url(llhttp_t *parser, const char *at, size_t len)
{
    struct reader *r = parser->data;

    r->target += len;
    if (r->target > LIMIT_URI_BYTES)
        return refuse(r, PROBLEM_URI_TOO_LONG, "the request target is too long");
    return keep(r, at, len) ? 0 : HPE_USER;
}

/* Ends the text of the target or of a value, without the white space behind a value. */
static bool end_text(struct reader *r)
{
    struct request *q = r->request;

    if (r->in_value) {
        size_t from = q->header[q->headers - 1].value;

        while (q->text.len > from && strchr(" \t", q->text.bytes[q->text.len - 1]))
            q->text.len--;
    }
    return keep(r, "", 1);
}

static int count_trailer(struct reader *r, size_t len)
{
    r->trailers += len;
    if (r->trailers > LIMIT_TRAILER_BYTES)
        return refuse(r, PROBLEM_HEADERS_TOO_LARGE, "the trailers are too large");
    return 0;
}

static int on_header_field(llhttp_t *parser, const char *at, size_t len)
{
    struct reader *r = parser->data;
    struct request *q = r->request;

    if (r->phase != READER_IN_HEAD)
        return count_trailer(r, len);
    if (q->headers == 0 || r->in_value) {
        if (q->headers == LIMIT_HEADER_COUNT)
            return refuse(r, PROBLEM_HEADERS_TOO_LARGE, "too many header fields");
        if (!end_text(r))
            return HPE_USER;
        r->in_value = false;
        q->header[q->headers++].name = (uint32_t)q->text.len;
    }
    if (!keep(r, at, len))
        return HPE_USER;
    for (size_t i = q->text.len - len; i < q->text.len; i++)
        q->text.bytes[i] = (char)tolower((unsigned char)q->text.bytes[i]);
    return 0;
}

static int on_header_field_complete(llhttp_t *parser)
{
    struct reader *r = parser->data;
    struct request *q = r->request;

    if (r->phase != READER_IN_HEAD || q->headers == 0)
        return 0;
    if (!keep(r, "", 1))
        return HPE_USER;
    q->header[q->headers - 1].value = (uint32_t)q->text.len;
    r->in_value = true;
    return 0;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t len)
{
    struct reader *r = parser->data;

    if (r->phase != READER_IN_HEAD)
        return count_trailer(r, len);
    return keep(r, at, len) ? 0 : HPE_USER;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct reader *r = parser->data;
    struct request *q = r->request;

    if (r->phase != READER_IN_HEAD) /* llhttp does not call it for trailers */
        return 0;
    if (!end_text(r))
        return HPE_USER;
    q->method = parser->method;
    q->major = parser->http_major;
    q->minor = parser->http_minor;
    q->content_length = parser->content_length;
    q->keep_alive = llhttp_should_keep_alive(parser) != 0;
    r->paused = READER_HEAD;
    return HPE_PAUSED;
}

static int on_chunk_header(llhttp_t *parser)
{
    struct reader *r = parser->data;

    r->chunk_left = parser->content_length;
    if (r->chunk_left == 0) {
        r->phase = READER_IN_TRAILERS;
        return 0;
    }
    if (r->chunk_left > r->max_body - r->body)
        return refuse(r, PROBLEM_PAYLOAD_TOO_LARGE, "the request body is too large");
    if (++r->chunks > LIMIT_CHUNK_COUNT)
        return refuse(r, PROBLEM_PAYLOAD_TOO_LARGE, "the request body has too many chunks");
    return 0;
}

/* The body is kept as it arrives, at most twice over: a length that was only promised costs
 * nothing. */
static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct reader *r = parser->data;

    if (!check_lines(r, at))
        return HPE_USER;
    r->checked = at + len;
    if (len > r->max_body - r->body)
        return refuse(r, PROBLEM_PAYLOAD_TOO_LARGE, "the request body is too large");
    r->body += len;
    if (r->request->chunked) {
        r->chunk_left -= len;
        r->data_end = r->chunk_left == 0 ? 2 : 0;
    }
    if (!r->discard && !buffer_append(&r->request->body, at, len))
        return refuse(r, PROBLEM_OUT_OF_MEMORY, "out of memory");
    return 0;
}

static int on_message_complete(llhttp_t *parser)
{
    struct reader *r = parser->data;

    r->paused = READER_DONE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_chunk_header = on_chunk_header,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

void reader_init(struct reader *r, struct request *request)
{
    *r = (struct reader){ .request = request };
    llhttp_init(&r->parser, HTTP_REQUEST, &settings);
    r->parser.data = r;
}

bool reader_blank(const struct reader *r)
{
    return r->target == 0 && r->line <= 1 && r->request->headers == 0;
}

static enum reader_event refused(struct reader *r, llhttp_errno_t e)
{
    if (r->problem.what != PROBLEM_NONE)
        return READER_REFUSED;
    if (e == HPE_INVALID_VERSION || e == HPE_PAUSED_H2_UPGRADE)
        refuse(r, PROBLEM_HTTP_VERSION, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    else
        problem_set(&r->problem, PROBLEM_BAD_REQUEST, NULL, "malformed request: %s",
                    llhttp_get_error_reason(&r->parser));
    return READER_REFUSED;
}

enum reader_event reader_feed(struct reader *r, const char *bytes, size_t len, size_t *used)
{
    llhttp_errno_t e;
    const char *end;

    if (llhttp_get_errno(&r->parser) == HPE_PAUSED)
        llhttp_resume(&r->parser);
    r->checked = bytes;
    e = llhttp_execute(&r->parser, bytes, len);
    end = e == HPE_OK ? bytes + len : llhttp_get_error_pos(&r->parser);
    *used = (size_t)(end - bytes);

    if (e != HPE_OK && e != HPE_PAUSED)
        return refused(r, e);
    if (!check_lines(r, end))
        return READER_REFUSED;
    if (e == HPE_OK)
        return READER_MORE;
    if (r->paused == READER_HEAD)
        r->phase = READER_IN_BODY;
    return r->paused;
}
