/* Exact resume (DESIGN, P2): however a context came to be, the state is the same, byte for
 * byte, and so is what follows. Through HTTP, for every architecture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "tests/server/folder.h"

enum { PROMPT = 70, FIRST = 10, SECOND = 14, CROWD = 16 };

/* A small generator, so that every run has the same inputs. */
static uint32_t draw(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* n ids from 1 to 255 that belong to `which`, separated by commas, from position `from`. */
static void put_ids(char *text, size_t size, uint32_t which, int from, int to)
{
    uint32_t seed = which;
    size_t len = 0;

    text[0] = 0;
    for (int i = 0; i < to; i++) {
        uint32_t id = 1 + draw(&seed) % 255;

        if (i >= from)
            len += (size_t)snprintf(text + len, size - len, "%s%u", i > from ? "," : "", id);
    }
}

static void create(int port, const char *id)
{
    cJSON_Delete(ask(port, "POST", "/v1/sessions", "{\"id\":\"%s\",\"seed\":77}", id));
}

/* A turn of n tokens on a session; prompt: JSON. The text, from malloc. */
static char *talk(int port, const char *id, const char *prompt, int n)
{
    cJSON *json = ask(port, "POST", "/v1/completions",
                      "{\"session_id\":\"%s\",\"prompt\":%s,\"max_tokens\":%d,"
                      "\"temperature\":0.8,\"top_p\":0.95,\"repetition_penalty\":1.1,"
                      "\"ignore_eos\":true}",
                      id, prompt, n);
    char *text = answer_text(json);

    cJSON_Delete(json);
    return text;
}

struct run {
    char *first, *second;
    struct state state;
};

static void run_free(struct run *r)
{
    free(r->first);
    free(r->second);
    state_free(&r->state);
}

static void assert_same_run(const struct run *a, const struct run *b, const char *what)
{
    assert_string_equal(a->first, b->first);
    assert_string_equal(a->second, b->second);
    assert_same_state(&a->state, &b->state, what);
}

static struct run run_alone(int port, const char *id)
{
    struct run r;
    char ids[PROMPT * 4], prompt[PROMPT * 4 + 2];

    create(port, id);
    put_ids(ids, sizeof(ids), 1, 0, PROMPT);
    snprintf(prompt, sizeof(prompt), "[%s]", ids);
    r.first = talk(port, id, prompt, FIRST);
    r.second = talk(port, id, "\"\"", SECOND);
    r.state = state_of(port, id);
    return r;
}

/* Streams of other sessions that begin before this one's turns and end after them. */
static struct run run_in_a_crowd(int port, const char *id)
{
    struct client other[CROWD - 1];
    struct response head;
    struct run r;
    char ids[PROMPT * 4], body[2 * PROMPT * 4];

    for (int i = 0; i < CROWD - 1; i++) {
        char name[32];

        snprintf(name, sizeof(name), "%s-other-%d", id, i);
        create(port, name);
        put_ids(ids, sizeof(ids), 100 + (uint32_t)i, 0, 3 + 4 * i);
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"%s\",\"prompt\":[%s],\"max_tokens\":400,\"stream\":true,"
                 "\"ignore_eos\":true}",
                 name, ids);
        other[i] = client_dial(port);
        assert_true(client_ask(&other[i], "POST", "/v1/completions", NULL, body, strlen(body)));
    }
    assert_true(client_read_head(&other[CROWD - 2], &head)); /* they have begun */
    r = run_alone(port, id);
    for (int i = 0; i < CROWD - 1; i++)
        client_close(&other[i]);
    return r;
}

/* The prompt comes in pieces, and so do the answers; the texts are not compared, for a cut
 * may fall into a character. */
static struct state run_in_turns(int port, const char *id, uint32_t seed)
{
    char ids[PROMPT * 4], prompt[PROMPT * 4 + 2];
    int at = 0, left = FIRST + SECOND;

    create(port, id);
    while (at < PROMPT - 1) {
        int n = 1 + (int)(draw(&seed) % 30);

        n = n < PROMPT - 1 - at ? n : PROMPT - 1 - at;
        put_ids(ids, sizeof(ids), 1, at, at + n);
        char path[96];

        snprintf(path, sizeof(path), "/v1/sessions/%s/append", id);
        cJSON_Delete(ask(port, "POST", path, "{\"ids\":[%s]}", ids));
        at += n;
    }
    put_ids(ids, sizeof(ids), 1, at, PROMPT);
    snprintf(prompt, sizeof(prompt), "[%s]", ids);
    for (int n; left > 0; left -= n) {
        n = 1 + (int)(draw(&seed) % 9);
        n = n < left ? n : left;
        free(talk(port, id, at < PROMPT ? prompt : "\"\"", n));
        at = PROMPT;
    }
    return state_of(port, id);
}

static void upload(int port, const char *method, const char *path, const struct state *file)
{
    struct client c = client_dial(port);
    struct response r;

    assert_true(client_ask(&c, method, path, "Content-Type: application/octet-stream\r\n",
                           file->bytes, file->len));
    assert_true(client_read(&c, &r));
    if (r.status != 200)
        fail_msg("%s %s: %d %s", method, path, r.status, r.body);
    response_finish(&r);
    client_close(&c);
}

