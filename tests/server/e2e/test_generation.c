/* Completions through HTTP: the demonstration model's known answers, and what a stream is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "config/limits.h"
#include "models/text/utf8.h"
#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "weights/weights.h"

#define COMPLETIONS "/v1/completions"

enum { IDS = 64 };

#define SAMPLED (1u << 31)

static struct live demo, bytes;

static size_t read_ids(const char *name, int64_t id[IDS])
{
    struct error err;
    struct weights *w = weights_open("tests/data/demo/expected.safetensors", &err);
    const struct tensor *t = w ? weights_find(w, name) : NULL;
    size_t n;

    assert_non_null(t);
    n = t->bytes / sizeof(int64_t);
    assert_true(n > 0 && n <= IDS);
    assert_true(weights_read(w, t, id, &err));
    weights_close(w);
    return n;
}

static char *list_ids(const int64_t *id, size_t n)
{
    char *text = calloc(n + 1, 12);

    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        sprintf(text + strlen(text), "%s%d", i ? "," : "", (int)id[i]);
    return text;
}

static char *detokenize(const struct live *l, const char *ids)
{
    cJSON *json = ask(l->port, "POST", "/detokenize", "{\"tokens\":[%s]}", ids);
    char *text = strdup(text_of(json, "text"));

    cJSON_Delete(json);
    return text;
}

static void the_demonstration_model_says_what_the_reference_says(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t prompt[IDS], greedy[IDS];
        char name[32];
        size_t p, g, n;
        const uint32_t *token;

        snprintf(name, sizeof(name), "case%d.tokens", i);
        p = read_ids(name, prompt);
        snprintf(name, sizeof(name), "case%d.greedy", i);
        g = read_ids(name, greedy);
        snprintf(name, sizeof(name), "reference-%d", i);

        char *ids = list_ids(prompt, p), *expected_ids = list_ids(greedy, g);
        char *expected = detokenize(&demo, expected_ids), *text;

        cJSON_Delete(ask(demo.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", name));
        cJSON *json = ask(demo.port, "POST", COMPLETIONS,
                          "{\"prompt\":[%s],\"session_id\":\"%s\",\"max_tokens\":%zu,"
                          "\"temperature\":0,\"ignore_eos\":true,\"skip_special_tokens\":false}",
                          ids, name, g);
        text = answer_text(json);
        assert_string_equal(text, expected);
        assert_string_equal(text_of(item_of(json, "choices")->child, "finish_reason"), "length");
        assert_int_equal(number_of(item_of(json, "usage"), "prompt_tokens"), p);
        assert_int_equal(number_of(item_of(json, "usage"), "completion_tokens"), g);

        /* The state remembers which ids those were. */
        struct state s = state_of(demo.port, name);
        token = state_tokens(&s, &n);
        assert_int_equal(n, p + g);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(token[k], k < p ? (uint32_t)prompt[k] : greedy[k - p] | SAMPLED);
        state_free(&s);
        cJSON_Delete(json);
        free(text);
        free(expected);
        free(expected_ids);
        free(ids);
    }
}

/* The same request whole and as a stream. */
static void compare_stream(const struct live *l, const char *fields, int choices)
{
    cJSON *whole = ask(l->port, "POST", COMPLETIONS, "{%s}", fields);
    const cJSON *choice = item_of(whole, "choices")->child;
    struct story s;
    char *body;

    assert_true(asprintf(&body, "{%s,\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
                         fields) > 0);
    stream_text(l->port, body, &s);
    assert_int_equal(s.status, 200);
    assert_true(s.done && s.whole && !s.invalid);
    assert_string_equal(s.error, "");
    for (int i = 0; i < choices; i++, choice = choice->next) {
        assert_non_null(choice);
        assert_int_equal(number_of(choice, "index"), i);
        assert_string_equal(s.text[i] ? s.text[i] : "", text_of(choice, "text"));
        assert_string_equal(s.finish[i], text_of(choice, "finish_reason"));
    }
    assert_null(choice);
    assert_non_null(s.usage);
    assert_true(cJSON_Compare(s.usage, item_of(whole, "usage"), true));
    story_finish(&s);
    free(body);
    cJSON_Delete(whole);
}

