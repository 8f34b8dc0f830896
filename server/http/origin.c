#include "server/http/origin.h"

#include <string.h>
#include <strings.h>

#include "server/http/http_internal.h"

const char *origin_allow(const char *list, const char *origin)
{
    if (!list || !origin || !*origin)
        return NULL;
    if (strcmp(list, "*") == 0)
        return "*";
    return is_among(origin, list) ? origin : NULL;
}

/* A page that we have served, whatever is between: only a proxy knows the scheme. */
static bool is_own(const char *origin, const char *host)
{
    const char *authority = strstr(origin, "://");

    return authority && host && strcasecmp(authority + 3, host) == 0;
}

bool origin_check(const char *list, const struct request *r, struct problem *p)
{
    const char *origin = request_header(r, "origin");

    if (!origin || r->method != HTTP_POST || request_has_body(r) || origin_allow(list, origin) ||
        is_own(origin, request_header(r, "host")))
        return true;
    return problem_set(p, PROBLEM_ORIGIN, NULL, "pages of other origins may not call");
}

void origin_answer(struct exchange *x)
{
    const struct request *r = &x->request;
    const char *list = x->server->options.origins;
    const char *allow, *headers;

    if (!list)
        return;
    allow = x->judged ? origin_allow(list, request_header(r, "origin")) : NULL;
    if (strcmp(list, "*") != 0)
        exchange_set_header(x, "Vary", "Origin");
    if (!allow)
        return;
    exchange_set_header(x, "Access-Control-Allow-Origin", allow);
    exchange_set_header(x, "Access-Control-Expose-Headers", "*");
    if (r->method != HTTP_OPTIONS || !request_header(r, "access-control-request-method"))
        return;
    headers = request_header(r, "access-control-request-headers");
    exchange_set_header(x, "Access-Control-Allow-Methods", x->allow);
    if (headers)
        exchange_set_header(x, "Access-Control-Allow-Headers", headers);
    exchange_set_header(x, "Access-Control-Max-Age", "600");
}
