#include "server/engine/mailbox.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "server/engine/command.h"

void event_list_init(struct event_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

void event_list_add(struct event_list *l, struct event *e)
{
    e->next = NULL;
    *l->last = e;
    l->last = &e->next;
}

bool mailbox_init(struct mailbox *m, int capacity)
{
    pthread_condattr_t monotonic;

    *m = (struct mailbox){ .capacity = capacity };
    m->last = &m->event;
    m->command = calloc((size_t)capacity, sizeof(*m->command));
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->arrived, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return m->command != NULL;
}

void mailbox_finish(struct mailbox *m)
{
    struct event *e;

    while (m->count--) {
        command_free(m->command[m->first]);
        m->first = (m->first + 1) % m->capacity;
    }
    while ((e = m->event)) {
        m->event = e->next;
        if (e->kind == EVENT_ANSWER)
            command_free(e->command);
        event_free(e);
    }
    free(m->command);
    pthread_cond_destroy(&m->arrived);
    pthread_mutex_destroy(&m->lock);
}

bool mailbox_put(struct mailbox *m, struct command *const *c, int n)
{
    bool room;

    pthread_mutex_lock(&m->lock);
    room = n <= m->capacity - m->count;
    for (int i = 0; room && i < n; i++)
        m->command[(m->first + m->count++) % m->capacity] = c[i];
    m->owed += room ? n : 0;
    pthread_cond_signal(&m->arrived);
    pthread_mutex_unlock(&m->lock);
    return room;
}

void mailbox_nudge(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->nudged = true;
    pthread_cond_signal(&m->arrived);
    pthread_mutex_unlock(&m->lock);
}

struct event *mailbox_take_event(struct mailbox *m)
{
    struct event *e;

    pthread_mutex_lock(&m->lock);
    e = m->event;
    if (e) {
        m->event = e->next;
        if (!m->event)
            m->last = &m->event;
        m->owed -= e->kind == EVENT_ANSWER;
    }
    pthread_mutex_unlock(&m->lock);
    return e;
}

bool mailbox_settled(struct mailbox *m)
{
    bool settled;

    pthread_mutex_lock(&m->lock);
    settled = !m->owed;
    pthread_mutex_unlock(&m->lock);
    return settled;
}

struct command *mailbox_take(struct mailbox *m, double seconds)
{
    struct command *c = NULL;
    struct timespec until;
    double whole;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(modf(seconds, &whole) * 1e9);
    until.tv_sec += (time_t)whole + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&m->lock);
    while (!m->count && !m->nudged && seconds > 0)
        if (pthread_cond_timedwait(&m->arrived, &m->lock, &until) != 0)
            break;
    if (m->count) {
        c = m->command[m->first];
        m->first = (m->first + 1) % m->capacity;
        m->count--;
    }
    pthread_mutex_unlock(&m->lock);
    return c;
}

bool mailbox_has_command(struct mailbox *m)
{
    return atomic_load_explicit(&m->count, memory_order_relaxed) > 0;
}

bool mailbox_take_nudge(struct mailbox *m)
{
    bool nudged;

    pthread_mutex_lock(&m->lock);
    nudged = m->nudged;
    m->nudged = false;
    pthread_mutex_unlock(&m->lock);
    return nudged;
}

bool mailbox_publish(struct mailbox *m, struct event_list *events)
{
    bool was_empty;

    if (!events->first)
        return false;
    pthread_mutex_lock(&m->lock);
    was_empty = !m->event;
    *m->last = events->first;
    m->last = events->last;
    pthread_mutex_unlock(&m->lock);
    event_list_init(events);
    return was_empty;
}
