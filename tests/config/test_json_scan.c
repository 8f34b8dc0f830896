/* test_json_scan.c - what may reach a JSON parser, and what each refusal is called. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "config/limits.h"

static const struct json_bounds request = { .max_depth = LIMIT_JSON_DEPTH,
                                            .max_values = LIMIT_JSON_VALUES };
static const struct json_bounds wide = { .max_depth = JSON_SCAN_DEPTH, .max_values = SIZE_MAX };

/* The text is copied to a block of its exact size, so that a sanitizer sees one byte more. */
static enum json_fault scan(const char *text, size_t len, const struct json_bounds *bounds,
                            struct error *err)
{
    char *copy = malloc(len ? len : 1);
    enum json_fault f;

    assert_non_null(copy);
    memcpy(copy, text, len);
    f = json_scan(copy, len, bounds, err);
    free(copy);
    return f;
}

static void expect(const char *text, size_t len, enum json_fault expected)
{
    struct error err = { 0 };
    enum json_fault found = scan(text, len, &request, &err);

    if (found != expected)
        fail_msg("%.*s: expected fault %d, found %d (%s)", (int)len, text, expected, found,
                 err.message);
    if (expected != JSON_OK) {
        assert_int_equal(err.code, ERR_INPUT);
        assert_non_null(strstr(err.message, "JSON: byte "));
    }
}

#define EXPECT(literal, fault) expect(literal, sizeof(literal) - 1, fault)

static void every_form_of_the_grammar_passes(void **state)
{
    (void)state;
    EXPECT("0", JSON_OK);
    EXPECT("-0", JSON_OK);
    EXPECT("-10.25e+3", JSON_OK);
    EXPECT("1E9", JSON_OK);
    EXPECT("true", JSON_OK);
    EXPECT(" \t\r\n null \n", JSON_OK);
    EXPECT("\"\"", JSON_OK);
    EXPECT("\"\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u00e9 \\ud83d\\ude00\"", JSON_OK);
    EXPECT("\"\x7f \xc2\x80 \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xf0\x90\x80\x80 "
           "\xf4\x8f\xbf\xbf\"",
           JSON_OK);
    EXPECT("[]", JSON_OK);
    EXPECT("{}", JSON_OK);
    EXPECT("{\"a\":[1,{\"a\":2}],\"b\":{\"a\":[[],{}]}}", JSON_OK);
}

