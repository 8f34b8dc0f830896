#include "server/api/json_out.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

void json_out_init(struct json_out *o, struct text_buffer *to)
{
    *o = (struct json_out){ .to = to };
}

bool json_out_ok(const struct json_out *o)
{
    return !o->failed;
}

static void put(struct json_out *o, const char *bytes, size_t len)
{
    if (!o->failed && !text_buffer_append(o->to, bytes, len))
        o->failed = true;
}

/* What stands before any value. */
static void begin_value(struct json_out *o)
{
    if (o->comma)
        put(o, ",", 1);
    o->comma = true;
}

void json_open(struct json_out *o, char bracket)
{
    begin_value(o);
    put(o, &bracket, 1);
    o->comma = false;
}

void json_close(struct json_out *o, char bracket)
{
    put(o, &bracket, 1);
    o->comma = true;
}

static void put_escaped(struct json_out *o, unsigned char c)
{
    static const char name[] = "btnvfr"; /* 8 to 13; \v has no short form in JSON */
    char text[8];

    if (c == '"' || c == '\\')
        snprintf(text, sizeof(text), "\\%c", c);
    else if (c >= 8 && c <= 13 && c != 11)
        snprintf(text, sizeof(text), "\\%c", name[c - 8]);
    else
        snprintf(text, sizeof(text), "\\u%04x", c);
    put(o, text, strlen(text));
}

static void put_quoted(struct json_out *o, const char *bytes, size_t len)
{
    size_t from = 0, at = 0, n; /* [from, at) is fine as it is and not yet written */

    put(o, "\"", 1);
    for (; at < len; at += n) {
        unsigned char c = (unsigned char)bytes[at];
        enum utf8_step step = utf8_next(bytes + at, len - at, &n);

        if (step == UTF8_CHARACTER && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        put(o, bytes + from, at - from);
        if (step == UTF8_CHARACTER)
            put_escaped(o, c);
        else
            put(o, "\xef\xbf\xbd", 3);
        if (step == UTF8_PARTIAL)
            n = len - at;
        from = at + n;
    }
    put(o, bytes + from, at - from);
    put(o, "\"", 1);
}

void json_key_text(struct json_out *o, const char *bytes, size_t len)
{
    json_text(o, bytes, len);
    put(o, ":", 1);
    o->comma = false;
}

void json_key(struct json_out *o, const char *key)
{
    json_key_text(o, key, strlen(key));
}

void json_text(struct json_out *o, const char *bytes, size_t len)
{
    begin_value(o);
    put_quoted(o, bytes, len);
}

void json_string(struct json_out *o, const char *s)
{
    if (s)
        json_text(o, s, strlen(s));
    else
        json_null(o);
}

void json_raw(struct json_out *o, const char *json, size_t len)
{
    begin_value(o);
    put(o, json, len);
}

void json_raw_open(struct json_out *o, const char *json, size_t len)
{
    json_raw(o, json, len);
    o->comma = false;
}

void json_int(struct json_out *o, int64_t v)
{
    char text[32];

    json_raw(o, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, v));
}

void json_uint(struct json_out *o, uint64_t v)
{
    char text[32];

    json_raw(o, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, v));
}

/* Whether the text, as snprintf's %g writes it, is v. Up to nine digits and a power of ten up
 * to 22 are exact as doubles, so one operation rounds once. */
static bool reads_back(const char *text, float v)
{
    double digits = 0, power = 1;
    int exponent = 0, point = 0;
    const char *s = text + (*text == '-');

    for (bool fraction = false; *s && *s != 'e'; s++) {
        if (*s == '.') {
            fraction = true;
            continue;
        }
        digits = digits * 10 + (*s - '0');
        point -= fraction;
    }
    if (*s == 'e') {
        for (const char *d = s + 2; *d; d++)
            exponent = exponent * 10 + (*d - '0');
        if (s[1] == '-')
            exponent = -exponent;
    }
    exponent += point;
    if (exponent < -22 || exponent > 22)
        return false;
    for (int i = 0; i < abs(exponent); i++)
        power *= 10;
    digits = exponent < 0 ? digits / power : digits * power;
    return (float)digits == fabsf(v);
}

void json_float(struct json_out *o, float v)
{
    char text[32];
    int len = 0;

    if (!isfinite(v)) {
        json_null(o);
        return;
    }
    for (int digits = 6; digits <= 9; digits++) { /* 9 are always enough for a float */
        len = snprintf(text, sizeof(text), "%.*g", digits, (double)v);
        if (reads_back(text, v))
            break;
    }
    json_raw(o, text, (size_t)len);
}

void json_double(struct json_out *o, double v)
{
    char text[64];
    int len;

    if (!isfinite(v) || fabs(v) > 1e15) {
        json_null(o);
        return;
    }
    len = snprintf(text, sizeof(text), "%.6f", v);
    while (text[len - 1] == '0')
        len--;
    if (text[len - 1] == '.')
        len--;
    json_raw(o, text, (size_t)len);
}

void json_bool(struct json_out *o, bool v)
{
    json_raw(o, v ? "true" : "false", v ? 4 : 5);
}

void json_null(struct json_out *o)
{
    json_raw(o, "null", 4);
}

void json_hex(struct json_out *o, const uint8_t *bytes, size_t len)
{
    static const char digit[] = "0123456789abcdef";

    begin_value(o);
    put(o, "\"", 1);
    for (size_t i = 0; i < len; i++)
        put(o, (char[2]){ digit[bytes[i] >> 4], digit[bytes[i] & 15] }, 2);
    put(o, "\"", 1);
}
