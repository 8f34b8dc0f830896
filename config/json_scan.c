/* json_scan.c - a JSON checker that builds nothing.
 *
 * A loop over tokens with an explicit stack of open containers. Keys of open objects lie on
 * a second stack as (hash, position); an object's keys are sorted when it closes, so that
 * equal ones become neighbours, and dropped. Ties of the hash are ordered by the text: keys
 * crafted to collide cost a comparison, never a quadratic search, and no secret is needed. */
#include "config/json_scan.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/code_point.h"
#include "config/error.h"

enum expect { VALUE, VALUE_OR_END, KEY, KEY_OR_END, COLON, COMMA_OR_END, NOTHING };

struct key {
    uint64_t hash;
    const char *at; /* its first byte, after the quote */
};

struct text {
    const char *start, *at, *end;
    struct error *err;
};

struct scan {
    struct text in;
    const struct json_bounds *bounds;
    size_t values;

    size_t depth;
    struct {
        bool object;
        size_t first_key;
    } open[JSON_SCAN_DEPTH];

    struct key *keys;
    size_t key_count, key_room;
};

static enum json_fault fault(struct text *t, enum json_fault f, const char *what)
{
    error_set(t->err, ERR_INPUT, "JSON: byte %zu: %s", (size_t)(t->at - t->start), what);
    return f;
}

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

