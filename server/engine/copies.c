/* copies.c - what leaves a state's place and comes back: copies for clients, and pasts that only
 * the store still has. A copy comes from the device while others compute, and is answered when it
 * is here. What a client brings is made ready in another thread. */
#include <stdlib.h>

#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/engine/engine_internal.h"
#include "server/state/format.h"
#include "server/state/reader.h"
#include "server/state/tiers.h"

static struct checkpoint *export(struct engine *e, const struct checkpoint *from,
                                 const struct past *past)
{
    struct checkpoint *copy = tiers_export(e->tiers, from);

    if (copy && past_describe(past, copy))
        return copy;
    checkpoint_destroy(copy);
    return NULL;
}

/* Whether it is known how the copy of the record went. */
static bool has_left(struct engine *e, struct command *c)
{
    if (!c->checkpoint->record)
        return true;
    switch (tiers_arrival(e->tiers, c->checkpoint->record)) {
    case ARRIVAL_AWAITED:
        return false;
    case ARRIVAL_FAILED:
        checkpoint_destroy(c->checkpoint);
        c->checkpoint = NULL;
        problem_set(&c->problem, PROBLEM_DEVICE_ERROR, NULL, "the device failed");
        return true;
    case ARRIVAL_HERE:
        break;
    }
    return true;
}

void exports_answer(struct engine *e)
{
    for (struct command *c; (c = e->leaving) && has_left(e, c);) {
        e->leaving = c->next;
        if (!e->leaving)
            e->leaving_end = &e->leaving;
        engine_answer(e, c);
    }
}

static bool leave(struct engine *e, struct command *c)
{
    if (has_left(e, c))
        return c->checkpoint != NULL;
    c->later = true;
    c->next = NULL;
    *e->leaving_end = c;
    e->leaving_end = &c->next;
    return true;
}

bool command_export(struct engine *e, struct command *c, struct checkpoint *from,
                    const struct past *past, uint64_t seed)
{
    if (checkpoint_is_cold(from)) {
        c->seed = seed;
        if (from->damaged)
            return recall_refuse(&c->problem);
        if (journal_recall(e, from, c))
            return true;
    } else if ((c->checkpoint = export(e, from, past))) {
        c->checkpoint->seed = seed;
        checkpoint_forget_anchors(c->checkpoint);
        return leave(e, c);
    }
    return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                       "no memory for a copy of the state");
}

static void *take_record(void *tiers)
{
    return tiers_take_record(tiers);
}

struct checkpoint *engine_decode(struct engine *e, const void *file, size_t len, struct problem *p)
{
    return format_decode_to(file, len, model_info(e->model), tokenizer_size(e->tokenizer),
                            take_record, e->tiers, p);
}

bool past_read_back(struct engine *e, struct past **past, struct checkpoint *from)
{
    if (!journal_has_anchors(e))
        checkpoint_forget_anchors(from);
    return past_restore(e->tiers, past, from);
}

/* Whoever wrote the file may name what he likes: nothing here is found by such a name. */
bool checkpoint_take_past(struct engine *e, struct command *c, struct past **past)
{
    struct checkpoint *from = c->checkpoint;

    from->owner = c->owner;
    checkpoint_forget_anchors(from);
    if (!past_restore(e->tiers, past, from))
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                           "no memory for the context's tokens");
    free(from->token);
    from->token = NULL;
    from->tokens = 0;
    return true;
}

bool session_has_past(struct engine *e, struct command *c, struct session *s)
{
    if (s->past || !s->head->position)
        return true;
    if (s->head->damaged)
        return recall_refuse(&c->problem);
    if (!journal_recall(e, s->head, c))
        problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory to read the state back");
    return false;
}

static bool give_past(struct engine *e, struct command *c, const struct recall *r)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);

    return !s || s->past || s->head != r->of || past_read_back(e, &s->past, r->checkpoint) ||
           problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the past");
}

void recalled(struct engine *e, struct command *c, struct recall *r)
{
    c->problem = r->problem;
    if (command_exports(c)) {
        c->checkpoint = r->checkpoint;
        r->checkpoint = NULL;
        if (c->checkpoint) {
            c->checkpoint->seed = c->seed;
            checkpoint_forget_anchors(c->checkpoint);
        }
    } else if (r->checkpoint && give_past(e, c, r)) {
        engine_obey(e, c);
        return;
    }
    engine_answer(e, c);
}

/* The past of what is in the store alone is there too. */
void past_cool(struct engine *e, struct past **past, const struct checkpoint *c)
{
    if (!checkpoint_is_cold(c))
        return;
    past_release(e->tiers, *past);
    *past = NULL;
}
