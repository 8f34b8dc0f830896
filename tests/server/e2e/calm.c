#include "tests/server/e2e/calm.h"

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

enum { CONCURRENT = 64, GROWTH = 8 << 20 };

/* Its text, from malloc; NULL: it did not end as it should. */
static char *turn(int port, const char *session)
{
    struct story s;
    char body[256], *text = NULL;

    snprintf(body, sizeof(body),
             "{\"session_id\":\"%s\",\"prompt\":\"\",\"max_tokens\":20,\"ignore_eos\":true,"
             "\"stream\":true}",
             session);
    stream_text(port, body, &s);
    if (s.done && s.whole && !s.invalid && !s.error[0])
        text = strdup(s.text[0] ? s.text[0] : "");
    story_finish(&s);
    return text;
}

static void *run(void *arg)
{
    struct calm *c = arg;

    while (!c->stop && !c->failed && c->turns < CALM_TURNS) {
        c->text[c->turns] = turn(c->live->port, "calm");
        c->failed = !c->text[c->turns];
        c->turns += !c->failed;
        usleep(live_sanitized() ? 500000 : 20000);
    }
    return NULL;
}

/* What serving takes once is taken before it is measured. */
static void warm_up(const struct live *l)
{
    struct client client[CONCURRENT];
    char *body = malloc(1 << 20);

    assert_non_null(body);
    memset(body, ' ', 1 << 20);
    for (int i = 0; i < CONCURRENT; i++) {
        client[i] = client_dial(l->port);
        assert_true(client_ask(&client[i], "POST", "/v1/completions", NULL, body, 1 << 20));
    }
    for (int i = 0; i < CONCURRENT; i++) {
        struct response r;

        assert_true(client_read(&client[i], &r));
        response_finish(&r);
        client_close(&client[i]);
    }
    free(body);
    cJSON_Delete(ask(l->port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"n\":64}"));
}

void calm_begin(struct calm *c, const struct live *l)
{
    warm_up(l);
    assert_true(live_reaches(l, "eddy_connections", 1, 10));
    *c = (struct calm){ .live = l };
    c->slots = live_metric(l, "eddy_slots_used");
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions", "{\"id\":\"calm\",\"seed\":1}"));
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions", "{\"id\":\"undisturbed\",\"seed\":1}"));
    c->fds = live_fds(l);
    c->rss = live_rss(l);
    assert_int_equal(pthread_create(&c->thread, NULL, run, c), 0);
}

/* The sessions that the recipes made are theirs, not a leak. */
static void delete_sessions(int port)
{
    int n;

    do {
        cJSON *list = ask(port, "GET", "/v1/sessions?limit=1000", NULL);
        const cJSON *item;

        n = 0;
        cJSON_ArrayForEach(item, item_of(list, "data"))
        {
            char path[128];

            snprintf(path, sizeof(path), "/v1/sessions/%s", text_of(item, "id"));
            cJSON_Delete(ask(port, "DELETE", path, NULL));
            n++;
        }
        cJSON_Delete(list);
    } while (n);
}

void calm_end(struct calm *c)
{
    const struct live *l = c->live;

    c->stop = true;
    pthread_join(c->thread, NULL);
    assert_false(c->failed);
    assert_true(c->turns > 0);
    for (int i = 0; i < c->turns; i++) {
        char *text = turn(l->port, "undisturbed");

        assert_non_null(text);
        assert_string_equal(c->text[i], text);
        free(text);
        free(c->text[i]);
    }
    delete_sessions(l->port);
    assert_true(live_reaches(l, "eddy_turns_running", 0, 10));
    assert_true(live_reaches(l, "eddy_turns_queued", 0, 10));
    assert_true(live_reaches(l, "eddy_slots_used", c->slots, 10));
    assert_true(live_reaches(l, "eddy_connections", 1, 10));
    assert_true(live_reaches(l, "eddy_transfer_bytes", 0, 10));
    assert_int_equal(live_fds(l), c->fds);
    for (int i = 0; i < 100 && !live_sanitized() && live_rss(l) > c->rss + GROWTH; i++)
        usleep(100000); /* it is given back when nothing else is to do */
    if (!live_sanitized())
        assert_in_range(live_rss(l), 0, c->rss + GROWTH);
}
