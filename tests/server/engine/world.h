/* world.h - an engine beside the simplest model of it: a session is the list of its token ids,
 * snapshots are a tree of such lists.
 *
 * Each verb is done to both, and asserts that the engine answers what the model says. Whatever
 * happened to a session, its state is what reference.h makes of those ids, and what is drawn on
 * it is what is drawn there. What the engine may refuse for want of room has then changed
 * nothing. The model is one of a single layer: what is tested is where states go. */
#ifndef TESTS_SERVER_ENGINE_WORLD_H
#define TESTS_SERVER_ENGINE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/server/engine/rig.h"

struct checkpoint;
struct made_model;
struct reference;

enum {
    WORLD_SESSIONS = 7,
    WORLD_SNAPSHOTS = 8,
    WORLD_OWNERS = 2,
    WORLD_PAST = 400,
    WORLD_ROOM = 100, /* a turn brings no more tokens */
    WORLD_TURNS = 64,
};

/* How a world differs from others. */
struct world_plan {
    const char *name, *model;
    const char *devices; /* NULL: one CPU */
    int slots;           /* of each */
    int parked;          /* states that fit into host memory */
    int spares;          /* of those that nobody needs; 0: no prefix cache */
    int on_disk;         /* states that fit into the folder; 0: there is no store */
    int owners;          /* 0: everything belongs to the one owner that there is without keys */
    int owner_states;    /* of one owner; 0: no bound */
    int quantum;         /* steps of a turn before it makes room */
    int cache_every;     /* tokens of a prompt from one spare to the next; 0: one near its end */
    int threads;         /* of the CPU; 0: one */
    struct rig_cpus cpus;
    enum disk_mode durability;
    const struct disk_io *io; /* borrowed; NULL: the system's */
    uint64_t seed;
};

struct world_past {
    int32_t id[WORLD_PAST];
    size_t n;
    size_t turn[WORLD_TURNS]; /* where the newest turns began, oldest first */
    size_t turns;
};

struct world_snapshot {
    bool alive;
    uint64_t owner;
    struct id id;
    struct world_past past;
    struct world_snapshot *parent; /* the nearest above it that is alive, or NULL */
};

struct world_session {
    bool alive;
    uint64_t owner;
    struct id id;
    struct world_past past;
    uint64_t version;
    struct world_snapshot *below; /* the newest one on the way to its head, or NULL */
};

struct world {
    struct world_plan plan;
    struct engine_options options;
    char dir[64]; /* "": there is no store */
    struct made_model *model;
    struct reference *reference;
    struct rig rig;
    size_t record_bytes;
    int descriptors; /* open ones, before */
    struct world_session session[WORLD_SESSIONS];
    struct world_snapshot snapshot[WORLD_SNAPSHOTS];
    /* What was done, so that it can be asserted that something was. */
    int done[COMMAND_SNAPSHOT_IMPORT + 1], refused, cancelled, partial, restarts;
    int hits;         /* turns that began on a state which others had left */
    int subtrees;     /* that were deleted, of more than one snapshot */
    int draws;        /* that were compared */
    uint64_t crossed; /* states that went from device to device, before the newest start */
    uint64_t random;
};

void world_open(struct world *w, const struct world_plan *plan);
/* Deletes all, and asserts that every slot, byte, file and descriptor was given back. */
void world_close(struct world *w);
/* The same without an end: the engine runs on. */
void world_clear(struct world *w);
unsigned world_below(struct world *w, unsigned n);

/* Without a look at what is left. */
void world_abandon(struct world *w);
/* The engine ends and another one starts on the same folder: everything is there. */
void world_restart(struct world *w);

/* The session's state is its ids'. */
void world_check(struct world *w, const struct world_session *s);
/* So is every other count that can be had without waking a session. */
void world_check_bounds(struct world *w);

/* The session's head, a copy. */
struct checkpoint *world_export(struct world *w, const struct world_session *s);

/* A command of this owner. */
struct command *world_command(enum command_kind kind, uint64_t owner, const struct id *session,
                              const struct id *snapshot);
/* Whether it was done; else it was refused for want of room. */
bool world_did(struct world *w, enum command_kind kind, enum problem_code what);

void world_create(struct world *w, struct world_session *s, struct world_snapshot *from);
void world_delete(struct world *w, struct world_session *s);
/* From the session's head, or from a snapshot of its owner. */
void world_fork(struct world *w, const struct world_session *s, struct world_snapshot *from,
                struct world_session *to);
void world_take_snapshot(struct world *w, struct world_session *s, struct world_snapshot *to);
/* It was taken of a session with this past. */
void world_taken(struct world_session *s, struct world_snapshot *to, const struct command *c,
                 const struct world_past *past);
/* whole: with all that is below it. */
void world_delete_snapshot(struct world *w, struct world_snapshot *s, bool whole);
void world_restore(struct world *w, struct world_session *s, struct world_snapshot *from);
/* To any token, or to the start of a turn. */
void world_roll_back(struct world *w, struct world_session *s);
/* The state of one session, as a file, becomes another's. */
void world_carry_over(struct world *w, const struct world_session *from, struct world_session *to);
/* The session of another owner is as unknown as any. */
void world_ask_as_another(struct world *w, const struct world_session *s);

/* A turn on the session, or without one if NULL; one that begins a context often brings a known
 * one. */
struct command *world_turn(struct world *w, const struct world_session *s);
/* It was answered; s is NULL for one without a session. */
void world_turned(struct world *w, struct world_session *s, const struct command *c,
                  const struct outcome *out);

#endif
