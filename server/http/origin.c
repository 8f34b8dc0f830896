#include "server/http/origin.h"

#include <string.h>
#include <strings.h>

#include "config/error.h"
#include "server/http/http_internal.h"

#define LETTERS "abcdefghijklmnopqrstuvwxyz0123456789.-"

/* As a browser writes it: in lower case, and nothing behind the host but a port. */
static bool is_origin(const char *text, size_t len)
{
    size_t scheme = strspn(text, LETTERS "+"), before = scheme + 3;

    if (len == 4 && strncmp(text, "null", 4) == 0) /* a page from a file */
        return true;
    return scheme && len > before && strncmp(text + scheme, "://", 3) == 0 &&
           strspn(text + before, LETTERS "_[:]") == len - before;
}

bool origin_list_check(const char *list, struct error *err)
{
    if (!list || strcmp(list, "*") == 0)
        return true;
    for (size_t len; *list; list += len + (list[len] == ',')) {
        len = strcspn(list, ",");
        if (!is_origin(list, len))
            return error_set(err, ERR_INPUT,
                             "allow_origin: \"%.*s\" is no origin as browsers send it, like "
                             "https://chat.example or http://localhost:3000",
                             (int)(len < 100 ? len : 100), list);
    }
    return true;
}

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
        is_own(origin, request_host(r)))
        return true;
    return problem_set(p, PROBLEM_ORIGIN, NULL, "pages of other origins may not call");
}

bool is_loopback(const char *address)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (strcmp(address, "localhost") == 0)
        return true;
    if (uv_ip4_addr(address, 0, &v4) == 0)
        return ntohl(v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return uv_ip6_addr(address, 0, &v6) == 0 &&
           (IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
            (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET));
}

/* The length of the host that an authority begins with, brackets included. */
static size_t host_length(const char *authority)
{
    const char *end = *authority == '[' ? strchr(authority, ']') : NULL;

    return end ? (size_t)(end - authority) + 1 : strcspn(authority, ":,");
}

static bool is_this_machine(const char *host, size_t len)
{
    static const char below[] = ".localhost";
    const size_t n = sizeof(below) - 1;
    const bool brackets = *host == '[';
    char address[INET6_ADDRSTRLEN];

    if (len > n && strncasecmp(host + len - n, below, n) == 0)
        return true;
    if (len == n - 1 && strncasecmp(host, below + 1, len) == 0)
        return true;
    if (len < 2 || len >= sizeof(address))
        return false;
    snprintf(address, sizeof(address), "%.*s", (int)len - 2 * brackets, host + brackets);
    return is_loopback(address);
}

static bool is_host_of(const char *origins, const char *host, size_t len)
{
    while (origins && (origins = strstr(origins, "://"))) {
        origins += 3;
        if (host_length(origins) == len && strncasecmp(origins, host, len) == 0)
            return true;
    }
    return false;
}

/* Without a Host, as in HTTP/1.0, it is from no browser. */
bool host_check(const char *list, const struct request *r, struct problem *p)
{
    const char *host = request_host(r);
    const size_t len = host ? host_length(host) : 0;
    const char *port = host ? host + len : "";

    port += *port == ':';
    if (!host || (list && strcmp(list, "*") == 0))
        return true;
    if (port[strspn(port, "0123456789")] == 0 &&
        (is_this_machine(host, len) || is_host_of(list, host, len)))
        return true;
    return problem_set(p, PROBLEM_HOST, NULL,
                       "Host is \"%.100s\", and a server without keys is called as localhost, or "
                       "by the host of an origin in --allow-origin",
                       host);
}

/* A head that was refused before its end may hold the Origin behind what it was refused for; whom
 * "*" lets in need not be known. */
static const char *allow_unjudged(const char *list, const struct request *r)
{
    return strcmp(list, "*") == 0 ? "*" : origin_allow(list, request_header_so_far(r, "origin"));
}

void origin_answer(struct exchange *x)
{
    const struct request *r = &x->request;
    const char *list = x->server->options.origins;
    const char *allow, *headers;

    if (!list)
        return;
    allow = x->judged ? origin_allow(list, request_header(r, "origin")) : allow_unjudged(list, r);
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
