/* test_reply.c - answers and stream chunks in OpenAI's shapes, read back with cJSON.
 *
 * The tokenizer is the plain bytes one: token 97 is "a", 195 the first half of a character. */
#include "server/api/reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "config/error.h"
#include "models/text/text_buffer.h"
#include "models/text/tokenizer.h"

static struct tokenizer *bytes;
static const uint8_t fingerprint[16] = { 0xab, 0xcd };

static int open_tokenizer(void **state)
{
    struct error err = { 0 };

    (void)state;
    bytes = tokenizer_open("tests/data/mamba-tiny", 256, &err);
    if (!bytes)
        print_error("%s\n", err.message);
    return bytes ? 0 : -1;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(bytes);
    return 0;
}

static void make(struct reply *r, const struct reply_shape *shape, int prompts, int n)
{
    assert_true(reply_init(r, shape, prompts, n));
    r->tokenizer = bytes;
    r->model = "m";
    r->fingerprint = fingerprint;
}

static struct token_score scored(int32_t id, float logprob, int32_t top, float top_logprob)
{
    return (struct token_score){
        .id = id, .logprob = logprob, .tops = 1, .top_id = { top }, .top_logprob = { top_logprob }
    };
}

static cJSON *parse(struct text_buffer *b, const struct json_out *o)
{
    cJSON *json;

    assert_true(json_out_ok(o));
    json = cJSON_ParseWithLength(b->bytes, b->len);
    assert_non_null(json);
    free(b->bytes);
    return json;
}

static cJSON *whole(struct reply *r)
{
    struct text_buffer b = { 0 };
    struct json_out o;

    json_out_init(&o, &b);
    r->shape->whole(r, &o);
    return parse(&b, &o);
}

static cJSON *chunk(struct reply *r, struct reply_piece piece)
{
    struct text_buffer b = { 0 };
    struct json_out o;

    if (!piece.text)
        piece.text = "";
    json_out_init(&o, &b);
    reply_chunk(r, &piece, &o);
    return parse(&b, &o);
}

static cJSON *usage(struct reply *r)
{
    struct text_buffer b = { 0 };
    struct json_out o;

    json_out_init(&o, &b);
    reply_usage_chunk(r, &o);
    return parse(&b, &o);
}

/* The value at a path of keys and indexes: "choices/0/text". */
static const cJSON *at(const cJSON *json, const char *path)
{
    char part[64];

    while (json && *path) {
        size_t len = strcspn(path, "/");

        memcpy(part, path, len);
        part[len] = 0;
        json = cJSON_IsArray(json) ? cJSON_GetArrayItem(json, part[0] - '0')
                                   : cJSON_GetObjectItemCaseSensitive(json, part);
        path += len + (path[len] == '/');
    }
    return json;
}

static void assert_text(const cJSON *json, const char *path, const char *expected)
{
    const cJSON *v = at(json, path);

    if (!cJSON_IsString(v) || strcmp(v->valuestring, expected) != 0)
        fail_msg("%s is %s, not %s", path, cJSON_IsString(v) ? v->valuestring : "no string",
                 expected);
}

static void assert_number(const cJSON *json, const char *path, double expected)
{
    const cJSON *v = at(json, path);

    if (!cJSON_IsNumber(v) || v->valuedouble != expected)
        fail_msg("%s is %g, not %g", path, cJSON_IsNumber(v) ? v->valuedouble : NAN, expected);
}

static void assert_json_null(const cJSON *json, const char *path)
{
    if (!cJSON_IsNull(at(json, path)))
        fail_msg("%s is not null", path);
}

static void assert_absent(const cJSON *json, const char *path)
{
    if (at(json, path))
        fail_msg("%s is there", path);
}

static void add_text(struct text_buffer *to, const char *text)
{
    assert_true(text_buffer_append(to, text, strlen(text)));
}

