/* How a server ends: it drains, it hurries, it refuses to start. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

#define COMPLETIONS "/v1/completions"

static void put_body(char body[160], int tokens)
{
    snprintf(body, 160,
             "{\"prompt\":\"on\",\"max_tokens\":%d,\"ignore_eos\":true,\"seed\":8,"
             "\"stream\":true}",
             tokens);
}

/* A stream that has begun. */
static struct client begin(const struct live *l, int tokens)
{
    struct client c = client_dial(l->port);
    struct response r;
    char body[160];

    put_body(body, tokens);
    assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, strlen(body)));
    assert_true(client_read_head(&c, &r));
    assert_int_equal(r.status, 200);
    return c;
}

/* A connection on which nothing is asked for. */
static struct client rest(const struct live *l)
{
    struct client c = client_dial(l->port);
    struct response r;

    assert_true(client_ask(&c, "GET", "/ready", NULL, NULL, 0));
    assert_true(client_read(&c, &r));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    return c;
}

/* A drain ends the connections that rest. */
static void wait_for_drain(struct client *resting)
{
    struct response r;

    assert_false(client_read(resting, &r));
    client_close(resting);
}

/* A connection from before the drain is told that it is one. */
static void a_drain_lets_a_running_stream_finish(void **state)
{
    struct live l;
    struct client c, late, resting;
    struct story undisturbed, s = { 0 };
    struct response r;
    static const char more[] = "/completions HTTP/1.1\r\nHost: localhost\r\n"
                               "Content-Type: application/json\r\nContent-Length: 14\r\n\r\n"
                               "{\"prompt\":\"a\"}";
    const int tokens = live_sanitized() ? 100 : 1500;
    char body[160];

    (void)state;
    live_start(&l, DEMO, NULL);
    put_body(body, tokens);
    stream_text(l.port, body, &undisturbed);
    assert_true(undisturbed.done);
    c = begin(&l, tokens);
    late = rest(&l);
    resting = rest(&l);
    assert_true(client_send(&late, "POST /v1", 8)); /* a request that is on its way */
    live_is_well(&l);                               /* and has been seen */
    live_signal(&l, SIGTERM);
    wait_for_drain(&resting);
    assert_true(client_send(&late, more, sizeof(more) - 1));
    assert_true(client_read(&late, &r));
    assert_refusal(&r, 503, "shutting_down", "a request during the drain");
    response_finish(&r);
    client_close(&late);
    stream_rest(&c, &s);
    assert_true(s.done && s.whole && !s.invalid);
    assert_string_equal(s.text[0], undisturbed.text[0]);
    assert_string_equal(s.finish[0], "length");
    client_close(&c);
    story_finish(&s);
    story_finish(&undisturbed);
    assert_int_equal(live_wait(&l), 0);
}

/* Time is up: the stream ends whole, with what there was time for. */
static void a_drain_ends_what_takes_too_long(void **state)
{
    struct live l;
    struct client c;
    struct story s = { 0 };
    double began;

    (void)state;
    live_start(&l, DEMO, "--drain-seconds", "1", NULL);
    c = begin(&l, 60000);
    began = seconds_now();
    live_signal(&l, SIGTERM);
    stream_rest(&c, &s);
    assert_true(s.done && s.whole && !s.invalid);
    assert_string_equal(s.finish[0], "length");
    assert_true(seconds_now() - began >= 1);
    client_close(&c);
    story_finish(&s);
    assert_int_equal(live_wait(&l), 0);
}

static void a_second_signal_ends_it_at_once(void **state)
{
    struct live l;
    struct client c, resting;
    double began;

    (void)state;
    live_start(&l, DEMO, NULL);
    c = begin(&l, 60000);
    resting = rest(&l);
    live_signal(&l, SIGTERM);
    wait_for_drain(&resting);
    began = seconds_now();
    live_signal(&l, SIGTERM);
    assert_int_equal(live_wait(&l), 1);
    assert_true(seconds_now() - began < 10); /* a drain may take 20 */
    client_close(&c);
}

