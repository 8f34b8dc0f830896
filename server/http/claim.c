/* Who has how much of the memory of transfers: a claim moves with the bytes that it is for.
 *
 * A client that has something on its way may claim more only while that leaves free as much as it
 * then holds. So by more than one transfer none has more than half of it, the next none more than
 * half of the rest, and however many hold all that they may, another one finds some. */
#include <stdlib.h>

#include "server/http/http_internal.h"

struct claim {
    struct http_server *server;
    struct claim *next, **link;
    uint64_t client;
    size_t bytes;
};

/* One that is alone is taken whatever it weighs: a bound too small for it would forbid it. */
static bool fits(const struct http_server *s, size_t bytes)
{
    const size_t limit = s->options.transfer_bytes, held = s->counts.transfer_bytes;

    return held == 0 || (held <= limit && bytes <= limit - held);
}

static bool leaves_enough(const struct http_server *s, uint64_t client, size_t bytes)
{
    const size_t left = s->options.transfer_bytes - s->counts.transfer_bytes;
    size_t held = 0;

    for (const struct claim *c = s->claims; c; c = c->next)
        held += c->client == client ? c->bytes : 0;
    return held == 0 || held + bytes <= left - bytes;
}

static bool admit(struct http_server *s, uint64_t client, size_t bytes, struct problem *p)
{
    if (!fits(s, bytes)) {
        s->crowded = true;
        return problem_set(p, PROBLEM_TOO_MANY_TRANSFERS, NULL,
                           "other states on their way from and to clients have the memory for it");
    }
    return !s->options.admit || leaves_enough(s, client, bytes) ||
           problem_set(p, PROBLEM_TOO_MANY_TRANSFERS, NULL,
                       "this key's states on their way would leave too little memory to others");
}

struct claim *claim_take(struct http_server *s, uint64_t client, size_t bytes, struct problem *p)
{
    struct claim *c;

    if (!admit(s, client, bytes, p)) {
        s->counts.transfers_refused++;
        return NULL;
    }
    c = malloc(sizeof(*c));
    if (!c) {
        problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "out of memory");
        return NULL;
    }
    *c = (struct claim){ s, s->claims, &s->claims, client, bytes };
    if (c->next)
        c->next->link = &c->next;
    s->claims = c;
    s->counts.transfer_bytes += bytes;
    return c;
}

void claim_cut(struct claim *c, size_t bytes)
{
    if (!c || bytes >= c->bytes)
        return;
    c->server->counts.transfer_bytes -= c->bytes - bytes;
    c->bytes = bytes;
}

void claim_release(struct claim *c)
{
    if (!c)
        return;
    claim_cut(c, 0);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    free(c);
}
