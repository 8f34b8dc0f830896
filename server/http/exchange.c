/* One request on its way to a handler: judged when its head is complete, handed out when its
 * body is, lost when its client leaves. response.c holds the way back. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/http_internal.h"
#include "server/http/origin.h"

struct exchange *exchange_create(struct connection *c)
{
    struct exchange *x = calloc(1, sizeof(*x));

    if (!x)
        return NULL;
    x->c = c;
    x->server = c->server;
    x->started = uv_hrtime();
    reader_init(&x->reader, &x->request);
    return x;
}

void exchange_destroy(struct exchange *x)
{
    request_finish(&x->request);
    buffer_finish(&x->headers);
    claim_release(x->claim);
    free(x);
}

static size_t most_body(const struct exchange *x)
{
    return x->route && x->route->max_body ? x->route->max_body : LIMIT_BODY_BYTES;
}

/* Chunks do not say how much is to come. */
static bool claim(struct exchange *x, struct problem *p)
{
    const struct request *r = &x->request;
    const size_t most = most_body(x);
    const size_t body = r->chunked || r->content_length > most ? most : (size_t)r->content_length;

    if (!x->route->weigh)
        return true;
    x->claim =
        claim_take(x->server, x->client, x->route->weigh(x, x->server->options.app) + body, p);
    return x->claim;
}

/* Why a well-framed request is not given to a handler; the connection can be kept. */
static bool admit(struct exchange *x, struct problem *p)
{
    const struct http_options *o = &x->server->options;
    const struct request *r = &x->request;
    const char *encoding = request_header(r, "content-encoding");

    if (!router_find(o->routes, r, &x->route, x->allow, p))
        return false;
    if (x->server->draining)
        return problem_set(p, PROBLEM_SHUTTING_DOWN, NULL, "the server is shutting down");
    if (!x->route)
        return true;
    if (x->server->local && !host_check(o->origins, r, p))
        return false;
    if (!origin_check(o->origins, r, p))
        return false;
    if (!x->server->ready && !x->route->plain)
        return problem_set(p, PROBLEM_LOADING, NULL, "the model is being loaded");
    if (o->admit && !x->route->plain && !o->admit(o->app, x, &x->client, p))
        return false;
    if (!x->route->plain && !request_check_query(r, x->route->query, p))
        return false;
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return problem_set(p, PROBLEM_CONTENT_ENCODING, NULL, "send the body unencoded");
    if (x->route->takes && request_has_body(r) && !request_has_type(r, x->route->takes))
        return problem_set(p, PROBLEM_MEDIA_TYPE, NULL, "Content-Type must be %s", x->route->takes);
    return claim(x, p);
}

bool exchange_expects(const struct exchange *x)
{
    const char *expect = request_header(&x->request, "expect");

    return x->request.minor == 1 && expect && strcasecmp(expect, "100-continue") == 0;
}

enum reader_event exchange_judge(struct exchange *x)
{
    struct reader *reader = &x->reader;

    x->judged = true;
    if (!request_check(&x->request, &reader->problem))
        return READER_REFUSED;
    x->refused = !admit(x, &reader->problem);
    if (!request_has_body(&x->request))
        return READER_DONE;
    if (x->refused && reader->problem.what == PROBLEM_API_KEY)
        return READER_REFUSED; /* the unknown send no bodies */

    reader->discard = x->refused;
    reader->max_body = most_body(x);
    if (x->request.content_length > reader->max_body) {
        problem_set(&reader->problem, PROBLEM_PAYLOAD_TOO_LARGE, NULL,
                    "the request body is larger than %zu bytes", reader->max_body);
        return READER_REFUSED;
    }
    return x->refused && exchange_expects(x) ? READER_REFUSED : READER_MORE;
}

static void choose_id(struct exchange *x)
{
    const char *id = x->judged ? request_header(&x->request, "x-request-id") : NULL;
    size_t len = id ? strlen(id) : 0;
    bool fits = len > 0 && len < sizeof(x->id.text);

    for (size_t i = 0; fits && i < len; i++)
        fits = isgraph((unsigned char)id[i]);
    if (fits)
        memcpy(x->id.text, id, len + 1);
    else
        id_generate(&x->id, "req");
}

void exchange_dispatch(struct exchange *x)
{
    x->handed = true;
    choose_id(x);
    if (x->refused || x->refused_for_good)
        exchange_refuse(x, &x->reader.problem);
    else if (!x->route) {
        exchange_set_header(x, "Allow", x->allow);
        exchange_reply(x, 204, NULL, NULL, 0);
    } else {
        x->route->handle(x, x->server->options.app);
    }
}

void exchange_report(const struct exchange *x, int status)
{
    const struct http_options *o = &x->server->options;

    if (o->answered)
        o->answered(o->app, x, status, (double)(uv_hrtime() - x->started) * 1e-9, x->bytes);
}

void exchange_lose(struct exchange *x)
{
    x->c = NULL;
    if (!x->handed) {
        exchange_destroy(x);
        return;
    }
    exchange_report(x, STATUS_GONE);
    if (x->gone)
        x->gone(x, x->owner);
}

void exchange_took(struct exchange *x)
{
    if (!x->over || connection_backlog(x->c) >= LIMIT_WRITE_QUEUE_BYTES / 2)
        return;
    x->over = false;
    if (x->drained)
        x->drained(x, x->owner);
}

const char *exchange_method(const struct exchange *x)
{
    return x->judged ? llhttp_method_name((llhttp_method_t)x->request.method) : "";
}

const char *exchange_path(const struct exchange *x)
{
    return x->request.path ? x->request.path : "";
}

const char *exchange_route(const struct exchange *x)
{
    return x->route ? x->route->pattern : "";
}

const char *exchange_param(const struct exchange *x, const char *name)
{
    return x->route ? router_param(x->route, &x->request, name) : NULL;
}

const char *exchange_query(const struct exchange *x, const char *name)
{
    return request_query(&x->request, name);
}

const char *exchange_queries(const struct exchange *x, size_t *len)
{
    *len = (size_t)(x->request.query_end - x->request.query);
    return x->request.query;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    if (strcmp(name, "x-request-id") == 0)
        return x->id.text;
    return x->judged ? request_header(&x->request, name) : NULL;
}

uint64_t exchange_client(const struct exchange *x)
{
    return x->client;
}

const char *exchange_body(const struct exchange *x, size_t *len)
{
    *len = x->request.body.len;
    return *len > 0 ? x->request.body.bytes : "";
}

const struct problem_row *exchange_problem(const struct exchange *x)
{
    return x->problem;
}

void exchange_fail(struct exchange *x, const struct problem *p)
{
    x->problem = problem_row(p->what);
}

void exchange_watch(struct exchange *x, void *owner, void (*gone)(struct exchange *x, void *owner),
                    void (*drained)(struct exchange *x, void *owner))
{
    x->owner = owner;
    x->gone = gone;
    x->drained = drained;
}

void *exchange_owner(const struct exchange *x)
{
    return x->owner;
}

void exchange_again(struct exchange *x)
{
    x->route->handle(x, x->server->options.app);
}

void exchange_abandon(struct exchange *x)
{
    struct connection *c = x->c;

    if (c) {
        c->x = NULL;
        exchange_report(x, STATUS_GONE);
        connection_fail(c);
    }
    exchange_destroy(x);
}
