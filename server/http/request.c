#include "server/http/request.h"

#include <assert.h>
#include <ctype.h>
#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/problem.h"

static const char *text(const struct request *r, uint32_t at)
{
    return r->text.bytes + at;
}

static int count(const struct request *r, const char *name)
{
    int n = 0;

    for (int i = 0; i < r->headers; i++)
        n += strcmp(text(r, r->header[i].name), name) == 0;
    return n;
}

const char *request_header(const struct request *r, const char *name)
{
    for (int i = 0; i < r->headers; i++)
        if (strcmp(text(r, r->header[i].name), name) == 0)
            return text(r, r->header[i].value);
    return NULL;
}

const char *request_header_so_far(const struct request *r, const char *name)
{
    const char *value = NULL;

    for (int i = 0; i + 1 < r->headers; i++) {
        if (strcmp(text(r, r->header[i].name), name) != 0)
            continue;
        if (value)
            return NULL;
        value = text(r, r->header[i].value);
    }
    return value;
}

const char *request_host(const struct request *r)
{
    return r->authority ? r->authority : request_header(r, "host");
}

bool request_has_body(const struct request *r)
{
    return r->chunked || r->content_length > 0;
}

bool request_has_type(const struct request *r, const char *type)
{
    const char *value = request_header(r, "content-type");
    size_t len = strlen(type);

    if (!value || strncasecmp(value, type, len) != 0)
        return false;
    value += len;
    value += strspn(value, " \t");
    return *value == '\0' || *value == ';';
}

static bool is_token(const char *s)
{
    if (*s == '\0')
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
            return false;
    return true;
}

static bool check_line(const struct request *r, const char *target, struct problem *p)
{
    const char *method = llhttp_method_name((llhttp_method_t)r->method);

    if (r->major != 1 || (r->minor != 0 && r->minor != 1))
        return problem_set(p, PROBLEM_HTTP_VERSION, NULL,
                           "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (r->line != strlen(method) + strlen(target) + strlen("  HTTP/1.1") || r->protocol != 'H')
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed request line");
    if (r->method == HTTP_CONNECT)
        return problem_set(p, PROBLEM_METHOD_NOT_ALLOWED, NULL, "this server is not a proxy");
    for (int i = 0; i < r->headers; i++)
        if (!is_token(text(r, r->header[i].name)))
            return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed header name");
    return true;
}

/* Exactly "chunked", once, on HTTP/1.1. 501 where another coding comes before it, since the
 * length is then known though we cannot decode it; 400 where it is not. */
static bool check_transfer_encoding(struct request *r, struct problem *p)
{
    bool chunked = false, other = false;

    for (int i = 0; i < r->headers; i++) {
        const char *value = text(r, r->header[i].value);

        if (strcmp(text(r, r->header[i].name), "transfer-encoding") != 0)
            continue;
        do {
            size_t len = strcspn(value, ",");
            size_t skip = strspn(value, " \t");
            size_t word = len > skip ? len - skip : 0;

            while (word > 0 && strchr(" \t", value[skip + word - 1]))
                word--;
            if (chunked)
                return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed Transfer-Encoding");
            chunked = word == 7 && strncasecmp(value + skip, "chunked", 7) == 0;
            other |= !chunked;
            value += len;
        } while (*value++ == ',');
    }
    if (!chunked)
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "Transfer-Encoding must be chunked");
    if (other)
        return problem_set(p, PROBLEM_TRANSFER_ENCODING, NULL,
                           "no transfer coding but chunked is supported");
    if (r->minor == 0)
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "HTTP/1.0 has no Transfer-Encoding");
    r->chunked = true;
    r->content_length = 0;
    return true;
}

