/* test_params_session.c - what the session verbs, their queries and headers, and the tokenizer's
 * calls may say. */
#include "server/api/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct params_context context = { .model = "m", .vocab = 1000, .max_tokens = 4096 };

static enum problem_code read_verb(enum session_verb verb, const char *body,
                                   struct session_params *s)
{
    struct problem p = { 0 };

    params_session(verb, body, strlen(body), &context, s, &p);
    return p.what;
}

static enum problem_code judge_verb(enum session_verb verb, const char *body,
                                    struct session_params *s)
{
    enum problem_code what = read_verb(verb, body, s);

    session_params_finish(s);
    return what;
}

static void session_verbs_take_their_fields_only(void **state)
{
    static const char *const no_rollback[] = { "",
                                               "{}",
                                               "{\"turns\":0}",
                                               "{\"turns\":65}",
                                               "{\"turns\":1.5}",
                                               "{\"turns\":\"1\"}",
                                               "{\"position\":-1}",
                                               "{\"position\":1e99}",
                                               "{\"position\":1,\"turns\":1}",
                                               "{\"snapshot\":\"s\",\"position\":1}",
                                               "{\"snapshot\":\"../s\"}" };
    struct session_params s;

    (void)state;
    assert_int_equal(judge_verb(SESSION_CREATE, "", &s), PROBLEM_NONE);
    assert_int_equal(judge_verb(SESSION_CREATE,
                                "{\"id\":\"a\",\"seed\":5,\"ttl\":1.5,\"metadata\":{\"k\":[1]},"
                                "\"snapshot\":\"b\",\"model\":\"m\"}",
                                &s),
                     PROBLEM_NONE);
    assert_true(s.has_seed && s.seed == 5 && s.has_ttl && s.ttl == 1.5);
    assert_string_equal(s.snapshot.text, "b");
    assert_int_equal(judge_verb(SESSION_CREATE, "{\"ttl\":0}", &s), PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_CREATE, "{\"id\":\"a/b\"}", &s), PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_CREATE, "{\"metadata\":[]}", &s),
                     PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_CREATE, "{\"model\":\"x\"}", &s), PROBLEM_MODEL_NOT_FOUND);
    assert_int_equal(judge_verb(SESSION_FORK, "", &s), PROBLEM_NONE);
    assert_int_equal(s.n, 1);
    assert_int_equal(judge_verb(SESSION_FORK, "{\"n\":257}", &s), PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_ROLLBACK, "{\"position\":0}", &s), PROBLEM_NONE);
    assert_true(s.has_position && s.position == 0);
    assert_int_equal(judge_verb(SESSION_ROLLBACK, "{\"turns\":64}", &s), PROBLEM_NONE);
    assert_int_equal(s.turns, 64);
    assert_int_equal(judge_verb(SESSION_ROLLBACK, "{\"snapshot\":\"s\"}", &s), PROBLEM_NONE);
    for (size_t i = 0; i < sizeof(no_rollback) / sizeof(no_rollback[0]); i++)
        assert_int_equal(judge_verb(SESSION_ROLLBACK, no_rollback[i], &s),
                         PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_ROLLBACK, "{\"to\":1}", &s), PROBLEM_UNKNOWN_FIELD);
    assert_int_equal(judge_verb(SESSION_RESTORE, "{}", &s), PROBLEM_MISSING_PARAMETER);
    assert_int_equal(judge_verb(SESSION_RESTORE, "{\"filename\":\"../../etc/passwd\"}", &s),
                     PROBLEM_UNKNOWN_FIELD);
    assert_int_equal(judge_verb(SESSION_SNAPSHOT, "{\"pin\":false}", &s),
                     PROBLEM_INVALID_PARAMETER);
    assert_int_equal(judge_verb(SESSION_SNAPSHOT, "{\"label\":\"x\",\"pin\":true}", &s),
                     PROBLEM_NONE);
}

