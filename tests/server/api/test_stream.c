/* A stream whose reader is slow, and who else depends on it; an answer that takes long to write.
 *
 * Linked with --wrap: the requests are made here, and their clients take nothing. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/limits.h"
#include "models/text/text_buffer.h"
#include "server/api/api.h"
#include "server/api/generation.h"
#include "server/api/repeats.h"
#include "server/api/stream.h"
#include "server/http/http.h"

struct exchange {
    bool ended, whole, again;
    size_t bytes;  /* written to it */
    char end[512]; /* the last of that */
    enum problem_code problem;
};

static bool no_memory; /* for text that grows */

void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);
const char *__wrap_exchange_method(const struct exchange *x);
const char *__wrap_exchange_path(const struct exchange *x);
const char *__wrap_exchange_header(const struct exchange *x, const char *name);
const char *__wrap_exchange_queries(const struct exchange *x, size_t *len);
const char *__wrap_exchange_body(const struct exchange *x, size_t *len);
uint64_t __wrap_exchange_client(const struct exchange *x);
void __wrap_exchange_watch(struct exchange *x, void *owner, void *gone, void *drained);
void __wrap_exchange_set_header(struct exchange *x, const char *name, const char *value);
void __wrap_exchange_stream(struct exchange *x, int status, const char *type);
size_t __wrap_exchange_backlog(const struct exchange *x);
void __wrap_exchange_write(struct exchange *x, const void *bytes, size_t len);
void __wrap_exchange_end(struct exchange *x, bool whole);
void __wrap_exchange_again(struct exchange *x);
void __wrap_exchange_fail(struct exchange *x, const struct problem *p);
void __wrap_exchange_reply_take(struct exchange *x, int status, const char *type, void *body,
                                size_t len);

void *__wrap_realloc(void *p, size_t size)
{
    return no_memory ? NULL : __real_realloc(p, size);
}

const char *__wrap_exchange_method(const struct exchange *x)
{
    (void)x;
    return "POST";
}

const char *__wrap_exchange_path(const struct exchange *x)
{
    (void)x;
    return "/v1/completions";
}

const char *__wrap_exchange_header(const struct exchange *x, const char *name)
{
    (void)x;
    return strcmp(name, "idempotency-key") == 0 ? "key" : NULL;
}

const char *__wrap_exchange_queries(const struct exchange *x, size_t *len)
{
    (void)x;
    *len = 0;
    return "";
}

const char *__wrap_exchange_body(const struct exchange *x, size_t *len)
{
    (void)x;
    *len = 0;
    return "";
}

uint64_t __wrap_exchange_client(const struct exchange *x)
{
    (void)x;
    return 0;
}

void __wrap_exchange_watch(struct exchange *x, void *owner, void *gone, void *drained)
{
    (void)x;
    (void)owner;
    (void)gone;
    (void)drained;
}

void __wrap_exchange_set_header(struct exchange *x, const char *name, const char *value)
{
    (void)x;
    (void)name;
    (void)value;
}

void __wrap_exchange_stream(struct exchange *x, int status, const char *type)
{
    (void)x;
    (void)status;
    (void)type;
}

size_t __wrap_exchange_backlog(const struct exchange *x)
{
    (void)x;
    return LIMIT_WRITE_QUEUE_BYTES + 1;
}

void __wrap_exchange_write(struct exchange *x, const void *bytes, size_t len)
{
    const size_t some = len < sizeof(x->end) ? len : sizeof(x->end) - 1;

    x->bytes += len;
    memcpy(x->end, (const char *)bytes + len - some, some);
    x->end[some] = '\0';
}

void __wrap_exchange_end(struct exchange *x, bool whole)
{
    x->ended = true;
    x->whole = whole;
}

void __wrap_exchange_again(struct exchange *x)
{
    x->again = true;
}

void __wrap_exchange_fail(struct exchange *x, const struct problem *p)
{
    x->problem = p->what;
}

void __wrap_exchange_reply_take(struct exchange *x, int status, const char *type, void *body,
                                size_t len)
{
    (void)type;
    assert_int_equal(status, 200);
    x->ended = x->whole = true;
    x->bytes = len;
    free(body);
}

static struct generation *begin_stream(struct api *api, struct exchange *x)
{
    static const uint8_t fingerprint[16];
    struct generation *g = generation_create(api, x);

    assert_non_null(g);
    assert_true(repeats_begin(&g->base, true, &(struct id){ "" }));
    assert_true(reply_init(&g->reply, &reply_completion, 1, 1));
    g->reply.model = "model";
    g->reply.fingerprint = fingerprint;
    g->params.stream = true;
    return g;
}

/* It is asked again what failed, as soon as it did: nothing of it has to be taken before. */
static void a_repeat_does_not_wait_for_the_reader_of_a_stream_that_failed(void **unused)
{
    struct api api = { .repeats = repeats_create() };
    struct exchange first = { 0 }, second = { 0 };
    struct pending repeat = { .api = &api, .exchange = &second };
    struct event text = { .text = { "some", 4, 4 } };
    struct generation *g;

    (void)unused;
    assert_non_null(api.repeats);
    g = begin_stream(&api, &first);
    assert_false(repeats_begin(&repeat, true, &(struct id){ "" }));
    assert_null(repeat.exchange); /* it waits */
    stream_add_text(g, 0, &text);
    problem_set(&g->problem, PROBLEM_SESSION_NOT_FOUND, NULL, "it was deleted");
    stream_complete(g);
    assert_false(first.ended);
    repeats_run(api.repeats);
    assert_true(second.again);
    stream_drained(&g->base); /* at last */
    assert_true(first.ended && first.whole && first.bytes > 0);
    assert_null(api.pending);
    repeats_destroy(api.repeats);
}

