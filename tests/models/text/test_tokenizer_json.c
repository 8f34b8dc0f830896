/* test_tokenizer_json.c - what a tokenizer.json can say, and what is refused in one. */
#include "tests/models/text/case_file.h"

#define VOCAB                                                                                      \
    "\"a\":0,\"b\":1,\"ab\":2,\"\xe2\x96\x81\":3,\"\xe2\x96\x81"                                   \
    "a\":4"
#define MERGES "\"a b\",[\"\xe2\x96\x81\",\"a\"]"
#define FUSE   "{\"type\":\"Fuse\"}"

/* A tokenizer.json: what stands in the vocabulary, the merges, the rest of the model, and
 * other members of the top. */
#define JSON(vocab, merges, model, top)                                                            \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]" model "}" top     \
    ",\"decoder\":" FUSE "}"

static struct tokenizer *open_json(const char *json)
{
    struct error err = { 0 };
    struct tokenizer *t = open_text(json, strlen(json), 1000, &err);

    if (!t)
        fail_msg("%s", err.message);
    return t;
}

/* want: ids below 10 as digits. */
static void check_ids(const struct tokenizer *t, const char *text, bool special, const char *want)
{
    struct token_list ids = { 0 };
    struct error err = { 0 };
    char got[64] = "";

    assert_true(tokenizer_encode(t, text, strlen(text), special, &ids, NULL, &err));
    assert_true(ids.count < sizeof(got));
    for (size_t i = 0; i < ids.count; i++)
        got[i] = (char)('0' + ids.id[i]);
    assert_string_equal(got, want);
    free(ids.id);
}

static void check(const char *json, const char *text, const char *want)
{
    struct tokenizer *t = open_json(json);

    check_ids(t, text, true, want);
    tokenizer_close(t);
}

static void unknown_characters_follow_the_models_rules(void **state)
{
    (void)state;
    check(JSON(VOCAB, MERGES, "", ""), "axxb", "2"); /* dropped, then neighbours */
    check(JSON(VOCAB ",\"?\":5", MERGES, ",\"unk_token\":\"?\"", ""), "axxb", "0551");
    check(JSON(VOCAB ",\"?\":5", MERGES, ",\"unk_token\":\"?\",\"fuse_unk\":true", ""), "axxb",
          "051");
    check(JSON(VOCAB ",\"<0xC3>\":5,\"<0xA9>\":6,\"?\":7", MERGES,
               ",\"byte_fallback\":true,\"unk_token\":\"?\"", ""),
          "a\xc3\xa9\xc3\xa8", "0567");
}

static void ignore_merges_takes_a_whole_piece_first(void **state)
{
    (void)state;
    check(JSON("\"a\":0,\"b\":1,\"aba\":2", "", "", ""), "aba", "010");
    check(JSON("\"a\":0,\"b\":1,\"aba\":2", "", ",\"ignore_merges\":true", ""), "aba", "2");
}

static void a_typed_special_token_is_never_special(void **state)
{
    struct tokenizer *t =
        open_json(JSON("\"<\":0,\"s\":1,\">\":2,\"<s>\":3", "", ",\"ignore_merges\":true",
                       ",\"added_tokens\":[{\"id\":3,\"content\":\"<s>\","
                       "\"special\":true}]"));
    (void)state;

    check_ids(t, "<s>", true, "3");
    check_ids(t, "<s>", false, "012");
    tokenizer_close(t);
}

static void added_tokens_honour_their_flags(void **state)
{
#define ADDED(content, flags) ",\"added_tokens\":[{\"id\":5,\"content\":\"" content "\"" flags "}]"
#define SPACED                "\"a\":0,\"b\":1,\" \":2"
    (void)state;

    check(JSON(SPACED, "", "", ADDED("ab", "")), "aab ab", "0525");
    check(JSON(SPACED, "", "", ADDED("ab", ",\"single_word\":true")), "aab ab", "00125");
    check(JSON(SPACED, "", "", ADDED("ab", ",\"lstrip\":true")), "a  ab a", "0520");
    check(JSON(SPACED, "", "", ADDED("ab", ",\"rstrip\":true")), "a ab  a", "0250");
    check(JSON(SPACED, "", "",
               ",\"added_tokens\":[{\"id\":5,\"content\":\"aa\"},{\"id\":6,\"content\":\"aab\"}]"),
          "aaaab", "56"); /* leftmost, then longest */
    check(JSON(SPACED, "", "",
               ",\"normalizer\":{\"type\":\"Lowercase\"}" ADDED("AB", ",\"normalized\":true")),
          "aBa", "50");
    check(JSON(SPACED, "", "", ",\"normalizer\":{\"type\":\"Lowercase\"}" ADDED("AB", "")), "abAB",
          "015");
}

