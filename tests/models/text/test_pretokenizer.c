/* test_pretokenizer.c - where each component cuts. */
#include "tests/models/text/case_file.h"

#include "models/text/pretokenizer.h"

#define SPLIT(pattern, behavior, invert)                                                           \
    "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behavior "\",\"invert\":" invert \
    "}"
#define DASH "{\"String\":\"-\"}"

/* want: the pieces with a bar after each. */
static void check(const char *json, const char *text, bool first, const char *want)
{
    struct pretokenizer_run run = { .first = first };
    struct error err = { 0 };
    cJSON *tree = cJSON_Parse(json);
    struct pretokenizer *p;
    char got[512] = "";
    uint32_t begin = 0;

    assert_non_null(tree);
    p = pretokenizer_create(tree, &err);
    if (!p)
        fail_msg("%s: %s", json, err.message);
    assert_true(pretokenizer_cut(p, &run, text, strlen(text), &err));
    for (size_t i = 0; i < run.pieces.count; i++) {
        strncat(got, run.pieces.text.bytes + begin, run.pieces.end[i] - begin);
        strcat(got, "|");
        begin = run.pieces.end[i];
    }
    if (strcmp(got, want) != 0)
        fail_msg("%s on \"%s\": %s, not %s", json, text, got, want);
    pretokenizer_run_finish(&run);
    pretokenizer_destroy(p);
    cJSON_Delete(tree);
}

/* The examples of the library's documentation, and the other side of invert. */
static void split_knows_five_behaviors(void **state)
{
    (void)state;
    check(SPLIT(DASH, "Removed", "false"), "the-final--countdown", true, "the|final|countdown|");
    check(SPLIT(DASH, "Isolated", "false"), "the-final--countdown", true,
          "the|-|final|-|-|countdown|");
    check(SPLIT(DASH, "Contiguous", "false"), "the-final--countdown", true,
          "the|-|final|--|countdown|");
    check(SPLIT(DASH, "MergedWithPrevious", "false"), "the-final--countdown", true,
          "the-|final-|-|countdown|");
    check(SPLIT(DASH, "MergedWithNext", "false"), "the-final--countdown", true,
          "the|-final|-|-countdown|");
    check(SPLIT(DASH, "Removed", "true"), "the-final--countdown", true, "-|-|-|");
    check(SPLIT(DASH, "MergedWithNext", "true"), "a-b-", true, "a-|b-|");
    check(SPLIT(DASH, "Removed", "false"), "--", true, "");
}

static void byte_level_writes_its_alphabet(void **state)
{
    (void)state;
    check("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "Hi \n\xc3\xa9", true,
          "\xc4\xa0Hi|\xc4\xa0|\xc4\x8a|\xc3\x83\xc2\xa9|");
    check("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "a b", true,
          "a\xc4\xa0"
          "b|");
    check("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", " a", true,
          "\xc4\xa0"
          "a|");
    for (int byte = 0, found = 0; byte < 256; byte++, found = 0) {
        for (int32_t code = 0; code < 0x150; code++)
            found += byte_level_byte(code) == byte;
        assert_int_equal(found, 1);
    }
    assert_int_equal(byte_level_byte(' '), -1);
    assert_int_equal(byte_level_byte(0xad), -1);
    assert_int_equal(byte_level_byte(0x144), -1);
}

static void digits_and_punctuation_are_cut_out(void **state)
{
    (void)state;
    check("{\"type\":\"Digits\",\"individual_digits\":true}", "a12b", true, "a|1|2|b|");
    check("{\"type\":\"Digits\",\"individual_digits\":false}",
          "a12\xc2\xbd"
          "b",
          true, "a|12\xc2\xbd|b|");
    check("{\"type\":\"Punctuation\"}",
          "a,$\xe2\x80\x94"
          "b",
          true, "a|,|$|\xe2\x80\x94|b|");
    check("{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", "a..b", true, "a|..|b|");
}

static void metaspace_marks_words(void **state)
{
    (void)state;
    check("{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "a b", true, "_a|_b|");
    check("{\"type\":\"Metaspace\",\"replacement\":\"_\"}", " a", true, "_a|");
    check("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":false}", "a b", true, "_a_b|");
    check("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}", "a b",
          false, "a|_b|");
    check("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}", "a b", true,
          "a|_b|");
    check("{\"type\":\"Metaspace\"}", "a", true,
          "\xe2\x96\x81"
          "a|");
}

static void a_sequence_cuts_the_pieces_further(void **state)
{
    (void)state;
    check("{\"type\":\"Sequence\",\"pretokenizers\":["
          "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"},"
          "{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
          "{\"type\":\"Digits\",\"individual_digits\":false},"
          "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[0-9][0-9][0-9]\"},"
          "\"behavior\":\"Isolated\",\"invert\":false}]}",
          "In 12345!? a", true,
          "In|\xc4\xa0|123|45|!?|\xc4\xa0"
          "a|");
    check("{\"type\":\"Sequence\",\"pretokenizers\":[]}", "a b", true, "a b|");
}

static void what_is_not_faithful_is_refused(void **state)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        { "{\"type\":\"WhitespaceSplit\"}", "WhitespaceSplit" },
        { "{}", "without a type" },
        { "[]", "without a type" },
        { SPLIT("{\"Regex\":\"(a\"}", "Isolated", "false"), "(a" },
        { SPLIT("{\"Regex\":\"\"}", "Isolated", "false"), "pattern of 0 bytes" },
        { SPLIT("{}", "Isolated", "false"), "pattern" },
        { SPLIT(DASH, "Sideways", "false"), "Sideways" },
        { SPLIT(DASH, "Isolated", "3"), "invert" },
        { "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "replacement" },
        { "{\"type\":\"Metaspace\",\"prepend_scheme\":\"often\"}", "prepend_scheme" },
        { "{\"type\":\"Sequence\"}", "pretokenizers" },
        { "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Bert\"}]}", "Bert" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        cJSON *tree = cJSON_Parse(cases[i].json);
        struct error err = { 0 };

        assert_non_null(tree);
        assert_null(pretokenizer_create(tree, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        if (!strstr(err.message, cases[i].why))
            fail_msg("%s: %s", cases[i].json, err.message);
        cJSON_Delete(tree);
    }
}

/* Nested repeats would take 2^40 steps; the bound ends them with an error. */
static void an_expression_cannot_run_away(void **state)
{
    cJSON *tree = cJSON_Parse(SPLIT("{\"Regex\":\"(?:a|aa)+c\"}", "Isolated", "false"));
    struct pretokenizer_run run = { 0 };
    struct error err = { 0 };
    struct pretokenizer *p = pretokenizer_create(tree, &err);
    char text[4000];
    (void)state;

    assert_non_null(p);
    memset(text, 'a', sizeof(text));
    memcpy(text + sizeof(text) - 2, "bc", 2);
    assert_false(pretokenizer_cut(p, &run, text, sizeof(text), &err));
    assert_int_equal(err.code, ERR_INPUT);
    pretokenizer_run_finish(&run);
    pretokenizer_destroy(p);
    cJSON_Delete(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_knows_five_behaviors),
        cmocka_unit_test(byte_level_writes_its_alphabet),
        cmocka_unit_test(digits_and_punctuation_are_cut_out),
        cmocka_unit_test(metaspace_marks_words),
        cmocka_unit_test(a_sequence_cuts_the_pieces_further),
        cmocka_unit_test(what_is_not_faithful_is_refused),
        cmocka_unit_test(an_expression_cannot_run_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