static void a_completion_has_openais_shape(void **state)
{
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_completion, 2, 2);
    r.prompt_tokens = 7;
    r.cached_tokens = 3;
    r.completion_tokens = 5;
    add_text(&r.choice[2].text, "third");
    r.choice[2].finish = FINISH_STOP;
    r.choice[3].finish = FINISH_LENGTH;
    json = whole(&r);
    assert_text(json, "object", "text_completion");
    assert_text(json, "model", "m");
    assert_text(json, "system_fingerprint", "abcd0000000000000000000000000000");
    assert_int_equal(strncmp(at(json, "id")->valuestring, "cmpl_", 5), 0);
    assert_int_equal(cJSON_GetArraySize(at(json, "choices")), 4);
    assert_number(json, "choices/2/index", 2);
    assert_text(json, "choices/2/text", "third");
    assert_text(json, "choices/2/finish_reason", "stop");
    assert_text(json, "choices/3/finish_reason", "length");
    assert_json_null(json, "choices/0/logprobs");
    assert_number(json, "usage/prompt_tokens", 7);
    assert_number(json, "usage/completion_tokens", 5);
    assert_number(json, "usage/total_tokens", 12);
    assert_number(json, "usage/prompt_tokens_details/cached_tokens", 3);
    assert_absent(json, "session");
    cJSON_Delete(json);
    reply_finish(&r);
}

static void an_echo_scores_the_prompt_before_the_answer(void **state)
{
    const struct token_score prompt[] = { scored('a', NAN, 'x', 0),
                                          scored('b', -1.5f, 'c', -0.5f) };
    const struct token_score answer = scored('d', -0.25f, 'd', -0.25f);
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_completion, 1, 2);
    r.logprobs = true;
    add_text(&r.prompt[0].text, "ab");
    assert_true(scores_add(&r.prompt[0].scores, prompt, 2));
    for (int i = 0; i < 2; i++) {
        add_text(&r.choice[i].text, "d");
        assert_true(scores_add(&r.choice[i].scores, &answer, 1));
    }
    json = whole(&r);
    for (int i = 0; i < 2; i++) { /* both choices share the prompt */
        const cJSON *choice = cJSON_GetArrayItem(at(json, "choices"), i);

        assert_text(choice, "text", "abd");
        assert_text(choice, "logprobs/tokens/0", "a");
        assert_text(choice, "logprobs/tokens/2", "d");
        assert_json_null(choice, "logprobs/token_logprobs/0");
        assert_json_null(choice, "logprobs/top_logprobs/0");
        assert_number(choice, "logprobs/token_logprobs/1", -1.5);
        assert_number(choice, "logprobs/top_logprobs/1/c", -0.5);
        assert_number(choice, "logprobs/top_logprobs/1/b", -1.5);
        assert_int_equal(cJSON_GetArraySize(at(choice, "logprobs/top_logprobs/2")), 1);
        assert_number(choice, "logprobs/text_offset/2", 2);
    }
    cJSON_Delete(json);
    reply_finish(&r);
}

static void offsets_count_characters_across_chunks(void **state)
{
    const struct token_score half[] = { scored(0xc3, -1, 0xc3, -1), scored(0xa4, -1, 0xa4, -1) };
    const struct token_score next = scored('x', -1, 'x', -1);
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_completion, 1, 1);
    r.logprobs = true;
    cJSON_Delete(chunk(&r, (struct reply_piece){ .score = &half[0], .scores = 1 }));
    json = chunk(
        &r, (struct reply_piece){ .text = "\xc3\xa4", .len = 2, .score = &half[1], .scores = 1 });
    assert_text(json, "choices/0/logprobs/tokens/0", "bytes:\\xa4");
    cJSON_Delete(json);
    json = chunk(&r, (struct reply_piece){ .text = "x", .len = 1, .score = &next, .scores = 1 });
    assert_number(json, "choices/0/logprobs/text_offset/0", 1);
    cJSON_Delete(json);
    reply_finish(&r);
}