static void an_idle_server_ends_at_once(void **state)
{
    struct live l;
    struct client c;
    double began;

    (void)state;
    live_start(&l, MAMBA, NULL);
    c = rest(&l);
    began = seconds_now();
    assert_int_equal(live_stop(&l), 0);
    assert_true(seconds_now() - began < 10);
    client_close(&c);
}

static void signals_that_mean_nothing_do_nothing(void **state)
{
    static const int number[] = { SIGPIPE, SIGHUP, SIGUSR1, SIGXFSZ };
    struct live l;

    (void)state;
    live_start(&l, MAMBA, NULL);
    for (size_t i = 0; i < sizeof(number) / sizeof(number[0]); i++)
        live_signal(&l, number[i]);
    live_is_well(&l);
    assert_int_equal(live_stop(&l), 0);
}

/* A turn does not run for ever: request_seconds, and the answer is what there was time for. */
static void a_turn_has_a_time_limit(void **state)
{
    struct live l;
    struct client c[8];
    double began;

    (void)state;
    live_start(&l, DEMO, "--request-seconds", "1", NULL);
    began = seconds_now();
    for (int i = 0; i < 8; i++)
        c[i] = begin(&l, 60000);
    for (int i = 0; i < 8; i++) {
        struct story s = { 0 };

        stream_rest(&c[i], &s);
        assert_true(s.done && s.whole && !s.invalid);
        assert_string_equal(s.finish[0], "length");
        story_finish(&s);
        client_close(&c[i]);
    }
    assert_true(seconds_now() - began < 30); /* the tokens would take minutes */
    assert_int_equal(live_stop(&l), 0);
}

/* Fits the answer's session, and then the session as it is. */
static void assert_session(const struct live *l, const cJSON *session, double version,
                           double position)
{
    cJSON *now = ask(l->port, "GET", "/v1/sessions/s", NULL);

    assert_int_equal(number_of(session, "version"), version);
    assert_int_equal(number_of(session, "position"), position);
    assert_int_equal(number_of(now, "version"), version);
    assert_int_equal(number_of(now, "position"), position);
    cJSON_Delete(now);
}

/* A turn until its time is up. One that has drawn nothing by then is refused, and asked again. */
static cJSON *run_out_of_time(const struct live *l)
{
    for (;;) { /* the test has a time limit */
        struct response r = call(l->port, "POST", COMPLETIONS,
                                 "{\"session_id\":\"s\",\"prompt\":[5,6],\"max_tokens\":60000,"
                                 "\"ignore_eos\":true}");
        cJSON *done = r.json;

        if (r.status == 200) {
            r.json = NULL;
            response_finish(&r);
            return done;
        }
        assert_refusal(&r, 504, "deadline_exceeded", "a turn without any time");
        response_finish(&r);
    }
}

/* What is answered as done is in the session: also when there was no time for more. */
static void what_a_time_limit_leaves_of_a_turn_is_in_its_session(void **state)
{
    struct live l;
    double position = 0;

    (void)state;
    live_start(&l, DEMO, "--request-seconds", "1", NULL);
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"s\"}"));
    for (int turn = 1; turn <= 2; turn++) {
        cJSON *done = run_out_of_time(&l);

        position += 2 + number_of(item_of(done, "usage"), "completion_tokens");
        assert_session(&l, item_of(done, "session"), turn, position);
        cJSON_Delete(done);
    }
    assert_int_equal(live_stop(&l), 0);
}

