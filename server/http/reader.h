/* reader.h - bytes in, one request out: llhttp and the bounds around it.
 *
 * The reader counts every byte that is not body (blank lines, request line, headers, chunk
 * lines, trailers) and demands that each line of them ends in CRLF, which llhttp 8 does not.
 * It holds no socket and calls nobody: it returns at the end of the head, so that the caller
 * can judge it before a body byte is kept, and at the end of the message. Bytes may be cut
 * anywhere. */
#ifndef SERVER_HTTP_READER_H
#define SERVER_HTTP_READER_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>

#include "server/http/request.h"
#include "server/problem.h"

enum reader_event {
    READER_MORE,    /* all bytes used, the request is not complete */
    READER_HEAD,    /* request_check() it, set max_body; feed on if it has a body */
    READER_DONE,    /* the body is complete; a reader serves one request */
    READER_REFUSED, /* problem says why; the rest of the connection means nothing */
};

struct reader {
    llhttp_t parser;
    struct request *request; /* borrowed */
    size_t max_body;
    bool discard; /* the body is counted and dropped */
    struct problem problem;

    enum { READER_IN_HEAD, READER_IN_BODY, READER_IN_TRAILERS } phase;
    enum reader_event paused; /* why llhttp stopped */
    const char *checked;      /* bytes before it passed the line rules */
    bool in_value, after_cr, after_space;
    int data_end; /* bytes still owed of the CRLF behind a chunk's data */
    size_t line;  /* bytes of the line so far */
    size_t head, extension, trailers;
    size_t target;       /* bytes of the request target */
    uint64_t chunk_left; /* of the chunk's data */
    size_t body;         /* bytes of the body so far */
    int chunks;
};

void reader_init(struct reader *r, struct request *request);
enum reader_event reader_feed(struct reader *r, const char *bytes, size_t len, size_t *used);
/* Nothing but blank lines came so far. */
bool reader_blank(const struct reader *r);

#endif
