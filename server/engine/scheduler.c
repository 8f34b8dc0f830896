/* scheduler.c - which turns run: those that wait get slots, those that are over give them back, and
 * the steps in between (flight.c). */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/clock.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

bool scheduler_init(struct engine *e, int max_logits)
{
    e->queue_end = &e->queue;
    e->running = calloc((size_t)(e->devices->count * e->options.max_batch), sizeof(*e->running));
    return e->running && flights_init(e, max_logits);
}

void scheduler_finish(struct engine *e)
{
    free(e->running);
    flights_finish(e);
}

void scheduler_enqueue(struct engine *e, struct sequence *s, bool front)
{
    if (front) {
        s->next = e->queue;
        e->queue = s;
        if (!s->next)
            e->queue_end = &s->next;
    } else {
        s->next = NULL;
        *e->queue_end = s;
        e->queue_end = &s->next;
    }
    e->queued++;
}

static struct sequence *dequeue(struct engine *e)
{
    struct sequence *s = e->queue;

    e->queue = s->next;
    if (!e->queue)
        e->queue_end = &e->queue;
    e->queued--;
    return s;
}

/* Queued sequences end without a slot when their job has failed, or when time is up for what
 * they have drawn. The queue may be long: it is searched only when there may be such ones. */
static void drop_over(struct engine *e)
{
    struct sequence *kept = e->queue;
    int n = e->queued;

    if (!e->any_over)
        return;
    e->any_over = false;
    e->queue = NULL;
    e->queue_end = &e->queue;
    e->queued = 0;
    for (struct sequence *s = kept, *next; n-- > 0; s = next) {
        next = s->next;
        if (s->job->failed || s->finish != FINISH_NONE)
            sequence_end(e, s);
        else
            scheduler_enqueue(e, s, false);
    }
}

/* The others keep their order. */
static void leave_running(struct engine *e, int i)
{
    e->running_count--;
    memmove(e->running + i, e->running + i + 1,
            (size_t)(e->running_count - i) * sizeof(struct sequence *));
}

/* One that ends is among the running ones until then: its anchors may have to go. */
static void retire(struct engine *e)
{
    for (int i = 0; i < e->running_count;) {
        struct sequence *s = e->running[i];
        bool fed = !s->samples && !s->recall && s->fed == sequence_goal(s);

        if (s->ahead) { /* a step works on its state */
            i++;
        } else if (s->finish != FINISH_NONE || s->job->failed || (fed && !sequence_go_on(e, s))) {
            sequence_end(e, s);
            leave_running(e, i);
        } else {
            i++;
        }
    }
}

/* The turn that has had its slot for the longest, if that is long enough. */
static int find_eldest(const struct engine *e)
{
    int eldest = -1, most = e->options.quantum - 1;

    for (int i = 0; i < e->running_count && e->options.quantum; i++) {
        const struct sequence *s = e->running[i];

        if (s->slice <= most || s->recall || s->job->failed || s->finish != FINISH_NONE)
            continue;
        most = s->slice;
        eldest = i;
    }
    return eldest;
}

/* A running turn goes to the end of the queue, with all that its slot held: when it is its
 * turn again, it goes on as if nothing had been. */
static bool make_way(struct engine *e)
{
    int i = find_eldest(e);
    struct sequence *s = i < 0 ? NULL : e->running[i];

    if (!s || !(s->lifted = tiers_lift(e->tiers, s->slot)))
        return false;
    s->slot = -1;
    leave_running(e, i);
    scheduler_enqueue(e, s, false);
    e->counters.slices++;
    return true;
}

static void begin_reading(struct engine *e, struct sequence *s)
{
    s->recall = journal_recall(e, s->origin, NULL);
    if (!s->recall)
        job_fail(e, s->job, PROBLEM_OUT_OF_MEMORY, "no memory to read the state back");
}

