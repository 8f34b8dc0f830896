/* test_params.c - what a turn may say, by calling the parser as the handlers do.
 *
 * The refusals are those of reference recipes 39 to 55 and of the API's own fields: each
 * with its code and the field it names. */
#include "server/api/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/text/text_buffer.h"

enum { VOCAB = 1000, CAP = 4096 };

static const struct params_context context = { .model = "m", .vocab = VOCAB, .max_tokens = CAP };

typedef bool reader(const char *body, size_t len, const struct params_context *c,
                    struct generation_params *g, struct problem *p);

/* The code that the body is refused with, PROBLEM_NONE if it is taken; *p says more. */
static enum problem_code judge_bytes(reader *read, const char *body, size_t len, struct problem *p)
{
    struct generation_params g;
    bool ok;

    *p = (struct problem){ 0 };
    ok = read(body, len, &context, &g, p);
    generation_params_finish(&g);
    assert_true(ok == (p->what == PROBLEM_NONE));
    return p->what;
}

static void assert_refused(reader *read, const char *body, enum problem_code what,
                           const char *param)
{
    struct problem p;
    enum problem_code found = judge_bytes(read, body, strlen(body), &p);

    if (found != what || (param && strcmp(p.param, param) != 0))
        fail_msg("%.200s: %s (%s), not %s (%s)", body, found ? problem_row(found)->code : "taken",
                 p.param, problem_row(what)->code, param ? param : "any");
}

static void assert_taken(reader *read, const char *body)
{
    struct problem p;

    if (judge_bytes(read, body, strlen(body), &p) != PROBLEM_NONE)
        fail_msg("%.200s: %s", body, p.message);
}

/* A completion with one more field. */
static const char *with(const char *field)
{
    static char body[4096];

    snprintf(body, sizeof(body), "{\"prompt\":\"a\",%s}", field);
    return body;
}

static void assert_field_refused(const char *field, const char *param)
{
    assert_refused(params_completion, with(field), PROBLEM_INVALID_PARAMETER, param);
}

static void assert_field_taken(const char *field)
{
    assert_taken(params_completion, with(field));
}

/* count copies of a, then as many of b. */
static char *nested(size_t count, char a, char b)
{
    char *text = malloc(2 * count + 1);

    assert_non_null(text);
    memset(text, a, count);
    memset(text + count, b, count);
    text[2 * count] = 0;
    return text;
}

static void depth_ends_at_its_limit(void **state)
{
    char body[256], *text = nested(100000, '[', ']'), *inner;

    (void)state;
    assert_refused(params_completion, text, PROBLEM_JSON_TOO_DEEP, NULL);
    free(text);
    /* The object is one of the containers. */
    inner = nested(LIMIT_JSON_DEPTH - 1, '[', ']');
    snprintf(body, sizeof(body), "{\"user\":%s,\"prompt\":\"a\"}", inner);
    assert_taken(params_completion, body);
    free(inner);
    inner = nested(LIMIT_JSON_DEPTH, '[', ']');
    snprintf(body, sizeof(body), "{\"user\":%s,\"prompt\":\"a\"}", inner);
    assert_refused(params_completion, body, PROBLEM_JSON_TOO_DEEP, NULL);
    free(inner);
}

static void a_megabyte_of_numbers_is_too_complex(void **state)
{
    char *text = malloc(1 << 20);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i + 2 < 1 << 20; i += 2)
        memcpy(text + i, i ? ",0" : "[0", 2);
    memcpy(text + (1 << 20) - 2, "]", 2);
    assert_refused(params_completion, text, PROBLEM_JSON_TOO_COMPLEX, NULL);
    free(text);
}

static void a_body_is_one_json_object_and_nothing_else(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"a\"}xyz",
        "{\"prompt\":\"a\"}{\"prompt\":\"b\"}",
        "",
        "null",
        "[]",
        "\"x\"",
        "{\"prompt\":\"a\x01\"}",
        "{\"prompt\":\"a\\u0000b\"}",
        "\xef\xbb\xbf{\"prompt\":\"a\"}",
        "{\"prompt\":012}",
        "{\"prompt\":'a'}",
    };
    struct problem p;

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        assert_refused(params_completion, bodies[i], PROBLEM_INVALID_JSON, NULL);
    assert_int_equal(judge_bytes(params_completion, "{\"a\":[1,\0 2]}", 12, &p),
                     PROBLEM_INVALID_JSON);
}