static void a_stream_says_what_the_whole_answer_says(void **state)
{
    (void)state;
    compare_stream(&demo, "\"prompt\":\"Once upon a time\",\"max_tokens\":60,\"temperature\":0", 1);
    compare_stream(&demo,
                   "\"prompt\":\"The cat\",\"max_tokens\":80,\"temperature\":0.9,\"top_p\":0.95,"
                   "\"seed\":11,\"repetition_penalty\":1.2",
                   1);
    compare_stream(&bytes, "\"prompt\":\"eddy\",\"max_tokens\":50,\"seed\":3", 1);
}

static void choices_have_their_own_index_and_text(void **state)
{
    static const char fields[] = "\"prompt\":\"One day\",\"max_tokens\":30,\"seed\":5,\"n\":3";
    cJSON *whole = ask(demo.port, "POST", COMPLETIONS, "{%s}", fields);
    const cJSON *first = item_of(whole, "choices")->child;

    (void)state;
    compare_stream(&demo, fields, 3);
    assert_string_not_equal(text_of(first, "text"), text_of(first->next, "text"));
    assert_string_not_equal(text_of(first->next, "text"), text_of(first->next->next, "text"));
    assert_int_equal(number_of(item_of(whole, "usage"), "completion_tokens"), 90);
    cJSON_Delete(whole);
    compare_stream(&demo, "\"prompt\":[\"One day\",\"Once\"],\"max_tokens\":12,\"seed\":5,\"n\":2",
                   4);
}

/* Any piece of the text may be the stop string, wherever the tokens' borders lie in it. */
static void a_stop_string_is_never_seen(void **state)
{
    static const char fields[] =
        "\"prompt\":\"Once upon a time\",\"max_tokens\":40,\"temperature\":0";
    cJSON *json = ask(demo.port, "POST", COMPLETIONS, "{%s}", fields);
    char *text = answer_text(json);
    size_t len = strlen(text);

    (void)state;
    cJSON_Delete(json);
    assert_true(len > 60);
    for (size_t at = 5; at + 12 < len; at += live_sanitized() ? 45 : 9) {
        for (size_t n = 1; n <= 11; n += 5) {
            struct story s;
            char *body, stop[16];
            cJSON *request = cJSON_CreateObject();
            size_t cut;

            memcpy(stop, text + at, n);
            stop[n] = 0;
            cut = (size_t)(strstr(text, stop) - text);
            cJSON_AddStringToObject(request, "prompt", "Once upon a time");
            cJSON_AddNumberToObject(request, "max_tokens", 40);
            cJSON_AddNumberToObject(request, "temperature", 0);
            cJSON_AddStringToObject(request, "stop", stop);
            cJSON_AddBoolToObject(request, "stream", true);
            body = cJSON_PrintUnformatted(request);
            stream_text(demo.port, body, &s);
            assert_true(s.done && !s.invalid);
            assert_string_equal(s.finish[0], "stop");
            assert_int_equal(strlen(s.text[0] ? s.text[0] : ""), cut);
            assert_memory_equal(s.text[0] ? s.text[0] : "", text, cut);
            story_finish(&s);
            free(body);
            cJSON_Delete(request);
        }
    }
    free(text);
}

static void special_tokens_are_recognized_where_that_is_asked_for(void **state)
{
    static const struct {
        const char *fields;
        int tokens;
    } row[] = { { "", 10 },
                { ",\"add_special\":true", 3 },
                { ",\"parse_special\":true", 3 },
                { ",\"add_special\":true,\"parse_special\":false", 10 } };

    (void)state;
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        cJSON *json =
            ask(demo.port, "POST", "/tokenize", "{\"text\":\"a<|endoftext|>b\"%s}", row[i].fields);

        assert_int_equal(number_of(json, "count"), row[i].tokens);
        cJSON_Delete(json);
    }
}

