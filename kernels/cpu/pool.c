/* pool.c - threads that share the units of one call.
 *
 * Everything goes through one 64-bit ticket: the call's number above, the units not yet
 * handed out below. A thread claims a unit by decrementing it, so that nobody can claim from
 * a call that is over, and only a thread that holds a unit reads the call's fields. Which unit
 * it is, the counters of the threads' shares say: as many are handed out as there are units,
 * so whoever claimed one finds one. The futexes are only a way to wait: the atomics carry
 * the order. */
#include "kernels/cpu/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/error.h"

enum {
    CACHE_LINE = 64,
    SPIN_NS = 25000,   /* about what a futex wake costs in a virtual machine */
    SMALL_COST = 16384 /* about 3 us of one core, less than waking a sleeper saves */
};

struct worker {
    struct stream *pool;
    pthread_t handle;
    int index;
    void *scratch;
    size_t scratch_bytes;
    _Alignas(CACHE_LINE) _Atomic uint32_t taken; /* units of its share that were handed out */
};

struct stream {
    /* Written by the caller before a ticket is issued. */
    pool_work *work;
    const void *job;
    uint32_t units;

    _Alignas(CACHE_LINE) _Atomic uint64_t ticket; /* call << 32 | units left */
    _Alignas(CACHE_LINE) _Atomic uint32_t done;   /* units finished; the caller sleeps on it */
    _Atomic uint32_t caller_sleeps;
    _Alignas(CACHE_LINE) _Atomic uint32_t wake; /* workers sleep on it */
    _Atomic int sleepers;
    atomic_bool stop, fault;

