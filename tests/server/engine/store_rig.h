/* store_rig.h - what the tests of an engine over a state folder share: engines with a folder and
 * without, turns that both take, and a disk that stands still when it is told to. */
#ifndef TESTS_SERVER_ENGINE_STORE_RIG_H
#define TESTS_SERVER_ENGINE_STORE_RIG_H

#include <stddef.h>

#include "tests/server/engine/rig.h"
#include "tests/server/folder.h"

struct disk_io;

enum { STORE_PROMPT = 6 }; /* tokens of a turn */

extern const char store_model[];
extern const int32_t store_prompt[2 * STORE_PROMPT];
/* An engine without a store, in which everything has its place. */
extern const struct engine_options store_roomy;

/* The same over the test's folder (folder.h), durable before it is answered. */
struct engine_options store_options(int slots, size_t host_bytes);

/* A greedy turn with penalties; `at` chooses the prompt. */
struct command *store_turn(const char *session, int at, int max_tokens);
/* The same turn on both, with the same answer. */
void store_both(struct rig *a, struct rig *b, const char *session, int at, int max_tokens);
/* Overwritten by the next call. */
struct session_info *store_describe(struct rig *r, const char *session);
/* The outcome of a command that is freed. */
enum problem_code store_ask(struct rig *r, enum command_kind kind, const char *session,
                            const char *snapshot);

/* folder_make(), with a disk that is not held, whatever a test before has left. */
int store_setup(void **unused);
/* The system's, but that an fsync waits while the disk is held. */
const struct disk_io *store_held_io(void);
void store_hold(void);
void store_wait_held(void); /* until an fsync waits */
void store_let_go(void);
/* Until so many operations are with the disk. */
void store_wait_waiting(struct rig *r, int ops);
void store_nap(void); /* a millisecond */

#endif