/* Four turns where one runs at a time: most have drawn nothing when their time is up. */
static void a_turn_that_had_no_time_at_all_is_refused(void **state)
{
    enum { TURNS = 12 };
    struct client c[TURNS];
    struct response r;
    struct live l;
    char body[160], retry[256];
    int refused = 0;
    cJSON *session;

    (void)state;
    live_start(&l, DEMO, "--request-seconds", "2", "--slots", "1", "--max-batch", "1",
               "--time-slice", "0", NULL);
    for (int i = 0; i < TURNS; i++) {
        cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"s%d\"}", i));
        c[i] = client_dial(l.port);
    }
    for (int i = 0; i < TURNS; i++) {
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"s%d\",\"prompt\":[5,6],\"max_tokens\":60000,"
                 "\"ignore_eos\":true}",
                 i);
        assert_true(client_ask(&c[i], "POST", COMPLETIONS, NULL, body, strlen(body)));
    }
    for (int i = 0; i < TURNS; i++) {
        assert_true(client_read(&c[i], &r));
        if (r.status != 200) {
            assert_refusal(&r, 504, "deadline_exceeded", "a turn without any time");
            assert_true(response_header(&r, "x-should-retry", retry));
            assert_string_equal(retry, "false");
            refused++;
        }
        snprintf(body, sizeof(body), "/v1/sessions/s%d", i);
        session = ask(l.port, "GET", body, NULL);
        assert_int_equal(number_of(session, "version"), r.status == 200);
        cJSON_Delete(session);
        response_finish(&r);
        client_close(&c[i]);
    }
    assert_in_range(refused, 1, TURNS - 1);
    assert_int_equal(live_stop(&l), 0);
}

/* Nor is an empty text the answer to one that leaves nothing behind. */
static void a_completion_that_had_no_time_at_all_is_refused(void **state)
{
    enum { TURNS = 12 };
    static const char body[] = "{\"prompt\":[5,6],\"max_tokens\":60000,\"ignore_eos\":true}";
    struct client c[TURNS];
    struct response r;
    struct live l;
    int refused = 0;

    (void)state;
    live_start(&l, DEMO, "--request-seconds", "2", "--slots", "1", "--max-batch", "1",
               "--time-slice", "0", NULL);
    for (int i = 0; i < TURNS; i++) {
        c[i] = client_dial(l.port);
        assert_true(client_ask(&c[i], "POST", COMPLETIONS, NULL, body, strlen(body)));
    }
    for (int i = 0; i < TURNS; i++) {
        assert_true(client_read(&c[i], &r));
        if (r.status == 200) {
            assert_true(number_of(item_of(r.json, "usage"), "completion_tokens") > 0);
        } else {
            assert_refusal(&r, 504, "deadline_exceeded", "a completion without any time");
            refused++;
        }
        response_finish(&r);
        client_close(&c[i]);
    }
    assert_in_range(refused, 1, TURNS - 1);
    assert_int_equal(live_stop(&l), 0);
}

/* Not for one of several prompts either, or one of several choices. */
static void a_request_of_which_a_part_had_no_time_is_refused(void **state)
{
    static const char *const parts[] = { "\"prompt\":[[5,6],[5,6]]", "\"prompt\":[5,6],\"n\":2" };
    struct story s;
    struct live l;
    char body[160];

    (void)state;
    live_start(&l, DEMO, "--request-seconds", "1", "--slots", "1", "--max-batch", "1",
               "--time-slice", "0", NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(body, sizeof(body), "{%s,\"max_tokens\":60000,\"ignore_eos\":true}", parts[i]);
        refused(l.port, 504, "deadline_exceeded", "POST", COMPLETIONS, "%s", body);
        snprintf(body, sizeof(body),
                 "{%s,\"max_tokens\":60000,\"ignore_eos\":true,\"stream\":true}", parts[i]);
        stream_text(l.port, body, &s);
        assert_string_equal(s.error, "deadline_exceeded");
        assert_false(s.done);
        story_finish(&s);
    }
    assert_int_equal(live_stop(&l), 0);
}

static bool is_busy(const struct live *l)
{
    cJSON *s = ask(l->port, "GET", "/v1/sessions/s", NULL);
    bool busy = flag_of(s, "busy");

    cJSON_Delete(s);
    return busy;
}

static bool is_answered(const struct client *c)
{
    return poll(&(struct pollfd){ .fd = c->fd, .events = POLLIN }, 1, 0) == 1;
}

