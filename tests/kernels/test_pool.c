/* test_pool.c - the compute pool runs every unit once, whatever its threads are doing. */
#include "check.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"
#include "kernels/cpu/pool.h"

enum { UNITS = 97, LARGE = 1 << 30 };

struct tally {
    int *count; /* [units], plain: only the unit's thread writes it */
    atomic_int outside;
    int threads;
};

static void count_unit(const void *job, int unit, int thread)
{
    struct tally *t = *(struct tally *const *)job;

    t->count[unit]++;
    if (thread < 0 || thread >= t->threads)
        atomic_fetch_add(&t->outside, 1);
}

static void every_unit_runs_once_in_every_call(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        struct error err;
        struct stream *q = pool_create(threads, &err);
        int count[UNITS] = { 0 };
        struct tally tally = { .count = count, .threads = threads }, *job = &tally;
        int calls = 0;

        assert_non_null(q);
        assert_int_equal(pool_threads(q), threads);
        for (; calls < 3000; calls++) {
            pool_run(q, UNITS, LARGE, count_unit, &job);
            if (calls % 500 == 0)
                usleep(2000); /* let the workers fall asleep */
            for (int i = 0; i < UNITS; i++)
                if (count[i] != calls + 1)
                    fail_msg("unit %d ran %d times in %d calls", i, count[i], calls + 1);
        }
        assert_int_equal(tally.outside, 0);
        pool_destroy(q);
    }
}

static void little_work_stays_with_the_caller(void **state)
{
    struct error err;
    struct stream *q = pool_create(3, &err);
    int count[UNITS] = { 0 };
    struct tally tally = { .count = count, .threads = 1 }, *job = &tally;

    (void)state;
    pool_run(q, UNITS, 1, count_unit, &job);
    assert_int_equal(tally.outside, 0);
    pool_run(q, 0, LARGE, count_unit, &job);
    pool_destroy(q);
    pool_destroy(NULL);
}

struct scratch_job {
    struct stream *q;
    size_t bytes;
};

static void fill_scratch(const void *arg, int unit, int thread)
{
    const struct scratch_job *job = arg;
    unsigned char *p = pool_scratch(job->q, thread, job->bytes);

    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    memset(p, unit, job->bytes);
    for (size_t i = 0; i < job->bytes; i++)
        assert_int_equal(p[i], unit);
}

static void each_thread_has_scratch_of_its_own(void **state)
{
    struct error err;
    struct stream *q = pool_create(4, &err);

    (void)state;
    for (size_t bytes = 1; bytes < 3000; bytes += 500) {
        const struct scratch_job job = { q, bytes };

        pool_run(q, 40, LARGE, fill_scratch, &job);
    }
    assert_false(pool_take_fault(q));
    assert_null(pool_scratch(q, 0, (size_t)1 << 62));
    assert_true(pool_take_fault(q));
    assert_false(pool_take_fault(q));
    pool_destroy(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_runs_once_in_every_call),
        cmocka_unit_test(little_work_stays_with_the_caller),
        cmocka_unit_test(each_thread_has_scratch_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
