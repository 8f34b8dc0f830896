/* past.h - what lies behind a head: its newest token ids, and the turns that led to it.
 *
 * A past ends where its head stands. It holds the newest LIMIT_HISTORY_TOKENS ids of the
 * context (a few more until a chunk is full) and remembers the checkpoints that the newest
 * LIMIT_HISTORY_TURNS turns started from, so that a head can go back to any of these tokens:
 * from the nearest state whose record is still there, the ids are taken in again.
 *
 * Reference-counted and copied when written: forks and snapshots share one, and copies share
 * their ids. NULL is the past of an empty context. Engine thread only. */
#ifndef SERVER_STATE_PAST_H
#define SERVER_STATE_PAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checkpoint;
struct past;
struct recent;
struct tiers;

/* The past of a context of `position` tokens of which the newest n are known. false: no
 * memory. n is at most LIMIT_HISTORY_TOKENS. */
bool past_create(struct past **out, uint64_t position, const uint32_t *token, size_t n);
struct past *past_keep(struct past *p); /* takes and returns NULL, too */
void past_release(struct tiers *t, struct past *p);

/* A turn: `from` becomes a checkpoint to go back to, then come the turn's ids, of which those
 * from `sampled` on were drawn by the model. false: no memory, nothing has changed. */
bool past_take_turn(struct tiers *t, struct past **p, struct checkpoint *from, const int32_t *id,
                    size_t n, size_t sampled);
/* Forgets what came after `position`, which the past reaches, and the turns that started
 * there. false: no memory. */
bool past_cut(struct tiers *t, struct past **p, uint64_t position);

uint64_t past_end(const struct past *p);   /* where the head stands */
uint64_t past_begin(const struct past *p); /* ids are known from here on */
/* The earliest position that a head can go back to with the ids that penalties look at; 0
 * needs none. */
uint64_t past_reach(const struct past *p);
/* n ids from position `from` on, which the past has (bit 31: RECENT_SAMPLED). */
void past_read(const struct past *p, uint64_t from, size_t n, uint32_t *token);
/* The window that penalties look at. */
void past_recent(const struct past *p, struct recent *recent);

/* The checkpoint that the newest turn but n - 1 started from; NULL: not remembered. */
struct checkpoint *past_find_turn(const struct past *p, size_t n);
/* The newest remembered checkpoint at or before `position`, with a record, or NULL. exact:
 * only one that stands there, with or without a record. */
struct checkpoint *past_find(const struct past *p, uint64_t position, bool exact);
/* The oldest remembered checkpoint after `position`, or NULL. */
struct checkpoint *past_find_after(const struct past *p, uint64_t position);

#endif
