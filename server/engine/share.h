/* share.h - sessions and snapshots that other servers may have changed meanwhile.
 *
 * With a Redis for a store, what the engine knows of them is as old as its last look. So a
 * command that names one is put off until Redis has said what stands there, and that is taken
 * over; then it is obeyed. One that moves a session also gets the lease on it. The lease ends
 * with the move's write, or else when the command is answered.
 *
 * Sessions and snapshots are shared, and the states that they stand on. Lists, remembered
 * turns and prefixes are each server's own. Engine thread only. */
#ifndef SERVER_ENGINE_SHARE_H
#define SERVER_ENGINE_SHARE_H

#include <stdbool.h>

struct checkpoint;
struct command;
struct disk_op;
struct engine;
struct problem;
struct redis_op;
struct session;

/* true: the command is put off; it is obeyed again when Redis has answered. */
bool share_asks(struct engine *e, struct command *c);
/* Moves the answer to that in, whose owner is the command (NULL: nobody waits). */
void share_answered(struct engine *e, struct redis_op *op);
/* Asks after some of the sessions and snapshots that rest here, after others the next time: what
 * another server has deleted is forgotten when the answers come, or it would count for limits. */
void share_looks(struct engine *e);
/* There are as many sessions as this server keeps in mind, and the command brings one that stands
 * on the head: another one that rests is left to Redis. false: there is none. */
bool share_makes_room(struct engine *e, const struct command *c, const struct checkpoint *head);
/* The command is answered: gives back the lease that it has not used. */
void share_leaves(struct engine *e, struct command *c);

/* A change for the store as one for Redis. moving: the session that it moves, whose lease it
 * uses up; NULL: it brings something new, or deletes. NULL: no memory. */
struct redis_op *share_change(const struct disk_op *op, struct session *moving, void *owner);
/* Why it was not done. */
void share_refused(const struct redis_op *op, struct problem *p);

#endif