/* What is no UTF-8 is one U+FFFD for each part that can become no character. */
static void offsets_are_those_of_the_text_that_is_sent(void **state)
{
    static const unsigned char id[] = { 0x9f, 'x', 0xe2, 0x80, 'y', 0xc3, 0xa4, 0xc3, 0xe2, 'z' };
    static const int offset[] = { 0, 1, 2, 2, 3, 4, 4, 5, 6, 7 };
    enum { N = sizeof(id) };
    struct reply r;
    const cJSON *offsets;
    cJSON *json;

    (void)state;
    make(&r, &reply_completion, 1, 1);
    r.logprobs = true;
    for (int i = 0; i < N; i++) {
        const struct token_score score = scored(id[i], -1, id[i], -1);

        assert_true(text_buffer_append(&r.choice[0].text, (const char *)&id[i], 1));
        assert_true(scores_add(&r.choice[0].scores, &score, 1));
    }
    json = whole(&r);
    assert_text(json, "choices/0/text",
                "\xef\xbf\xbdx\xef\xbf\xbdy\xc3\xa4\xef\xbf\xbd\xef\xbf\xbdz");
    offsets = at(json, "choices/0/logprobs/text_offset");
    for (int i = 0; i < N; i++)
        assert_int_equal(cJSON_GetArrayItem(offsets, i)->valueint, offset[i]);
    cJSON_Delete(json);
    for (int i = 0; i < N; i++) {
        const struct token_score score = scored(id[i], -1, id[i], -1);

        json = chunk(&r, (struct reply_piece){ .score = &score, .scores = 1 });
        assert_number(json, "choices/0/logprobs/text_offset/0", offset[i]);
        cJSON_Delete(json);
    }
    reply_finish(&r);
}

static void a_completion_chunk_says_what_is_new(void **state)
{
    struct session_info session = { .version = 4, .position = 99 };
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_completion, 1, 1);
    strncpy(session.id.text, "s", sizeof(session.id.text) - 1);
    r.session = &session;
    json = chunk(&r, (struct reply_piece){ .text = "hi", .len = 2 });
    assert_text(json, "object", "text_completion");
    assert_text(json, "choices/0/text", "hi");
    assert_json_null(json, "choices/0/finish_reason");
    assert_absent(json, "usage");
    assert_absent(json, "session");
    cJSON_Delete(json);
    r.include_usage = true;
    json = chunk(&r, (struct reply_piece){ .finish = FINISH_STOP });
    assert_text(json, "choices/0/text", "");
    assert_text(json, "choices/0/finish_reason", "stop");
    assert_json_null(json, "usage");
    assert_text(json, "session/id", "s");
    assert_number(json, "session/version", 4);
    assert_number(json, "session/position", 99);
    cJSON_Delete(json);
    reply_finish(&r);
}

static void a_chat_has_openais_shape(void **state)
{
    struct token_score score = scored(0xc3, -0.5f, 'x', -0.75f);
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_chat, 1, 1);
    r.logprobs = true;
    add_text(&r.choice[0].text, "hello");
    assert_true(scores_add(&r.choice[0].scores, &score, 1));
    r.choice[0].finish = FINISH_CANCELLED; /* by a deadline: what there is, is the answer */
    json = whole(&r);
    assert_text(json, "object", "chat.completion");
    assert_text(json, "choices/0/message/role", "assistant");
    assert_text(json, "choices/0/message/content", "hello");
    assert_json_null(json, "choices/0/message/refusal");
    assert_text(json, "choices/0/finish_reason", "length");
    assert_text(json, "choices/0/logprobs/content/0/token", "\xef\xbf\xbd");
    assert_number(json, "choices/0/logprobs/content/0/logprob", -0.5);
    assert_number(json, "choices/0/logprobs/content/0/bytes/0", 0xc3);
    assert_text(json, "choices/0/logprobs/content/0/top_logprobs/0/token", "x");
    cJSON_Delete(json);
    reply_finish(&r);
}

