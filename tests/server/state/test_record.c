/* Records in host memory: nobody's bytes change while somebody has them, the bound holds, and all
 * is given back. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "server/state/record.h"

enum { RECORD = 1000, HELD = 40, ROUNDS = 20000 };

/* A backend that has fast memory, and nothing else. */
static pthread_mutex_t lending = PTHREAD_MUTEX_INITIALIZER;
static size_t lent, most_lent;
static bool full;

static void *lend(struct backend *be, size_t bytes)
{
    (void)be;
    if (full)
        return NULL;
    pthread_mutex_lock(&lending);
    lent += bytes;
    most_lent = lent > most_lent ? lent : most_lent;
    pthread_mutex_unlock(&lending);
    return malloc(bytes);
}

static void take_back(struct backend *be, void *p, size_t bytes)
{
    (void)be;
    pthread_mutex_lock(&lending);
    lent -= bytes;
    pthread_mutex_unlock(&lending);
    free(p);
}

static struct backend fast = { .alloc_host = lend, .free_host = take_back };
static struct backend plain;

static unsigned below(unsigned n)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* A record's first, middle and last byte say whose it is. */
static void mark(unsigned char *record, size_t bytes, unsigned char is)
{
    record[0] = record[bytes / 2] = record[bytes - 1] = is;
}

static void expect_mark(const unsigned char *record, size_t bytes, unsigned char is)
{
    assert_int_equal(record[0], is);
    assert_int_equal(record[bytes / 2], is);
    assert_int_equal(record[bytes - 1], is);
}

/* Takes, keeps and releases at random; what is held holds what was written when it was taken. */
static void hold_at_random(struct backend *backend, size_t bytes, size_t bound)
{
    struct record_pool *p = record_pool_create(backend, bytes, bound);
    unsigned char *held[HELD] = { NULL }, is[HELD];

    assert_non_null(p);
    most_lent = 0;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned i = below(HELD), j = below(HELD);

        if (held[i] && !held[j] && below(2)) {
            held[j] = record_keep(held[i]);
            is[j] = is[i];
        } else if (held[i]) {
            expect_mark(held[i], bytes, is[i]);
            record_release(held[i]);
            held[i] = NULL;
        } else {
            held[i] = record_take(p);
            assert_non_null(held[i]);
            assert_int_equal((uintptr_t)held[i] % 16, 0);
            mark(held[i], bytes, is[i] = (unsigned char)round);
        }
    }
    assert_true(most_lent <= bound);
    for (int i = 0; i < HELD; i++)
        record_release(held[i]);
    record_pool_close(p);
    assert_int_equal(lent, 0);
}

static void what_is_held_stays_and_the_bound_holds(void **unused)
{
    (void)unused;
    hold_at_random(&plain, RECORD, 1 << 20);
    hold_at_random(&fast, RECORD, 0);
    hold_at_random(&fast, RECORD, 10 * RECORD); /* the others are malloc's */
    assert_true(most_lent > 0);
    hold_at_random(&fast, RECORD, 1 << 20);
    hold_at_random(&fast, 3 << 20, 64 << 20); /* several pieces */
    assert_true(most_lent > 16 << 20);
}

static void a_backend_without_room_is_done_without(void **unused)
{
    (void)unused;
    full = true;
    hold_at_random(&fast, RECORD, 1 << 20);
    assert_int_equal(most_lent, 0);
    full = false;
}

static void memory_goes_with_the_last_record(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, RECORD, 1 << 20);
    void *a = record_take(p), *b = record_take(p);

    (void)unused;
    assert_ptr_equal(record_keep(a), a);
    record_release(b);
    record_pool_close(p);
    assert_true(lent > 0);
    record_release(a);
    assert_true(lent > 0);
    record_release(a);
    assert_int_equal(lent, 0);
    record_pool_close(NULL);
    record_release(NULL);
}

static void a_rest_keeps_what_is_held_and_what_may_move(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, 5 << 20, 64 << 20);
    unsigned char *held[12];
    size_t some;

    (void)unused;
    for (int tide = 0; tide < 5; tide++) {
        for (int i = 0; i < 12; i++) {
            held[i] = record_take(p);
            memset(held[i], tide + i, 64);
        }
        record_newest_move(held[1])->number = 7;
        for (int i = 1; i < 12; i++)
            record_release(held[i]);
        record_pool_rest(p);
        some = lent;
        assert_true(lent > 0 && lent < 12 * (5 << 20));
        assert_int_equal(held[0][63], tide);
        record_release(held[0]);
        record_pool_rest(p);
        assert_true(lent > 0 && lent <= some); /* it may be moving */
        record_newest_move(held[1])->number = 0;
        record_pool_rest(p);
        assert_int_equal(lent, 0);
    }
    record_pool_close(p);
}

/* After the first tide there is enough for each that is not higher. */
static void what_was_given_back_serves_again_before_fresh_memory(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, 1 << 20, 64 << 20);
    void *held[HELD];
    size_t first = 0;

    (void)unused;
    for (int tide = 0; tide < 100; tide++) {
        int n = tide ? (int)below(HELD + 1) : HELD;

        for (int i = 0; i < n; i++)
            held[i] = record_take(p);
        first = tide ? first : lent;
        assert_int_equal(lent, first);
        for (int i = 0; i < n; i++)
            record_release(held[i]);
    }
    record_pool_close(p);
}