static void bytes_that_are_no_utf8_are_refused(void **state)
{
    (void)state;
    assert_refused(params_completion, "{\"prompt\":\"\xff\xfe\"}", PROBLEM_INVALID_UTF8, NULL);
    assert_refused(params_completion, "{\"prompt\":\"\xc0\xaf\"}", PROBLEM_INVALID_UTF8, NULL);
    assert_refused(params_completion, "{\"prompt\":\"\\ud800\"}", PROBLEM_INVALID_UTF8, NULL);
}

static void keys_are_unique_and_case_sensitive(void **state)
{
    (void)state;
    assert_refused(params_completion, "{\"prompt\":\"a\",\"max_tokens\":1,\"max_tokens\":999}",
                   PROBLEM_DUPLICATE_KEY, NULL);
    assert_refused(params_completion, "{\"prompt\":\"a\",\"n\":1,\"\\u006e\":2}",
                   PROBLEM_DUPLICATE_KEY, NULL);
    assert_refused(params_completion, "{\"Prompt\":\"a\"}", PROBLEM_UNKNOWN_FIELD, "Prompt");
    assert_refused(params_completion, "{}", PROBLEM_MISSING_PARAMETER, "prompt");
    assert_refused(params_completion, "{\"prompt\":null}", PROBLEM_MISSING_PARAMETER, "prompt");
    assert_taken(params_completion, "{\"session_id\":\"s\"}");
    assert_taken(params_completion, "{\"session_id\":\"s\",\"prompt\":null}");
}

static void unknown_fields_are_named(void **state)
{
    char body[512], key[201];
    struct problem p;

    (void)state;
    assert_refused(params_completion, with("\"n_discard\":-5"), PROBLEM_UNKNOWN_FIELD, "n_discard");
    assert_refused(params_completion, with("\"grammar\":\"x\""), PROBLEM_UNKNOWN_FIELD, "grammar");
    /* A long name is cut, and never inside a character. */
    for (size_t i = 0; i < 200; i += 2)
        memcpy(key + i, "\xc3\xa4", 2);
    key[200] = 0;
    snprintf(body, sizeof(body), "{\"%s\":1}", key);
    assert_int_equal(judge_bytes(params_completion, body, strlen(body), &p), PROBLEM_UNKNOWN_FIELD);
    assert_int_equal(strlen(p.param), 62);
    assert_memory_equal(p.param, key, 62);
}

static void max_tokens_is_a_whole_number_up_to_the_cap(void **state)
{
    static const char *const values[] = { "-1",  "1e999", "2147483648", "9007199254740993",
                                          "1.5", "\"5\"", "true",       "[]",
                                          "4097" };
    char field[64];

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        snprintf(field, sizeof(field), "\"max_tokens\":%s", values[i]);
        assert_field_refused(field, "max_tokens");
    }
    assert_field_taken("\"max_tokens\":0");
    assert_field_taken("\"max_tokens\":4096");
    assert_field_taken("\"max_tokens\":null");
}