static void a_template_puts_its_leading_tokens_in_front(void **state)
{
#define TEMPLATE                                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":"  \
    "0}"                                                                                           \
    "},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\"}}],"         \
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}}"
    struct tokenizer *t =
        open_json(JSON("\"a\":0,\"<s>\":1", "", "",
                       ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":"
                       "\"ByteLevel\"}," TEMPLATE "]}"));
    struct token_list ids = { 0 };
    struct error err = { 0 };
    size_t lead = 9;
    (void)state;

    assert_true(tokenizer_encode(t, "aa", 2, true, &ids, &lead, &err));
    assert_int_equal(lead, 1);
    assert_int_equal(ids.count, 3);
    assert_int_equal(ids.id[0], 1);
    assert_true(tokenizer_encode(t, "a", 1, false, &ids, &lead, &err));
    assert_int_equal(lead, 0);
    assert_int_equal(ids.count, 4);
    free(ids.id);
    tokenizer_close(t);
}

/* As Llama's and Gemma's files do it. */
static void decoders_turn_marks_and_bytes_into_text(void **state)
{
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xe2\x96\x81\":0,\"a\":1,\"<0xC3>\":2,"
        "\"<0xa9>\":3,\"\xe2\x96\x81"
        "b\":4,\"<s>\":5},\"merges\":[]},"
        "\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}],"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
        "{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"}," FUSE
        ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}}";
    static const int32_t ids[] = { 5, 0, 4, 2, 3, 1 };
    struct tokenizer *t = open_json(json);
    struct token_list list = { .id = (int32_t *)ids, .count = 6 };
    struct text_buffer out = decode(t, &list, false);
    (void)state;

    assert_int_equal(out.len, 5); /* the first space belongs to no word */
    assert_memory_equal(out.bytes,
                        " b\xc3\xa9"
                        "a",
                        5);
    free(out.bytes);
    list = (struct token_list){ .id = (int32_t *)ids, .count = 3 };
    out = decode(t, &list, true);
    assert_int_equal(out.len, 6);
    assert_memory_equal(out.bytes, "<s>  b", 6);
    free(out.bytes);
    tokenizer_close(t);
}