/* Half a run, its snapshot's file, and the other half in another process with other sizes. */
static void resume_elsewhere(const char *model, struct live *l, const struct run *alone)
{
    char ids[PROMPT * 4], prompt[PROMPT * 4 + 2], path[128];
    struct run r;
    struct state file, head;
    cJSON *snapshot, *listed;

    create(l->port, "traveller");
    put_ids(ids, sizeof(ids), 1, 0, PROMPT);
    snprintf(prompt, sizeof(prompt), "[%s]", ids);
    r.first = talk(l->port, "traveller", prompt, FIRST);
    snapshot = ask(l->port, "POST", "/v1/sessions/traveller/snapshots", "{\"label\":\"half\"}");
    snprintf(path, sizeof(path), "/v1/snapshots/%s/data", text_of(snapshot, "id"));
    file = state_download(l->port, path);
    head = state_of(l->port, "traveller");
    assert_same_state(&file, &head, "a snapshot and its session's head");
    cJSON_Delete(snapshot);

    assert_int_equal(live_stop(l), 0);
    live_start(l, model, "--slots", "3", "--max-batch", "2", "--row-budget", "7", NULL);
    upload(l->port, "POST", "/v1/snapshots", &file);
    listed = ask(l->port, "GET", "/v1/snapshots", NULL);
    snprintf(path, sizeof(path), "%s", text_of(item_of(listed, "data")->child, "id"));

    /* By restoring a session, by creating one, and by putting the head in place. */
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions", "{\"id\":\"a\"}"));
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions/a/restore", "{\"snapshot\":\"%s\"}", path));
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions", "{\"id\":\"b\",\"snapshot\":\"%s\"}", path));
    upload(l->port, "PUT", "/v1/sessions/c/state", &file);
    for (const char *id = "abc"; *id; id++) {
        const char name[2] = { *id, 0 };

        r.second = talk(l->port, name, "\"\"", SECOND);
        r.state = state_of(l->port, name);
        assert_same_run(alone, &r, name);
        free(r.second);
        state_free(&r.state);
    }
    cJSON_Delete(listed);
    free(r.first);
    state_free(&file);
    state_free(&head);
}

static void resume_exactly(const char *model)
{
    struct live l;
    struct run alone, crowd;

    live_start(&l, model, NULL);
    alone = run_alone(l.port, "alone");
    crowd = run_in_a_crowd(l.port, "crowd");
    assert_same_run(&alone, &crowd, "in a crowd");
    run_free(&crowd);
    for (uint32_t i = 0; i < (live_sanitized() ? 1 : 3); i++) {
        char name[16];
        struct state turns;

        snprintf(name, sizeof(name), "turns-%u", i);
        turns = run_in_turns(l.port, name, 9 + i);
        assert_same_state(&alone.state, &turns, name);
        state_free(&turns);
    }
    resume_elsewhere(model, &l, &alone);
    run_free(&alone);
    assert_int_equal(live_stop(&l), 0);
}

static void mamba_resumes_exactly(void **state)
{
    (void)state;
    resume_exactly(MAMBA);
}

static void mamba2_resumes_exactly(void **state)
{
    (void)state;
    resume_exactly(MAMBA2);
}

static void rwkv7_resumes_exactly(void **state)
{
    (void)state;
    resume_exactly(RWKV7);
}

static void the_demonstration_model_resumes_exactly(void **state)
{
    (void)state;
    resume_exactly(DEMO);
}

/* Without a place in host memory there is one for what is on its way to the disk. */
static void uploads_go_to_the_disk_where_host_memory_is_none(void **state)
{
    struct live l;
    struct state file;
    char path[64], name[16];

    (void)state;
    live_start(&l, MAMBA, "--state-dir", folder, "--slots", "1", "--max-batch", "1",
               "--host-memory", "0", "--cache-memory", "0", "--durability", "always", NULL);
    create(l.port, "source");
    free(talk(l.port, "source", "\"eddy\"", 6));
    file = state_of(l.port, "source");
    for (int i = 0; i < 4; i++) {
        struct state at;

        snprintf(name, sizeof(name), "copy-%d", i);
        snprintf(path, sizeof(path), "/v1/sessions/%s/state", name);
        upload(l.port, "PUT", path, &file);
        at = state_of(l.port, name);
        assert_same_state(&at, &file, path);
        state_free(&at);
    }
    upload(l.port, "POST", "/v1/snapshots", &file);
    state_free(&file);
    assert_int_equal(live_stop(&l), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mamba_resumes_exactly),
        cmocka_unit_test(mamba2_resumes_exactly),
        cmocka_unit_test(rwkv7_resumes_exactly),
        cmocka_unit_test(the_demonstration_model_resumes_exactly),
        cmocka_unit_test_setup_teardown(uploads_go_to_the_disk_where_host_memory_is_none,
                                        folder_make, folder_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
