#include "config/log.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "config/code_point.h"

/* A note of escapes alone fits into a line. */
enum {
    LINE_BYTES = 4096,
    VALUE_BYTES = 128,
    NOTE_BYTES = 512,
    CHARACTER_BYTES = 4,
    REPLACEMENT = 0xfffd
};

static enum log_level least = LOG_INFO;
static bool as_json;

void log_configure(enum log_level level, bool json)
{
    least = level;
    as_json = json;
}

struct line {
    char text[LINE_BYTES];
    size_t len;
};

/* All of it or, where only the room for the end of a value and of the line is left, nothing:
 * false. So a line is whole wherever it is cut. */
static bool put(struct line *l, const char *s)
{
    const size_t n = strlen(s);

    if (l->len + n + strlen("\"}\n") > LINE_BYTES)
        return false;
    memcpy(l->text + l->len, s, n);
    l->len += n;
    return true;
}

/* JSON's escapes: what is not printable ASCII reaches no terminal raw, for a code point may also
 * turn it over. */
static bool put_escaped(struct line *l, uint32_t c)
{
    char code[16];

    if (c == '"' || c == '\\')
        snprintf(code, sizeof(code), "\\%c", (char)c);
    else if (c >= 0x20 && c < 0x7f)
        snprintf(code, sizeof(code), "%c", (char)c);
    else if (c < 0x10000)
        snprintf(code, sizeof(code), "\\u%04x", c);
    else
        snprintf(code, sizeof(code), "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
    return put(l, code);
}

/* max bytes of the value, but no part of a character. */
static void put_value(struct line *l, const char *value, size_t max)
{
    uint32_t code;

    while (*value) {
        size_t n = code_point_read(value, strlen(value), &code);

        if (n == 0) {
            code = REPLACEMENT;
            n = 1;
        }
        if (n > max || !put_escaped(l, code))
            return;
        value += n;
        max -= n;
    }
}

static void put_pair(struct line *l, const char *key, const char *value, size_t max)
{
    char opening[64];

    snprintf(opening, sizeof(opening), as_json ? ",\"%s\":\"" : " %s=\"", key);
    if (!put(l, opening))
        return;
    put_value(l, value, max);
    l->text[l->len++] = '"'; /* put() has left room for it */
}

static void begin(struct line *l, enum log_level level, const char *event)
{
    static const char *const name[] = { "debug", "info", "warn", "error" };
    struct timespec now;
    struct tm tm;
    char stamp[40], full[64];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(full, sizeof(full), "%s.%03ldZ", stamp, now.tv_nsec / 1000000);
    l->len = 0;
    put(l, as_json ? "{\"ts\":\"" : "");
    put(l, full);
    put(l, as_json ? "\",\"level\":\"" : " ");
    put(l, name[level]);
    put(l, as_json ? "\",\"event\":\"" : " ");
    put(l, event);
    put(l, as_json ? "\"" : "");
}

/* One fwrite a line, so that lines of several threads do not mix. */
static void end(struct line *l)
{
    if (as_json)
        l->text[l->len++] = '}';
    l->text[l->len++] = '\n';
    fwrite(l->text, 1, l->len, stderr);
}

void log_line(enum log_level level, const char *event, ...)
{
    struct line l;
    va_list args;
    const char *key;

    if (level < least)
        return;
    begin(&l, level, event);
    va_start(args, event);
    while ((key = va_arg(args, const char *)))
        put_pair(&l, key, va_arg(args, const char *), VALUE_BYTES);
    va_end(args);
    end(&l);
}

void log_note(enum log_level level, const char *event, const char *fmt, ...)
{
    struct line l;
    va_list args;
    char note[NOTE_BYTES + CHARACTER_BYTES]; /* whole, what lies across its end */

    if (level < least)
        return;
    va_start(args, fmt);
    vsnprintf(note, sizeof(note), fmt, args);
    va_end(args);
    begin(&l, level, event);
    put_pair(&l, "msg", note, NOTE_BYTES);
    end(&l);
}
