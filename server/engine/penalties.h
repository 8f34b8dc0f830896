/* penalties.h - the weights that penalties give to the newest tokens of a context.
 *
 * A pure function of the window (struct recent), recomputed for every token: so a restored
 * session gets the same weights to the last bit. One thread. */
#ifndef SERVER_ENGINE_PENALTIES_H
#define SERVER_ENGINE_PENALTIES_H

#include <stdint.h>

#include "config/limits.h"

struct recent;

struct penalties {
    int32_t id[LIMIT_PENALTY_WINDOW];
    float weight[LIMIT_PENALTY_WINDOW];
    int count;
};

/* Every distinct id of the window, with the sum over its sampled occurrences of decay^age;
 * the newest token has age 0. decay 1 counts them (RWKV's penalty_decay below 1 forgets), and no
 * power is less than FLT_MIN: what was sampled has a weight. */
void penalties_compute(struct penalties *p, const struct recent *recent, float decay);

#endif
