/* tree.h - the simplest model of a tree of snapshots, beside an engine that has it: an array of
 * parents, in which what was deleted stays and is looked through. What is done to both asserts that
 * the engine does it. */
#ifndef TESTS_SERVER_ENGINE_TREE_H
#define TESTS_SERVER_ENGINE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/server/engine/rig.h"

enum { SESSIONS = 12, SNAPSHOTS = 400, NONE = -1 };

#define TREE_MODEL "tests/data/rwkv7-tiny-hf"

struct tree_snapshot {
    struct id id;
    int parent; /* when it was taken; NONE: a root */
    uint64_t position;
    bool alive;
};

struct tree_session {
    struct id id;
    int below; /* the newest snapshot on the way to its head, alive or not */
    uint64_t position;
    bool alive;
};

struct tree {
    struct rig rig;
    struct engine_options options;
    struct tree_snapshot snapshot[SNAPSHOTS];
    struct tree_session session[SESSIONS];
    int snapshots;
    int done[COMMAND_SNAPSHOT_IMPORT + 1], cut, gone; /* so that a test can fail */
};

extern uint64_t tree_seed;
int tree_random(int n); /* from 0 to n - 1 */
/* store: in the folder of folder.h. */
struct engine_options tree_options(int slots, size_t host_bytes, bool store);

void tree_create(struct tree *w, struct tree_session *s, int from);
void tree_append(struct tree *w, struct tree_session *s);
void tree_take(struct tree *w, const struct tree_session *of, struct tree_session *s);
void tree_fork(struct tree *w, const struct tree_session *s, struct tree_session *to);
void tree_restore(struct tree *w, struct tree_session *s, int from);
void tree_delete(struct tree *w, int root, bool whole);
void tree_delete_session(struct tree *w, struct tree_session *s);
void tree_play(struct tree *w); /* something of it, at random */

/* A tree in which ROOT has CUT snapshots, itself included, and as many that are gone; LEFT others
 * are outside. Sessions stand on both ends, one of them below a snapshot that is gone, and
 * outside.
 *
 *   0 - 1 - (2) - 5 - (6) - 7
 *    \       \
 *     8 - 9   3 - (4)
 */
enum { ROOT = 1, CUT = 4, LEFT = 3 };
void tree_grow(struct tree *w);

bool tree_is_below(const struct tree *w, int at, int root);
int tree_any(const struct tree *w); /* one of those that are alive; NONE: there is none */
/* The engine has what the model has, and lists it in order. */
void tree_check(struct tree *w);
/* The engine ends and starts again: what is gone costs the store no more than what is there. */
void tree_reopen(struct tree *w);
int tree_records(void); /* in the folder, which no engine has open */

#endif