static bool check_framing(struct request *r, struct problem *p)
{
    int lengths = count(r, "content-length");

    if (count(r, "transfer-encoding") > 0) {
        if (lengths > 0)
            return problem_set(p, PROBLEM_BAD_REQUEST, NULL,
                               "Content-Length beside Transfer-Encoding");
        return check_transfer_encoding(r, p);
    }
    if (lengths == 0)
        return true;
    const char *value = request_header(r, "content-length");
    if (lengths > 1 || *value == '\0' || value[strspn(value, "0123456789")] != '\0')
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed Content-Length");
    return true;
}

/* Host and port, and nobody's name before them. */
static bool is_authority(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-._~!$&'()*+;=:[]%", s[i]))
            return false;
    return len > 0;
}

static bool check_host(const struct request *r, struct problem *p)
{
    const char *host = request_header(r, "host");

    if (count(r, "host") > 1)
        return problem_set(p, PROBLEM_DUPLICATE_HOST, NULL, "more than one Host header");
    if (!host)
        return r->minor == 0 ||
               problem_set(p, PROBLEM_MISSING_HOST, NULL, "HTTP/1.1 demands a Host header");
    if (*host == '\0')
        return problem_set(p, PROBLEM_MISSING_HOST, NULL, "the Host header is empty");
    return is_authority(host, strlen(host)) ||
           problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed Host header");
}

static bool is_of(const struct request *r, int i, int first)
{
    return strcmp(text(r, r->header[i].name), text(r, r->header[first].name)) == 0;
}

/* The values of one name become that of its first line. */
static bool join(struct request *r, int first)
{
    uint32_t at = (uint32_t)r->text.len;

    /* All that is appended is there already, but for the commas. */
    if (!buffer_reserve(&r->text, r->text.len + 2 * LIMIT_HEADER_COUNT))
        return false;
    for (int i = first; i < r->headers; i++) {
        const char *value = text(r, r->header[i].value);

        if (!is_of(r, i, first))
            continue;
        if (i > first)
            buffer_append(&r->text, ", ", 2);
        buffer_append(&r->text, value, strlen(value));
    }
    buffer_append(&r->text, "", 1);
    r->header[first].value = at;
    return true;
}

/* Several lines of one name are one list (RFC 9110, 5.2): none of them may count alone. */
static bool join_headers(struct request *r, struct problem *p)
{
    for (int i = 0; i < r->headers; i++) {
        int first = 0;

        while (!is_of(r, first, i))
            first++;
        if (first == i && count(r, text(r, r->header[i].name)) > 1 && !join(r, i))
            return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "out of memory");
    }
    return true;
}

