/* request.h - one request: its head as text, its target decoded, its body.
 *
 * reader.c fills it from bytes; request_check() holds every rule about a complete head that
 * llhttp leaves to its user (reference: RFC 9110, 9112). Names are lower case. Nothing here
 * knows a socket. */
#ifndef SERVER_HTTP_REQUEST_H
#define SERVER_HTTP_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "config/limits.h"
#include "server/http/buffer.h"

struct problem;

enum { SEGMENTS_MAX = 8 };

struct request {
    int method;               /* of llhttp */
    int major, minor;         /* HTTP version */
    size_t line;              /* bytes of the request line without its CRLF */
    char protocol;            /* the last word's first letter: llhttp takes RTSP and ICE, too */
    bool keep_alive, chunked; /* as the head asks */
    uint64_t content_length;  /* 0 when chunked */
    struct buffer text;       /* target, names and values, each NUL-ended */
    struct {
        uint32_t name, value; /* offsets into text */
    } header[LIMIT_HEADER_COUNT];
    int headers;

    char *decoded;                     /* backs what follows */
    const char *authority;             /* of a target that names one, else NULL */
    const char *path;                  /* without the query */
    const char *segment[SEGMENTS_MAX]; /* of the path, split at its slashes, then decoded */
    int segments;                      /* -1: no route can match it */
    const char *query, *query_end;     /* name NUL value NUL ... */

    struct buffer body;
};

/* After the head was read. false: the request may not be served and the connection cannot be
 * kept. Decodes the target and sets chunked and content_length. */
bool request_check(struct request *r, struct problem *p);
/* The value of the header of that name, of several lines "one, two"; NULL when absent. */
const char *request_header(const struct request *r, const char *name);
/* The same of a head that was given up, for what came whole: all lines but the last. NULL also when
 * several have the name. */
const char *request_header_so_far(const struct request *r, const char *name);
/* Whom it asks for: the target's authority, else Host; NULL when there is neither. */
const char *request_host(const struct request *r);
const char *request_query(const struct request *r, const char *name);
/* Whether it is one of the names, which have commas between them; NULL: there are none. */
bool is_among(const char *name, const char *names);
/* Whether the query gives none but these names, and each once. */
bool request_check_query(const struct request *r, const char *names, struct problem *p);
bool request_has_body(const struct request *r);
/* "type/subtype" compared without case and without parameters. */
bool request_has_type(const struct request *r, const char *type);
void request_finish(struct request *r);

#endif