static void *release_some(void *records)
{
    for (void **r = records; *r; r++)
        record_release(*r);
    return NULL;
}

/* One thread takes; what it gave to another comes back from there. */
static void another_thread_may_release(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, RECORD, 20 * RECORD);
    void *given[HELD + 1] = { NULL };
    pthread_t thread;

    (void)unused;
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < HELD; i++) {
            given[i] = record_take(p);
            memset(given[i], i, RECORD);
            if (i % 2)
                record_keep(given[i]);
        }
        assert_int_equal(pthread_create(&thread, NULL, release_some, given), 0);
        for (int i = 1; i < HELD; i += 2)
            record_release(given[i]);
        pthread_join(thread, NULL);
    }
    record_pool_close(p);
    assert_int_equal(lent, 0);
}

enum { TAKERS = 4, TAKES = 2000 };

struct taker {
    struct record_pool *pool;
    size_t bytes;
    unsigned char is;
    bool spoilt;
};

static void *take_some(void *arg)
{
    struct taker *t = arg;
    unsigned char *held[3];

    for (int n = 0; n < TAKES; n++) {
        for (int i = 0; i < 3; i++) {
            held[i] = record_take_still(t->pool);
            mark(held[i], t->bytes, (unsigned char)(t->is + i));
        }
        for (int i = 0; i < 3; i++) {
            t->spoilt |= held[i][0] != t->is + i || held[i][t->bytes - 1] != t->is + i ||
                         record_newest_move(held[i])->number;
            record_release(held[i]);
        }
    }
    return NULL;
}

/* While one drives the backend. Nobody has what another has, or what may be moving. */
static void take_at_once(size_t bytes, size_t bound)
{
    struct record_pool *p = record_pool_create(&fast, bytes, bound);
    struct taker taker[TAKERS];
    pthread_t thread[TAKERS];
    unsigned char *r;

    most_lent = 0;
    for (int i = 0; i < TAKERS; i++) {
        taker[i] = (struct taker){ .pool = p, .bytes = bytes, .is = (unsigned char)(10 * i) };
        assert_int_equal(pthread_create(&thread[i], NULL, take_some, &taker[i]), 0);
    }
    for (int n = 0; n < TAKES; n++) {
        r = record_take(p);
        mark(r, bytes, 99);
        record_newest_move(r)->number = n % 2 ? (uint64_t)n : 0;
        expect_mark(r, bytes, 99);
        record_release(r);
    }
    for (int i = 0; i < TAKERS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < TAKERS; i++)
        assert_false(taker[i].spoilt);
    assert_true(most_lent <= bound);
    record_pool_close(p);
    assert_int_equal(lent, 0);
}

static void any_thread_may_take_what_is_still(void **unused)
{
    (void)unused;
    take_at_once(RECORD, 1 << 20);
    take_at_once(6 << 20, 48 << 20); /* each in a piece of its own */
}

static void what_may_move_is_not_written_to(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, RECORD, 1 << 20);
    void *moving = record_take(p), *still = record_take(p), *again;

    (void)unused;
    record_newest_move(moving)->number = 7;
    record_release(still);
    record_release(moving);
    again = record_take_still(p);
    assert_ptr_equal(again, still);
    record_release(again);
    again = record_take(p);
    assert_ptr_equal(again, still);
    assert_ptr_equal(record_take(p), moving);
    record_release(again);
    record_release(moving);
    record_pool_close(p);
}

/* Such memory is free when a move returns. */
static void what_is_of_malloc_is_still(void **unused)
{
    struct record_pool *p = record_pool_create(&fast, RECORD, 0);
    void *r = record_take(p);

    (void)unused;
    record_newest_move(r)->number = 7;
    record_release(r);
    assert_ptr_equal(record_take_still(p), r);
    assert_int_equal(record_newest_move(r)->number, 0);
    record_release(r);
    record_pool_close(p);
}

static void one_of_no_pool_is_like_the_others(void **unused)
{
    unsigned char *r = record_create(RECORD);

    (void)unused;
    assert_int_equal(record_newest_move(r)->number, 0);
    memset(r, 1, RECORD);
    record_release(record_keep(r));
    assert_int_equal(r[RECORD - 1], 1);
    record_release(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_held_stays_and_the_bound_holds),
        cmocka_unit_test(a_backend_without_room_is_done_without),
        cmocka_unit_test(memory_goes_with_the_last_record),
        cmocka_unit_test(a_rest_keeps_what_is_held_and_what_may_move),
        cmocka_unit_test(what_was_given_back_serves_again_before_fresh_memory),
        cmocka_unit_test(another_thread_may_release),
        cmocka_unit_test(any_thread_may_take_what_is_still),
        cmocka_unit_test(what_may_move_is_not_written_to),
        cmocka_unit_test(what_is_of_malloc_is_still),
        cmocka_unit_test(one_of_no_pool_is_like_the_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