/* A bias towards bytes that make characters of two to four bytes, and that break them. */
static void a_character_is_never_split(void **state)
{
    static const char bias[] =
        "\"temperature\":4,\"logit_bias\":{\"195\":90,\"169\":90,\"226\":90,\"130\":90,"
        "\"172\":90,\"240\":90,\"159\":90,\"152\":90,\"128\":90}";
    size_t characters = 0;

    (void)state;
    for (int seed = 0; seed < (live_sanitized() ? 2 : 6); seed++) {
        struct client c = client_dial(bytes.port);
        struct response r;
        char name[32], *body, *data, *ids, *expected, text[4096] = "";
        int64_t id[400];
        size_t n;

        snprintf(name, sizeof(name), "split-%d", seed);
        cJSON_Delete(ask(bytes.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", name));
        assert_true(asprintf(&body,
                             "{\"prompt\":\"\",\"session_id\":\"%s\",\"max_tokens\":300,"
                             "\"seed\":%d,\"ignore_eos\":true,\"stream\":true,"
                             "\"skip_special_tokens\":false,%s}",
                             name, seed, bias) > 0);
        assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, strlen(body)));
        assert_true(client_read_head(&c, &r));
        while ((data = client_event(&c)) && strcmp(data, "[DONE]") != 0) {
            cJSON *json = cJSON_Parse(data);
            const char *piece = text_of(item_of(json, "choices")->child, "text");

            assert_int_equal(utf8_valid_prefix(data, strlen(data)), strlen(data));
            assert_true(strlen(text) + strlen(piece) < sizeof(text));
            memcpy(text + strlen(text), piece, strlen(piece) + 1);
            cJSON_Delete(json);
            free(data);
        }
        assert_non_null(data);
        free(data);
        free(body);
        client_close(&c);

        /* All at once, the same bytes give the same text: what was broken, and only that, is
         * replaced. */
        struct state s = state_of(bytes.port, name);
        const uint32_t *token = state_tokens(&s, &n);
        size_t first = 0;

        while (first < n && !(token[first] & SAMPLED))
            first++;
        assert_int_equal(n - first, 300);
        for (size_t k = 0; k < 300; k++)
            id[k] = token[first + k] & ~SAMPLED;
        ids = list_ids(id, 300);
        expected = detokenize(&bytes, ids);
        assert_string_equal(text, expected);
        for (const char *at = text; (at = strstr(at, "\xe2\x82\xac")); at++)
            characters++;
        state_free(&s);
        free(ids);
        free(expected);
    }
    assert_true(characters > 0);
}

/* lm-eval's way to score a text: nothing is drawn, every prompt token has a probability. */
static void a_prompt_is_scored_without_drawing(void **state)
{
    cJSON *json = ask(demo.port, "POST", COMPLETIONS,
                      "{\"prompt\":\"Once upon a time\",\"echo\":true,\"logprobs\":1,"
                      "\"max_tokens\":0}");
    const cJSON *choice = item_of(json, "choices")->child, *logprobs = item_of(choice, "logprobs");
    const cJSON *p = item_of(logprobs, "token_logprobs"), *v;
    int n = cJSON_GetArraySize(p);

    (void)state;
    assert_string_equal(text_of(choice, "text"), "Once upon a time");
    assert_int_equal(n, number_of(item_of(json, "usage"), "prompt_tokens"));
    assert_int_equal(number_of(item_of(json, "usage"), "completion_tokens"), 0);
    assert_int_equal(cJSON_GetArraySize(item_of(logprobs, "tokens")), n);
    assert_int_equal(cJSON_GetArraySize(item_of(logprobs, "top_logprobs")), n);
    assert_int_equal(cJSON_GetArraySize(item_of(logprobs, "text_offset")), n);
    assert_true(cJSON_IsNull(p->child));
    for (v = p->child->next; v; v = v->next)
        assert_true(cJSON_IsNumber(v) && v->valuedouble <= 0);
    cJSON_Delete(json);
}

/* A short request must not have an answer of a gigabyte, which all others would wait for. */
static void scores_of_prompts_are_bounded_over_all_choices(void **state)
{
    enum { MOST = LIMIT_SCORES / (LIMIT_CHOICES * (1 + LIMIT_LOGPROBS)) };
    static const char pattern[] = "{\"prompt\":\"%s\",\"echo\":true,\"logprobs\":%d,\"n\":%d,"
                                  "\"max_tokens\":1}";
    char prompt[MOST + 2];

    (void)state;
    memset(prompt, '7', sizeof(prompt)); /* a token each */
    prompt[MOST + 1] = '\0';
    refused(demo.port, 400, "prompt_too_long", "POST", COMPLETIONS, pattern, prompt, LIMIT_LOGPROBS,
            LIMIT_CHOICES);
    prompt[MOST] = '\0';
    cJSON_Delete(
        ask(demo.port, "POST", COMPLETIONS, pattern, prompt, LIMIT_LOGPROBS, LIMIT_CHOICES));
}

/* A session with a turn that would run for long, of which one event was read. */
static struct client begin_long_turn(const struct live *l, const char *session)
{
    struct client c = client_dial(l->port);
    struct response r;
    char *body, *data;

