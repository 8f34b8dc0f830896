/* test_json_out.c - whatever is written reads back as it was, and is always valid JSON. */
#include "server/api/json_out.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "models/text/text_buffer.h"

static struct text_buffer buffer;
static struct json_out out;

static int set_up(void **state)
{
    (void)state;
    buffer = (struct text_buffer){ 0 };
    json_out_init(&out, &buffer);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(buffer.bytes);
    return 0;
}

/* The text written so far, proven strict JSON, as a tree. */
static cJSON *read_back(void)
{
    const struct json_bounds bounds = { .max_depth = 64, .max_values = 100000 };
    struct error err = { 0 };
    cJSON *json;

    assert_true(json_out_ok(&out));
    if (json_scan(buffer.bytes, buffer.len, &bounds, &err) != JSON_OK)
        fail_msg("%s: %.*s", err.message, (int)buffer.len, buffer.bytes);
    json = cJSON_ParseWithLength(buffer.bytes, buffer.len);
    assert_non_null(json);
    return json;
}

static void text_reads_back_as_it_was(void **state)
{
    static const char *const texts[] = { "",
                                         "plain",
                                         "quote \" backslash \\ slash /",
                                         "\b\f\n\r\t\v\x01\x1f\x7f",
                                         "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x8c\x8a",
                                         "\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        cJSON *json;

        buffer.len = 0;
        json_out_init(&out, &buffer);
        json_string(&out, texts[i]);
        json = read_back();
        assert_string_equal(json->valuestring, texts[i]);
        cJSON_Delete(json);
    }
}

static void every_pair_of_bytes_gives_valid_json(void **state)
{
    char pair[2];

    (void)state;
    for (int a = 0; a < 256; a += 1) {
        for (int b = 0; b < 256; b += 5) {
            buffer.len = 0;
            json_out_init(&out, &buffer);
            pair[0] = (char)a;
            pair[1] = (char)b;
            json_text(&out, pair, 2);
            if (a && b) /* the scan refuses NUL, which no text of a request holds */
                cJSON_Delete(read_back());
        }
    }
}

static void bytes_that_are_no_utf8_become_replacement_characters(void **state)
{
    cJSON *json;

    (void)state;
    json_text(&out,
              "a\xff"
              "b\xe2\x82"
              "c\xf0\x9f",
              8);
    json = read_back();
    assert_string_equal(json->valuestring, "a\xef\xbf\xbd"
                                           "b\xef\xbf\xbd"
                                           "c\xef\xbf\xbd");
    cJSON_Delete(json);
}

static void a_control_byte_never_stands_raw(void **state)
{
    (void)state;
    for (int c = 1; c < 0x20; c++)
        json_text(&out, (char[1]){ (char)c }, 1);
    for (size_t i = 0; i < buffer.len; i++)
        assert_true((unsigned char)buffer.bytes[i] >= 0x20);
}

static void a_float_reads_back_bit_for_bit(void **state)
{
    uint32_t bits = 1;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        float v;
        char *end;

        bits = bits * 1664525u + 1013904223u;
        memcpy(&v, &bits, sizeof(v));
        if (!isfinite(v))
            continue;
        buffer.len = 0;
        json_out_init(&out, &buffer);
        json_float(&out, v);
        assert_true(text_buffer_append(&buffer, "", 1));
        assert_true(strtof(buffer.bytes, &end) == v);
        assert_int_equal(*end, 0);
    }
}

static void assert_written(const char *expected)
{
    assert_int_equal(buffer.len, strlen(expected));
    assert_memory_equal(buffer.bytes, expected, buffer.len);
    buffer.len = 0;
    json_out_init(&out, &buffer);
}

static void a_float_has_no_digits_beyond_need(void **state)
{
    (void)state;
    json_float(&out, 0.1f);
    assert_written("0.1");
    json_float(&out, -1.5f);
    assert_written("-1.5");
    json_float(&out, 0.0f);
    assert_written("0");
    json_float(&out, 16777216.0f);
    assert_written("16777216");
}

static void what_is_not_finite_is_null(void **state)
{
    (void)state;
    json_float(&out, NAN);
    assert_written("null");
    json_float(&out, -INFINITY);
    assert_written("null");
    json_double(&out, INFINITY);
    assert_written("null");
}

static void whole_numbers_keep_all_64_bits(void **state)
{
    (void)state;
    json_int(&out, INT64_MIN);
    assert_written("-9223372036854775808");
    json_uint(&out, UINT64_MAX);
    assert_written("18446744073709551615");
}

static void commas_stand_between_values_only(void **state)
{
    (void)state;
    json_open(&out, '{');
    json_key(&out, "a");
    json_open(&out, '[');
    json_close(&out, ']');
    json_key(&out, "b");
    json_open(&out, '[');
    json_int(&out, 1);
    json_null(&out);
    json_open(&out, '{');
    json_close(&out, '}');
    json_bool(&out, true);
    json_close(&out, ']');
    json_key(&out, "c\"");
    json_raw(&out, "[2]", 3);
    json_key(&out, "d");
    json_hex(&out, (const uint8_t[]){ 0x0f, 0xa0 }, 2);
    json_close(&out, '}');
    assert_written("{\"a\":[],\"b\":[1,null,{},true],\"c\\\"\":[2],\"d\":\"0fa0\"}");
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(text_reads_back_as_it_was),
        CASE(every_pair_of_bytes_gives_valid_json),
        CASE(bytes_that_are_no_utf8_become_replacement_characters),
        CASE(a_control_byte_never_stands_raw),
        CASE(a_float_reads_back_bit_for_bit),
        CASE(a_float_has_no_digits_beyond_need),
        CASE(what_is_not_finite_is_null),
        CASE(whole_numbers_keep_all_64_bits),
        CASE(commas_stand_between_values_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
