/* late.h - a CPU whose moves and draws are late, as a GPU's are.
 *
 * They happen when somebody waits for them or asks often enough, and not before something that
 * comes behind them; until then what they bring is not there, but garbage is. A step takes a while,
 * what it draws is not there before somebody has waited, and the next one may follow it.
 * So who uses memory too early, or gives it away too early, is found out by what is in it.
 * Like a GPU, it takes its time only over memory that alloc_host() gave. */
#ifndef TESTS_SERVER_STATE_LATE_H
#define TESTS_SERVER_STATE_LATE_H

#include <stdbool.h>
#include <stdint.h>

struct backend;

/* Changes a CPU's backend, until it is closed; at most LATE_MAX at a time. The same seed makes the
 * same delays. */
enum { LATE_MAX = 8 };
void late_make(struct backend *be, uint64_t seed);
/* Since the program began: moves that were late, rows that followed a draw before it was known, and
 * those of them whose draw was held. */
uint64_t late_moves(void);
uint64_t late_followed(void);
uint64_t late_held_back(void);

/* From another thread. While held, no move happens that nobody waits for, and no step ends. */
void late_hold_moves(struct backend *be, bool held);
void late_hold_step(struct backend *be, bool held);
bool late_is_held(struct backend *be); /* somebody saw that a step does not end */
/* Whoever asks for a move next learns that the device failed. */
void late_lose(struct backend *be);

#endif