static void numbers_stay_in_their_bounds(void **state)
{
    static const struct {
        const char *field, *param;
    } refused[] = {
        { "\"n\":1000000", "n" },
        { "\"n\":-1", "n" },
        { "\"n\":0", "n" },
        { "\"temperature\":-0.1", "temperature" },
        { "\"temperature\":1e308", "temperature" },
        { "\"temperature\":\"hot\"", "temperature" },
        { "\"top_p\":0", "top_p" },
        { "\"top_p\":1.1", "top_p" },
        { "\"top_k\":-5", "top_k" },
        { "\"top_k\":1e10", "top_k" },
        { "\"min_p\":-0.5", "min_p" },
        { "\"typical_p\":0", "typical_p" },
        { "\"repetition_penalty\":0", "repetition_penalty" },
        { "\"presence_penalty\":2.5", "presence_penalty" },
        { "\"frequency_penalty\":-2.5", "frequency_penalty" },
        { "\"penalty_decay\":1.5", "penalty_decay" },
        { "\"min_tokens\":10,\"max_tokens\":5", "min_tokens" },
        { "\"min_tokens\":1000000000", "min_tokens" },
        { "\"seed\":-1", "seed" },
        { "\"seed\":1e30", "seed" },
        { "\"seed\":\"a\"", "seed" },
        { "\"seed\":9007199254740993", "seed" },
        { "\"stream\":\"yes\"", "stream" },
        { "\"logprobs\":21", "logprobs" },
        { "\"logprobs\":true", "logprobs" },
        { "\"best_of\":2", "best_of" },
        { "\"suffix\":\"x\"", "suffix" },
        { "\"response_format\":{\"type\":\"json_object\"}", "response_format" },
        { "\"stream_options\":true", "stream_options" },
        { "\"expected_version\":1", "expected_version" },
        { "\"session_id\":\"../x\"", "session_id" },
        { "\"session_id\":\"\"", "session_id" },
        { "\"session_id\":\"s\",\"n\":2", "n" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        assert_field_refused(refused[i].field, refused[i].param);
}

/* A refusal is all that its reader has: it names the field and where its bounds are. */
static void refused_numbers_say_their_bounds(void **state)
{
    static const struct {
        const char *field, *message;
    } refused[] = {
        { "\"n\":0", "n must be a whole number from 1 to 128" },
        { "\"temperature\":99", "temperature must be a number from 0 to 10" },
        { "\"top_p\":0", "top_p must be a number above 0 and at most 1" },
        { "\"stop_token_ids\":[1,1000]", "a token id in stop_token_ids must be a whole number "
                                         "from 0 to 999" },
    };
    struct problem p;

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const char *body = with(refused[i].field);

        judge_bytes(params_completion, body, strlen(body), &p);
        assert_string_equal(p.message, refused[i].message);
    }
}

static void what_clients_really_send_is_taken(void **state)
{
    static const char *const taken[] = {
        "\"temperature\":0",
        "\"temperature\":2",
        "\"top_p\":1e-3",
        "\"top_k\":-1",
        "\"top_k\":0",
        "\"seed\":9007199254740991",
        "\"seed\":null",
        "\"stop\":null",
        "\"logprobs\":null",
        "\"logit_bias\":null",
        "\"user\":\"u\"",
        "\"store\":false",
        "\"metadata\":{\"a\":\"b\"}",
        "\"service_tier\":\"auto\"",
        "\"suffix\":null",
        "\"suffix\":\"\"",
        "\"n\":1,\"best_of\":1",
        "\"response_format\":{\"type\":\"text\"}",
        "\"logprobs\":0",
        "\"logprobs\":20",
        "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
        "\"model\":\"m\"",
        "\"session_id\":\"a.b-c_D9\",\"expected_version\":0",
        "\"penalty_decay\":0.996",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
        assert_field_taken(taken[i]);
}

static void another_model_is_not_found(void **state)
{
    (void)state;
    assert_refused(params_completion, with("\"model\":\"../../x\""), PROBLEM_MODEL_NOT_FOUND,
                   "model");
    assert_refused(params_completion, with("\"model\":\"M\""), PROBLEM_MODEL_NOT_FOUND, "model");
    assert_field_refused("\"model\":1", "model");
}

/* `"stop":[...]` of n strings. */
static char *stops(size_t n)
{
    struct text_buffer b = { 0 };

    assert_true(text_buffer_append(&b, "\"stop\":[", 8));
    for (size_t i = 0; i < n; i++)
        assert_true(text_buffer_append(&b, i ? ",\"x\"" : "\"x\"", i ? 4 : 3));
    assert_true(text_buffer_append(&b, "]", 2));
    return b.bytes;
}

static void stops_are_few_short_and_not_empty(void **state)
{
    char field[LIMIT_STOP_BYTES + 64], *list;

    (void)state;
    assert_field_refused("\"stop\":[\"\"]", "stop");
    assert_field_refused("\"stop\":\"\"", "stop");
    assert_field_refused("\"stop\":[[\"a\"]]", "stop");
    assert_field_refused("\"stop\":5", "stop");
    list = stops(LIMIT_STOP_STRINGS + 1);
    assert_field_refused(list, "stop");
    free(list);
    list = stops(LIMIT_STOP_STRINGS);
    assert_field_taken(list);
    free(list);
    for (int extra = 0; extra < 2; extra++) {
        snprintf(field, sizeof(field), "\"stop\":\"%0*d\"", LIMIT_STOP_BYTES + extra, 0);
        if (extra)
            assert_field_refused(field, "stop");
        else
            assert_field_taken(field);
    }
    assert_field_refused("\"stop_token_ids\":[1000]", "stop_token_ids");
    assert_field_refused("\"stop_token_ids\":[-1]", "stop_token_ids");
    assert_field_taken("\"stop_token_ids\":[0,999]");
}

static void a_megabyte_as_stop_is_refused(void **state)
{
    static const char head[] = "{\"prompt\":\"a\",\"stop\":\"";
    size_t at = sizeof(head) - 1;
    char *body = malloc((1 << 20) + 64);

    (void)state;
    assert_non_null(body);
    memcpy(body, head, at);
    memset(body + at, 'x', 1 << 20);
    memcpy(body + at + (1 << 20), "\"}", 3);
    assert_refused(params_completion, body, PROBLEM_INVALID_PARAMETER, "stop");
    free(body);
}

static void logit_bias_names_tokens_in_plain_decimal(void **state)
{
    static const char *const refused[] = { "{\"-1\":1}",
                                           "{\"99999999\":1}",
                                           "{\"0x1\":1}",
                                           "{\"5\":1e999}",
                                           "{\"5\":101}",
                                           "{\"5\":\"1\"}",
                                           "{\"1000\":1}",
                                           "{\"01\":1}",
                                           "{\"\":1}",
                                           "{\"99999999999999999999999\":1}",
                                           "[]" };
    char field[128];
    struct generation_params g;
    struct problem p;
    const char *body;

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        snprintf(field, sizeof(field), "\"logit_bias\":%s", refused[i]);
        assert_field_refused(field, "logit_bias");
    }
    body = with("\"logit_bias\":{\"0\":-100,\"999\":2.5}");
    assert_true(params_completion(body, strlen(body), &context, &g, &p));
    assert_int_equal(g.turn.sampling.biases, 2);
    assert_int_equal(g.turn.sampling.bias[1].id, 999);
    assert_true(g.turn.sampling.bias[1].value == 2.5f);
    generation_params_finish(&g);
}

static void prompts_are_text_or_ids_of_the_vocabulary(void **state)
{
    static const char *const refused[] = { "[-1]",        "[1000]",    "[1.5]",  "2147483648",
                                           "[\"a\",1]",   "[1,\"a\"]", "[]",     "{}",
                                           "[[1],\"a\"]", "[[[1]]]",   "[null]", "true" };
    static const char *const taken[] = { "\"\"",    "\"a\"",       "[\"a\",\"b\"]",
                                         "[0,999]", "[[1],[2,3]]", "[[]]" };
    char body[64];

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        snprintf(body, sizeof(body), "{\"prompt\":%s}", refused[i]);
        assert_refused(params_completion, body, PROBLEM_INVALID_PARAMETER, "prompt");
    }
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        snprintf(body, sizeof(body), "{\"prompt\":%s}", taken[i]);
        assert_taken(params_completion, body);
    }
}

