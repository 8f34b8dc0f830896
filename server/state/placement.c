#include "server/state/placement.h"

enum { COPY_COST = 4, ROOM_COST = 2 }; /* in running turns */

int placement_choose(const struct placement *device, int devices, int most, int home, unsigned skip)
{
    int best = -1, least = 0;

    for (int i = 0; i < devices; i++) {
        const struct placement *d = &device[i];
        const int cost =
            d->worked + (home >= 0 && home != i ? COPY_COST : 0) + (d->free ? 0 : ROOM_COST);

        if (skip >> i & 1 || d->worked >= most || d->free + d->resident == 0)
            continue;
        if (best < 0 || cost < least || (cost == least && d->free > device[best].free)) {
            best = i;
            least = cost;
        }
    }
    return best;
}
