/* mailbox.h - the two ways between the loop and the engine.
 *
 * Down: a bounded ring of commands; the engine waits on it. Up: a list of events, which is
 * bounded by the turns that may run, handed over a step at a time. */
#ifndef SERVER_ENGINE_MAILBOX_H
#define SERVER_ENGINE_MAILBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct command;
struct event;

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    struct command **command; /* ring */
    int capacity, first;
    atomic_int count; /* changed under the lock */
    bool nudged;
    int owed;                    /* commands put whose answer was not taken */
    struct event *event, **last; /* list, oldest first */
};

struct event_list {
    struct event *first, **last;
};

bool mailbox_init(struct mailbox *m, int capacity); /* false: no memory */
void mailbox_finish(struct mailbox *m);             /* frees what was not delivered */

/* Loop thread. put: all n, behind each other, or, when there is no room, none: false. */
bool mailbox_put(struct mailbox *m, struct command *const *c, int n);
void mailbox_nudge(struct mailbox *m);
struct event *mailbox_take_event(struct mailbox *m);
bool mailbox_settled(struct mailbox *m); /* nothing is owed */

/* Engine thread. take: waits up to `seconds` for a command or a nudge when there is none;
 * NULL if none came. */
struct command *mailbox_take(struct mailbox *m, double seconds);
bool mailbox_has_command(struct mailbox *m); /* without taking the lock */
bool mailbox_take_nudge(struct mailbox *m);  /* whether there was one since the last time */
/* Moves the whole list up. True when the loop has to be woken: nothing was waiting there. */
bool mailbox_publish(struct mailbox *m, struct event_list *events);

void event_list_init(struct event_list *l);
void event_list_add(struct event_list *l, struct event *e);

#endif
