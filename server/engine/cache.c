/* cache.c - states that may spare others the work of taking the same tokens in.
 *
 * For clients that send the whole context every time: a turn that begins a context starts
 * from the longest prefix of it that some turn of the same owner has left a state of. States
 * are kept at the ends of turns, on the way through long prompts, and a little before the end
 * of a prompt: what follows there may change the prompt's newest tokens ("Hel" and "lo" are
 * one token when they come together), and a state behind a changed token serves nobody. */
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/prefix.h"
#include "server/state/tiers.h"

enum {
    STEP_BACK = 8, /* tokens before a prompt's end */
    WORTH = 16,    /* fewer tokens are taken in again sooner than a state is copied */
    INDEX_PART = 4 /* of the spares' bytes, what the ids may take beside them */
};

bool cache_create(struct engine *e)
{
    if (e->options.spare_bytes < model_info(e->model)->layout.bytes)
        return true;
    e->prefix = prefix_create(e->tiers, e->options.spare_bytes / INDEX_PART);
    return e->prefix != NULL;
}

void cache_lost(struct engine *e, struct checkpoint *c)
{
    if (e->prefix)
        prefix_lost(e->prefix, c);
}

struct checkpoint *cache_find(struct engine *e, uint64_t owner, const int32_t *id, size_t n,
                              size_t *len)
{
    struct checkpoint *c;
    size_t found;

    if (!e->prefix || !n)
        return NULL;
    e->counters.prefix_lookups++;
    while ((c = prefix_find(e->prefix, owner, id, n - 1, &found)) && c->damaged &&
           checkpoint_is_cold(c))
        prefix_lost(e->prefix, c);
    if (!c || !state_recall(e, c))
        return NULL;
    e->counters.prefix_hits++;
    *len = found;
    return c;
}

void cache_plan(struct engine *e, struct sequence *s)
{
    size_t every = e->options.cache_every, last, next;

    s->cut = SIZE_MAX;
    if (!e->prefix || !s->whole || s->feed_len < STEP_BACK + WORTH)
        return;
    last = s->sampled_at - STEP_BACK;
    next = every ? (s->fed / every + 1) * every : last;
    if (next + WORTH > last)
        next = last;
    if (next >= s->fed + WORTH)
        s->cut = next;
}

/* It takes the whole context in. */
static void begin_anew(struct engine *e, struct sequence *s)
{
    struct job *job = s->job;

    tiers_release(e->tiers, s->origin);
    s->origin = NULL;
    s->fed = 0;
    e->counters.prompt_tokens += job->cached;
    job->cached = job->command->turn.cached_tokens = 0;
    cache_plan(e, s);
}

void cache_failed(struct engine *e, struct sequence *s)
{
    prefix_lost(e->prefix, s->origin);
    begin_anew(e, s);
}

bool cache_yield(struct engine *e)
{
    for (struct sequence *s = e->queue; s; s = s->next) {
        if (!s->job->cached || s->lifted)
            continue;
        begin_anew(e, s);
        return true;
    }
    return false;
}

void cache_cut(struct engine *e, struct sequence *s)
{
    uint64_t owner = s->job->command->owner;
    struct checkpoint *c = checkpoint_at(e, owner, s->fed);

    if (c) {
        tiers_remember(c);
        tiers_release(e->tiers, c);
        if (tiers_copy(e->tiers, c, s->slot))
            prefix_add(e->prefix, owner, s->feed, s->fed, c);
        tiers_forget(e->tiers, c);
    }
    cache_plan(e, s);
}

void cache_take_slot(struct engine *e, struct sequence *s)
{
    uint64_t owner = s->job->command->owner;
    struct checkpoint *c;

    if (!e->prefix || !s->whole || s->slot < 0 || !s->sampled || s->fed < WORTH)
        return;
    c = checkpoint_at(e, owner, s->fed);
    if (!c)
        return;
    tiers_commit(e->tiers, c, s->slot);
    s->slot = -1;
    prefix_add(e->prefix, owner, s->feed, s->fed, c);
    tiers_release(e->tiers, c);
}

void cache_take_head(struct engine *e, const struct session *s)
{
    const struct checkpoint *head = s->head;
    size_t n = (size_t)checkpoint_covers(head);
    int32_t *id;

    if (!e->prefix || past_begin(s->past) || n < WORTH || !(id = malloc(n * sizeof(*id))))
        return;
    past_read_ids(s->past, 0, n, id);
    prefix_add(e->prefix, s->owner, id, n, s->head);
    free(id);
}
