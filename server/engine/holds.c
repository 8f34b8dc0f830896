#include "server/engine/holds.h"

#include <stdlib.h>
#include <string.h>

#include "models/text/tokenizer.h"

enum { ENTRIES = 8 };

/* A set of stop strings, and what was found for it. */
struct entry {
    char (*stop)[LIMIT_STOP_BYTES + 1]; /* owned; NULL: none yet */
    int stops;
    int32_t id[HOLDS_MAX];
    int n; /* -1: they cannot be told from the others */
    uint64_t used;
};

struct holds {
    const struct tokenizer *tokenizer;
    struct entry entry[ENTRIES];
    uint64_t uses;
};

struct holds *holds_create(const struct tokenizer *t)
{
    struct holds *h = calloc(1, sizeof(*h));

    if (h)
        h->tokenizer = t;
    return h;
}

void holds_destroy(struct holds *h)
{
    for (int i = 0; h && i < ENTRIES; i++)
        free(h->entry[i].stop);
    free(h);
}

/* The string ends in the token's bytes: it is there whole, or its rest is what they begin with. */
static bool may_complete(const char *stop, const char *token, size_t n)
{
    const size_t len = strlen(stop);

    if (memmem(token, n, stop, len))
        return true;
    for (size_t rest = 1; rest < len && rest <= n; rest++)
        if (memcmp(token, stop + len - rest, rest) == 0)
            return true;
    return false;
}

static bool may_complete_any(const struct entry *x, const char *token, size_t n)
{
    for (int i = 0; i < x->stops; i++)
        if (may_complete(x->stop[i], token, n))
            return true;
    return false;
}

/* Bytes that are no character become one (detokenizer.h), which is in no token. */
static bool has_replacement(const struct entry *x)
{
    for (int i = 0; i < x->stops; i++)
        if (strstr(x->stop[i], "\xef\xbf\xbd"))
            return true;
    return false;
}

static bool has_any(const bool *last, const char *token, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (last[(unsigned char)token[i]])
            return true;
    return false;
}

static void fill(const struct tokenizer *t, struct entry *x)
{
    bool last[256] = { false }; /* bytes of strings */

    x->n = has_replacement(x) ? -1 : 0;
    for (int i = 0; i < x->stops; i++)
        last[(unsigned char)x->stop[i][strlen(x->stop[i]) - 1]] = true;
    for (int32_t id = 0; id < tokenizer_size(t) && x->n >= 0; id++) {
        size_t len;
        const char *token = tokenizer_token_bytes(t, id, &len);

        if (!has_any(last, token, len) || !may_complete_any(x, token, len))
            continue;
        if (x->n == HOLDS_MAX)
            x->n = -1;
        else
            x->id[x->n++] = id;
    }
}

static bool is_for(const struct entry *x, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops)
{
    bool same = x->stop && x->stops == stops;

    for (int i = 0; same && i < stops; i++)
        same = strcmp(x->stop[i], stop[i]) == 0;
    return same;
}

/* The one for these strings, or the one that was of no use for the longest. */
static struct entry *choose(struct holds *h, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops)
{
    struct entry *oldest = h->entry;

    for (int i = 0; i < ENTRIES; i++) {
        if (is_for(&h->entry[i], stop, stops))
            return &h->entry[i];
        if (h->entry[i].used < oldest->used)
            oldest = &h->entry[i];
    }
    return oldest;
}

bool holds_find(struct holds *h, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops,
                const int32_t **id, int *n)
{
    struct entry *x = choose(h, stop, stops);

    if (!is_for(x, stop, stops)) {
        free(x->stop);
        x->stop = malloc((size_t)stops * sizeof(*x->stop));
        if (!x->stop)
            return false;
        memcpy(x->stop, stop, (size_t)stops * sizeof(*x->stop));
        x->stops = stops;
        fill(h->tokenizer, x);
    }
    x->used = ++h->uses;
    *id = x->id;
    *n = x->n;
    return x->n >= 0;
}
