/* test_world.c - the RWKV vocabulary file is read strictly. */
#include "tests/models/text/case_file.h"

/* All 256 bytes as Python writes them, ids 1 to 256, and more lines after. */
static struct tokenizer *open_lines(const char *more, int bytes, struct error *err)
{
    char text[8192];
    int n = 0;

    for (int c = 0; c < bytes; c++)
        n += sprintf(text + n, c < 128 ? "%d '\\x%02x' 1\n" : "%d b'\\x%02x' 1\n", c + 1, c);
    n += sprintf(text + n, "%s", more);
    return open_text(text, (size_t)n, 1000, err);
}

static void literals_are_pythons(void **state)
{
    static const struct {
        const char *line, *text;
        size_t len;
    } cases[] = {
        { "300 'ab' 2", "ab", 2 },
        { "300 \"it's\" 4\n", "it's", 4 },
        { "300 '\\n\\r\\t\\\\\\'\\\"' 6", "\n\r\t\\'\"", 6 },
        { "300 '\\xe9x' 3", "\xc3\xa9x", 3 },
        { "300 '\\u4e2d\\U0001f600' 7", "\xe4\xb8\xad\xf0\x9f\x98\x80", 7 },
        { "300 '\xe4\xb8\xad \xc3\xa9' 6", "\xe4\xb8\xad \xc3\xa9", 6 },
        { "300 b'\\xe4\\xb8' 2", "\xe4\xb8", 2 },
        { "300 b'a\\x00b' 3", "a\0b", 3 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = { 0 };
        struct tokenizer *t = open_lines(cases[i].line, 256, &err);
        const char *bytes;
        size_t len;

        if (!t)
            fail_msg("%s: %s", cases[i].line, err.message);
        assert_string_equal(tokenizer_kind(t), "rwkv-world");
        assert_int_equal(tokenizer_size(t), 301);
        bytes = tokenizer_token_bytes(t, 300, &len);
        assert_int_equal(len, cases[i].len);
        assert_memory_equal(bytes, cases[i].text, len);
        assert_int_equal(tokenizer_find(t, bytes, len), 300);
        tokenizer_token_bytes(t, 299, &len);
        assert_int_equal(len, 0);
        tokenizer_close(t);
    }
}

static void the_longest_token_wins_and_ids_may_have_gaps(void **state)
{
    static const int32_t want[] = { 302, 300, 'b' + 1, 0 };
    struct error err = { 0 };
    struct tokenizer *t = open_lines("300 'aa' 2\n302 'aaaa' 4\n301 'bc' 2\n", 256, &err);
    const char *text = "aaaaaab<|rwkv_tokenizer_end_of_text|>";
    struct token_list ids = { 0 };
    (void)state;

    assert_non_null(t);
    assert_true(tokenizer_encode(t, text, strlen(text), true, &ids, NULL, &err));
    assert_int_equal(ids.count, 4);
    assert_memory_equal(ids.id, want, sizeof(want));
    free(ids.id);
    tokenizer_close(t);
}

static void a_line_that_is_not_exact_is_refused(void **state)
{
    static const struct {
        const char *line, *why;
    } cases[] = {
        { "300 'ab' 3", "has 2 bytes, not 3" },
        { "300 'ab' 2 ", "after the length" },
        { "300 'ab' 2\r\n", "after the length" },
        { "300 'ab'", "space" },
        { "300 'ab' ", "number" },
        { "300  'ab' 2", "quoted" },
        { "300 ab 2", "quoted" },
        { "300 'ab 2", "not closed" },
        { "300 'ab", "not closed" },
        { "300 '\\", "unknown escape" },
        { "300 '\\q' 1", "unknown escape" },
        { "300 '\\x1' 1", "hexadecimal" },
        { "300 '\\ud800' 3", "surrogate" },
        { "300 '\\U00110000' 4", "U+10FFFF" },
        { "300 '\xff' 1", "UTF-8" },
        { "300 b'\xc3\xa9' 2", "ASCII" },
        { "300 b'\\u0041' 1", "unknown escape" },
        { "300 '' 0", "no text" },
        { "300 'a' 1", "same text" },
        { "97 'ab' 2", "another token" },
        { "0 'ab' 2", "id 0" },
        { "1000 'ab' 2", "outside" },
        { "-1 'ab' 2", "number" },
        { "99999999999 'ab' 2", "digits" },
        { "\n", "number" },
    };
    struct error err = { 0 };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        err = (struct error){ 0 };
        if (open_lines(cases[i].line, 256, &err))
            fail_msg("accepted: %s", cases[i].line);
        if (err.code != ERR_FORMAT || !strstr(err.message, cases[i].why))
            fail_msg("%s: %s", cases[i].line, err.message);
    }
    assert_null(open_lines("", 255, &err));
    assert_non_null(strstr(err.message, "0xff"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literals_are_pythons),
        cmocka_unit_test(the_longest_token_wins_and_ids_may_have_gaps),
        cmocka_unit_test(a_line_that_is_not_exact_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
