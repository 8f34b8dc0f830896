#include "weights/json_pull.h"

#include <string.h>

#include "config/error.h"
#include "config/json_scan.h"

bool json_pull_init(struct json_pull *p, char *text, size_t len, const struct json_bounds *bounds,
                    const char *path, const char *part, struct error *err)
{
    struct error why;

    if (json_scan(text, len, bounds, &why) != JSON_OK)
        return error_set(err, why.code == ERR_NOMEM ? ERR_NOMEM : ERR_FORMAT,
                         "%.200s: invalid %s: expected JSON, found at %s", path, part,
                         why.message + strlen("JSON: "));
    *p = (struct json_pull){ .at = text, .end = text + len };
    return true;
}

static char next_char(struct json_pull *p)
{
    while (p->at < p->end && strchr(" \n\r\t", *p->at))
        p->at++;
    return p->at < p->end ? *p->at : '\0';
}

bool json_pull_mark(struct json_pull *p, char mark)
{
    if (next_char(p) != mark)
        return false;
    p->at++;
    return true;
}

bool json_pull_next(struct json_pull *p, char close, bool *first)
{
    bool is_first = *first;

    *first = false;
    if (json_pull_mark(p, close))
        return false;
    return is_first || json_pull_mark(p, ',');
}

static uint32_t take_hex4(struct json_pull *p)
{
    uint32_t u = 0;

    for (int i = 0; i < 4; i++) {
        char c = *p->at++;

        u = u * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return u;
}

static char *put_utf8(char *to, uint32_t u)
{
    if (u < 0x80) {
        *to++ = (char)u;
        return to;
    }
    if (u < 0x800) {
        *to++ = (char)(0xc0 | u >> 6);
    } else {
        if (u < 0x10000) {
            *to++ = (char)(0xe0 | u >> 12);
        } else {
            *to++ = (char)(0xf0 | u >> 18);
            *to++ = (char)(0x80 | (u >> 12 & 0x3f));
        }
        *to++ = (char)(0x80 | (u >> 6 & 0x3f));
    }
    *to++ = (char)(0x80 | (u & 0x3f));
    return to;
}

/* After the backslash. What it writes is never longer than what it takes. */
static char *take_escape(struct json_pull *p, char *to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    char c = *p->at++;
    uint32_t u;

    if (c != 'u') {
        *to = into[strchr(from, c) - from];
        return to + 1;
    }
    u = take_hex4(p);
    if (u >= 0xd800 && u < 0xdc00) {
        p->at += 2; /* the scan has seen the low half */
        u = 0x10000 + ((u - 0xd800) << 10) + (take_hex4(p) - 0xdc00);
    }
    return put_utf8(to, u);
}

char *json_pull_string(struct json_pull *p)
{
    char *text, *to;

    if (!json_pull_mark(p, '"'))
        return NULL;
    text = to = p->at;
    while (*p->at != '"') {
        if (*p->at != '\\') {
            *to++ = *p->at++;
            continue;
        }
        p->at++;
        to = take_escape(p, to);
    }
    p->at++;
    *to = '\0';
    return text;
}

char *json_pull_key(struct json_pull *p)
{
    char *key = json_pull_string(p);

    json_pull_mark(p, ':');
    return key;
}

bool json_pull_u64(struct json_pull *p, uint64_t *out)
{
    uint64_t u = 0;
    char c = next_char(p);

    if (c < '0' || c > '9')
        return false;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
        if (__builtin_mul_overflow(u, 10u, &u) ||
            __builtin_add_overflow(u, (uint64_t)(*p->at - '0'), &u))
            return false;
    if (p->at < p->end && strchr(".eE", *p->at))
        return false;
    *out = u;
    return true;
}

void json_pull_skip(struct json_pull *p)
{
    size_t depth = 0;

    do {
        char c = next_char(p);

        if (c == '"') {
            json_pull_string(p);
        } else if (c == '{' || c == '[') {
            depth++;
            p->at++;
        } else if (c == '}' || c == ']') {
            depth--;
            p->at++;
        } else if (c == ',' || c == ':') {
            p->at++;
        } else {
            while (p->at < p->end && !strchr(" \n\r\t,:]}", *p->at))
                p->at++;
        }
    } while (depth > 0);
}
