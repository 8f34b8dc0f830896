/* calm.h - a session that goes on, turn after turn, while a test ill-treats its server.
 *
 * Afterwards its texts must be those of an undisturbed session, and the server must have
 * given back what the ill treatment took: memory, files, slots, turns. */
#ifndef TESTS_SERVER_E2E_CALM_H
#define TESTS_SERVER_E2E_CALM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "tests/server/e2e/live.h"

enum { CALM_TURNS = 4000 };

struct calm {
    const struct live *live;
    pthread_t thread;
    atomic_bool stop;
    bool failed;
    char *text[CALM_TURNS];
    int turns;
    long rss;
    int fds;
    double slots;
};

void calm_begin(struct calm *c, const struct live *l);
void calm_end(struct calm *c);

#endif
