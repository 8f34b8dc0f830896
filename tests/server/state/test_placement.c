/* Placement: a device that can is found, turns spread, and a state stays home while that pays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "server/state/placement.h"

enum { DEVICES = 4, ROUNDS = 20000, LEAD = 4 };

static uint64_t dice = 88172645463325252u;

static unsigned below(unsigned n)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (unsigned)(dice >> 33) % n;
}

static bool can(const struct placement *d, int most)
{
    return d->worked < most && d->free + d->resident > 0;
}

static void whoever_can_is_found_and_nobody_else(void **unused)
{
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        const int devices = 1 + (int)below(DEVICES), most = 1 + (int)below(6);
        const unsigned skip = below(1u << devices);
        struct placement d[DEVICES];
        int able = 0, chosen;

        for (int i = 0; i < devices; i++) {
            d[i] = (struct placement){ (int)below(6), (int)below(3), (int)below(3) };
            able += !(skip >> i & 1) && can(&d[i], most);
        }
        chosen = placement_choose(d, devices, most, (int)below((unsigned)devices + 1) - 1, skip);
        assert_true(chosen >= -1 && chosen < devices);
        assert_int_equal(chosen >= 0, able > 0);
        if (chosen >= 0)
            assert_true(!(skip >> chosen & 1) && can(&d[chosen], most));
    }
}

/* Turns come and go, each from a state on some device or from none. */
static void turns_spread(void **unused)
{
    enum { SLOTS = 64 };
    struct placement d[DEVICES] = { 0 };

    (void)unused;
    for (int i = 0; i < DEVICES; i++)
        d[i].free = SLOTS;
    for (int round = 0; round < ROUNDS; round++) {
        int least = SLOTS, chosen, i = (int)below(DEVICES);
        const int home = (int)below(DEVICES + 1) - 1;

        if (below(5) < 2 && d[i].worked) {
            d[i].worked--;
            d[i].free++;
            continue;
        }
        for (int k = 0; k < DEVICES; k++)
            least = d[k].free && d[k].worked < least ? d[k].worked : least;
        chosen = placement_choose(d, DEVICES, SLOTS, home, 0);
        if (chosen < 0)
            continue;
        assert_true(d[chosen].worked <= least + (chosen == home ? LEAD : 0));
        if (home >= 0 && d[home].free && d[home].worked < least + LEAD)
            assert_int_equal(chosen, home);
        d[chosen].worked++;
        d[chosen].free--;
    }
}

static void idle_devices_fill_alike(void **unused)
{
    struct placement d[DEVICES] = { 0 };

    (void)unused;
    for (int i = 0; i < DEVICES; i++)
        d[i].free = 8;
    for (int round = 0; round < DEVICES * 8;
         round++) { /* one turn at a time, each leaves a state */
        int chosen = placement_choose(d, DEVICES, 8, -1, 0);

        d[chosen].free--;
        d[chosen].resident++;
        for (int i = 0; i < DEVICES; i++)
            assert_true(abs(d[i].resident - d[0].resident) <= 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_can_is_found_and_nobody_else),
        cmocka_unit_test(turns_spread),
        cmocka_unit_test(idle_devices_fill_alike),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
