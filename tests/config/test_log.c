/* test_log.c - every line is whole, whatever the values are and however long. */
#include "config/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "tests/server/said.h"

enum { TEXT = 16 * 1024, LINE = 4096 };

#define SAY(text, call)                                                                            \
    do {                                                                                           \
        struct said said_ = said_begin();                                                          \
        call;                                                                                      \
        said_end(&said_, text, sizeof(text));                                                      \
    } while (0)

/* The line's object, after a strict look at it. */
static cJSON *parse(const char *line)
{
    const struct json_bounds bounds = { .max_depth = 1, .max_values = 64 };
    const size_t len = strlen(line);
    struct error err;
    cJSON *root;

    assert_true(len > 0 && len <= LINE);
    assert_ptr_equal(strchr(line, '\n'), line + len - 1);
    if (json_scan(line, len, &bounds, &err) != JSON_OK)
        fail_msg("%s: %s", err.message, line);
    root = cJSON_Parse(line);
    assert_non_null(root);
    return root;
}

static const char *text_of(const cJSON *root, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, key));
}

static void repeat(char *to, size_t size, const char *unit)
{
    const size_t n = strlen(unit);
    size_t len = 0;

    for (; len + n < size; len += n)
        memcpy(to + len, unit, n);
    to[len] = '\0';
}

/* Escapes are up to six times as long as what they stand for. */
static void a_line_is_json_wherever_it_is_cut(void **state)
{
    static const char *const units[] = {
        "a",           "\x01", "\"", "\\", "\xff", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
        "\xf0\x9f\x98"
    };
    static char text[TEXT], value[2048];

    (void)state;
    log_configure(LOG_INFO, true);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        for (size_t shift = 0; shift < 8; shift++) {
            memset(value, 'x', shift);
            repeat(value + shift, sizeof(value) - shift, units[i]);
            SAY(text, log_note(LOG_INFO, "note", "%s", value));
            cJSON_Delete(parse(text));
            SAY(text, log_line(LOG_INFO, "line", "a", value, "b", value, "c", value, "d", value,
                               "e", value, "f", value, "g", value, "h", value, NULL));
            cJSON_Delete(parse(text));
        }
    }
}

/* A note to its end; a value to the last character that is whole within its bytes. */
static void what_is_utf8_comes_out_as_it_went_in(void **state)
{
    static const char mixed[] =
        "/home/j\xc3\xbcrgen/\xe6\xa8\xa1\xe5\x9e\x8b/\xf0\x9f\x98\x80\t\"\\";
    static char text[TEXT], value[2048];
    cJSON *root;

    (void)state;
    log_configure(LOG_INFO, true);
    SAY(text, log_line(LOG_INFO, "line", "path", mixed, NULL));
    root = parse(text);
    assert_string_equal(text_of(root, "path"), mixed);
    cJSON_Delete(root);
    repeat(value, 512, "\xe2\x82\xac\x01");
    SAY(text, log_note(LOG_INFO, "note", "%s", value));
    root = parse(text);
    assert_string_equal(text_of(root, "msg"), value);
    cJSON_Delete(root);
    for (size_t shift = 0; shift < 4; shift++) {
        memset(value, 'x', shift);
        repeat(value + shift, 1024, "\xf0\x9f\x98\x80");
        SAY(text, log_note(LOG_INFO, "note", "%s", value));
        root = parse(text);
        assert_int_equal(strlen(text_of(root, "msg")), 512 - (512 - shift) % 4);
        assert_memory_equal(text_of(root, "msg"), value, 512 - (512 - shift) % 4);
        cJSON_Delete(root);
        SAY(text, log_line(LOG_INFO, "line", "path", value, NULL));
        root = parse(text);
        assert_int_equal(strlen(text_of(root, "path")), 128 - (128 - shift) % 4);
        cJSON_Delete(root);
    }
}

static void what_is_no_utf8_is_a_replacement_character(void **state)
{
#define FFFD "\xef\xbf\xbd"
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "a\xff z", "a" FFFD " z" },
        { "\xc3", FFFD },
        { "\xc3(", FFFD "(" },
        { "\xc0\xaf", FFFD FFFD },
        { "\xed\xa0\x80", FFFD FFFD FFFD },
        { "\xe0\x80\x80", FFFD FFFD FFFD },
        { "\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD },
        { "\xfb\x80\x80\x80", FFFD FFFD FFFD FFFD },
        { "\x80", FFFD },
    };
    static char text[TEXT];

    (void)state;
    log_configure(LOG_INFO, true);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        SAY(text, log_line(LOG_INFO, "line", "x", cases[i].in, NULL));
        cJSON *root = parse(text);
        assert_string_equal(text_of(root, "x"), cases[i].out);
        cJSON_Delete(root);
    }
}

static void text_lines_hold_printable_ascii_alone(void **state)
{
    static char text[TEXT], value[600];

    (void)state;
    log_configure(LOG_INFO, false);
    for (int c = 1; c < 256; c++)
        value[c - 1] = (char)c;
    SAY(text, log_note(LOG_INFO, "note", "%s", value));
    for (const char *c = text; *c != '\n'; c++)
        assert_true(*c >= ' ' && *c <= '~');
    repeat(value, sizeof(value), "\x01");
    SAY(text, log_note(LOG_INFO, "note", "%s", value));
    assert_string_equal(text + strlen(text) - 8, "\\u0001\"\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_json_wherever_it_is_cut),
        cmocka_unit_test(what_is_utf8_comes_out_as_it_went_in),
        cmocka_unit_test(what_is_no_utf8_is_a_replacement_character),
        cmocka_unit_test(text_lines_hold_printable_ascii_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
