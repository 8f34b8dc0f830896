#include "server/http/router.h"

#include <llhttp.h>
#include <string.h>

static const struct {
    const char *names;
    int method;
} methods[METHOD_COUNT] = {
    [METHOD_GET] = { "GET, HEAD, ", HTTP_GET },
    [METHOD_POST] = { "POST, ", HTTP_POST },
    [METHOD_PUT] = { "PUT, ", HTTP_PUT },
    [METHOD_DELETE] = { "DELETE, ", HTTP_DELETE },
};

/* "{name*}" */
static bool takes_rest(const char *part, size_t len)
{
    return part[0] == '{' && part[len - 2] == '*';
}

static bool part_matches(const char *part, size_t len, const char *segment)
{
    if (part[0] == '{')
        return segment[0] != '\0' && (takes_rest(part, len) || !strchr(segment, '/'));
    return strncmp(part, segment, len) == 0 && segment[len] == '\0';
}

static bool matches(const char *pattern, const struct request *r)
{
    int i = 0;

    for (const char *part = pattern; *part == '/'; i++) {
        size_t len = strcspn(++part, "/");

        if (i >= r->segments || !part_matches(part, len, r->segment[i]))
            return false;
        if (takes_rest(part, len))
            return true;
        part += len;
    }
    return i == r->segments;
}

/* The decoded path from a segment on. */
static const char *rest_of(const struct request *r, int from)
{
    const char *at = r->path + 1;

    for (int i = 0; i < from; i++)
        at += strlen(r->segment[i]) + 1;
    return at;
}

bool router_find(const struct route *routes, const struct request *r, const struct route **route,
                 char allow[ALLOW_BYTES], struct problem *p)
{
    int method = r->method == HTTP_HEAD ? HTTP_GET : r->method;
    bool star = r->method == HTTP_OPTIONS && strcmp(r->path, "/*") == 0;
    bool has[METHOD_COUNT] = { 0 };
    bool known = star;
    int len = 0;

    *route = NULL;
    for (const struct route *at = routes; at->pattern; at++) {
        if (!star && !matches(at->pattern, r))
            continue;
        known = has[at->method] = true;
        if (methods[at->method].method == method && !*route)
            *route = at;
    }
    if (!known)
        return problem_set(p, PROBLEM_NOT_FOUND, NULL, "no such path");
    for (int m = 0; m < METHOD_COUNT; m++)
        if (has[m])
            len += snprintf(allow + len, ALLOW_BYTES - (size_t)len, "%s", methods[m].names);
    snprintf(allow + len, ALLOW_BYTES - (size_t)len, "OPTIONS");
    if (!*route && r->method != HTTP_OPTIONS)
        return problem_set(p, PROBLEM_METHOD_NOT_ALLOWED, NULL, "%s is not a method of this path",
                           llhttp_method_name((llhttp_method_t)r->method));
    return true;
}

const char *router_param(const struct route *route, const struct request *r, const char *name)
{
    int i = 0;

    for (const char *part = route->pattern; *part == '/'; i++) {
        size_t len = strcspn(++part, "/");

        bool rest = takes_rest(part, len);

        if (part[0] == '{' && len == strlen(name) + 2 + rest &&
            strncmp(part + 1, name, strlen(name)) == 0)
            return rest ? rest_of(r, i) : r->segment[i];
        part += len;
    }
    return NULL;
}
