#include "server/state/placement.h"

enum { COPY_COST = 4 }; /* in running turns */

int placement_choose(const struct placement *device, int devices, int most, int home, unsigned skip)
{
    int best = -1, least = 0;

    for (int i = 0; i < devices; i++) {
        const struct placement *d = &device[i];
        const int copies = (home >= 0 && home != i) + !d->free;
        const int cost = d->worked + copies * COPY_COST;

        if (skip >> i & 1 || d->worked >= most || d->free + d->resident == 0)
            continue;
        if (best < 0 || cost < least || (cost == least && d->free > device[best].free)) {
            best = i;
            least = cost;
        }
    }
    return best;
}
