/* Ids and maps by them: what is put in is found, in the order of ids, and by its owner alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/limits.h"
#include "server/state/id_map.h"

static void ids_are_found_listed_in_order_and_removed(void **unused)
{
    struct id_map m;
    struct id_entry *e;
    struct id id[500];
    int n = 0;

    (void)unused;
    id_map_init(&m);
    for (int i = 0; i < 500; i++) {
        id_generate(&id[i], "t");
        assert_true(id_map_put(&m, 0, id[i].text, &id[i]));
    }
    for (int i = 0; i < 500; i += 2)
        assert_ptr_equal(id_map_remove(&m, 0, id[i].text), &id[i]);
    for (int i = 0; i < 500; i++)
        assert_ptr_equal(id_map_find(&m, 0, &id[i]), i % 2 ? &id[i] : NULL);
    for (size_t at = 0; (e = id_map_walk(&m, &at)); at++)
        assert_ptr_equal(e->value, &id[1 + 2 * n++]);
    assert_int_equal(n, 250);
    id_map_finish(&m);
}

enum { IDS = 3000, MOVES = 20000 };

/* What a map should hold, and in which order. */
struct plain_list {
    struct id id[IDS];
    int place[IDS]; /* in order; -1: not there */
    int order[MOVES], used;
};

static void leave(struct plain_list *l, struct id_map *m, int n)
{
    assert_ptr_equal(id_map_remove(m, 0, l->id[n].text), &l->id[n]);
    l->order[l->place[n]] = -1;
    l->place[n] = -1;
}

static void come_or_leave(struct plain_list *l, struct id_map *m, int n)
{
    assert_ptr_equal(id_map_find(m, 0, &l->id[n]), l->place[n] < 0 ? NULL : &l->id[n]);
    if (l->place[n] >= 0) {
        leave(l, m, n);
        return;
    }
    assert_true(id_map_put(m, 0, l->id[n].text, &l->id[n]));
    l->place[n] = l->used;
    l->order[l->used++] = n;
}

static void assert_same(const struct plain_list *l, const struct id_map *m)
{
    struct id_entry *e;
    size_t at = 0;

    for (int i = 0; i < l->used; i++) {
        if (l->order[i] < 0)
            continue;
        e = id_map_walk(m, &at);
        assert_non_null(e);
        assert_ptr_equal(e->value, &l->id[l->order[i]]);
        at++;
    }
    assert_null(id_map_walk(m, &at));
}

static int compare(const void *a, const void *b)
{
    return strcmp((*(const struct id *const *)a)->text, (*(const struct id *const *)b)->text);
}

/* Page by page in the order of ids, as a client goes through a list. */
static void assert_pages(const struct plain_list *l, const struct id_map *m)
{
    struct id after = { "" };
    struct id_entry *entry[37];
    struct id_page page = { .after = &after, .entry = entry, .room = 37 };
    const struct id **sorted = calloc(IDS, sizeof(struct id *));
    size_t n = 0, seen = 0;

    for (int i = 0; i < IDS; i++)
        if (l->place[i] >= 0)
            sorted[n++] = &l->id[i];
    qsort(sorted, n, sizeof(sorted[0]), compare);
    for (id_map_page(m, &page); page.count; id_map_page(m, &page)) {
        for (size_t i = 0; i < page.count; i++)
            assert_ptr_equal(entry[i]->value, sorted[seen++]);
        strcpy(after.text, entry[page.count - 1]->id);
    }
    assert_int_equal(seen, n);
    free(sorted);
}

/* Whatever comes and goes, and however often the map makes its array anew. */
static void a_map_keeps_its_order_through_gaps(void **unused)
{
    struct plain_list *l = calloc(1, sizeof(*l));
    struct id_entry *e;
    struct id_map m;

    (void)unused;
    id_map_init_ordered(&m);
    for (int i = 0; i < IDS; i++) {
        snprintf(l->id[i].text, sizeof(l->id[i].text), "t%d", i);
        l->place[i] = -1;
    }
    srand(1);
    for (int i = 0; i < MOVES; i++) {
        come_or_leave(l, &m, rand() % (i % 5000 < 2500 ? IDS : 50)); /* many, then few */
        if (i % 5000 != 2500)
            continue;
        assert_same(l, &m);
        assert_pages(l, &m);
        for (size_t at = 0; (e = id_map_walk(&m, &at)); at++)
            if (rand() % 50) /* nearly all leave, while they are gone through */
                leave(l, &m, (int)((struct id *)e->value - l->id));
        assert_same(l, &m);
        assert_pages(l, &m);
    }
    assert_same(l, &m);
    assert_pages(l, &m);
    id_map_finish(&m);
    free(l);
}

