#include "server/state/redis_url.h"

#include <stdio.h>
#include <string.h>

#include "config/error.h"

enum { DEFAULT_PORT = 6379, DB_MAX = 65535, PORT_MAX = 65535 };

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The bytes of [from, end) without their %XX. out has room for all of them and a NUL. */
static bool decode(char *out, const char *from, const char *end)
{
    while (from < end) {
        int high, low;

        if (*from != '%') {
            *out++ = *from++;
            continue;
        }
        high = end - from > 2 ? hex_digit(from[1]) : -1;
        low = end - from > 2 ? hex_digit(from[2]) : -1;
        if (high < 0 || low < 0 || high + low == 0)
            return false;
        *out++ = (char)(high * 16 + low);
        from += 3;
    }
    *out = '\0';
    return true;
}

static bool number(int *out, const char *from, const char *end, int max)
{
    int n = 0;

    if (from == end)
        return false;
    for (; from < end; from++) {
        if (*from < '0' || *from > '9')
            return false;
        n = n * 10 + (*from - '0');
        if (n > max)
            return false;
    }
    *out = n;
    return true;
}

/* The last @ before a path ends them: a host has none. */
static bool take_credentials(struct redis_url *url, const char **at, struct error *err)
{
    const char *slash = strchr(*at, '/'), *end = NULL, *colon;

    for (const char *c = *at; *c && c != slash; c++)
        if (*c == '@')
            end = c;
    if (!end)
        return true;
    colon = memchr(*at, ':', (size_t)(end - *at));
    if (!decode(url->user, *at, colon ? colon : end) ||
        (colon && !decode(url->password, colon + 1, end)))
        return error_set(err, ERR_INPUT,
                         "the Redis URL's user or password is misspelled: "
                         "write its special bytes as %%XX");
    if (url->user[0] && !url->password[0])
        return error_set(err, ERR_INPUT, "the Redis URL has a user and no password");
    *at = end + 1;
    return true;
}

static bool take_socket(struct redis_url *url, const char *at, struct error *err)
{
    const char *query = strchr(at, '?'), *end = query ? query : at + strlen(at);

    if (*at != '/' || end - at < 2 || !decode(url->host, at, end))
        return error_set(err, ERR_INPUT, "the Redis URL names no socket: unix:///PATH[?db=N]");
    if (query && (strncmp(query, "?db=", 4) != 0 ||
                  !number(&url->db, query + 4, query + strlen(query), DB_MAX)))
        return error_set(err, ERR_INPUT, "a Redis socket's URL ends in ?db=N or with its path");
    return true;
}

static bool take_host(struct redis_url *url, const char *at, struct error *err)
{
    const char *slash = strchr(at, '/'), *end = slash ? slash : at + strlen(at);
    const char *from = at, *to = end, *colon;

    if (*at == '[') {
        to = memchr(at, ']', (size_t)(end - at));
        from = at + 1;
        colon = to ? to + 1 : NULL;
    } else {
        colon = memchr(at, ':', (size_t)(end - at));
        to = colon ? colon : end;
        colon = to;
    }
    if (!to || to == from || (colon < end && *colon != ':'))
        return error_set(err, ERR_INPUT, "the Redis URL names no host");
    memcpy(url->host, from, (size_t)(to - from));
    url->port = DEFAULT_PORT;
    if (colon < end && (!number(&url->port, colon + 1, end, PORT_MAX) || !url->port))
        return error_set(err, ERR_INPUT, "the Redis URL's port is none");
    if (slash && slash[1] && !number(&url->db, slash + 1, slash + strlen(slash), DB_MAX))
        return error_set(err, ERR_INPUT,
                         "what follows the Redis URL's host is the number of a "
                         "database");
    return true;
}

bool redis_url_parse(struct redis_url *url, const char *text, struct error *err)
{
    struct redis_url found = { .port = 0 };
    bool socket = strncmp(text, "unix://", 7) == 0;
    const char *at = text + (socket ? 7 : 8);

    if (strlen(text) >= REDIS_URL_BYTES)
        return error_set(err, ERR_INPUT, "the Redis URL is too long");
    if (strncmp(text, "rediss://", 9) == 0)
        return error_set(err, ERR_INPUT, "Redis over TLS is not supported; use a tunnel");
    if (!socket && strncmp(text, "redis://", 8) != 0)
        return error_set(err, ERR_INPUT, "the Redis URL begins with neither redis:// nor unix://");
    if (!take_credentials(&found, &at, err) ||
        !(socket ? take_socket(&found, at, err) : take_host(&found, at, err)))
        return false;
    *url = found;
    return true;
}

void redis_url_show(const struct redis_url *url, char out[REDIS_URL_BYTES + 32])
{
    if (url->port)
        snprintf(out, REDIS_URL_BYTES + 32, "%s:%d/%d", url->host, url->port, url->db);
    else
        snprintf(out, REDIS_URL_BYTES + 32, "%s/%d", url->host, url->db);
}