    assert_true(asprintf(&body,
                         "{\"prompt\":\"on\",\"session_id\":\"%s\",\"max_tokens\":60000,"
                         "\"ignore_eos\":true,\"stream\":true}",
                         session) > 0);
    assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, strlen(body)));
    assert_true(client_read_head(&c, &r));
    assert_int_equal(r.status, 200);
    data = client_event(&c);
    assert_non_null(data);
    free(data);
    free(body);
    return c;
}

static void a_stream_whose_session_is_deleted_ends_with_an_error_event(void **state)
{
    struct client c;
    struct story s = { 0 };

    (void)state;
    cJSON_Delete(ask(demo.port, "POST", "/v1/sessions", "{\"id\":\"doomed\"}"));
    c = begin_long_turn(&demo, "doomed");
    cJSON_Delete(ask(demo.port, "DELETE", "/v1/sessions/doomed", NULL));
    stream_rest(&c, &s);
    assert_string_equal(s.error, "session_not_found");
    assert_true(s.whole && !s.done && !s.invalid);
    assert_string_equal(s.finish[0], "");
    story_finish(&s);
    client_close(&c);
    refused(demo.port, 404, "session_not_found", "GET", "/v1/sessions/doomed", NULL);
    assert_true(live_reaches(&demo, "eddy_turns_running", 0, 20));
}

static void a_client_that_leaves_frees_the_slot_and_changes_nothing(void **state)
{
    struct state before, after;
    double used;

    (void)state;
    cJSON_Delete(ask(demo.port, "POST", "/v1/sessions", "{\"id\":\"left\"}"));
    cJSON_Delete(ask(demo.port, "POST", "/v1/sessions/left/append", "{\"text\":\"Once upon\"}"));
    before = state_of(demo.port, "left");
    used = live_metric(&demo, "eddy_slots_used");
    for (int i = 0; i < 6; i++) {
        struct client c = begin_long_turn(&demo, "left");
        cJSON *json;

        if (i % 2)
            client_reset(&c);
        else
            client_close(&c);
        assert_true(live_reaches(&demo, "eddy_turns_running", 0, 20));
        assert_true(live_metric(&demo, "eddy_slots_used") == used);
        json = ask(demo.port, "GET", "/v1/sessions/left", NULL);
        assert_int_equal(number_of(json, "version"), 1);
        assert_false(flag_of(json, "busy"));
        cJSON_Delete(json);
    }
    after = state_of(demo.port, "left");
    assert_same_state(&before, &after, "after six clients left");
    state_free(&before);
    state_free(&after);
}

static int start(void **state)
{
    (void)state;
    live_start(&demo, DEMO, NULL);
    live_start(&bytes, RWKV7, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    assert_int_equal(live_stop(&demo), 0);
    assert_int_equal(live_stop(&bytes), 0);
    return 0;
}

static void an_answer_says_once_that_it_is_not_to_be_stored(void **state)
{
    static const char *const calls[][3] = {
        { "GET", "/health", NULL },
        { "GET", "/v1/models", NULL },
        { "POST", COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":1}" },
        { "POST", COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":1,\"stream\":true}" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct response r = call_with(demo.port, "", calls[i][0], calls[i][1], calls[i][2]);
        const char *first = strcasestr(r.head, "\r\ncache-control: no-store\r\n");

        assert_non_null(first);
        assert_null(strcasestr(first + 3, "cache-control"));
        response_finish(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demonstration_model_says_what_the_reference_says),
        cmocka_unit_test(a_stream_says_what_the_whole_answer_says),
        cmocka_unit_test(choices_have_their_own_index_and_text),
        cmocka_unit_test(a_stop_string_is_never_seen),
        cmocka_unit_test(special_tokens_are_recognized_where_that_is_asked_for),
        cmocka_unit_test(a_character_is_never_split),
        cmocka_unit_test(a_prompt_is_scored_without_drawing),
        cmocka_unit_test(scores_of_prompts_are_bounded_over_all_choices),
        cmocka_unit_test(a_stream_whose_session_is_deleted_ends_with_an_error_event),
        cmocka_unit_test(a_client_that_leaves_frees_the_slot_and_changes_nothing),
        cmocka_unit_test(an_answer_says_once_that_it_is_not_to_be_stored),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
