/* If-Match and If-None-Match: lists of entity tags as RFC 9110 writes and compares them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/api/entity_tags.h"
#include "server/engine/command.h"

typedef bool reader(const char *value, struct version_set *to, struct problem *p);

static reader *const readers[] = { entity_tags_if_match, entity_tags_if_none_match };
static const char *const names[] = { "If-Match", "If-None-Match" };

static struct version_set read_as(reader *read, const char *value)
{
    struct version_set set;
    struct problem p;

    if (!read(value, &set, &p))
        fail_msg("%s: %s", value, p.message);
    return set;
}

static void no_header_asks_for_nothing(void **state)
{
    struct version_set set;
    struct problem p;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_true(readers[i](NULL, &set, &p));
        assert_false(set.given || version_set_has(&set, 0));
    }
}

static void a_star_is_every_version(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct version_set set = read_as(readers[i], "*");

        assert_true(set.given && set.all);
        assert_true(version_set_has(&set, 0) && version_set_has(&set, UINT64_MAX));
    }
}

/* All orders of three tags, with every mark between them that separates nothing but tags. */
static void neither_order_nor_blanks_nor_empty_elements_count(void **state)
{
    static const char *const tags[] = { "\"3\"", "40", "\"18446744073709551615\"" };
    static const int orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
                                     { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
    static const char *const marks[] = { ",", ", ", " ,", "\t,\t", ",,", " , ,\t, " };
    static const char *const ends[] = { "", " ", ",", " , " };
    char value[128];

    (void)state;
    for (int i = 0; i < 6 * 6 * 4 * 2; i++) {
        const int *order = orders[i % 6];
        const char *mark = marks[i / 6 % 6], *end = ends[i / 36 % 4];
        struct version_set set;

        snprintf(value, sizeof(value), "%s%s%s%s%s%s%s", end, tags[order[0]], mark, tags[order[1]],
                 mark, tags[order[2]], end);
        set = read_as(readers[i / 144], value);
        assert_true(set.given && !set.all);
        assert_int_equal(set.count, 3);
        assert_true(version_set_has(&set, 3) && version_set_has(&set, 40));
        assert_true(version_set_has(&set, UINT64_MAX));
        assert_false(version_set_has(&set, 4) || version_set_has(&set, 0));
    }
}

static void a_weak_tag_is_a_version_only_where_one_is_unwanted(void **state)
{
    struct version_set set = read_as(entity_tags_if_match, "W/\"3\", \"4\"");

    (void)state;
    assert_true(set.given && version_set_has(&set, 4));
    assert_false(version_set_has(&set, 3));
    set = read_as(entity_tags_if_none_match, "W/\"3\", \"4\"");
    assert_true(version_set_has(&set, 3) && version_set_has(&set, 4));
}

/* Well formed, and no session's: asked for, and matched by nothing. */
static void other_tags_name_no_version(void **state)
{
    static const char *const tags[] = { "\"\"",         "\"x\"",   "\"03\"",
                                        "\"3,4\"",      "\"-1\"",  "\"*\"",
                                        "W/\"\"",       "\"\\\"",  "\"W/\"",
                                        "\"\xe9\xff\"", "\"0x3\"", "\"18446744073709551616\"" };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(tags) / sizeof(tags[0]); i++) {
        struct version_set set = read_as(readers[i % 2], tags[i / 2]);

        assert_true(set.given);
        assert_int_equal(set.count, 0);
        assert_false(set.all);
    }
}

static void what_is_malformed_is_refused_by_name(void **state)
{
    static const char *const wrong[] = { "",           " ",          ",",
                                         "\"3",        "3\"",        "\"",
                                         "x",          "-1",         "03",
                                         "W/3",        "w/\"3\"",    "W/*",
                                         "W/",         "W /\"3\"",   "\"3\" \"4\"",
                                         "\"3\"\"4\"", "3 4",        "\"3 4\"",
                                         "\"3\"x",     "\"3\x7f\"",  "\"3\"; \"4\"",
                                         "*, \"3\"",   "\"3\", *",   "**",
                                         "\"3\", \"",  "\"3\", x",   "W/W/\"3\"",
                                         "\"3\tx\"",   "\"3\", W/4", "18446744073709551616" };
    struct version_set set;
    struct problem p;

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (readers[i % 2](wrong[i / 2], &set, &p))
            fail_msg("%s is taken", wrong[i / 2]);
        assert_int_equal(p.what, PROBLEM_INVALID_PARAMETER);
        assert_string_equal(p.param, names[i % 2]);
    }
}

static void a_list_has_a_bounded_number_of_versions(void **state)
{
    char value[8 * (LIMIT_VERSION_TAGS + 1)] = "";
    struct version_set set;
    struct problem p;

    (void)state;
    for (int n = 1; n <= LIMIT_VERSION_TAGS + 1; n++) {
        snprintf(value + strlen(value), 8, "\"%d\",", n);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(readers[i](value, &set, &p), n <= LIMIT_VERSION_TAGS);
            assert_true(n > LIMIT_VERSION_TAGS || set.count == n);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_header_asks_for_nothing),
        cmocka_unit_test(a_star_is_every_version),
        cmocka_unit_test(neither_order_nor_blanks_nor_empty_elements_count),
        cmocka_unit_test(a_weak_tag_is_a_version_only_where_one_is_unwanted),
        cmocka_unit_test(other_tags_name_no_version),
        cmocka_unit_test(what_is_malformed_is_refused_by_name),
        cmocka_unit_test(a_list_has_a_bounded_number_of_versions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
