/* What a server answers before it has a model, and how loading ends. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/devices.h"
#include "server/server.h"
#include "tests/server/e2e/client.h"
#include "tests/server/said.h"

#define MODEL "tests/data/mamba-tiny"

/* A server on a thread, with a model that comes when the test says so. */
struct site {
    struct options options;
    struct server *server;
    struct devices devices;
    struct tokenizer *tokenizer;
    sem_t go;
    bool broken, loaded, served;
    struct error err;
    pthread_t thread;
};

static bool load(void *arg, struct server_parts *to, struct error *err)
{
    const struct model_options sizes = { .max_rows = 256, .max_logits = 128 };
    const struct backend_options cpu = { .threads = 1 };
    struct site *s = arg;

    while (sem_wait(&s->go) != 0)
        ;
    if (s->broken)
        return error_set(err, ERR_FORMAT, "the model is broken");
    if (!devices_open(&s->devices, "cpu", &cpu, err) ||
        !devices_load(&s->devices, MODEL, &sizes, err))
        return false;
    s->tokenizer = tokenizer_open(MODEL, model_info(s->devices.at[0].model)->vocab, err);
    *to = (struct server_parts){ &s->devices, s->tokenizer, "tiny" };
    return s->tokenizer != NULL;
}

static void *serve(void *arg)
{
    struct site *s = arg;

    s->loaded = server_load(s->server, load, s, &s->err);
    s->served = s->loaded && server_run(s->server);
    return NULL;
}

static void site_open(struct site *s, bool broken)
{
    char *argv[] = { "eddy", "serve", "--port", "0", "--max-batch", "8", "--row-budget", "64" };
    struct error err;

    *s = (struct site){ .broken = broken };
    assert_true(options_init(&s->options, sizeof(argv) / sizeof(argv[0]), argv, &err));
    sem_init(&s->go, 0, 0);
    s->server = server_open(&s->options, &err);
    assert_non_null(s->server);
}

static void site_close(struct site *s)
{
    pthread_join(s->thread, NULL);
    server_close(s->server);
    tokenizer_close(s->tokenizer);
    devices_close(&s->devices);
    sem_destroy(&s->go);
    options_finish(&s->options);
}

static void says(int port, int status, const char *path, const char *word)
{
    struct response r = call(port, "GET", path, NULL);

    assert_int_equal(r.status, status);
    assert_string_equal(text_of(r.json, "status"), word);
    response_finish(&r);
}

static void probes_are_answered_while_the_model_is_loaded(void **state)
{
    struct client waiting;
    struct response r;
    struct site s;
    int port;

    (void)state;
    site_open(&s, false);
    port = server_port(s.server);
    pthread_create(&s.thread, NULL, serve, &s);
    waiting = client_dial(port); /* stays, and is served later */
    says(port, 200, "/health", "loading");
    says(port, 503, "/ready", "loading");
    r = call(port, "GET", "/version", NULL);
    assert_int_equal(r.status, 200);
    assert_false(cJSON_HasObjectItem(r.json, "model"));
    response_finish(&r);
    r = call(port, "GET", "/metrics", NULL);
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body, "eddy_connections "));
    response_finish(&r);
    refused(port, 503, "loading", "POST", "/v1/completions", "{\"prompt\":\"a\"}");
    refused(port, 503, "loading", "GET", "/v1/models", NULL);
    sem_post(&s.go);
    for (int status = 503; status != 200; usleep(1000)) {
        r = call(port, "GET", "/ready", NULL);
        status = r.status;
        response_finish(&r);
    }
    assert_true(client_ask(&waiting, "GET", "/v1/models/tiny", NULL, NULL, 0));
    assert_true(client_read(&waiting, &r));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    client_close(&waiting);
    cJSON_Delete(ask(port, "POST", "/v1/completions", "{\"prompt\":[1,2],\"max_tokens\":2}"));
    kill(getpid(), SIGTERM);
    site_close(&s);
    assert_true(s.served);
}

/* That a probe is told to wait is no failure. */
static void the_log_says_why_a_request_failed(void **state)
{
    char log[4096], *line;
    struct site s;
    struct said said;

    (void)state;
    said = said_begin();
    site_open(&s, true);
    pthread_create(&s.thread, NULL, serve, &s);
    says(server_port(s.server), 503, "/ready", "loading");
    refused(server_port(s.server), 503, "loading", "GET", "/v1/models", NULL);
    sem_post(&s.go);
    site_close(&s);
    said_end(&said, log, sizeof(log));
    assert_null(strstr(log, "/ready"));
    line = strstr(log, " warn request ");
    assert_non_null(line);
    *strchr(line, '\n') = '\0';
    assert_non_null(strstr(line, " path=\"/v1/models\" status=\"503\""));
    assert_non_null(strstr(line, " code=\"loading\""));
}

/* With a probe's connection still open. */
static void a_model_that_does_not_load_is_the_end(void **state)
{
    struct client probe;
    struct response r;
    struct site s;

    (void)state;
    site_open(&s, true);
    pthread_create(&s.thread, NULL, serve, &s);
    probe = client_dial(server_port(s.server));
    assert_true(client_ask(&probe, "GET", "/health", NULL, NULL, 0));
    assert_true(client_read(&probe, &r));
    response_finish(&r);
    sem_post(&s.go);
    site_close(&s);
    assert_false(s.loaded);
    assert_int_equal(s.err.code, ERR_FORMAT);
    assert_string_equal(s.err.message, "the model is broken");
    client_close(&probe);
}

static void a_signal_while_loading_ends_it_at_once(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct site s;

        site_open(&s, false);
        kill(getpid(), SIGTERM);
        serve(&s); /* a model that never comes */
        _exit(3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_while_loading_ends_it_at_once),
        cmocka_unit_test(probes_are_answered_while_the_model_is_loaded),
        cmocka_unit_test(the_log_says_why_a_request_failed),
        cmocka_unit_test(a_model_that_does_not_load_is_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
