/* branches.h - the sessions of one terminal: a trunk, and the forks it went on in.
 *
 * The newest branch is the one that talks. Every function asks the engine and waits. */
#ifndef SERVER_CLI_BRANCHES_H
#define SERVER_CLI_BRANCHES_H

#include <stdbool.h>

#include "server/problem.h"
#include "server/state/id.h"

struct local;
struct session_info;

enum { BRANCHES_MAX = 64 };

struct branches {
    struct local *local; /* borrowed */
    int depth;           /* of the branch that talks */
    struct id session[BRANCHES_MAX];
    char note[128];
};

/* Creates the trunk's session. */
bool branches_init(struct branches *b, struct local *local, struct problem *p);

/* Where the talking session stands. */
bool branches_look(struct branches *b, struct session_info *at, struct problem *p);

bool branches_undo(struct branches *b, const char *unused, struct problem *p);
bool branches_fork(struct branches *b, const char *unused, struct problem *p);
bool branches_back(struct branches *b, const char *unused, struct problem *p);
bool branches_save(struct branches *b, const char *path, struct problem *p);
bool branches_load(struct branches *b, const char *path, struct problem *p);

/* What the newest of these did, for a person. */
const char *branches_note(const struct branches *b);

#endif
