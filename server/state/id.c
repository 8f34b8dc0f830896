#include "server/state/id.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static void fill_random(void *bytes, size_t len)
{
    size_t got = 0;

    while (got < len) { /* below 256 bytes it only fails when interrupted */
        ssize_t n = getrandom((char *)bytes + got, len - got, 0);
        if (n > 0)
            got += (size_t)n;
    }
}

void id_generate(struct id *id, const char *prefix)
{
    unsigned char raw[16];
    int at = snprintf(id->text, sizeof(id->text), "%s_", prefix);

    fill_random(raw, sizeof(raw));
    for (size_t i = 0; i < sizeof(raw); i++)
        at += snprintf(id->text + at, sizeof(id->text) - (size_t)at, "%02x", raw[i]);
}

uint64_t id_random(void)
{
    uint64_t bits;

    fill_random(&bits, sizeof(bits));
    return bits;
}

bool id_parse(struct id *id, const char *text)
{
    size_t len = strnlen(text, LIMIT_ID_BYTES + 1);

    if (len == 0 || len > LIMIT_ID_BYTES || text[0] == '.')
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
            return false;
    memcpy(id->text, text, len + 1);
    return true;
}

bool id_equal(const struct id *a, const struct id *b)
{
    return strcmp(a->text, b->text) == 0;
}