/* Numbers with every digit, strings with their escapes; only white space between them goes. */
static void metadata_is_kept_as_it_was_written(void **state)
{
    static const char *const kept[] = {
        "{\"id\":1234567890123456789,\"x\":9007199254740993}",
        "{\"a\":1e400,\"b\":-0,\"c\":1.0,\"d\":[[],{},[1,{\"e\":2}]]}",
        "{\"\\\"\\\\\":\"}],\\\" \\\\\",\"u\":\"\\u00e9/**///\"}",
        "{\"n\":null,\"t\":true}",
        "{}",
    };
    static const char *const around[][2] = {
        { "{\"metadata\":", "}" },
        { " {\t\"id\" : \"a\",\r\n\"meta\\u0064ata\" :\n ", "\n , \"seed\" : 7 } " },
        { "{\"ttl\":9,\"seed\":1,\"metadata\":", ",\"model\":\"m\"}" },
    };
    struct session_params s;
    char body[512];

    (void)state;
    for (size_t i = 0; i < 5 * 3; i++) {
        snprintf(body, sizeof(body), "%s%s%s", around[i % 3][0], kept[i / 3], around[i % 3][1]);
        assert_int_equal(read_verb(SESSION_CREATE, body, &s), PROBLEM_NONE);
        assert_string_equal(s.metadata, kept[i / 3]);
        session_params_finish(&s);
    }
    assert_int_equal(read_verb(SESSION_CREATE, "{\"metadata\": { \"a\" : [ 1 , 2 ] } }", &s),
                     PROBLEM_NONE);
    assert_string_equal(s.metadata, "{\"a\":[1,2]}");
    session_params_finish(&s);
}

static void metadata_and_labels_end_at_their_limits(void **state)
{
    char body[LIMIT_METADATA_BYTES + 64];
    struct session_params s;

    (void)state;
    for (int extra = 0; extra < 2; extra++) { /* {"a":"..."} has 8 bytes beside the text */
        snprintf(body, sizeof(body), "{\"metadata\":{\"a\":\"%0*d\"}}",
                 LIMIT_METADATA_BYTES - 8 + extra, 0);
        assert_int_equal(judge_verb(SESSION_CREATE, body, &s),
                         extra ? PROBLEM_INVALID_PARAMETER : PROBLEM_NONE);
        snprintf(body, sizeof(body), "{\"label\":\"%0*d\"}", LIMIT_LABEL_BYTES + extra, 0);
        assert_int_equal(judge_verb(SESSION_SNAPSHOT, body, &s),
                         extra ? PROBLEM_INVALID_PARAMETER : PROBLEM_NONE);
    }
}

static void a_page_has_one_to_a_thousand_items(void **state)
{
    static const char *const wrong[] = { "0", "1001", "-1", "", "x", "1x", " 1", "99999999999999" };
    struct problem p;
    struct id after;
    int count;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_false(params_page(wrong[i], NULL, &count, &after, &p));
    assert_true(params_page(NULL, NULL, &count, &after, &p));
    assert_int_equal(count, 20);
    assert_true(params_page("1000", "s.1", &count, &after, &p));
    assert_int_equal(count, 1000);
    assert_string_equal(after.text, "s.1");
    assert_false(params_page(NULL, "../x", &count, &after, &p));
}

static void the_tokenizers_calls_need_their_field(void **state)
{
    static const char body[] = "{\"content\":\"ab\",\"add_special\":true}";
    static const char apart[] = "{\"text\":\"ab\",\"parse_special\":true}";
    static const char twice[] = "{\"content\":\"ab\",\"text\":\"cd\"}"; /* which is meant? */
    struct text_params t;
    struct problem p;

    (void)state;
    assert_true(params_tokenize(body, sizeof(body) - 1, &context, &t, &p));
    assert_true(t.special && t.parses_special && t.prompt.len == 2);
    text_params_finish(&t);
    assert_true(params_tokenize(apart, sizeof(apart) - 1, &context, &t, &p));
    assert_true(!t.special && t.parses_special);
    text_params_finish(&t);
    assert_false(params_tokenize(twice, sizeof(twice) - 1, &context, &t, &p));
    assert_string_equal(p.message, "either text or content, not both");
    text_params_finish(&t);
    assert_false(params_tokenize("{}", 2, &context, &t, &p));
    assert_int_equal(p.what, PROBLEM_MISSING_PARAMETER);
    text_params_finish(&t);
    assert_false(params_detokenize("{\"tokens\":[1000]}", 17, &context, &t, &p));
    assert_string_equal(p.param, "tokens");
    text_params_finish(&t);
    assert_true(params_detokenize("{\"tokens\":[]}", 13, &context, &t, &p));
    text_params_finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(session_verbs_take_their_fields_only),
        cmocka_unit_test(metadata_is_kept_as_it_was_written),
        cmocka_unit_test(metadata_and_labels_end_at_their_limits),
        cmocka_unit_test(a_page_has_one_to_a_thousand_items),
        cmocka_unit_test(the_tokenizers_calls_need_their_field),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