/* A slot that holds, or will hold, what the sequence goes on from. -1: none now. */
static int find_slot(struct engine *e, struct sequence *s)
{
    struct checkpoint *from = s->origin;
    bool cold = from && checkpoint_is_cold(from), resident = from && from->slot >= 0;
    double began = clock_seconds();
    int slot = s->lifted ? tiers_resume(e->tiers, s->lifted) : tiers_start(e->tiers, from);

    if (slot < 0)
        return -1;
    s->slice = 0;
    s->admitted = began;
    s->arriving =
        !s->lifted && !cold && !resident && from && from->position ? &e->counters.from_host : NULL;
    if (s->lifted)
        s->lifted = NULL;
    else if (cold)
        begin_reading(e, s);
    else if (resident)
        engine_observe(&e->counters.from_device, clock_seconds() - began);
    if (!cold && !s->job->session) { /* the slot is all that it needs */
        tiers_release(e->tiers, from);
        s->origin = NULL;
    }
    return slot;
}

/* In a step, or while a state was copied from it. NULL: none. */
static const char *find_lost(const struct engine *e)
{
    for (int i = 0; i < e->devices->count; i++)
        if (e->devices->at[i].backend->lost)
            return e->devices->at[i].backend->detail;
    return NULL;
}

static void admit(struct engine *e)
{
    int ways = e->queued;   /* more would turn out those that have just come */
    int others = e->queued; /* each is tried before one is refused */

    while (e->queue) {
        int slot = find_slot(e, e->queue);
        struct sequence *s;

        if (slot < 0 && find_lost(e))
            return; /* no room would help: the step fails all */
        if (slot < 0 && ways-- > 0 && make_way(e))
            continue;
        if (slot < 0 && (e->running_count || journal_busy(e)))
            return; /* a running one will give its slot back */
        if (slot < 0 && others <= 0 && cache_yield(e))
            others = e->queued;
        s = dequeue(e);
        if (slot < 0 && others-- > 0) { /* what is in the slots may wait for one behind it */
            scheduler_enqueue(e, s, false);
            continue;
        }
        if (slot < 0) {
            job_fail(e, s->job, PROBLEM_NO_SLOT, "no state slot is free, and none can be parked");
            sequence_end(e, s);
            continue;
        }
        s->slot = slot;
        s->scored = e->counters.steps;
        if (!s->fed)
            sequence_score_first(e, s);
        e->running[e->running_count++] = s;
    }
}

void scheduler_fail_all(struct engine *e, enum problem_code what, const char *message)
{
    for (struct sequence *s = e->queue; s; s = s->next)
        job_fail(e, s->job, what, message);
    for (int i = 0; i < e->running_count; i++)
        job_fail(e, e->running[i]->job, what, message);
    drop_over(e);
    retire(e);
}

static void fail_step(struct engine *e, const char *message)
{
    e->lost = find_lost(e);
    flights_abandon(e);
    scheduler_fail_all(e, PROBLEM_DEVICE_ERROR, message);
}

static void land(struct engine *e)
{
    struct error err;

    if (flight_land(e, &err))
        retire(e);
    else
        fail_step(e, err.message);
}

void scheduler_settle(struct engine *e)
{
    while (e->aloft)
        land(e);
}

/* Of those that run when none has anything to take in. */
static bool any_moves(const struct engine *e)
{
    for (int i = 0; i < e->running_count; i++)
        if (!e->running[i]->recall)
            return true;
    return false;
}

bool scheduler_step(struct engine *e)
{
    bool started;

    drop_over(e);
    retire(e);
    if (e->queue && find_eldest(e) >= 0)
        scheduler_settle(e); /* it may have to make way */
    admit(e);
    retire(e); /* an admitted one may have nothing to take in */
    if (find_lost(e)) {
        fail_step(e, "the device failed");
        return true;
    }
    started = flight_start(e);
    if (!e->aloft) /* all that run wait: for a move, or for the store, which wakes this thread */
        return any_moves(e) || (!e->running_count && e->queue && !journal_busy(e));
    if (!started || e->aloft == FLIGHTS || !flights_overlap(e))
        land(e);
    return true;
}