static const void *first_behind(const struct id_map *m, uint64_t owner, const struct id *after)
{
    struct id_entry *e;
    struct id_page page = { .owner = owner, .after = after, .entry = &e, .room = 1 };

    id_map_page(m, &page);
    return page.count ? e->value : NULL;
}

static bool is_even(const void *value, const void *arg)
{
    const struct id *first = arg;

    return ((const struct id *)value - first) % 2 == 0;
}

/* Pages of any size, behind ids that are there and ids that are not. */
static void a_page_is_what_comes_next_in_the_order_of_ids(void **unused)
{
    enum { N = 300, HALF = N / 2 };
    struct id_entry *entry[N];
    struct id id[N];
    const struct id *sorted[N];
    struct id_map m;

    (void)unused;
    id_map_init_ordered(&m);
    for (int i = 0; i < N; i++) {
        id_generate(&id[i], "t");
        assert_true(id_map_put(&m, (uint64_t)(i < HALF), id[i].text, &id[i]));
    }
    for (int i = 0; i < N; i++) {
        struct id_page page = { .owner = 1, .after = &id[i], .entry = entry };
        size_t n = 0, expected;

        page.room = 1 + (size_t)i % 40 * 5;
        page.wants = i % 3 ? NULL : is_even;
        page.arg = id;
        for (int k = 0; k < HALF; k++)
            if (strcmp(id[k].text, id[i].text) > 0 && (i % 3 || k % 2 == 0))
                sorted[n++] = &id[k];
        qsort(sorted, n, sizeof(sorted[0]), compare);
        expected = n < page.room ? n : page.room;
        id_map_page(&m, &page);
        assert_int_equal(page.count, expected);
        for (size_t k = 0; k < expected; k++)
            assert_ptr_equal(entry[k]->value, sorted[k]);
    }
    id_map_finish(&m);
}

static void ids_made_one_after_the_other_are_in_order(void **unused)
{
    struct id last = { "" }, id;

    (void)unused;
    for (int i = 0; i < 1000; i++) {
        id_generate_next(&id, "t");
        assert_true(strcmp(last.text, id.text) < 0);
        last = id;
    }
}

static void owners_use_the_same_ids_apart(void **unused)
{
    static const struct id same = { "same" }, none = { "" };
    int alice = 1, bob = 2, other = 3;
    struct id_map m;

    (void)unused;
    id_map_init_ordered(&m);
    assert_true(id_map_put(&m, 1, same.text, &alice));
    assert_true(id_map_put(&m, 2, same.text, &bob));
    assert_true(id_map_put(&m, 1, "other", &other));
    assert_ptr_equal(id_map_find(&m, 1, &same), &alice);
    assert_ptr_equal(id_map_find(&m, 2, &same), &bob);
    assert_null(id_map_find(&m, 0, &same));
    assert_ptr_equal(first_behind(&m, 1, &none), &other);
    assert_ptr_equal(first_behind(&m, 2, &none), &bob);
    assert_null(first_behind(&m, 2, &same));
    assert_null(first_behind(&m, 3, &none));
    assert_ptr_equal(id_map_remove(&m, 1, same.text), &alice);
    assert_null(id_map_find(&m, 1, &same));
    assert_ptr_equal(id_map_find(&m, 2, &same), &bob);
    id_map_finish(&m);
}

static void only_plain_names_are_ids(void **unused)
{
    static const char *const bad[] = { "", ".", "..", "../x", "a/b", "a b", "%2e", "\xc3\xa9" };
    struct id id;
    char longest[LIMIT_ID_BYTES + 2];

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(id_parse(&id, bad[i]));
    memset(longest, 'a', sizeof(longest));
    longest[LIMIT_ID_BYTES + 1] = '\0';
    assert_false(id_parse(&id, longest));
    longest[LIMIT_ID_BYTES] = '\0';
    assert_true(id_parse(&id, longest));
    assert_true(id_parse(&id, "user-42.a_b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_found_listed_in_order_and_removed),
        cmocka_unit_test(a_map_keeps_its_order_through_gaps),
        cmocka_unit_test(a_page_is_what_comes_next_in_the_order_of_ids),
        cmocka_unit_test(ids_made_one_after_the_other_are_in_order),
        cmocka_unit_test(owners_use_the_same_ids_apart),
        cmocka_unit_test(only_plain_names_are_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