/* Four hexadecimal digits at t->at, or -1; moves past them. */
static int32_t take_hex4(struct text *t)
{
    int32_t u = 0;

    if (t->end - t->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = *t->at++;

        if (c >= '0' && c <= '9')
            u = u * 16 + (c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            u = u * 16 + ((c | 0x20) - 'a' + 10);
        else
            return -1;
    }
    return u;
}

/* After a backslash and 'u'. */
static enum json_fault take_unicode_escape(struct text *t, uint32_t *out)
{
    int32_t u = take_hex4(t), low;

    if (u < 0)
        return fault(t, JSON_INVALID, "\\u is not followed by four hexadecimal digits");
    if (u == 0)
        return fault(t, JSON_INVALID, "\\u0000 is not accepted");
    if (u >= 0xd800 && u <= 0xdfff) {
        if (u >= 0xdc00 || t->end - t->at < 2 || t->at[0] != '\\' || t->at[1] != 'u')
            return fault(t, JSON_INVALID_UTF8, "half of a surrogate pair");
        t->at += 2;
        low = take_hex4(t);
        if (low < 0xdc00 || low > 0xdfff)
            return fault(t, JSON_INVALID_UTF8, "half of a surrogate pair");
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    *out = (uint32_t)u;
    return JSON_OK;
}

static enum json_fault take_escape(struct text *t, uint32_t *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found;

    t->at++;
    if (t->at == t->end)
        return fault(t, JSON_INVALID, "the text ends inside a string");
    if (*t->at == 'u') {
        t->at++;
        return take_unicode_escape(t, out);
    }
    found = memchr(from, *t->at, sizeof(from) - 1);
    if (!found)
        return fault(t, JSON_INVALID, "unknown escape");
    *out = (unsigned char)to[found - from];
    t->at++;
    return JSON_OK;
}

static enum json_fault take_utf8(struct text *t, uint32_t *out)
{
    size_t len = code_point_read(t->at, (size_t)(t->end - t->at), out);

    t->at += len;
    return len ? JSON_OK : fault(t, JSON_INVALID_UTF8, "not UTF-8");
}

/* One character of a string, unescaped. t->at < t->end. */
static enum json_fault take_char(struct text *t, uint32_t *out)
{
    unsigned char c = (unsigned char)*t->at;

    if (c == '\\')
        return take_escape(t, out);
    if (c >= 0x80)
        return take_utf8(t, out);
    if (c < 0x20)
        return fault(t, JSON_INVALID, "control character in a string");
    *out = c;
    t->at++;
    return JSON_OK;
}

/* From the opening quote to after the closing one; *hash is of the unescaped text. */
static enum json_fault take_string(struct text *t, uint64_t *hash)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, over code points */
    uint32_t c;

    for (t->at++; t->at < t->end && *t->at != '"';) {
        enum json_fault f = take_char(t, &c);

        if (f != JSON_OK)
            return f;
        h = (h ^ c) * 0x100000001b3u;
    }
    if (t->at == t->end)
        return fault(t, JSON_INVALID, "the text ends inside a string");
    t->at++;
    *hash = h;
    return JSON_OK;
}

/* Both keys have passed take_string(), so take_char() cannot fail here. */
static int compare_keys(const void *left, const void *right, void *end)
{
    const struct key *a = left, *b = right;
    struct text x = { .at = a->at, .end = end }, y = { .at = b->at, .end = end };
    uint32_t c, d;

    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    while (*x.at != '"' && *y.at != '"') {
        take_char(&x, &c);
        take_char(&y, &d);
        if (c != d)
            return c < d ? -1 : 1;
    }
    return (*y.at == '"') - (*x.at == '"');
}

static enum json_fault remember_key(struct scan *s, const char *at, uint64_t hash)
{
    if (s->key_count == s->key_room) {
        size_t room = s->key_room ? 2 * s->key_room : 64;
        struct key *keys = realloc(s->keys, room * sizeof(*keys));

        if (!keys) {
            error_set(s->in.err, ERR_NOMEM, "JSON: out of memory for %zu keys", room);
            return JSON_TOO_COMPLEX;
        }
        s->keys = keys;
        s->key_room = room;
    }
    s->keys[s->key_count++] = (struct key){ .hash = hash, .at = at };
    return JSON_OK;
}

static enum json_fault forget_keys(struct scan *s, size_t first)
{
    size_t n = s->key_count - first;
    struct key *keys;

    s->key_count = first;
    if (n < 2)
        return JSON_OK;
    keys = s->keys + first;
    qsort_r(keys, n, sizeof(*keys), compare_keys, (void *)s->in.end);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&keys[i - 1], &keys[i], (void *)s->in.end) == 0) {
            const char *at = keys[i].at > keys[i - 1].at ? keys[i].at : keys[i - 1].at;
            const char *quote = memchr(at, '"', (size_t)(s->in.end - at));
            size_t shown = (size_t)(quote - at);

            if (shown > 100)
                for (shown = 100; shown && ((unsigned char)at[shown] & 0xc0) == 0x80;)
                    shown--;
            error_set(s->in.err, ERR_INPUT, "JSON: byte %zu: the key \"%.*s\" is there twice",
                      (size_t)(at - s->in.start), (int)shown, at);
            return JSON_DUPLICATE_KEY;
        }
    }
    return JSON_OK;
}

static enum json_fault take_number(struct text *t)
{
    const char *p = t->at + (*t->at == '-'), *end = t->end;

    if (!is_digit(p, end)) {
        t->at = p;
        return fault(t, JSON_INVALID, "expected a value");
    }
    if (*p == '0')
        p++;
    else
        while (is_digit(p, end))
            p++;
    if (p < end && *p == '.') {
        t->at = ++p;
        if (!is_digit(p, end))
            return fault(t, JSON_INVALID, "expected a digit");
        while (is_digit(p, end))
            p++;
    }
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        t->at = p;
        if (!is_digit(p, end))
            return fault(t, JSON_INVALID, "expected a digit");
        while (is_digit(p, end))
            p++;
    }
    t->at = p;
    return JSON_OK;
}

static enum json_fault take_scalar(struct scan *s)
{
    static const char *const words[] = { "true", "false", "null", "NaN", "Infinity", "-Infinity" };
    size_t n = s->bounds->infinities ? 6 : 3;
    uint64_t hash;