static void anything_outside_the_grammar_is_invalid(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "nul",
        "True",
        "'a'",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "]",
        "[}",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{\"a\" 1}",
        "{a:1}",
        "\"\\u12",
        "\"\\u12g4\"",
        "[1]//",
        "/**/1",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"a\nb\"",
        "\"\x01\"",
        "\xef\xbb\xbf{}",
        "\"\\ud83d\\u\"",
        "[1}",
        "{]",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        expect(texts[i], strlen(texts[i]),
               strcmp(texts[i], "\"\\ud83d\\u\"") == 0 ? JSON_INVALID_UTF8 : JSON_INVALID);
}

static void bytes_after_the_value_are_invalid(void **state)
{
    (void)state;
    EXPECT("{\"prompt\":\"a\"}xyz", JSON_INVALID);
    EXPECT("{\"prompt\":\"a\"}{\"prompt\":\"b\"}", JSON_INVALID);
    EXPECT("1,", JSON_INVALID);
    EXPECT("1\0", JSON_INVALID);
}

static void nul_is_refused_raw_and_escaped(void **state)
{
    (void)state;
    EXPECT("\"a\0b\"", JSON_INVALID);
    EXPECT("[1,\0 2]", JSON_INVALID);
    EXPECT("\"a\\u0000b\"", JSON_INVALID);
    EXPECT("{\"a\\u0000\":1}", JSON_INVALID);
}

static void strings_must_be_utf8(void **state)
{
    (void)state;
    EXPECT("\"\xff\xfe\"", JSON_INVALID_UTF8);
    EXPECT("\"\x80\"", JSON_INVALID_UTF8);
    EXPECT("\"\xc0\xaf\"", JSON_INVALID_UTF8);         /* overlong */
    EXPECT("\"\xe0\x9f\xbf\"", JSON_INVALID_UTF8);     /* overlong */
    EXPECT("\"\xf0\x8f\xbf\xbf\"", JSON_INVALID_UTF8); /* overlong */
    EXPECT("\"\xed\xa0\x80\"", JSON_INVALID_UTF8);     /* surrogate */
    EXPECT("\"\xf4\x90\x80\x80\"", JSON_INVALID_UTF8); /* beyond U+10FFFF */
    EXPECT("\"\xf5\x80\x80\x80\"", JSON_INVALID_UTF8);
    EXPECT("\"\xc3\"", JSON_INVALID_UTF8);
    EXPECT("\"\xe2\x82", JSON_INVALID_UTF8);
    EXPECT("\"\\ud800\"", JSON_INVALID_UTF8);
    EXPECT("\"\\udc00\\ud800\"", JSON_INVALID_UTF8);
    EXPECT("\"\\ud800\\u0041\"", JSON_INVALID_UTF8);
}

static void equal_keys_of_one_object_are_refused_however_they_are_spelt(void **state)
{
    (void)state;
    EXPECT("{\"a\":1,\"a\":999}", JSON_DUPLICATE_KEY);
    EXPECT("{\"\":1,\"\":2}", JSON_DUPLICATE_KEY);
    EXPECT("{\"a\":1,\"b\":{},\"\\u0061\":3}", JSON_DUPLICATE_KEY);
    EXPECT("{\"\xc3\xa9\":1,\"\\u00e9\":2}", JSON_DUPLICATE_KEY);
    EXPECT("{\"\xf0\x9f\x98\x80\":1,\"\\uD83D\\uDE00\":2}", JSON_DUPLICATE_KEY);
    EXPECT("[{\"x\":{\"a\":1,\"a\":2}}]", JSON_DUPLICATE_KEY);
    EXPECT("{\"a\":{\"b\":1,\"c\":2},\"b\":1,\"c\":{\"a\":1},\"A\":1,\"ab\":0}", JSON_OK);
    EXPECT("[{\"a\":1},{\"a\":1}]", JSON_OK);
}

static void a_duplicate_key_is_named_at_its_second_place(void **state)
{
    struct error err;

    (void)state;
    assert_int_equal(scan("{\"seed\":1,\"seed\":2}", 19, &request, &err), JSON_DUPLICATE_KEY);
    assert_string_equal(err.message, "JSON: byte 11: the key \"seed\" is there twice");
}

static void a_long_name_is_cut_between_characters(void **state)
{
    enum { LETTERS = 300 };
    char text[4 * LETTERS + 16], *p = text, *shown;
    struct error err;

    (void)state;
    for (int key = 0; key < 2; key++) {
        p += sprintf(p, key ? ",\"a" : "{\"a"); /* an odd start: 100 falls inside a letter */
        for (int i = 0; i < LETTERS; i++)
            p += sprintf(p, "\xc3\xa9");
        p += sprintf(p, "\":1");
    }
    *p++ = '}';
    assert_int_equal(scan(text, (size_t)(p - text), &request, &err), JSON_DUPLICATE_KEY);
    shown = strstr(err.message, "\"a");
    assert_non_null(shown);
    assert_int_equal(strcspn(shown + 1, "\"") % 2, 1);
}

static void depth_is_counted_in_containers(void **state)
{
    char text[2 * (JSON_SCAN_DEPTH + 1)];
    struct error err;

    (void)state;
    for (size_t limit = 0; limit <= JSON_SCAN_DEPTH; limit++) {
        struct json_bounds b = { .max_depth = limit, .max_values = SIZE_MAX };

        for (size_t depth = limit ? limit : 1; depth <= limit + 1; depth++) {
            memset(text, '[', depth);
            memset(text + depth, ']', depth);
            assert_int_equal(scan(text, 2 * depth, &b, &err),
                             depth <= limit ? JSON_OK : JSON_TOO_DEEP);
        }
    }
}

static void a_hundred_thousand_brackets_are_too_deep(void **state)
{
    enum { N = 100000 };
    char *text = malloc(2 * N);

    (void)state;
    memset(text, '[', N);
    memset(text + N, ']', N);
    expect(text, 2 * N, JSON_TOO_DEEP);
    for (int i = 0; i < N / 5; i++)
        memcpy(text + 5 * i, "{\"a\":", 5);
    expect(text, N, JSON_TOO_DEEP);
    free(text);
}

static void keys_scalars_and_containers_count_as_values(void **state)
{
    static const char text[] = "{\"a\":[1,null,\"x\"],\"b\":{}}"; /* 8 of them */
    struct error err;

    (void)state;
    for (size_t n = 0; n < 10; n++) {
        struct json_bounds b = { .max_depth = 8, .max_values = n };

        assert_int_equal(scan(text, sizeof(text) - 1, &b, &err),
                         n < 8 ? JSON_TOO_COMPLEX : JSON_OK);
    }
}

static void a_megabyte_of_zeros_is_too_complex(void **state)
{
    const size_t len = LIMIT_BODY_BYTES;
    char *text = malloc(len);

    (void)state;
    for (size_t i = 0; i < len; i++)
        text[i] = i % 2 ? '0' : ',';
    text[0] = '[';
    expect(text, len, JSON_TOO_COMPLEX);
    free(text);
}

static void the_infinities_pass_where_they_are_asked_for(void **state)
{
    static const char text[] = "[Infinity,-Infinity,NaN,{\"a\":Infinity}]";
    struct json_bounds b = wide;
    struct error err;

    (void)state;
    assert_int_equal(scan(text, sizeof(text) - 1, &b, &err), JSON_INVALID);
    b.infinities = true;
    assert_int_equal(scan(text, sizeof(text) - 1, &b, &err), JSON_OK);
    assert_int_equal(scan("Infinit", 7, &b, &err), JSON_INVALID);
    assert_int_equal(scan("-NaN", 4, &b, &err), JSON_INVALID);
    assert_int_equal(scan("+Infinity", 9, &b, &err), JSON_INVALID);
}

/* A quadratic search would take 10^10 comparisons: the bound on time is generous. */
static void an_object_of_a_hundred_thousand_keys_is_quick(void **state)
{
    enum { N = 100000 };
    char *text = malloc(N * 20), *p = text;
    struct error err;
    clock_t start;

    (void)state;
    for (int i = 0; i < N; i++)
        p += sprintf(p, "%c\"layers.%d\":0", i ? ',' : '{', i);
    *p++ = '}';
    start = clock();
    assert_int_equal(scan(text, (size_t)(p - text), &wide, &err), JSON_OK);
    p--;
    p += sprintf(p, ",\"layers.\\u0037\":0}");
    assert_int_equal(scan(text, (size_t)(p - text), &wide, &err), JSON_DUPLICATE_KEY);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5.0);
    free(text);
}

