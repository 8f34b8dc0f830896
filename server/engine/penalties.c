#include "server/engine/penalties.h"

#include <float.h>
#include <string.h>

#include "server/state/checkpoint.h"

enum { HASH_SIZE = 2 * LIMIT_PENALTY_WINDOW }; /* a power of two, at most half full */

/* Newest first, so that every age's power is one product from the last. What underflowed would
 * be no occurrence at all. */
void penalties_compute(struct penalties *p, const struct recent *recent, float decay)
{
    int16_t place[HASH_SIZE]; /* index into id + 1 */
    float power = 1;

    memset(place, 0, sizeof(place));
    p->count = 0;
    for (int i = recent->count - 1; i >= 0; i--) {
        int32_t id = (int32_t)(recent->token[i] & ~RECENT_SAMPLED);
        uint32_t at = (uint32_t)id * 2654435769u % HASH_SIZE;

        while (place[at] && p->id[place[at] - 1] != id)
            at = (at + 1) % HASH_SIZE;
        if (!place[at]) {
            p->id[p->count] = id;
            p->weight[p->count] = 0;
            place[at] = (int16_t)++p->count;
        }
        if (recent->token[i] & RECENT_SAMPLED)
            p->weight[place[at] - 1] += power;
        power = power * decay > FLT_MIN ? power * decay : FLT_MIN;
    }
}
