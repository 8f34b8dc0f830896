/* past.h - what lies behind a head: its newest token ids, and the turns that led to it.
 *
 * A past ends where its head stands, and lets it go back over a window of its newest tokens
 * and turns: from the nearest state before a token, the ids up to there are taken in again.
 * Its marks are remembered checkpoints: the starts of the newest LIMIT_HISTORY_TURNS turns, and
 * anchors, whose records outlast the turn. From one anchor to the next, from the newest to the
 * head and from the empty context to the first it is less than half a window; the ids of one
 * and a half windows are known. So before each token of the window there is an anchor from
 * which every id is known, as long as no anchor's record is lost.
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

/* The past of what a copy brought: its ids and marks, of which those within reach are taken
 * over. false: no memory. */
bool past_restore(struct tiers *t, struct past **out, struct checkpoint *copy);
/* Gives a fresh copy of the head the newest ids and copies of the marks. false: no memory. */
bool past_describe(const struct past *p, struct checkpoint *copy);
struct past *past_keep(struct past *p); /* takes and returns NULL, too */
void past_release(struct tiers *t, struct past *p);

struct past_turn {
    struct checkpoint *from;          /* becomes a mark, and an anchor where one is due */
    struct checkpoint *const *anchor; /* inside of the turn, oldest first */
    size_t anchors;
    const int32_t *id; /* the turn's, of which those from `sampled` on the model drew */
    size_t n, sampled;
    size_t window; /* tokens; at most LIMIT_HISTORY_TOKENS */
};

/* A turn that leaves the context empty is none to go back over. false: no memory, nothing has
 * changed. */
bool past_take_turn(struct tiers *t, struct past **p, const struct past_turn *turn);
/* How far apart a long turn's anchors are. */
size_t past_stride(size_t window);
/* Forgets what came after the place to go to, which the past reaches. If that is where a turn
 * started, as a mark or a copy of one, that turn goes and those behind it, and not those before
 * it that added nothing. false: no memory. */
bool past_cut(struct tiers *t, struct past **p, const struct checkpoint *to);

uint64_t past_end(const struct past *p);   /* where the head stands */
uint64_t past_begin(const struct past *p); /* ids are known from here on */
/* The earliest position that a head can go back to with the ids that penalties look at; 0
 * needs none. */
uint64_t past_reach(const struct past *p);
/* n ids from position `from` on, which the past has (bit 31: RECENT_SAMPLED). */
void past_read(const struct past *p, uint64_t from, size_t n, uint32_t *token);
/* The same without that bit. */
void past_read_ids(const struct past *p, uint64_t from, size_t n, int32_t *id);
/* The window that penalties look at. */
void past_recent(const struct past *p, struct recent *recent);

/* The checkpoint that the newest turn but n - 1 started from; NULL: not remembered. */
struct checkpoint *past_find_turn(const struct past *p, size_t n);
/* The start of a turn that stands at `position`, with or without a record, or NULL. */
struct checkpoint *past_find_start(const struct past *p, uint64_t position);
/* The newest mark whose record holds at most `covered` tokens, and is there or may be had
 * again; NULL: none. */
struct checkpoint *past_find_base(const struct past *p, uint64_t covered);
/* The start of the oldest turn that began after `position`, or NULL. */
struct checkpoint *past_find_after(const struct past *p, uint64_t position);

#endif
