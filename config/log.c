#include "config/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { LINE_BYTES = 2048, VALUE_BYTES = 128, NOTE_BYTES = 512 };

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

static void put(struct line *l, const char *s)
{
    while (*s && l->len < LINE_BYTES - 2)
        l->text[l->len++] = *s++;
}

/* JSON's escapes, which also keep control bytes and broken UTF-8 off a terminal. */
static void put_escaped(struct line *l, const char *s, size_t max)
{
    char code[8];

    for (size_t i = 0; s[i] && i < max; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c == '"' || c == '\\')
            snprintf(code, sizeof(code), "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            snprintf(code, sizeof(code), "\\u%04x", c);
        else
            snprintf(code, sizeof(code), "%c", c);
        put(l, code);
    }
}

static void put_pair(struct line *l, const char *key, const char *value, size_t max)
{
    put(l, as_json ? ",\"" : " ");
    put(l, key);
    put(l, as_json ? "\":\"" : "=\"");
    put_escaped(l, value, max);
    put(l, "\"");
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
    if (as_json && l->len < LINE_BYTES - 1)
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
    char note[NOTE_BYTES];

    if (level < least)
        return;
    va_start(args, fmt);
    vsnprintf(note, sizeof(note), fmt, args);
    va_end(args);
    begin(&l, level, event);
    put_pair(&l, "msg", note, NOTE_BYTES);
    end(&l);
}