static void every_beginning_of_a_text_is_invalid(void **state)
{
    static const char text[] =
        "{\"k\\u00e9y\":[-1.5e+3,true,null,\"\xe2\x82\xac \\ud83d\\ude00\"],\"o\":{\"a\":[]}}";

    (void)state;
    EXPECT(text, JSON_OK);
    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        struct error err;
        enum json_fault f = scan(text, n, &request, &err);

        assert_true(f == JSON_INVALID || f == JSON_INVALID_UTF8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_the_grammar_passes),
        cmocka_unit_test(anything_outside_the_grammar_is_invalid),
        cmocka_unit_test(bytes_after_the_value_are_invalid),
        cmocka_unit_test(nul_is_refused_raw_and_escaped),
        cmocka_unit_test(strings_must_be_utf8),
        cmocka_unit_test(equal_keys_of_one_object_are_refused_however_they_are_spelt),
        cmocka_unit_test(a_duplicate_key_is_named_at_its_second_place),
        cmocka_unit_test(a_long_name_is_cut_between_characters),
        cmocka_unit_test(depth_is_counted_in_containers),
        cmocka_unit_test(a_hundred_thousand_brackets_are_too_deep),
        cmocka_unit_test(keys_scalars_and_containers_count_as_values),
        cmocka_unit_test(a_megabyte_of_zeros_is_too_complex),
        cmocka_unit_test(the_infinities_pass_where_they_are_asked_for),
        cmocka_unit_test(an_object_of_a_hundred_thousand_keys_is_quick),
        cmocka_unit_test(every_beginning_of_a_text_is_invalid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