static int hex(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* Appends the decoded form of [at, end) and a NUL at *out. In a query '+' is a space, and a
 * NUL would end a value early. */
static bool decode(char **out, const char *at, const char *end, bool query)
{
    char *to = *out;

    while (at < end) {
        char c = *at++;

        if (c == '%') {
            int high = at < end ? hex(at[0]) : -1;
            int low = high >= 0 && at + 1 < end ? hex(at[1]) : -1;

            if (low < 0)
                return false;
            c = (char)(high * 16 + low);
            at += 2;
            if (c == '\0' && query)
                return false;
        } else if (c == '+' && query) {
            c = ' ';
        }
        *to++ = c;
    }
    *to++ = '\0';
    *out = to;
    return true;
}

static const char *find_end(const char *at, const char *end, char c)
{
    const char *hit = memchr(at, c, (size_t)(end - at));

    return hit ? hit : end;
}

/* A decoded NUL can belong to no route: segments becomes -1. */
static bool split_path(struct request *r, char **out, const char *at, const char *end)
{
    r->path = *out;
    if (!decode(out, at, end, false))
        return false;
    while (r->segments >= 0) {
        const char *next = find_end(++at, end, '/');
        char *from = *out;

        decode(out, at, next, false);
        if (r->segments == SEGMENTS_MAX || strlen(from) + 1 != (size_t)(*out - from))
            r->segments = -1;
        else
            r->segment[r->segments++] = from;
        at = next;
        if (at == end)
            break;
    }
    return true;
}

static bool split_query(struct request *r, char **out, const char *at, const char *end)
{
    r->query = *out;
    while (at < end) {
        const char *next = find_end(at, end, '&');
        const char *equal = find_end(at, next, '=');

        if (!decode(out, at, equal, true) ||
            !decode(out, equal < next ? equal + 1 : next, next, true))
            return false;
        at = next < end ? next + 1 : end;
    }
    r->query_end = *out;
    return true;
}

/* The length of an absolute target's "http://host:port", or 0. */
static size_t base_length(const char *target)
{
    const size_t scheme = strlen("http://");

    return strncasecmp(target, "http://", scheme) == 0 ? scheme + strcspn(target + scheme, "/?")
                                                       : 0;
}

/* What an absolute target names counts, and Host is ignored (RFC 9112, 3.2.2). */
static void keep_authority(struct request *r, char **out, const char *at, size_t len)
{
    r->authority = *out;
    memcpy(*out, at, len);
    (*out)[len] = '\0';
    *out += len + 1;
}

static bool check_target(struct request *r, const char *target, struct problem *p)
{
    const size_t scheme = strlen("http://"), base = base_length(target);
    const char *authority = target + scheme, *end, *path_end;
    char *out;

    for (const char *c = target; *c; c++)
        if (*c <= ' ' || *c > '~' || *c == '#')
            return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "bad character in the target");
    if (r->method == HTTP_OPTIONS && strcmp(target, "*") == 0)
        target = "/*";
    else if (base > 0)
        target = target[base] == '/' ? target + base : "/";
    if (base > 0 && !is_authority(authority, base - scheme))
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed host in the target");
    if (*target != '/')
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "the target is not a path");

    end = target + strlen(target);
    path_end = find_end(target, end, '?');
    /* Path twice, query with two NULs per pair, which takes at least one byte. */
    out = r->decoded = malloc((size_t)(end - target) * 3 + base + 8);
    if (!out)
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "out of memory");
    if (base > 0)
        keep_authority(r, &out, authority, base - scheme);
    if (!split_path(r, &out, target, path_end) ||
        !split_query(r, &out, path_end < end ? path_end + 1 : end, end))
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "malformed percent-encoding");
    assert(out <= r->decoded + (size_t)(end - target) * 3 + base + 8);
    return true;
}

bool request_check(struct request *r, struct problem *p)
{
    return check_line(r, text(r, 0), p) && check_framing(r, p) && check_host(r, p) &&
           check_target(r, text(r, 0), p) && join_headers(r, p);
}

static const char *after(const char *text)
{
    return text + strlen(text) + 1;
}

static const char *find_value(const char *at, const char *end, const char *name)
{
    for (; at < end; at = after(after(at)))
        if (strcmp(at, name) == 0)
            return after(at);
    return NULL;
}

const char *request_query(const struct request *r, const char *name)
{
    return find_value(r->query, r->query_end, name);
}

bool is_among(const char *name, const char *names)
{
    size_t len;

    for (; names && *names; names += len + (names[len] == ',')) {
        len = strcspn(names, ",");
        if (strlen(name) == len && strncmp(name, names, len) == 0)
            return true;
    }
    return false;
}

bool request_check_query(const struct request *r, const char *names, struct problem *p)
{
    for (const char *at = r->query, *next; at < r->query_end; at = next) {
        next = after(after(at));
        if (*at && !is_among(at, names))
            return problem_set(p, PROBLEM_UNKNOWN_FIELD, at,
                               "the key \"%.100s\" in the query is unknown here", at);
        if (*at && find_value(next, r->query_end, at))
            return problem_set(p, PROBLEM_DUPLICATE_KEY, at,
                               "the key \"%.100s\" is in the query twice", at);
    }
    return true;
}

void request_finish(struct request *r)
{
    buffer_finish(&r->text);
    buffer_finish(&r->body);
    free(r->decoded);
    r->decoded = NULL;
}
