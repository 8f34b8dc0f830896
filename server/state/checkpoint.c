#include "server/state/checkpoint.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/state/record.h"

struct checkpoint *checkpoint_create(void)
{
    struct id id;

    id_generate(&id, "ckpt");
    return checkpoint_create_as(&id);
}

struct checkpoint *checkpoint_create_as(const struct id *id)
{
    struct checkpoint *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->id = *id;
    c->refs = 1;
    c->slot = -1;
    c->pending = -1;
    c->stop = -1;
    c->created = checkpoint_clock();
    return c;
}

void checkpoint_destroy(struct checkpoint *c)
{
    if (!c)
        return;
    assert(c->slot < 0 && c->refs <= 1 && !c->memories);
    for (size_t i = 0; i < c->marks; i++)
        checkpoint_destroy(c->mark[i]);
    free(c->mark);
    record_release(c->record);
    free(c->token);
    free(c->tail);
    free(c->parent);
    free(c);
}

bool checkpoint_set_tail(struct checkpoint *c, const char *tail, size_t len)
{
    if (!len)
        return true;
    c->tail = malloc(len + 1);
    if (!c->tail)
        return false;
    memcpy(c->tail, tail, len);
    c->tail[len] = '\0';
    return true;
}

bool checkpoint_set_parent(struct checkpoint *c, const char *parent)
{
    free(c->parent);
    c->parent = parent[0] ? strdup(parent) : NULL;
    return c->parent || !parent[0];
}

struct checkpoint *checkpoint_copy(const struct checkpoint *c)
{
    struct checkpoint *copy = malloc(sizeof(*copy));

    if (!copy)
        return NULL;
    *copy = *c;
    copy->refs = 1;
    copy->memories = 0;
    copy->place = NULL;
    copy->slot = -1;
    copy->before = copy->next = NULL;
    copy->listed = 0;
    copy->record = NULL;
    copy->token = NULL;
    copy->tokens = 0;
    copy->mark = NULL;
    copy->marks = 0;
    copy->asked = NULL;
    copy->tail = copy->parent = NULL;
    if (!checkpoint_set_tail(copy, c->tail, c->tail ? strlen(c->tail) : 0) ||
        !checkpoint_set_parent(copy, c->parent ? c->parent : "")) {
        checkpoint_destroy(copy);
        return NULL;
    }
    return copy;
}

void checkpoint_forget_anchors(struct checkpoint *copy)
{
    size_t kept = 0;

    for (size_t i = 0; i < copy->marks; i++) {
        struct checkpoint *m = copy->mark[i];

        if (m->inside) {
            checkpoint_destroy(m);
            continue;
        }
        if (m->anchor)
            m->id = (struct id){ "" };
        m->anchor = false;
        copy->mark[kept++] = m;
    }
    copy->marks = kept;
}

uint64_t checkpoint_covers(const struct checkpoint *c)
{
    return c->position - (c->pending >= 0);
}

bool checkpoint_is_cold(const struct checkpoint *c)
{
    return c->stored && c->slot < 0 && !c->record;
}

void recent_add(struct recent *r, int32_t id, bool sampled)
{
    if (r->count == LIMIT_PENALTY_WINDOW) {
        memmove(r->token, r->token + 1, sizeof(r->token) - sizeof(r->token[0]));
        r->count--;
    }
    r->token[r->count++] = (uint32_t)id | (sampled ? RECENT_SAMPLED : 0);
}

double checkpoint_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
