/* Turns whose client leaves: the session is where it was, or, for who asked for it, where the
 * model had come to; and it goes on from there as if nobody had left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "tests/server/folder.h"

enum { MORE = 12, EVENTS = 5 };

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"
#define DRAWING     "\"temperature\":0.9,\"repetition_penalty\":1.1,\"ignore_eos\":true"

static struct live server;
static bool keeps; /* the server has a state folder */

static void begin(void)
{
    if (keeps)
        live_start(&server, DEMO, "--chat-template", "chatml", "--state-dir", folder, NULL);
    else
        live_start(&server, DEMO, "--chat-template", "chatml", NULL);
}

/* Two turns ago: the same for each session of that name's seed. */
static void create(const char *id)
{
    char path[96];

    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"%s\",\"seed\":11}", id));
    snprintf(path, sizeof(path), "/v1/sessions/%s/append", id);
    cJSON_Delete(ask(server.port, "POST", path, "{\"text\":\"Once upon a time\"}"));
}

static void put_turn(char body[512], const char *path, const char *id, int tokens, bool partial,
                     bool stream)
{
    const char *prompt = strcmp(path, CHAT) == 0
                             ? "\"messages\":[{\"role\":\"user\",\"content\":\"And then?\"}]"
                             : "\"prompt\":\" there was a\"";

    snprintf(
        body, 512,
        "{\"session_id\":\"%s\",%s,\"max_tokens\":%d,\"commit_partial\":%s,\"stream\":%s," DRAWING
        "}",
        id, prompt, tokens, partial ? "true" : "false", stream ? "true" : "false");
}

static const char *text_in(const cJSON *event, const char *path)
{
    const cJSON *choice = cJSON_GetArrayItem(item_of(event, "choices"), 0);
    const cJSON *text = strcmp(path, CHAT) == 0
                            ? cJSON_GetObjectItem(item_of(choice, "delta"), "content")
                            : item_of(choice, "text");

    return cJSON_IsString(text) ? text->valuestring : "";
}

static cJSON *session(const char *id)
{
    char path[96];

    snprintf(path, sizeof(path), "/v1/sessions/%s", id);
    return ask(server.port, "GET", path, NULL);
}

/* The turn is over when what came of it is kept. */
static bool is_busy(const char *id)
{
    cJSON *s = session(id);
    bool busy = flag_of(s, "busy");

    cJSON_Delete(s);
    return busy;
}

/* Begins a turn that would draw for long, reads some of it into text, and leaves. */
static void leave(const char *path, const char *id, bool partial, bool reset, char text[4096])
{
    struct client c = client_dial(server.port);
    struct response r;
    char body[512];

    put_turn(body, path, id, 60000, partial, true);
    assert_true(client_ask(&c, "POST", path, NULL, body, strlen(body)));
    assert_true(client_read_head(&c, &r));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    text[0] = 0;
    for (int i = 0; i < EVENTS;) {
        char *event = client_event(&c);
        cJSON *json = event ? cJSON_Parse(event) : NULL;

        assert_non_null(json);
        i += text_in(json, path)[0] != 0;
        strncat(text, text_in(json, path), 4095 - strlen(text));
        cJSON_Delete(json);
        free(event);
    }
    if (reset)
        client_reset(&c);
    else
        client_close(&c);
    assert_true(live_reaches(&server, "eddy_turns_running", 0, 20));
    while (is_busy(id)) /* the test has a time limit */
        usleep(1000);
}

static int position_of(const char *id, int version)
{
    cJSON *s = session(id);
    int position = (int)number_of(s, "position");

    assert_int_equal(number_of(s, "version"), version);
    assert_false(flag_of(s, "busy"));
    cJSON_Delete(s);
    return position;
}

/* A session without a turn in between; the tokens that a turn's prompt brings. */
static int count_prompt(const char *path)
{
    char body[512];
    cJSON *r;
    int before, after;

    create("count");
    before = position_of("count", 1);
    put_turn(body, path, "count", 0, false, false);
    r = ask(server.port, "POST", path, "%s", body);
    after = position_of("count", 2);
    cJSON_Delete(r);
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/count", NULL));
    return after - before;
}

static void restart_if_kept(void)
{
    if (!keeps)
        return;
    live_kill(&server);
    begin();
}

static void forget(const char *id)
{
    char path[96];

    snprintf(path, sizeof(path), "/v1/sessions/%s", id);
    cJSON_Delete(ask(server.port, "DELETE", path, NULL));
}