static void what_cannot_be_right_is_refused_with_a_reason(void **state)
{
#define TOP(rest) "{\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[]}" rest "}"
    static const struct {
        const char *json, *why;
    } cases[] = {
        { "{", "" },
        { "{}", "model" },
        { "{\"model\":3}", "model" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "'Unigram'" },
        { "{\"model\":{\"type\":\"BPE\"}}", "vocab" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "merges" },
        { JSON("\"a\":0,\"b\":0", "", "", ""), "another token" },
        { JSON("\"a\":-1", "", "", ""), "no valid id" },
        { JSON("\"a\":1.5", "", "", ""), "no valid id" },
        { JSON("\"a\":\"1\"", "", "", ""), "no valid id" },
        { JSON("\"a\":1e300", "", "", ""), "no valid id" },
        { JSON("\"a\":1000", "", "", ""), "outside" },
        { JSON("\"\":0", "", "", ""), "no text" },
        { JSON("\"a\":0,\"a\":1", "", "", ""), "" },
        { JSON(VOCAB, "\"a x\"", "", ""), "'x' is not a token" },
        { JSON(VOCAB, "\"a a\"", "", ""), "give no token" },
        { JSON(VOCAB, "\"a  b\"", "", ""), "not a pair" },
        { JSON(VOCAB, "\"ab\"", "", ""), "not a pair" },
        { JSON(VOCAB, "[\"a\"]", "", ""), "not a pair" },
        { JSON(VOCAB, "[\"a\",\"b\",\"b\"]", "", ""), "not a pair" },
        { JSON(VOCAB, "[\"a\",3]", "", ""), "not a pair" },
        { JSON(VOCAB, "[\"a\",\"\"]", "", ""), "not a token" },
        { JSON(VOCAB, "\"a b\",\"a b\"", "", ""), "twice" },
        { JSON(VOCAB, "", ",\"dropout\":0.1", ""), "dropout" },
        { JSON(VOCAB, "", ",\"end_of_word_suffix\":\"</w>\"", ""), "end_of_word_suffix" },
        { JSON(VOCAB, "", ",\"unk_token\":\"?\"", ""), "unk_token" },
        { JSON(VOCAB, "", ",\"byte_fallback\":1", ""), "byte_fallback" },
        { JSON(VOCAB, "", "", ",\"normalizer\":{\"type\":\"Nmt\"}"), "'Nmt'" },
        { JSON(VOCAB, "", "", ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}"), "'Whitespace'" },
        { JSON(VOCAB, "", "", ",\"post_processor\":{\"type\":\"BertProcessing\"}"),
          "'BertProcessing'" },
        { JSON(VOCAB, "", "", ",\"added_tokens\":{}"), "added_tokens" },
        { JSON(VOCAB, "", "", ADDED("a", "")), "the vocabulary says 0" },
        { JSON(VOCAB, "", "", ADDED("", "")), "no text" },
        { JSON(VOCAB, "", "",
               ADDED(" ", ",\"normalized\":true") ",\"normalizer\":{\"type\":\"Strip\"}"),
          "empty once normalized" },
        { JSON(VOCAB, "", "", ",\"added_tokens\":[{\"id\":1000,\"content\":\"x\"}]"), "outside" },
        { JSON(VOCAB, "", "", ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]"), "another" },
        { JSON(VOCAB, "", "", ",\"added_tokens\":[{\"content\":\"x\"}]"), "outside" },
        { JSON(VOCAB, "", "",
               ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
               "[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
          "'x' has no ids" },
        { JSON(VOCAB, "", "",
               ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
               "[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":"
               "{\"x\":{\"ids\":[99]}}}"),
          "unknown id" },
        { TOP(""), "decoder" },
        { TOP(",\"decoder\":{\"type\":\"WordPiece\"}"), "'WordPiece'" },
        { TOP(",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" FUSE
              ",{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}]}"),
          "Strip" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<0x-1>\":0},\"merges\":[]},"
          "\"decoder\":{\"type\":\"ByteFallback\"}}",
          "<0x-1>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = { 0 };

        if (open_text(cases[i].json, strlen(cases[i].json), 1000, &err))
            fail_msg("accepted: %s", cases[i].json);
        if (err.code != ERR_FORMAT || !strstr(err.message, cases[i].why))
            fail_msg("%s: %s", cases[i].json, err.message);
    }
}

static void deep_nesting_is_refused(void **state)
{
    struct error err = { 0 };
    char text[4096];
    int n = 0;
    (void)state;

    n += sprintf(text + n, "{\"normalizer\":");
    for (int i = 0; i < 100; i++)
        n += sprintf(text + n, "{\"normalizers\":[");
    for (int i = 0; i < 100; i++)
        n += sprintf(text + n, "]}");
    n += sprintf(text + n, "}");
    assert_null(open_text(text, (size_t)n, 1000, &err));
    assert_int_equal(err.code, ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_characters_follow_the_models_rules),
        cmocka_unit_test(ignore_merges_takes_a_whole_piece_first),
        cmocka_unit_test(a_typed_special_token_is_never_special),
        cmocka_unit_test(added_tokens_honour_their_flags),
        cmocka_unit_test(a_template_puts_its_leading_tokens_in_front),
        cmocka_unit_test(decoders_turn_marks_and_bytes_into_text),
        cmocka_unit_test(what_cannot_be_right_is_refused_with_a_reason),
        cmocka_unit_test(deep_nesting_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
