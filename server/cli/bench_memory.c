/* bench_memory.c - what a session costs in memory, by the process's own size.
 *
 * The engine gets four slots, so that nearly every session is parked in host memory: the
 * growth of the process is then the sessions and nothing else. */
#include "server/cli/bench.h"

#include <malloc.h>
#include <stdio.h>

#include "config/error.h"

enum { SESSIONS_MAX = 1024, SLOTS = 4, STATES_MIB = 512, AT_ONCE = 64 };

static double resident_now(void)
{
    malloc_trim(0);
    return (double)bench_resident();
}

static bool fill(struct bench *b, int n)
{
    struct turns turns = { .prefix = "memory", .prompt = 1, .tokens = 1 };

    if (!bench_sessions(b, COMMAND_SESSION_CREATE, turns.prefix, n))
        return false;
    for (; turns.first < n; turns.first += turns.n) {
        turns.n = n - turns.first < AT_ONCE ? n - turns.first : AT_ONCE;
        if (bench_turns(b, &turns) < 0)
            return false;
    }
    return true;
}

static bool measure(struct bench *b, double model)
{
    size_t record = model_info(b->local.parts.model)->layout.bytes;
    size_t room = ((size_t)STATES_MIB << 20) / record;
    int n = room > SESSIONS_MAX ? SESSIONS_MAX : room <= SLOTS ? SLOTS + 1 : (int)room;
    double few, many;

    if (!fill(b, SLOTS))
        return false;
    few = resident_now();
    if (!bench_sessions(b, COMMAND_SESSION_DELETE, "memory", SLOTS) || !fill(b, n))
        return false;
    many = resident_now();
    printf("\n| memory | bytes |\n|---|---|\n");
    printf("| state of one session | %zu |\n", record);
    printf("| resident: model and scratch (weights %.1f MB) | %.1f MB |\n",
           (double)model_info(b->local.parts.model)->weight_bytes / 1e6, model / 1e6);
    printf("| resident: with %d sessions | %.1f MB |\n", SLOTS, few / 1e6);
    printf("| resident: with %d sessions | %.1f MB |\n", n, many / 1e6);
    printf("| growth a session | %.0f = %.3f of its state |\n", (many - few) / (n - SLOTS),
           (many - few) / (n - SLOTS) / (double)record);
    return true;
}

bool bench_memory(struct bench *b)
{
    const int slots = b->local.limits.slots;
    double model = resident_now();
    struct error err;
    bool ok;

    b->local.limits.slots = SLOTS;
    if (!local_start(&b->local, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return false;
    }
    ok = measure(b, model);
    local_stop(&b->local);
    b->local.limits.slots = slots;
    fflush(stdout);
    return ok;
}
