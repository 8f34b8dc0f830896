/* test_model_config.c - spellings, bounds and both infinities of a model's JSON files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/weights/fixture.h"
#include "weights/model_config.h"

static struct model_config *parse(const char *text)
{
    struct error err = { 0 };
    struct model_config *c = model_config_parse(text, strlen(text), "config.json", &err);

    if (!c)
        fail_msg("%s", err.message);
    return c;
}

static void expect_message(const struct error *err, const char *key, const char *expected,
                           const char *found)
{
    assert_int_equal(err->code, ERR_FORMAT);
    assert_non_null(strstr(err->message, "config.json"));
    if (!strstr(err->message, key) || !strstr(err->message, expected) ||
        !strstr(err->message, found))
        fail_msg("expected \"%s\", \"%s\", \"%s\", found: %s", key, expected, found, err->message);
}

static void the_first_spelling_that_is_present_wins(void **state)
{
    struct model_config *c =
        parse("{\"d_model\":3,\"hidden_size\":4,\"n\":null,\"ssm_cfg\":{\"d_state\":5}}");
    struct error err;
    int64_t x = 0;

    (void)state;
    assert_true(model_config_int(c, "hidden_size|d_model", 1, 9, &x, &err));
    assert_int_equal(x, 4);
    assert_true(model_config_int(c, "d_model|hidden_size", 1, 9, &x, &err));
    assert_int_equal(x, 3);
    assert_true(model_config_int(c, "absent|n|ssm_cfg.d_state", 1, 9, &x, &err));
    assert_int_equal(x, 5);
    assert_true(model_config_has(c, "absent|ssm_cfg.d_state"));
    assert_false(model_config_has(c, "ssm_cfg.d_conv|d_model.x|D_MODEL"));
    model_config_close(c);
}

static void what_is_absent_or_null_leaves_the_default(void **state)
{
    struct model_config *c = parse("{\"n\":null}");
    int64_t i = 7, list[1] = { 7 };
    double d = 7, numbers[1] = { 7 };
    bool b = true;
    const char *s = "seven";
    int count = 7;
    struct error err;

    (void)state;
    assert_false(model_config_has(c, "n"));
    assert_true(model_config_int(c, "n|m", 0, 1, &i, &err) && i == 7);
    assert_true(model_config_number(c, "n|m", 0, 1, &d, &err) && d == 7);
    assert_true(model_config_numbers(c, "n|m", 1, numbers, &err) && numbers[0] == 7);
    assert_true(model_config_bool(c, "n|m", &b, &err) && b);
    assert_true(model_config_string(c, "n|m", &s, &err));
    assert_string_equal(s, "seven");
    assert_true(model_config_ints(c, "n|m", 0, 1, 1, list, &count, &err) && count == 7);
    model_config_close(c);
}

static void whole_numbers_are_whole_and_bounded(void **state)
{
    struct model_config *c =
        parse("{\"ok\":4.0,\"half\":4.5,\"big\":9007199254740994,\"huge\":1e300,\"inf\":Infinity,"
              "\"nan\":NaN,\"text\":\"4\",\"yes\":true,\"list\":[4],\"least\":-9007199254740992}");
    static const char *const wrong[] = {
        "half", "big", "huge", "inf", "nan", "text", "yes", "list"
    };
    struct error err;
    int64_t x = 0;

    (void)state;
    assert_true(model_config_int(c, "ok", 4, 4, &x, &err));
    assert_int_equal(x, 4);
    assert_true(model_config_int(c, "least", INT64_MIN, 0, &x, &err));
    assert_true(x == -9007199254740992);
    x = 1;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        assert_false(model_config_int(c, wrong[i], INT64_MIN, INT64_MAX, &x, &err));
        expect_message(&err, wrong[i], "expected a whole number from -9223372036854775808",
                       "found");
    }
    assert_false(model_config_int(c, "absent|ok", 5, 9, &x, &err));
    expect_message(&err, "ok: ", "expected a whole number from 5 to 9", "found 4");
    assert_false(model_config_int(c, "ok", 0, 3, &x, &err));
    assert_int_equal(x, 1);
    model_config_close(c);
}

static void both_spellings_of_infinity_are_numbers(void **state)
{
    struct model_config *c = parse("{\"a\":Infinity,\"b\":-Infinity,\"c\":{\"__float__\":"
                                   "\"Infinity\"},\"d\":{\"__float__\":\"-Infinity\"},"
                                   "\"l\":[0.5,Infinity],\"m\":[{\"__float__\":\"Infinity\"},1]}");
    struct error err;
    double x, list[2];

    (void)state;
    assert_true(model_config_number(c, "a", 0, INFINITY, &x, &err) && x == INFINITY);
    assert_true(model_config_number(c, "b", -INFINITY, 0, &x, &err) && x == -INFINITY);
    assert_true(model_config_number(c, "c", 0, INFINITY, &x, &err) && x == INFINITY);
    assert_true(model_config_number(c, "d", -INFINITY, 0, &x, &err) && x == -INFINITY);
    assert_true(model_config_numbers(c, "l", 2, list, &err));
    assert_true(list[0] == 0.5 && list[1] == INFINITY);
    assert_true(model_config_numbers(c, "m", 2, list, &err));
    assert_true(list[0] == INFINITY && list[1] == 1);
    assert_false(model_config_number(c, "a", 0, 1, &x, &err));
    expect_message(&err, "a", "expected a number from 0 to 1", "found inf");
    model_config_close(c);
}

static void nan_is_no_number(void **state)
{
    struct model_config *c =
        parse("{\"a\":NaN,\"b\":{\"__float__\":\"NaN\"},\"c\":{},\"l\":[1,NaN]}");
    struct error err;
    double x = 3, list[2] = { 3, 3 };

    (void)state;
    assert_false(model_config_number(c, "a", -INFINITY, INFINITY, &x, &err));
    assert_false(model_config_number(c, "b", -INFINITY, INFINITY, &x, &err));
    assert_false(model_config_number(c, "c", -INFINITY, INFINITY, &x, &err));
    assert_false(model_config_numbers(c, "l", 2, list, &err));
    expect_message(&err, "l", "expected a list of 2 numbers", "NaN");
    assert_true(x == 3 && list[0] == 3);
    model_config_close(c);
}

static void words_inside_strings_stay_as_they_are(void **state)
{
    struct model_config *c = parse("{\"NaN\":\"Infinity \\\\\\\" NaN\",\"a\\\\\":Infinity}");
    const char *s = NULL;
    struct error err;

    (void)state;
    assert_true(model_config_string(c, "NaN", &s, &err));
    assert_string_equal(s, "Infinity \\\" NaN");
    assert_true(model_config_has(c, "a\\"));
    model_config_close(c);
}

static void a_list_of_numbers_has_the_length_that_is_asked_for(void **state)
{
    struct model_config *c = parse("{\"l\":[1,2,3],\"x\":1}");
    struct error err;
    double list[3];

    (void)state;
    assert_true(model_config_numbers(c, "l", 3, list, &err));
    assert_true(list[0] == 1 && list[1] == 2 && list[2] == 3);
    assert_false(model_config_numbers(c, "l", 2, list, &err));
    expect_message(&err, "l", "expected a list of 2 numbers", "found 3");
    assert_false(model_config_numbers(c, "x", 1, list, &err));
    model_config_close(c);
}

static void ids_come_alone_or_in_a_list(void **state)
{
    struct model_config *c = parse("{\"one\":5,\"more\":[1,2],\"none\":[],\"bad\":[1,-2],"
                                   "\"kind\":[1,\"2\"],\"flag\":false}");
    struct error err;
    int64_t list[2] = { 0, 0 };
    int n = -1;

    (void)state;
    assert_true(model_config_ints(c, "one", 0, 9, 2, list, &n, &err));
    assert_true(n == 1 && list[0] == 5);
    assert_true(model_config_ints(c, "more", 0, 9, 2, list, &n, &err));
    assert_true(n == 2 && list[0] == 1 && list[1] == 2);
    assert_true(model_config_ints(c, "none", 0, 9, 2, list, &n, &err));
    assert_int_equal(n, 0);
    assert_false(model_config_ints(c, "more", 0, 9, 1, list, &n, &err));
    expect_message(&err, "more", "expected at most 1", "found more");
    assert_false(model_config_ints(c, "bad", 0, 9, 2, list, &n, &err));
    expect_message(&err, "bad", "expected a whole number from 0 to 9", "found -2");
    assert_false(model_config_ints(c, "kind", 0, 9, 2, list, &n, &err));
    assert_false(model_config_ints(c, "flag", 0, 9, 2, list, &n, &err));
    assert_true(n == 0 && list[1] == 2);
    model_config_close(c);
}

static void switches_and_texts_have_their_own_types(void **state)
{
    struct model_config *c = parse("{\"t\":true,\"f\":false,\"one\":1,\"s\":\"x\"}");
    const char *s = NULL;
    struct error err;
    bool b = false;

    (void)state;
    assert_true(model_config_bool(c, "t", &b, &err) && b);
    assert_true(model_config_bool(c, "f", &b, &err) && !b);
    assert_false(model_config_bool(c, "one", &b, &err));
    expect_message(&err, "one", "expected true or false", "found 1");
    assert_true(model_config_string(c, "s", &s, &err));
    assert_string_equal(s, "x");
    assert_false(model_config_string(c, "t", &s, &err));
    expect_message(&err, "t", "expected a string", "found true or false");
    model_config_close(c);
}

static void what_is_no_strict_object_is_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "[]",
        "1",
        "null",
        "{} x",
        "{\"a\":1,\"a\":2}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":01}",
        "{\"a\":nan}",
        "{\"a\":1,}",
    };
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        assert_null(model_config_parse(texts[i], strlen(texts[i]), "config.json", &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_non_null(strstr(err.message, "config.json"));
    }
    assert_null(model_config_parse("{}\0", 3, "config.json", &err));
    assert_null(model_config_open(fixture_path("absent.json"), &err));
    assert_int_equal(err.code, ERR_IO);
    assert_null(model_config_open("/tmp", &err));
    assert_int_equal(err.code, ERR_FORMAT);
}

static void the_configs_of_the_tests_are_read(void **state)
{
    struct model_config *c;
    struct error err;
    double limit[2] = { 0, 0 };
    int64_t x = 0;

    (void)state;
    c = model_config_open("tests/data/mamba2-tiny/config.json", &err);
    assert_non_null(c);
    assert_true(model_config_numbers(c, "time_step_limit", 2, limit, &err));
    assert_true(limit[0] == 0 && limit[1] == INFINITY);
    assert_true(model_config_int(c, "hidden_size|d_model", 1, 1 << 20, &x, &err));
    assert_int_equal(x, 96);
    model_config_close(c);
    c = model_config_open("weights/demo/config.json", &err);
    assert_non_null(c);
    assert_true(model_config_numbers(c, "time_step_limit", 2, limit, &err));
    assert_true(limit[1] == 1e30);
    model_config_close(c);
    c = model_config_open("tests/data/tokenizer-neox/tokenizer.json", &err);
    assert_non_null(c);
    assert_true(model_config_int(c, "model.vocab.the", 1, 1 << 20, &x, &err));
    model_config_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_spelling_that_is_present_wins),
        cmocka_unit_test(what_is_absent_or_null_leaves_the_default),
        cmocka_unit_test(whole_numbers_are_whole_and_bounded),
        cmocka_unit_test(both_spellings_of_infinity_are_numbers),
        cmocka_unit_test(nan_is_no_number),
        cmocka_unit_test(words_inside_strings_stay_as_they_are),
        cmocka_unit_test(a_list_of_numbers_has_the_length_that_is_asked_for),
        cmocka_unit_test(ids_come_alone_or_in_a_list),
        cmocka_unit_test(switches_and_texts_have_their_own_types),
        cmocka_unit_test(what_is_no_strict_object_is_refused),
        cmocka_unit_test(the_configs_of_the_tests_are_read),
    };

    return cmocka_run_group_tests(tests, fixture_create, fixture_destroy);
}