/* {"prompt":[[1],[1],...]} */
static char *many_prompts(size_t n)
{
    struct text_buffer b = { 0 };

    assert_true(text_buffer_append(&b, "{\"prompt\":[", 11));
    for (size_t i = 0; i < n; i++)
        assert_true(text_buffer_append(&b, i ? ",[1]" : "[1]", i ? 4 : 3));
    assert_true(text_buffer_append(&b, "]}", 3));
    return b.bytes;
}

static void prompts_times_n_are_bounded(void **state)
{
    char *body = many_prompts(LIMIT_PROMPTS), *more = many_prompts(LIMIT_PROMPTS + 1);

    (void)state;
    assert_taken(params_completion, body);
    assert_refused(params_completion, more, PROBLEM_INVALID_PARAMETER, "prompt");
    free(body);
    free(more);
    assert_refused(params_completion, "{\"prompt\":[\"a\",\"b\"],\"n\":65}",
                   PROBLEM_INVALID_PARAMETER, "n");
    assert_refused(params_completion, "{\"prompt\":[\"a\",\"b\"],\"session_id\":\"s\"}",
                   PROBLEM_INVALID_PARAMETER, "prompt");
}

static void defaults_are_those_of_openai(void **state)
{
    struct generation_params g;
    struct problem p;
    const struct sampling *s = &g.turn.sampling;

    (void)state;
    assert_true(params_completion("{\"prompt\":\"ab\"}", 15, &context, &g, &p));
    assert_int_equal(g.turn.max_tokens, 16);
    assert_int_equal(g.turn.choices, 1);
    assert_int_equal(g.turn.logprobs, -1);
    assert_true(s->temperature == 1 && s->top_p == 1 && s->typical_p == 1 && s->min_p == 0);
    assert_true(s->repetition == 1 && s->presence == 0 && s->frequency == 0);
    assert_true(s->top_k == 0 && !s->seeded && s->penalty_decay == 1);
    assert_false(g.stream || g.echo || g.turn.score || g.turn.chat);
    assert_int_equal(g.prompts, 1);
    assert_int_equal(g.prompt[0].len, 2);
    generation_params_finish(&g);
}

