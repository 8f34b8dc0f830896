/* power.h - a disk whose power goes: what was not fsynced is there, or not, or in part.
 *
 * The calls work on a real folder and are written down beside it: for each file the bytes that
 * are durable and the changes since its last fsync, for each folder the names that are durable
 * and the changes since its own. When the power goes, nothing is written down any more; a second
 * folder is then made of what is durable and a random choice of the rest. A write keeps any of
 * its 512-byte sectors, whatever was written before it or after; space that was reserved counts
 * with the file's length and holds zeros; a change of a name happened or did not.
 *
 * One disk in a process. Any thread. */
#ifndef TESTS_SERVER_STATE_POWER_H
#define TESTS_SERVER_STATE_POWER_H

#include <stdbool.h>
#include <stdint.h>

#include "server/state/disk_io.h"

struct disk_io power_io(void);
/* The power goes at the calls-th call from now on that changes something. Then calls fail, or
 * go on as if nothing had been, so that only the image tells. */
void power_cut_after(int calls, bool calls_fail);
bool power_is_on(void);
/* Every file that there is, and its name, is durable. */
bool power_is_settled(void);
/* The folder after the power came back, in an empty one. */
void power_make_image(const char *root, uint64_t seed);
void power_forget(void);

#endif
