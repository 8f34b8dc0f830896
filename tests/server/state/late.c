#include "tests/server/state/late.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"

enum { PENDING_MAX = 256, BLOCKS_MAX = 4096, GARBAGE = 0xa5, BUSY_MAX = 4 };

struct move {
    void *dst;
    const void *src;
    size_t bytes;
};

/* What is added to a backend. */
struct late {
    struct backend *be, was;
    struct move pending[PENDING_MAX]; /* a ring: number n is at n % PENDING_MAX */
    uint64_t newest, done;            /* the moves done + 1 to newest are pending */
    uint64_t random;
    int busy; /* so often it will say that it computes */
    atomic_bool hold_moves, hold_step, held, losing;
};

static struct late all[LATE_MAX];
static uint64_t moves;

/* Of all of them: what is fast memory for one is so for the others. Any thread asks for it. */
static pthread_mutex_t lending = PTHREAD_MUTEX_INITIALIZER;
static struct block {
    const char *from;
    size_t bytes;
} block[BLOCKS_MAX];

/* A late one is found by any thread, made and closed by one. */
static struct late *of(const struct backend *be)
{
    for (int i = 0; i < LATE_MAX; i++)
        if (all[i].be == be)
            return &all[i];
    fail_msg("this backend is not a late one");
    return NULL;
}

static unsigned below(struct late *l, unsigned n)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (unsigned)(l->random >> 33) % n;
}

static void happen_until(struct late *l, uint64_t number)
{
    while (l->done < number) {
        const struct move *m = &l->pending[++l->done % PENDING_MAX];

        memcpy(m->dst, m->src, m->bytes);
    }
}

static bool is_fast(const void *host)
{
    bool fast = false;

    pthread_mutex_lock(&lending);
    for (int i = 0; i < BLOCKS_MAX && !fast; i++)
        fast = block[i].from && (const char *)host >= block[i].from &&
               (const char *)host < block[i].from + block[i].bytes;
    pthread_mutex_unlock(&lending);
    return fast;
}

static uint64_t add(struct backend *be, void *dst, const void *src, size_t bytes, bool fast)
{
    struct late *l = of(be);

    if (l->newest - l->done == PENDING_MAX - 1)
        happen_until(l, l->done + 1);
    l->pending[++l->newest % PENDING_MAX] = (struct move){ dst, src, bytes };
    if (fast) {
        memset(dst, GARBAGE, bytes);
        moves++;
    } else {
        happen_until(l, l->newest);
    }
    return l->newest;
}

/* The garbage would spoil what an earlier move still has to read or write there. */
static bool overlaps_pending(const struct late *l, const void *dst, size_t bytes)
{
    for (uint64_t n = l->done + 1; n <= l->newest; n++) {
        const struct move *m = &l->pending[n % PENDING_MAX];
        const char *p = dst, *a = m->dst, *b = m->src;

        if ((p < a + m->bytes && a < p + bytes) || (p < b + m->bytes && b < p + bytes))
            return true;
    }
    return false;
}

static uint64_t move_in(struct backend *be, void *dst, const void *src, size_t bytes)
{
    if (overlaps_pending(of(be), dst, bytes))
        happen_until(of(be), of(be)->newest);
    return add(be, dst, src, bytes, is_fast(src));
}

static uint64_t move_out(struct backend *be, void *dst, const void *src, size_t bytes)
{
    if (overlaps_pending(of(be), dst, bytes))
        happen_until(of(be), of(be)->newest);
    return add(be, dst, src, bytes, is_fast(dst));
}

static bool moved(struct backend *be, uint64_t number, bool wait)
{
    struct late *l = of(be);

    be->lost |= atomic_load(&l->losing);
    if (be->lost)
        return true;
    if (wait)
        happen_until(l, number);
    else if (l->done < number && !atomic_load(&l->hold_moves) && !below(l, 3))
        happen_until(l, l->done + 1);
    return l->done >= number;
}

static void follow(struct backend *be, uint64_t number)
{
    happen_until(of(be), number);
}

static void end(struct backend *be)
{
    struct late *l = of(be);

    l->was.end(be);
    l->busy = (int)below(l, BUSY_MAX);
}

static bool busy(struct backend *be, uint64_t mark)
{
    struct late *l = of(be);
    const bool held = atomic_load(&l->hold_step);

    (void)mark;

    atomic_store(&l->held, held);
    return held || l->busy-- > 0;
}

static void free_memory(struct backend *be, void *p)
{
    happen_until(of(be), of(be)->newest);
    of(be)->was.free(be, p);
}

static void *alloc_host(struct backend *be, size_t bytes)
{
    void *p = NULL;
    int i = 0;

    (void)be;
    pthread_mutex_lock(&lending);
    while (i < BLOCKS_MAX && block[i].from)
        i++;
    if (i < BLOCKS_MAX) {
        p = malloc(bytes);
        block[i] = (struct block){ p, bytes };
    }
    pthread_mutex_unlock(&lending);
    return p;
}

static void free_host(struct backend *be, void *p, size_t bytes)
{
    happen_until(of(be), of(be)->newest);
    pthread_mutex_lock(&lending);
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (p && block[i].from == p) {
            assert_int_equal(block[i].bytes, bytes);
            block[i].from = NULL;
        }
    pthread_mutex_unlock(&lending);
    free(p);
}

static void destroy(struct backend *be)
{
    struct late *l = of(be);

    l->be = NULL;
    l->was.destroy(be);
}

void late_make(struct backend *be, uint64_t seed)
{
    struct late *l = all;

    while (l->be) {
        l++;
        assert_true(l < all + LATE_MAX);
    }
    memset(l, 0, sizeof(*l));
    l->be = be;
    l->was = *be;
    l->random = seed | 1;
    be->move_in = move_in;
    be->move_out = move_out;
    be->moved = moved;
    be->follow = follow;
    be->end = end;
    be->busy = busy;
    be->free = free_memory;
    be->alloc_host = alloc_host;
    be->free_host = free_host;
    be->destroy = destroy;
}

uint64_t late_moves(void)
{
    return moves;
}

void late_hold_moves(struct backend *be, bool held)
{
    atomic_store(&of(be)->hold_moves, held);
}

void late_hold_step(struct backend *be, bool held)
{
    atomic_store(&of(be)->hold_step, held);
}

bool late_is_held(struct backend *be)
{
    return atomic_load(&of(be)->held);
}

void late_lose(struct backend *be)
{
    atomic_store(&of(be)->losing, true);
}