/* Without memory to say what went wrong, the connection says at least that something did. */
static void a_stream_without_its_end_is_cut_off(void **unused)
{
    struct api api = { .repeats = repeats_create() };
    struct event text = { .text = { "some", 4, 4 } };
    struct exchange x = { 0 };
    struct generation *g = begin_stream(&api, &x);
    char message[300]; /* grows when it is written as JSON */

    (void)unused;
    memset(message, '\n', sizeof(message) - 1);
    message[sizeof(message) - 1] = '\0';
    stream_add_text(g, 0, &text);
    problem_set(&g->problem, PROBLEM_OUT_OF_MEMORY, NULL, "%s", message);
    no_memory = true;
    stream_complete(g);
    no_memory = false;
    if (!x.ended)
        stream_drained(&g->base);
    assert_true(x.ended && !x.whole);
    assert_null(api.pending);
    repeats_destroy(api.repeats);
}

/* It is told so behind what it has not taken yet, and what was held for it goes. */
static void a_slow_reader_is_told_that_its_stream_has_ended(void **unused)
{
    enum { TEXT = 1024 };
    struct api api = { .repeats = repeats_create() };
    char text[TEXT];
    struct event event = { .text = { text, TEXT, TEXT } };
    struct exchange x = { 0 };
    struct generation *g = begin_stream(&api, &x);

    (void)unused;
    memset(text, 'a', TEXT);
    for (size_t sent = 0; !g->lost; sent += TEXT) {
        assert_true(sent <= LIMIT_STREAM_BYTES);
        assert_true(g->held.len <= LIMIT_STREAM_BYTES + 16);
        stream_add_text(g, 0, &event);
    }
    problem_set(&g->problem, PROBLEM_CANCELLED, NULL, "it was");
    stream_complete(g);
    assert_true(x.ended && !x.whole && x.bytes < TEXT);
    assert_int_equal(x.problem, PROBLEM_SLOW_READER);
    assert_int_equal(strncmp(x.end, "data: {\"error\":{", 16), 0);
    assert_non_null(strstr(x.end, "\"code\":\"slow_reader\"}}\n\n"));
    assert_null(api.pending);
    repeats_destroy(api.repeats);
}

/* They come at once, and no reader is slow before it could have taken them. */
static void prompts_that_are_repeated_make_no_reader_slow(void **unused)
{
    enum { CHOICES = 3, PROMPT = 900 * 1024 };
    struct api api = { .repeats = repeats_create() };
    struct event text = { .text = { "some", 4, 4 } };
    struct exchange x = { 0 };
    struct generation *g = begin_stream(&api, &x);
    char *prompt = malloc(PROMPT);

    (void)unused;
    assert_non_null(prompt);
    memset(prompt, 'a', PROMPT);
    reply_finish(&g->reply);
    assert_true(reply_init(&g->reply, &reply_completion, 1, CHOICES));
    assert_true(text_buffer_append(&g->reply.prompt[0].text, prompt, PROMPT));
    g->reply.model = "model";
    g->reply.fingerprint = (const uint8_t[16]){ 0 };
    g->params.echo = true;
    for (int i = 0; i < CHOICES; i++)
        stream_add_text(g, i, &text);
    assert_false(g->lost);
    stream_complete(g);
    stream_drained(&g->base);
    assert_true(x.ended && x.whole && x.bytes > (size_t)CHOICES * PROMPT);
    free(prompt);
    repeats_destroy(api.repeats);
}

static pthread_t writer;

static void write_nothing(struct reply *r, struct json_out *o)
{
    (void)r;
    writer = pthread_self();
    json_open(o, '{');
    json_close(o, '}');
}

/* All its turns are back, with so many logprobs. */
static void answer_with(struct api *api, struct exchange *x, int scores)
{
    static const struct reply_shape shape = { .id_prefix = "x", .whole = write_nothing };
    const struct token_score score = { .id = 1 };
    struct event answer = { .kind = EVENT_ANSWER };
    struct generation *g = generation_create(api, x);

    assert_non_null(g);
    assert_true(reply_init(&g->reply, &shape, 1, 1));
    for (int i = 0; i < scores; i++)
        assert_true(scores_add(&g->reply.choice[0].scores, &score, 1));
    g->command = calloc(1, sizeof(struct command *));
    assert_non_null(g->command);
    answer.command = g->command[0] = command_create(COMMAND_TURN, &g->base);
    assert_non_null(answer.command);
    g->sent = 1;
    generation_take(&g->base, &answer);
}

/* Others do not wait for it on the loop. */
static void an_answer_with_many_logprobs_is_written_in_the_pool(void **unused)
{
    struct api api = { .repeats = repeats_create() };
    struct exchange few = { 0 }, many = { 0 };
    uv_loop_t loop;

    (void)unused;
    assert_int_equal(uv_loop_init(&loop), 0);
    api.loop = &loop;
    answer_with(&api, &few, 10);
    assert_true(few.whole && pthread_equal(writer, pthread_self()));
    answer_with(&api, &many, 100000);
    assert_false(many.ended);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(many.whole && !pthread_equal(writer, pthread_self()));
    assert_int_equal(many.bytes, 2);
    assert_null(api.pending);
    assert_int_equal(uv_loop_close(&loop), 0);
    repeats_destroy(api.repeats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_reader_is_told_that_its_stream_has_ended),
        cmocka_unit_test(prompts_that_are_repeated_make_no_reader_slow),
        cmocka_unit_test(an_answer_with_many_logprobs_is_written_in_the_pool),
        cmocka_unit_test(a_repeat_does_not_wait_for_the_reader_of_a_stream_that_failed),
        cmocka_unit_test(a_stream_without_its_end_is_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