    int threads, started;
    struct worker *worker; /* [threads]; 0 is the caller */
    const struct ops *ops;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Units of the current call in front of a thread's share. */
static uint32_t share_begin(const struct stream *q, int thread)
{
    return (uint32_t)((uint64_t)q->units * (uint64_t)thread / (uint64_t)q->threads);
}

/* The next unit of the thread's own share, or else of the nearest thread that has one. Called
 * once for each unit of the call. */
static int next_unit(struct stream *q, int thread)
{
    for (;; thread = (thread + 1) % q->threads) {
        const uint32_t begin = share_begin(q, thread), size = share_begin(q, thread + 1) - begin;
        _Atomic uint32_t *taken = &q->worker[thread].taken;

        if (atomic_load_explicit(taken, memory_order_relaxed) < size) {
            const uint32_t unit = atomic_fetch_add(taken, 1);

            if (unit < size)
                return (int)(begin + unit);
        }
    }
}

/* Does units of the current call until none is left. */
static void take_units(struct stream *q, int thread)
{
    uint64_t ticket = atomic_load_explicit(&q->ticket, memory_order_acquire);

    while ((uint32_t)ticket > 0) {
        if (!atomic_compare_exchange_weak_explicit(&q->ticket, &ticket, ticket - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;

        const uint32_t units = q->units;

        q->work(q->job, next_unit(q, thread), thread);
        if (atomic_fetch_add(&q->done, 1) + 1 == units && atomic_load(&q->caller_sleeps))
            futex_wake(&q->done, 1);
        ticket = atomic_load_explicit(&q->ticket, memory_order_acquire);
    }
}

static bool units_left(struct stream *q)
{
    return (uint32_t)atomic_load(&q->ticket) > 0;
}

static void sleep_until_work(struct stream *q)
{
    for (int64_t end = now_ns() + SPIN_NS; now_ns() < end;) {
        if (units_left(q) || atomic_load(&q->stop))
            return;
        for (int i = 0; i < 8; i++)
            pause_briefly();
    }

    const uint32_t wake = atomic_load(&q->wake);

    /* Announced before the last look, as pool_run() issues its ticket before it looks for
     * sleepers: one of the two sees the other. */
    atomic_fetch_add(&q->sleepers, 1);
    if (!units_left(q) && !atomic_load(&q->stop))
        futex_wait(&q->wake, wake);
    atomic_fetch_sub(&q->sleepers, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;

    while (!atomic_load(&w->pool->stop)) {
        take_units(w->pool, w->index);
        sleep_until_work(w->pool);
    }
    return NULL;
}

static void wait_until_done(struct stream *q)
{
    uint32_t done;

    for (int64_t end = now_ns() + SPIN_NS; now_ns() < end;) {
        if (atomic_load(&q->done) == q->units)
            return;
        for (int i = 0; i < 8; i++)
            pause_briefly();
    }
    atomic_store(&q->caller_sleeps, 1);
    while ((done = atomic_load(&q->done)) != q->units)
        futex_wait(&q->done, done);
    atomic_store(&q->caller_sleeps, 0);
}

void pool_run(struct stream *q, int units, size_t cost, pool_work *work, const void *job)
{
    if (q->threads == 1 || units <= 1 || cost < SMALL_COST) {
        for (int i = 0; i < units; i++)
            work(job, i, 0);
        return;
    }

    const uint64_t call = (atomic_load(&q->ticket) >> 32) + 1;

    q->work = work;
    q->job = job;
    q->units = (uint32_t)units;
    atomic_store(&q->done, 0);
    for (int i = 0; i < q->threads; i++)
        atomic_store_explicit(&q->worker[i].taken, 0, memory_order_relaxed);
    atomic_store(&q->ticket, call << 32 | (uint32_t)units);
    if (atomic_load(&q->sleepers) > 0) {
        atomic_fetch_add(&q->wake, 1);
        futex_wake(&q->wake, units - 1);
    }
    take_units(q, 0);
    wait_until_done(q);
}

void pool_set_ops(struct stream *q, const struct ops *ops)
{
    q->ops = ops;
}

const struct ops *pool_ops(const struct stream *q)
{
    return q->ops;
}

int pool_threads(const struct stream *q)
{
    return q->threads;
}

void *pool_scratch(struct stream *q, int thread, size_t bytes)
{
    struct worker *w = &q->worker[thread];

    if (bytes <= w->scratch_bytes)
        return w->scratch;
    bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;

    void *larger = aligned_alloc(CACHE_LINE, bytes);

    if (!larger) {
        atomic_store(&q->fault, true);
        return NULL;
    }
    free(w->scratch);
    w->scratch = larger;
    w->scratch_bytes = bytes;
    return larger;
}

bool pool_take_fault(struct stream *q)
{
    return atomic_exchange(&q->fault, false);
}

int pool_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return n > 0 ? n : 1;
}

struct stream *pool_create(int threads, struct error *err)
{
    struct stream *q = aligned_alloc(CACHE_LINE, sizeof(*q));

    if (!q) {
        error_set(err, ERR_NOMEM, "compute pool: out of memory");
        return NULL;
    }
    *q = (struct stream){ .threads = threads };
    q->worker = aligned_alloc(CACHE_LINE, (size_t)q->threads * sizeof(*q->worker));
    if (!q->worker) {
        error_set(err, ERR_NOMEM, "compute pool: out of memory");
        goto fail;
    }
    for (int i = 0; i < q->threads; i++)
        q->worker[i] = (struct worker){ .pool = q, .index = i };
    for (int i = 1; i < q->threads; i++) {
        struct worker *w = &q->worker[i];

        if (pthread_create(&w->handle, NULL, worker_main, w) != 0) {
            error_set(err, ERR_LIMIT, "compute pool: cannot start thread %d of %d", i + 1,
                      q->threads);
            goto fail;
        }
        q->started++;
    }
    return q;

fail:
    pool_destroy(q);
    return NULL;
}

void pool_destroy(struct stream *q)
{
    if (!q)
        return;
    atomic_store(&q->stop, true);
    atomic_fetch_add(&q->wake, 1);
    futex_wake(&q->wake, q->threads);
    for (int i = 1; i <= q->started; i++)
        pthread_join(q->worker[i].handle, NULL);
    if (q->worker)
        for (int i = 0; i < q->threads; i++)
            free(q->worker[i].scratch);
    free(q->worker);
    free(q);
}
