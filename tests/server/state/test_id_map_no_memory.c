/* A map that gets no memory is what it was.
 *
 * Linked with --wrap: allocation number `left` of the program fails while it is armed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/state/id_map.h"

static long left = -1; /* allocations until one fails; below 0: none does */

void *__real_malloc(size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

enum { IDS = 1000 };

struct list {
    struct id_map map;
    struct id id[IDS];
    bool there[IDS];
    size_t count;
};

static void assert_whole(const struct list *l)
{
    static struct id_entry *in_order[IDS];
    const struct id none = { "" };
    struct id_page page = { .after = &none, .entry = in_order, .room = IDS };
    struct id_entry *e;
    size_t n = 0;

    assert_int_equal(l->map.count, l->count);
    for (int i = 0; i < IDS; i++)
        assert_ptr_equal(id_map_find(&l->map, 0, &l->id[i]), l->there[i] ? &l->id[i] : NULL);
    for (size_t at = 0; (e = id_map_walk(&l->map, &at)); at++)
        assert_true(l->there[(struct id *)e->value - l->id] && ++n);
    assert_int_equal(n, l->count);
    id_map_page(&l->map, &page);
    assert_int_equal(page.count, l->count);
    for (size_t i = 0; i < page.count; i++)
        assert_true(!i || strcmp(in_order[i - 1]->id, in_order[i]->id) < 0);
}

/* Puts it, at the first attempt for which there is memory; how many there were. */
static int put(struct list *l, int i)
{
    int refused = 0;

    for (bool done = false; !done;) {
        left = refused;
        done = id_map_put(&l->map, 0, l->id[i].text, &l->id[i]);
        left = -1;
        if (!done)
            assert_whole(l);
        refused += !done;
    }
    l->there[i] = true;
    l->count++;
    return refused;
}

static void leave(struct list *l, int i)
{
    if (l->there[i])
        assert_ptr_equal(id_map_remove(&l->map, 0, l->id[i].text), &l->id[i]);
    l->count -= l->there[i];
    l->there[i] = false;
}

/* The map grows, is made anew for its gaps, and shrinks. */
static void a_put_that_is_refused_changes_nothing(void **unused)
{
    static const int leaves_each[] = { 2, 4, 1, 3 };
    static struct list l;
    int refused = 0;

    (void)unused;
    id_map_init_ordered(&l.map);
    for (int i = 0; i < IDS; i++)
        snprintf(l.id[i].text, sizeof(l.id[i].text), "t%d", i);
    for (int round = 0; round < 4; round++) {
        int each = leaves_each[round];

        for (int i = 0; i < IDS; i++) {
            if (!l.there[i])
                refused += put(&l, i);
            if (i % 7 == 3)
                leave(&l, i / 2);
        }
        for (int i = 0; i < IDS; i++)
            if (i % each == 0 && i > 4)
                leave(&l, i);
        assert_whole(&l);
    }
    assert_true(refused > 20);
    id_map_finish(&l.map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_put_that_is_refused_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
