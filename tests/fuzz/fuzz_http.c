/* Bytes of a client, cut where the fuzzer likes, through the reader, the rules of a head and
 * the router. The first byte seeds the cuts. Whole or in pieces, a stream of bytes must give
 * the same requests and the same refusal, and what is served must satisfy the rules that
 * llhttp leaves to us. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/reader.h"
#include "server/http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_BODY = 4096, NOTES = 1 << 16 };

static void nothing(struct exchange *x, void *app)
{
    (void)x;
    (void)app;
}

static const struct route routes[] = {
    { METHOD_GET, "/health", nothing, 0, NULL, NULL, true, NULL },
    { METHOD_POST, "/v1/completions", nothing, 0, "application/json", NULL, false, NULL },
    { METHOD_GET, "/v1/sessions/{id}", nothing, 0, NULL, "limit,after", false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/fork", nothing, 0, "application/json", NULL, false, NULL },
    { 0 },
};

static void require(bool truth)
{
    if (!truth)
        abort();
}

static void note(struct buffer *notes, const char *text)
{
    if (notes->len < NOTES)
        require(buffer_printf(notes, "%s\n", text));
}

static void judge(struct reader *r, struct buffer *notes)
{
    struct request *q = r->request;
    const struct route *route;
    struct problem p = { 0 };
    char allow[ALLOW_BYTES];

    require(q->headers <= LIMIT_HEADER_COUNT && r->head <= LIMIT_HEADER_BYTES);
    require(q->major == 1 && (q->minor == 0 || q->minor == 1));
    require(q->minor == 0 || request_header(q, "host"));
    require(!q->chunked || (q->minor == 1 && !request_header(q, "content-length")));
    require(strlen(q->path) <= LIMIT_URI_BYTES);
    note(notes, q->path);
    for (int i = 0; i < q->headers; i++) {
        const char *value = q->text.bytes + q->header[i].value;

        require(!strpbrk(value, "\r\n"));
        note(notes, q->text.bytes + q->header[i].name);
        note(notes, value);
    }
    if (!router_find(routes, q, &route, allow, &p))
        note(notes, problem_row(p.what)->code);
    else if (route && strchr(route->pattern, '{'))
        note(notes, router_param(route, q, "id"));
    note(notes, request_query(q, "a") ? request_query(q, "a") : "-");
}

/* Serves one request from the bytes; returns how many it used, and whether one may follow. */
static size_t serve(const uint8_t *data, size_t size, uint32_t *cuts, struct buffer *notes,
                    bool *more)
{
    struct request request = { 0 };
    struct reader r;
    enum reader_event event = READER_MORE;
    size_t at = 0;

    reader_init(&r, &request);
    while (event == READER_MORE && at < size) {
        size_t piece = size - at, used;
        char *copy;

        if (*cuts) {
            *cuts = *cuts * 1664525u + 1013904223u;
            piece = (*cuts >> 24) % 16 + 1 < piece ? (*cuts >> 24) % 16 + 1 : piece;
        }
        copy = malloc(piece); /* of its own, so that a byte beyond it is seen */
        require(copy);
        memcpy(copy, data + at, piece);
        event = reader_feed(&r, copy, piece, &used);
        free(copy);
        require(used <= piece && (event != READER_MORE || used == piece));
        at += used;
        if (event != READER_HEAD)
            continue;
        r.max_body = MAX_BODY;
        if (!request_check(&request, &r.problem)) {
            event = READER_REFUSED;
        } else {
            judge(&r, notes);
            event = request_has_body(&request) ? READER_MORE : READER_DONE;
        }
    }
    require(request.body.len <= MAX_BODY && r.parser.lenient_flags == 0);
    if (event == READER_DONE)
        note(notes, request_has_body(&request) ? "done with a body" : "done");
    if (event == READER_REFUSED)
        note(notes, "refused"); /* which limit is hit first may depend on the cuts */
    *more = event == READER_DONE && request.keep_alive;
    request_finish(&request);
    return at;
}

static void serve_all(const uint8_t *data, size_t size, uint32_t cuts, struct buffer *notes)
{
    bool more = true;

    for (size_t at = 0; more && at < size;)
        at += serve(data + at, size - at, &cuts, notes, &more);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer whole = { 0 }, cut = { 0 };

    if (size == 0)
        return 0;
    serve_all(data + 1, size - 1, 0, &whole);
    serve_all(data + 1, size - 1, data[0] + 1u, &cut);
    require(whole.len == cut.len && (whole.len == 0 || !memcmp(whole.bytes, cut.bytes, cut.len)));
    buffer_finish(&whole);
    buffer_finish(&cut);
    return 0;
}
