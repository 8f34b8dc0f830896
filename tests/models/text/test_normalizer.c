/* test_normalizer.c - normal forms are utf8proc's, without its worst case. */
#include "tests/models/text/case_file.h"

#include <time.h>
#include <utf8proc.h>

#include "models/text/normalizer.h"

static struct normalizer *create(const char *json)
{
    struct error err = { 0 };
    cJSON *tree = cJSON_Parse(json);
    struct normalizer *n;

    assert_non_null(tree);
    n = normalizer_create(tree, &err);
    if (!n)
        fail_msg("%s: %s", json, err.message);
    cJSON_Delete(tree);
    return n;
}

static struct text_buffer apply(const struct normalizer *n, const char *text, size_t len)
{
    struct pattern_matcher m = { 0 };
    struct text_buffer out = { .bytes = malloc(len + 1), .len = len, .capacity = len + 1 };
    struct error err = { 0 };

    assert_non_null(out.bytes);
    memcpy(out.bytes, text, len);
    assert_true(normalizer_apply(n, &m, &out, &err));
    pattern_matcher_finish(&m);
    return out;
}

static void check(const char *json, const char *text, const char *want)
{
    struct normalizer *n = create(json);
    struct text_buffer out = apply(n, text, strlen(text));

    if (out.len != strlen(want) || memcmp(out.bytes, want, out.len) != 0)
        fail_msg("%s: \"%.*s\", not \"%s\"", json, (int)out.len, out.bytes, want);
    free(out.bytes);
    normalizer_destroy(n);
}

static void each_component_does_its_part(void **state)
{
    (void)state;
    check("{\"type\":\"NFC\"}", "e\xcc\x81", "\xc3\xa9");
    check("{\"type\":\"NFC\"}", "\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"); /* an exclusion */
    check("{\"type\":\"NFD\"}", "\xc3\xa9", "e\xcc\x81");
    check("{\"type\":\"NFKC\"}", "\xef\xac\x81", "fi");
    check("{\"type\":\"NFKD\"}", "\xc2\xbd",
          "1\xe2\x81\x84"
          "2");
    check("{\"type\":\"Lowercase\"}", "\xc3\x84Z\xc4\xb0", "\xc3\xa4zi\xcc\x87");
    check("{\"type\":\"Strip\"}",
          " \xc2\xa0"
          "a b\n",
          "a b");
    check("{\"type\":\"Strip\",\"strip_right\":false}", " a ", "a ");
    check("{\"type\":\"Strip\"}", " \n ", "");
    check("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a");
    check("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", "");
    check("{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"__\"}", "a b ",
          "a__b__");
    check("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\"\"}", "a  b c",
          "ab c");
    check("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"_\"},"
          "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}]}",
          "a b", "_a_b");
}

static void normal_forms_agree_with_utf8proc(void **state)
{
    static const int32_t ranges[][2] = { { 0x41, 60 },    { 0xc0, 0x200 },   { 0x300, 0x70 },
                                         { 0x300, 0x70 }, { 0x915, 0x50 },   { 0x1100, 0x100 },
                                         { 0xac00, 999 }, { 0x1e00, 0x200 }, { 0xf900, 0x500 } };
    static const char *const json[] = { "{\"type\":\"NFC\"}", "{\"type\":\"NFD\"}",
                                        "{\"type\":\"NFKC\"}", "{\"type\":\"NFKD\"}" };
    utf8proc_uint8_t *(*const form[])(const utf8proc_uint8_t *) = { utf8proc_NFC, utf8proc_NFD,
                                                                    utf8proc_NFKC, utf8proc_NFKD };
    uint64_t seed = 9;
    (void)state;

    for (int k = 0; k < 4; k++) {
        struct normalizer *n = create(json[k]);

        for (int round = 0; round < 3000; round++) {
            utf8proc_uint8_t text[128], *want;
            struct text_buffer out;
            size_t len = 0;

            for (int i = 0; i < 16; i++) {
                const int32_t *r = ranges[draw(&seed, sizeof(ranges) / sizeof(*ranges))];

                len += (size_t)utf8proc_encode_char(r[0] + (int32_t)draw(&seed, (uint32_t)r[1]),
                                                    text + len);
            }
            text[len] = 0;
            want = form[k](text);
            assert_non_null(want);
            out = apply(n, (const char *)text, len);
            assert_int_equal(out.len, strlen((const char *)want));
            assert_memory_equal(out.bytes, want, out.len);
            free(out.bytes);
            free(want);
        }
        normalizer_destroy(n);
    }
}

/* Half a million marks in the wrong order; sorting them by insertion takes minutes. */
static void many_marks_are_sorted_in_linear_time(void **state)
{
    const size_t pairs = 1 << 18;
    struct normalizer *n = create("{\"type\":\"NFC\"}");
    char *text = malloc(4 * pairs);
    clock_t begin = clock();
    struct text_buffer out;
    (void)state;

    assert_non_null(text);
    for (size_t i = 0; i < pairs; i++)
        memcpy(text + 4 * i, "\xcc\x81\xcc\x96", 4);
    out = apply(n, text, 4 * pairs);
    assert_true(clock() - begin < 10 * CLOCKS_PER_SEC);
    assert_int_equal(out.len, 4 * pairs);
    assert_memory_equal(out.bytes, "\xcc\x96\xcc\x96", 4);
    assert_memory_equal(out.bytes + out.len - 4, "\xcc\x81\xcc\x81", 4);
    free(out.bytes);
    free(text);
    normalizer_destroy(n);
}

static void an_unknown_normalizer_is_refused_by_its_name(void **state)
{
    static const char *const json[] = {
        "{\"type\":\"BertNormalizer\"}",
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\"}]}",
        "{\"type\":\"Replace\",\"content\":\"\"}",
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}",
        "{\"type\":\"Prepend\",\"prepend\":3}",
        "{\"type\":\"Sequence\",\"normalizers\":{}}",
    };
    static const char *const why[] = { "BertNormalizer", "Precompiled", "pattern", "(",
                                       "prepend",        "normalizers" };
    (void)state;

    for (size_t i = 0; i < sizeof(json) / sizeof(*json); i++) {
        cJSON *tree = cJSON_Parse(json[i]);
        struct error err = { 0 };

        assert_null(normalizer_create(tree, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_non_null(strstr(err.message, why[i]));
        cJSON_Delete(tree);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_component_does_its_part),
        cmocka_unit_test(normal_forms_agree_with_utf8proc),
        cmocka_unit_test(many_marks_are_sorted_in_linear_time),
        cmocka_unit_test(an_unknown_normalizer_is_refused_by_its_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