    if (*s->in.at == '"')
        return take_string(&s->in, &hash);
    if (is_digit(s->in.at, s->in.end))
        return take_number(&s->in);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]);

        if ((size_t)(s->in.end - s->in.at) >= len && memcmp(s->in.at, words[i], len) == 0) {
            s->in.at += len;
            return JSON_OK;
        }
    }
    return take_number(&s->in);
}

static enum json_fault count_value(struct scan *s)
{
    if (++s->values > s->bounds->max_values)
        return fault(&s->in, JSON_TOO_COMPLEX, "too many values");
    return JSON_OK;
}

static enum json_fault take_value(struct scan *s, enum expect *next)
{
    bool object = *s->in.at == '{';
    enum json_fault f = count_value(s);

    if (f != JSON_OK)
        return f;
    if (!object && *s->in.at != '[') {
        *next = s->depth ? COMMA_OR_END : NOTHING;
        return take_scalar(s);
    }
    if (s->depth == s->bounds->max_depth)
        return fault(&s->in, JSON_TOO_DEEP, "too many containers inside containers");
    s->open[s->depth].object = object;
    s->open[s->depth].first_key = s->key_count;
    s->depth++;
    s->in.at++;
    *next = object ? KEY_OR_END : VALUE_OR_END;
    return JSON_OK;
}

static enum json_fault take_end(struct scan *s, enum expect *next)
{
    s->depth--;
    s->in.at++;
    *next = s->depth ? COMMA_OR_END : NOTHING;
    return s->open[s->depth].object ? forget_keys(s, s->open[s->depth].first_key) : JSON_OK;
}

static enum json_fault take_key(struct scan *s, enum expect *next)
{
    const char *at = s->in.at + 1;
    uint64_t hash;
    enum json_fault f;

    if (*s->in.at != '"')
        return fault(&s->in, JSON_INVALID, "expected a key");
    f = count_value(s);
    if (f == JSON_OK)
        f = take_string(&s->in, &hash);
    if (f == JSON_OK)
        f = remember_key(s, at, hash);
    *next = COLON;
    return f;
}

static enum json_fault take_token(struct scan *s, enum expect *next)
{
    bool object = s->depth && s->open[s->depth - 1].object;
    bool ends = s->depth && *s->in.at == (object ? '}' : ']');

    switch (*next) {
    case VALUE_OR_END:
        return ends ? take_end(s, next) : take_value(s, next);
    case VALUE:
        return take_value(s, next);
    case KEY_OR_END:
        return ends ? take_end(s, next) : take_key(s, next);
    case KEY:
        return take_key(s, next);
    case COLON:
        if (*s->in.at != ':')
            return fault(&s->in, JSON_INVALID, "expected ':'");
        s->in.at++;
        *next = VALUE;
        return JSON_OK;
    case COMMA_OR_END:
        if (ends)
            return take_end(s, next);
        if (*s->in.at != ',')
            return fault(&s->in, JSON_INVALID,
                         object ? "expected ',' or '}'" : "expected ',' or ']'");
        s->in.at++;
        *next = object ? KEY : VALUE;
        return JSON_OK;
    case NOTHING:
        break;
    }
    return fault(&s->in, JSON_INVALID, "there is more after the value");
}

enum json_fault json_scan(const char *text, size_t len, const struct json_bounds *bounds,
                          struct error *err)
{
    struct scan s = { .in = { text, text, text + len, err }, .bounds = bounds };
    enum expect next = VALUE;
    enum json_fault f = JSON_OK;

    assert(bounds->max_depth <= JSON_SCAN_DEPTH);
    while (f == JSON_OK) {
        while (s.in.at < s.in.end &&
               (*s.in.at == ' ' || *s.in.at == '\n' || *s.in.at == '\r' || *s.in.at == '\t'))
            s.in.at++;
        if (s.in.at == s.in.end) {
            if (next != NOTHING)
                f = fault(&s.in, JSON_INVALID, "the text ends too early");
            break;
        }
        f = take_token(&s, &next);
    }
    free(s.keys);
    return f;
}