/* left: the client leaves, and the session goes on from there. whole: nobody left. */
static void check_kept(const char *path, bool reset)
{
    int brought = count_prompt(path), from, drawn;
    char text[4096], body[512];
    struct state is, expected;
    struct story s = { 0 };

    create("left");
    create("whole");
    from = position_of("left", 1);
    leave(path, "left", true, reset, text);
    drawn = position_of("left", 2) - from - brought;
    assert_true(drawn >= 1);
    restart_if_kept();
    assert_int_equal(position_of("left", 2), from + brought + drawn);
    snprintf(body, sizeof(body),
             "{\"session_id\":\"left\",\"prompt\":\"\",\"max_tokens\":%d," DRAWING "}", MORE);
    cJSON_Delete(ask(server.port, "POST", COMPLETIONS, "%s", body));
    put_turn(body, path, "whole", drawn + MORE, false, true);
    if (strcmp(path, COMPLETIONS) == 0) {
        stream_text(server.port, body, &s);
        assert_true(s.done && strcmp(s.finish[0], "length") == 0);
        assert_memory_equal(s.text[0], text, strlen(text)); /* what was read is its beginning */
        story_finish(&s);
    } else {
        put_turn(body, path, "whole", drawn + MORE, false, false);
        cJSON_Delete(ask(server.port, "POST", path, "%s", body));
    }
    is = state_of(server.port, "left");
    expected = state_of(server.port, "whole");
    assert_same_state(&is, &expected, "a turn that was left and gone on with");
    state_free(&is);
    state_free(&expected);
    forget("left");
    forget("whole");
}

static void check_undone(const char *path, bool reset)
{
    struct state before, after;
    char text[4096], body[512];

    create("left");
    create("whole");
    before = state_of(server.port, "left");
    leave(path, "left", false, reset, text);
    position_of("left", 1);
    restart_if_kept();
    position_of("left", 1);
    after = state_of(server.port, "left");
    assert_same_state(&before, &after, "a turn that was left");
    state_free(&before);
    state_free(&after);
    for (int i = 0; i < 2; i++) { /* and goes on like one that never began it */
        put_turn(body, path, i ? "whole" : "left", MORE, false, false);
        cJSON_Delete(ask(server.port, "POST", path, "%s", body));
    }
    before = state_of(server.port, "left");
    after = state_of(server.port, "whole");
    assert_same_state(&before, &after, "the turn after one that was left");
    state_free(&before);
    state_free(&after);
    forget("left");
    forget("whole");
}

static void check_all(bool with_folder)
{
    keeps = with_folder;
    begin();
    for (int i = 0; i < 2; i++) {
        check_kept(COMPLETIONS, i);
        check_kept(CHAT, i);
        check_undone(COMPLETIONS, i);
        check_undone(CHAT, i);
    }
    assert_int_equal(live_metric(&server, "eddy_sessions"), 0);
    assert_int_equal(live_stop(&server), 0);
}

static void a_turn_whose_client_leaves_is_kept_or_undone(void **unused)
{
    (void)unused;
    check_all(false);
}

static void so_it_is_after_a_kill(void **unused)
{
    (void)unused;
    check_all(true);
}

/* Who is gone before anything was drawn has left nothing to keep. */
static void a_turn_that_drew_nothing_is_undone(void **unused)
{
    struct state before, after;
    struct client c;
    char *body = malloc(1 << 20);
    size_t len;

    (void)unused;
    keeps = false;
    live_start(&server, DEMO, "--row-budget", "80", NULL);
    create("left");
    before = state_of(server.port, "left");
    c = client_dial(server.port);
    len = (size_t)sprintf(body, "{\"session_id\":\"left\",\"commit_partial\":true,\"stream\":true,"
                                "\"max_tokens\":50,\"prompt\":[5");
    for (int i = 0; i < 60000; i++)
        len += (size_t)sprintf(body + len, ",%d", 5 + i % 90);
    len += (size_t)sprintf(body + len, "]}");
    assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, len));
    assert_true(live_reaches(&server, "eddy_turns_running", 1, 20));
    client_close(&c);
    assert_true(live_reaches(&server, "eddy_turns_running", 0, 20));
    while (is_busy("left"))
        usleep(1000);
    position_of("left", 1);
    after = state_of(server.port, "left");
    assert_same_state(&before, &after, "a prompt that was left");
    state_free(&before);
    state_free(&after);
    free(body);
    assert_int_equal(live_stop(&server), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_whose_client_leaves_is_kept_or_undone),
        cmocka_unit_test_setup_teardown(so_it_is_after_a_kill, folder_make, folder_remove),
        cmocka_unit_test(a_turn_that_drew_nothing_is_undone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