static void a_chat_stream_begins_with_the_role_and_ends_with_a_reason(void **state)
{
    struct reply r;
    cJSON *json;

    (void)state;
    make(&r, &reply_chat, 1, 1);
    json = chunk(&r, (struct reply_piece){ .opening = true });
    assert_text(json, "object", "chat.completion.chunk");
    assert_text(json, "choices/0/delta/role", "assistant");
    assert_text(json, "choices/0/delta/content", "");
    assert_json_null(json, "choices/0/finish_reason");
    cJSON_Delete(json);
    json = chunk(&r, (struct reply_piece){ .text = "hi", .len = 2 });
    assert_absent(json, "choices/0/delta/role");
    assert_text(json, "choices/0/delta/content", "hi");
    cJSON_Delete(json);
    json = chunk(&r, (struct reply_piece){ .finish = FINISH_LENGTH });
    assert_int_equal(cJSON_GetArraySize(at(json, "choices/0/delta")), 0);
    assert_text(json, "choices/0/finish_reason", "length");
    cJSON_Delete(json);
    reply_finish(&r);
}

static void the_usage_chunk_has_no_choices(void **state)
{
    const struct reply_shape *const shapes[] = { &reply_completion, &reply_chat };
    struct reply r;
    cJSON *json;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        make(&r, shapes[i], 1, 1);
        r.prompt_tokens = 2;
        json = usage(&r);
        assert_int_equal(cJSON_GetArraySize(at(json, "choices")), 0);
        assert_true(cJSON_IsArray(at(json, "choices")));
        assert_number(json, "usage/total_tokens", 2);
        cJSON_Delete(json);
        reply_finish(&r);
    }
}

static void no_chunk_has_a_line_break(void **state)
{
    struct text_buffer b = { 0 };
    struct json_out o;
    struct reply r;

    (void)state;
    make(&r, &reply_chat, 1, 1);
    json_out_init(&o, &b);
    reply_chunk(&r, &(struct reply_piece){ .text = "a\nb\r\n\n", .len = 6 }, &o);
    assert_true(json_out_ok(&o));
    assert_null(memchr(b.bytes, '\n', b.len));
    assert_null(memchr(b.bytes, '\r', b.len));
    free(b.bytes);
    reply_finish(&r);
}

/* Up to its choices, as the client that reads the first chunk keeps it. */
static void all_chunks_begin_alike(void **state)
{
    const char *const keys[] = { "id", "object", "created", "model", "system_fingerprint" };
    struct reply r;

    (void)state;
    make(&r, &reply_chat, 1, 2);

    cJSON *first = chunk(&r, (struct reply_piece){ .opening = true });
    cJSON *const others[] = { chunk(&r, (struct reply_piece){ .text = "a", .len = 1, .choice = 1 }),
                              usage(&r) };

    assert_text(first, "id", r.id.text);
    assert_text(first, "object", "chat.completion.chunk");
    assert_text(first, "model", "m");
    assert_text(first, "system_fingerprint", "abcd0000000000000000000000000000");
    assert_int_equal((int64_t)at(first, "created")->valuedouble, r.created);
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
            assert_true(cJSON_Compare(at(first, keys[k]), at(others[i], keys[k]), true));
        cJSON_Delete(others[i]);
    }
    cJSON_Delete(first);
    reply_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_completion_has_openais_shape),
        cmocka_unit_test(an_echo_scores_the_prompt_before_the_answer),
        cmocka_unit_test(offsets_count_characters_across_chunks),
        cmocka_unit_test(offsets_are_those_of_the_text_that_is_sent),
        cmocka_unit_test(a_completion_chunk_says_what_is_new),
        cmocka_unit_test(a_chat_has_openais_shape),
        cmocka_unit_test(a_chat_stream_begins_with_the_role_and_ends_with_a_reason),
        cmocka_unit_test(the_usage_chunk_has_no_choices),
        cmocka_unit_test(no_chunk_has_a_line_break),
        cmocka_unit_test(all_chunks_begin_alike),
    };

    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
