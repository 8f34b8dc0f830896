#include "server/state/id.h"

#include <ctype.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void fill_random(void *bytes, size_t len)
{
    size_t got = 0;

    while (got < len) { /* below 256 bytes it only fails when interrupted */
        ssize_t n = getrandom((char *)bytes + got, len - got, 0);
        if (n > 0)
            got += (size_t)n;
    }
}

static void add_random(struct id *id, int at)
{
    unsigned char raw[16];

    fill_random(raw, sizeof(raw));
    for (size_t i = 0; i < sizeof(raw); i++)
        at += snprintf(id->text + at, sizeof(id->text) - (size_t)at, "%02x", raw[i]);
}

void id_generate(struct id *id, const char *prefix)
{
    add_random(id, snprintf(id->text, sizeof(id->text), "%s_", prefix));
}

/* Microseconds since 1970, or as many more as it takes to be later than the one before. */
static uint64_t next_moment(void)
{
    static atomic_uint_fast64_t newest;
    uint_fast64_t last = atomic_load(&newest), next;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    do {
        next = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
        next = next > last ? next : last + 1;
    } while (!atomic_compare_exchange_weak(&newest, &last, next));
    return next;
}

void id_generate_next(struct id *id, const char *prefix)
{
    add_random(id, snprintf(id->text, sizeof(id->text), "%s_%014llx", prefix,
                            (unsigned long long)next_moment()));
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
