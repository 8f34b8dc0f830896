/* The index of contexts against the simplest one there is: a list that is searched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "server/state/checkpoint.h"
#include "server/state/prefix.h"
#include "server/state/tiers.h"

enum { RECORD = 64, LONGEST = 24, ENTRIES = 400 };

static struct backend *backend;
static struct devices devices;
static struct prefix *index_;

static int open_backend(void **unused)
{
    struct error err;

    (void)unused;
    backend = backend_open_cpu(&(struct backend_options){ .threads = 1, .isa = "plain" }, &err);
    devices = (struct devices){ .at = { { backend, NULL } }, .count = 1 };
    return backend ? 0 : -1;
}

static int close_backend(void **unused)
{
    (void)unused;
    backend_close(backend);
    return 0;
}

static void lost(void *unused, struct checkpoint *c)
{
    (void)unused;
    prefix_lost(index_, c);
}

static struct tiers *create(int spares)
{
    const struct tiers_options options = { .record_bytes = RECORD,
                                           .slots = 4,
                                           .at_once = 4,
                                           .host_bytes = 1 << 20,
                                           .spare_bytes = (size_t)spares * RECORD,
                                           .lost = lost };
    struct error err;
    struct tiers *t = tiers_create(&devices, &options, &err);

    assert_non_null(t);
    return t;
}

static uint64_t state = 88172645463325252u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

struct entry {
    uint64_t owner;
    int32_t id[LONGEST];
    size_t n;
    struct id name;
};

/* Few ids, so that contexts share beginnings. */
static void invent(struct entry *e)
{
    e->owner = below(2);
    e->n = 1 + below(LONGEST);
    for (size_t i = 0; i < e->n; i++)
        e->id[i] = (int32_t)(i % 3 ? below(2) : 0);
}

static bool starts(const struct entry *e, const struct entry *with)
{
    return e->owner == with->owner && with->n <= e->n &&
           memcmp(e->id, with->id, with->n * sizeof(e->id[0])) == 0;
}

/* A spare whose name says which entry it is of; not there when the index did not take it. */
static bool add(struct tiers *t, struct entry *e)
{
    struct checkpoint *c = checkpoint_create();
    int slot = tiers_start(t, NULL);
    bool taken;

    assert_true(c && slot >= 0);
    c->position = e->n;
    e->name = c->id;
    tiers_commit(t, c, slot);
    prefix_add(index_, e->owner, e->id, e->n, c);
    taken = c->place != NULL;
    tiers_release(t, c);
    return taken;
}

static void check(const struct entry *list, size_t n, const struct entry *asked)
{
    const struct entry *best = NULL;
    struct checkpoint *found;
    size_t len = 0;

    for (size_t i = 0; i < n; i++)
        if (starts(asked, &list[i]) && (!best || list[i].n > best->n))
            best = &list[i];
    found = prefix_find(index_, asked->owner, asked->id, asked->n, &len);
    assert_int_equal(!found, !best);
    if (best) {
        assert_string_equal(found->id.text, best->name.text);
        assert_int_equal(len, best->n);
    }
}

static void the_longest_prefix_is_found_and_no_other(void **unused)
{
    struct tiers *t = create(100000);
    struct entry *list = calloc(ENTRIES, sizeof(*list)), asked;
    size_t n = 0;

    (void)unused;
    index_ = prefix_create(t, 1 << 20);
    while (n < ENTRIES) {
        invent(&list[n]);
        n += add(t, &list[n]);
        invent(&asked);
        check(list, n, &asked);
    }
    assert_int_equal(prefix_places(index_), n);
    prefix_destroy(index_);
    assert_int_equal(tiers_counts(t).spares, 0);
    tiers_destroy(t);
    free(list);
}

/* The tiers drop the spare that was let go first; the place goes with it. */
static void a_place_goes_with_its_record(void **unused)
{
    enum { KEPT = 20 };
    struct tiers *t = create(KEPT);
    struct entry *list = calloc(ENTRIES, sizeof(*list)), asked;
    size_t n = 0, first;

    (void)unused;
    index_ = prefix_create(t, 1 << 20);
    while (n < ENTRIES) {
        invent(&list[n]);
        n += add(t, &list[n]);
        first = n > KEPT ? n - KEPT : 0;
        assert_int_equal(prefix_places(index_), n - first);
        invent(&asked);
        check(list + first, n - first, &asked);
    }
    prefix_destroy(index_);
    tiers_destroy(t);
    free(list);
}

static void the_ids_keep_within_their_bytes(void **unused)
{
    enum { BYTES = 4000 };
    struct tiers *t = create(100000);
    struct entry e;
    size_t most = 0;

    (void)unused;
    index_ = prefix_create(t, BYTES);
    for (int i = 0; i < 2000; i++) {
        invent(&e);
        add(t, &e);
        assert_true(prefix_bytes(index_) <= BYTES);
        assert_int_equal(tiers_counts(t).spares, prefix_places(index_));
        most = prefix_places(index_) > most ? prefix_places(index_) : most;
    }
    assert_true(most > 10);
    prefix_destroy(index_);
    tiers_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_prefix_is_found_and_no_other),
        cmocka_unit_test(a_place_goes_with_its_record),
        cmocka_unit_test(the_ids_keep_within_their_bytes),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