static void fields_reach_their_places(void **state)
{
    static const char body[] =
        "{\"prompt\":[[1,2],[3]],\"n\":3,\"echo\":true,\"logprobs\":2,\"max_tokens\":7,"
        "\"min_tokens\":1,\"temperature\":0.5,\"top_k\":-1,\"top_p\":0.25,\"min_p\":0.125,"
        "\"typical_p\":0.75,\"repetition_penalty\":1.5,\"presence_penalty\":-1,"
        "\"frequency_penalty\":2,\"penalty_decay\":0.5,\"seed\":9007199254740991,"
        "\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":[5],\"ignore_eos\":true,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"skip_special_tokens\":false}";
    struct generation_params g;
    struct problem p;
    const struct turn *t = &g.turn;
    const struct sampling *s = &t->sampling;

    (void)state;
    assert_true(params_completion(body, sizeof(body) - 1, &context, &g, &p));
    assert_int_equal(g.prompts, 2);
    assert_int_equal(g.prompt[0].id[1], 2);
    assert_int_equal(g.prompt[1].ids, 1);
    assert_true(t->choices == 3 && g.echo && t->logprobs == 2 && t->score);
    assert_true(t->max_tokens == 7 && t->min_tokens == 1);
    assert_true(s->temperature == 0.5f && s->top_k == 0 && s->top_p == 0.25f);
    assert_true(s->min_p == 0.125f && s->typical_p == 0.75f && s->repetition == 1.5f);
    assert_true(s->presence == -1 && s->frequency == 2 && s->penalty_decay == 0.5f);
    assert_true(s->seeded && s->seed == 9007199254740991u);
    assert_int_equal(t->stops, 2);
    assert_string_equal(t->stop[1], "yz");
    assert_true(t->stop_ids == 1 && t->stop_id[0] == 5 && t->ignore_eos && t->special);
    assert_true(g.stream && g.include_usage);
    generation_params_finish(&g);
}

static void headers_stand_in_for_fields_but_do_not_contradict_them(void **state)
{
    static const char plain[] = "{\"prompt\":\"a\"}";
    static const char named[] = "{\"prompt\":\"a\",\"session_id\":\"s\",\"expected_version\":3}";
    struct params_context c = context;
    struct generation_params g;
    struct problem p;

    (void)state;
    c.session_header = "s";
    c.match_header = "\"3\"";
    assert_true(params_completion(plain, strlen(plain), &c, &g, &p));
    assert_string_equal(g.session.text, "s");
    assert_true(g.expected.count == 1 && g.expected.version[0] == 3);
    generation_params_finish(&g);
    for (int i = 0; i < 3; i++) { /* the field is one of the header's */
        static const char *const with[] = { "\"3\"", "*", "\"4\", \"3\"" };

        c.match_header = with[i];
        assert_true(params_completion(named, strlen(named), &c, &g, &p));
        assert_true(g.expected.count == 1 && g.expected.version[0] == 3 && !g.expected.all);
        generation_params_finish(&g);
    }

    c.match_header = "\"4\"";
    assert_false(params_completion(named, strlen(named), &c, &g, &p));
    assert_string_equal(p.param, "expected_version");
    generation_params_finish(&g);
    c.match_header = NULL;
    c.session_header = "t";
    assert_false(params_completion(named, strlen(named), &c, &g, &p));
    assert_string_equal(p.param, "session_id");
    generation_params_finish(&g);
}