/* A long way back does not hold the server up. */
static void a_drain_ends_a_rollback(void **state)
{
    const int parts = live_sanitized() ? 1 : 2, part = live_sanitized() ? 3000 : 15000;
    struct live l;
    struct client c;
    struct response r;
    char body[64], *ids = malloc((size_t)part * 2 + 2), *at = ids;

    (void)state;
    for (int i = 0; i < part; i++)
        at += snprintf(at, 3, "%s%d", i ? "," : "", 5 + i % 4);
    live_start(&l, DEMO, "--drain-seconds", "1", "--cache-memory", "0", NULL);
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"s\"}"));
    for (int i = 0; i < parts; i++)
        cJSON_Delete(ask(l.port, "POST", "/v1/sessions/s/append", "{\"ids\":[%s]}", ids));
    free(ids);
    snprintf(body, sizeof(body), "{\"position\":%d}", parts * part - 10);
    c = client_dial(l.port);
    assert_true(client_ask(&c, "POST", "/v1/sessions/s/rollback", NULL, body, strlen(body)));
    while (!is_busy(&l) && !is_answered(&c)) /* until it has begun */
        usleep(1000);
    live_signal(&l, SIGTERM);
    assert_true(client_read(&c, &r));
    if (r.status != 200) /* it was fast */
        assert_refusal(&r, 503, "shutting_down", "a rollback without the time for it");
    response_finish(&r);
    client_close(&c);
    assert_int_equal(live_wait(&l), 0);
}

/* Exit code 2 and one line that says why. */
static void refuse_to_start(const char *const argv[], const char *word)
{
    char line[2048] = "";
    size_t len = 0;
    ssize_t n;
    int err[2], status;
    pid_t pid;

    assert_int_equal(pipe(err), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        dup2(err[1], STDERR_FILENO);
        execv(getenv("EDDY"), (char *const *)argv);
        _exit(127);
    }
    close(err[1]);
    while ((n = read(err[0], line + len, sizeof(line) - 1 - len)) > 0)
        len += (size_t)n;
    close(err[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 2);
    if (!strstr(line, word) || strncmp(line, "eddy: ", 6) != 0 ||
        strchr(line, '\n') != line + len - 1)
        fail_msg("not one line about %s: \"%s\"", word, line);
}

static void what_cannot_be_served_is_told_in_one_line(void **state)
{
    struct live l;
    char port[16];

    (void)state;
    refuse_to_start((const char *const[]){ "eddy", "serve", "tests/data/absent", NULL }, "absent");
    refuse_to_start((const char *const[]){ "eddy", "serve", "tests/data/README.md", NULL },
                    "README.md");
    refuse_to_start((const char *const[]){ "eddy", "serve", "tests/data/tokenizer-neox", NULL },
                    "tokenizer-neox");
    refuse_to_start((const char *const[]){ "eddy", "serve", MAMBA, "--host", "nowhere.test", NULL },
                    "nowhere.test");
    live_start(&l, MAMBA, NULL);
    snprintf(port, sizeof(port), "%d", l.port);
    refuse_to_start((const char *const[]){ "eddy", "serve", MAMBA, "--port", port, NULL }, port);
    assert_int_equal(live_stop(&l), 0);
}

/* Else what the loop opens would be taken for it, and closing that is a fault to libuv. */
static void a_server_without_a_standard_input_ends_in_order(void **state)
{
    const int saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    struct live l;

    (void)state;
    close(STDIN_FILENO);
    live_start(&l, MAMBA, NULL);
    live_is_well(&l);
    assert_int_equal(live_stop(&l), 0);
    if (saved >= 0) {
        dup2(saved, STDIN_FILENO);
        close(saved);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drain_lets_a_running_stream_finish),
        cmocka_unit_test(a_drain_ends_what_takes_too_long),
        cmocka_unit_test(a_second_signal_ends_it_at_once),
        cmocka_unit_test(an_idle_server_ends_at_once),
        cmocka_unit_test(signals_that_mean_nothing_do_nothing),
        cmocka_unit_test(a_turn_has_a_time_limit),
        cmocka_unit_test(what_a_time_limit_leaves_of_a_turn_is_in_its_session),
        cmocka_unit_test(a_turn_that_had_no_time_at_all_is_refused),
        cmocka_unit_test(a_completion_that_had_no_time_at_all_is_refused),
        cmocka_unit_test(a_request_of_which_a_part_had_no_time_is_refused),
        cmocka_unit_test(a_drain_ends_a_rollback),
        cmocka_unit_test(what_cannot_be_served_is_told_in_one_line),
        cmocka_unit_test(a_server_without_a_standard_input_ends_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