static void chat_messages_are_read_whole_or_in_parts(void **state)
{
    static const char body[] =
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"be\"},"
        "{\"role\":\"user\",\"name\":\"u\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":\"\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"c\"}]}],"
        "\"max_completion_tokens\":9,\"max_tokens\":5,\"logprobs\":true,\"top_logprobs\":3}";
    struct generation_params g;
    struct problem p;

    (void)state;
    assert_true(params_chat(body, sizeof(body) - 1, &context, &g, &p));
    assert_int_equal(g.messages, 4);
    assert_int_equal(g.message[0].role, CHAT_SYSTEM);
    assert_int_equal(g.message[2].role, CHAT_ASSISTANT);
    assert_int_equal(g.message[1].len, 2);
    assert_memory_equal(g.message[1].text, "ab", 2);
    assert_memory_equal(g.message[3].text, "c", 1);
    assert_int_equal(g.turn.max_tokens, 9);
    assert_int_equal(g.turn.logprobs, 3);
    assert_true(g.turn.chat);
    generation_params_finish(&g);
}

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void chats_refuse_what_would_change_their_meaning(void **state)
{
    static const struct {
        const char *body, *param;
    } refused[] = {
        { "{" HI ",\"tools\":[{\"type\":\"function\"}]}", "tools" },
        { "{" HI ",\"functions\":[{}]}", "functions" },
        { "{" HI ",\"tool_choice\":\"auto\"}", "tool_choice" },
        { "{" HI ",\"modalities\":[\"text\",\"audio\"]}", "modalities" },
        { "{" HI ",\"audio\":{\"voice\":\"a\"}}", "audio" },
        { "{" HI ",\"top_logprobs\":2}", "top_logprobs" },
        { "{" HI ",\"logprobs\":1}", "logprobs" },
        { "{\"messages\":[]}", "messages" },
        { "{\"messages\":\"hi\"}", "messages" },
        { "{\"messages\":[1]}", "messages[0]" },
        { "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0]" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0]" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
          "messages[0]" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        assert_refused(params_chat, refused[i].body, PROBLEM_INVALID_PARAMETER, refused[i].param);
    assert_refused(params_chat, "{}", PROBLEM_MISSING_PARAMETER, "messages");
    assert_refused(params_chat, "{\"messages\":[{\"role\":\"user\"}]}", PROBLEM_MISSING_PARAMETER,
                   "messages[0]");
    assert_refused(params_chat,
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[{}]}]}",
                   PROBLEM_UNKNOWN_FIELD, "messages[0]");
    assert_refused(params_chat, "{" HI ",\"prompt\":\"x\"}", PROBLEM_UNKNOWN_FIELD, "prompt");
    assert_taken(params_chat, "{" HI ",\"tools\":[],\"tool_choice\":\"none\",\"max_tokens\":null,"
                              "\"parallel_tool_calls\":true,\"modalities\":[\"text\"]}");
    /* An answer sent back as it came, with what clients add to it. */
    assert_taken(params_chat,
                 "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"refusal\":"
                 "null,\"tool_calls\":[],\"annotations\":[]}]}");
}

static void an_append_is_text_or_ids(void **state)
{
    struct generation_params g;
    struct problem p;

    (void)state;
    assert_taken(params_append, "{\"text\":\"\"}");
    assert_refused(params_append, "{}", PROBLEM_MISSING_PARAMETER, "text");
    assert_refused(params_append, "{\"text\":[\"a\"]}", PROBLEM_INVALID_PARAMETER, "text");
    assert_refused(params_append, "{\"ids\":[1000]}", PROBLEM_INVALID_PARAMETER, "ids");
    assert_refused(params_append, "{\"text\":\"a\",\"ids\":[1]}", PROBLEM_INVALID_PARAMETER, "ids");
    assert_true(params_append("{\"ids\":[1,2]}", 13, &context, &g, &p));
    assert_true(g.prompts == 1 && g.prompt[0].ids == 2 && g.turn.max_tokens == 0);
    generation_params_finish(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depth_ends_at_its_limit),
        cmocka_unit_test(a_megabyte_of_numbers_is_too_complex),
        cmocka_unit_test(a_body_is_one_json_object_and_nothing_else),
        cmocka_unit_test(bytes_that_are_no_utf8_are_refused),
        cmocka_unit_test(keys_are_unique_and_case_sensitive),
        cmocka_unit_test(unknown_fields_are_named),
        cmocka_unit_test(max_tokens_is_a_whole_number_up_to_the_cap),
        cmocka_unit_test(numbers_stay_in_their_bounds),
        cmocka_unit_test(refused_numbers_say_their_bounds),
        cmocka_unit_test(what_clients_really_send_is_taken),
        cmocka_unit_test(another_model_is_not_found),
        cmocka_unit_test(stops_are_few_short_and_not_empty),
        cmocka_unit_test(a_megabyte_as_stop_is_refused),
        cmocka_unit_test(logit_bias_names_tokens_in_plain_decimal),
        cmocka_unit_test(prompts_are_text_or_ids_of_the_vocabulary),
        cmocka_unit_test(prompts_times_n_are_bounded),
        cmocka_unit_test(defaults_are_those_of_openai),
        cmocka_unit_test(fields_reach_their_places),
        cmocka_unit_test(headers_stand_in_for_fields_but_do_not_contradict_them),
        cmocka_unit_test(chat_messages_are_read_whole_or_in_parts),
        cmocka_unit_test(chats_refuse_what_would_change_their_meaning),
        cmocka_unit_test(an_append_is_text_or_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
