#include "server/server.h"

#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "config/error.h"
#include "config/log.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/api/api.h"
#include "server/api/repeats.h"
#include "server/clock.h"
#include "server/descriptors.h"
#include "server/engine/engine.h"
#include "server/http/http.h"
#include "server/http/origin.h"
#include "server/keys.h"
#include "server/state/format.h"
#include "server/state/redis_url.h"
#include "server/state/seal.h"

enum { TICK_MS = 100, ABORT_SECONDS = 5, LARGE_BYTES = 256 * 1024 };

#define JSON   "application/json"
#define BINARY "application/octet-stream"

/* A route whose body is a state takes as much as the model's largest file. */
static const struct route routes[] = {
    { METHOD_POST, "/v1/completions", completions_post, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/v1/chat/completions", chat_post, 0, JSON, NULL, false, NULL },

    { METHOD_POST, "/v1/sessions", sessions_post, 0, JSON, NULL, false, NULL },
    { METHOD_GET, "/v1/sessions", sessions_list, 0, NULL, "limit,after", false, NULL },
    { METHOD_GET, "/v1/sessions/{id}", session_get, 0, NULL, NULL, false, NULL },
    { METHOD_DELETE, "/v1/sessions/{id}", session_delete, 0, NULL, NULL, false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/append", session_append, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/fork", session_fork, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/restore", session_restore, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/rollback", session_rollback, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/v1/sessions/{id}/snapshots", session_snapshot, 0, JSON, NULL, false, NULL },
    { METHOD_GET, "/v1/sessions/{id}/snapshots", session_snapshots, 0, NULL, "limit,after", false,
      NULL },
    { METHOD_GET, "/v1/sessions/{id}/state", session_state_get, 0, NULL, "dtype", false,
      download_weigh },
    { METHOD_PUT, "/v1/sessions/{id}/state", session_state_put, 1, NULL, "convert", false,
      upload_weigh },

    { METHOD_GET, "/v1/snapshots", snapshots_list, 0, NULL, "limit,after,session,subtree", false,
      NULL },
    { METHOD_POST, "/v1/snapshots", snapshots_post, 1, BINARY, "convert", false, upload_weigh },
    { METHOD_GET, "/v1/snapshots/{id}", snapshot_get, 0, NULL, NULL, false, NULL },
    { METHOD_DELETE, "/v1/snapshots/{id}", snapshot_delete, 0, NULL, "subtree", false, NULL },
    { METHOD_GET, "/v1/snapshots/{id}/data", snapshot_data, 0, NULL, "dtype", false,
      download_weigh },

    { METHOD_GET, "/slots", slots_list, 0, NULL, NULL, false, NULL },
    { METHOD_POST, "/slots/{id}", slot_post, 0, JSON, "action", false, NULL },

    { METHOD_GET, "/v1/models", models_list, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/v1/models/{id*}", model_get, 0, NULL, NULL, false, NULL },
    { METHOD_POST, "/tokenize", tokenize_post, 0, JSON, NULL, false, NULL },
    { METHOD_POST, "/detokenize", detokenize_post, 0, JSON, NULL, false, NULL },

    { METHOD_GET, "/health", health_get, 0, NULL, NULL, true, NULL },
    { METHOD_GET, "/ready", ready_get, 0, NULL, NULL, true, NULL },
    { METHOD_GET, "/version", version_get, 0, NULL, NULL, true, NULL },
    { METHOD_GET, "/metrics", metrics_get, 0, NULL, NULL, true, NULL },
    { 0 }
};

enum { ROUTES = sizeof(routes) / sizeof(routes[0]) };

struct server {
    struct secret state_key;
    struct keys *keys; /* NULL: none are asked for */
    uv_loop_t loop;
    uv_async_t wake;
    uv_signal_t terminate, interrupt;
    uv_timer_t tick;
    bool looping; /* the handles are initialised */
    struct route route[ROUTES];
    struct api api;
    double cancel_at, abort_at; /* while draining; 0: done */
    bool drained, failed;       /* failed: because the device was lost */
};

/* What a thread loads while the loop's answers probes. */
struct loading {
    struct server *server;
    bool (*load)(void *arg, struct server_parts *to, struct error *err);
    void *arg;
    struct server_parts parts;
    struct engine *engine; /* NULL: it failed, err says why */
    struct error err;
    atomic_bool done;
};

static void engine_woke(void *arg)
{
    struct server *s = arg;

    uv_async_send(&s->wake);
}

static void on_wake(uv_async_t *handle)
{
    struct server *s = handle->data;

    if (s->api.engine)
        api_pump(&s->api);
}

static void on_drained(void *arg)
{
    struct server *s = arg;

    s->drained = true;
}

static void drain(struct server *s, int seconds)
{
    s->api.draining = true;
    s->cancel_at = clock_seconds() + seconds;
    s->abort_at = s->cancel_at + ABORT_SECONDS;
    http_server_drain(s->api.http, on_drained, s);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    char seconds[16];

    if (s->api.draining)
        _exit(1); /* the operator is in a hurry */
    if (!s->api.engine)
        _exit(0); /* nothing has begun that could be ended */
    snprintf(seconds, sizeof(seconds), "%d", s->api.options->drain_seconds);
    log_line(LOG_INFO, "draining", "signal", strsignal(number), "seconds", seconds, NULL);
    drain(s, s->api.options->drain_seconds);
}

/* Nothing runs any more: whoever waits has been told, and a supervisor starts anew. */
static void look_after_device(struct server *s)
{
    const char *lost = engine_counters(s->api.engine).lost;

    if (s->failed || !lost)
        return;
    s->failed = true;
    log_note(LOG_ERROR, "the device failed", "%s", lost);
    if (!s->api.draining)
        drain(s, 0);
}

static void on_tick(uv_timer_t *handle)
{
    struct server *s = handle->data;
    double now = clock_seconds();

    if (!s->api.engine)
        return;
    api_check_deadlines(&s->api, now);
    look_after_device(s);
    if (!s->api.draining)
        return;
    if (s->cancel_at && now >= s->cancel_at) {
        s->cancel_at = 0;
        api_cancel_all(&s->api);
    }
    if (s->abort_at && now >= s->abort_at) {
        s->abort_at = 0;
        http_server_abort(s->api.http);
    }
    if (s->drained && !s->api.pending && engine_idle(s->api.engine))
        uv_stop(&s->loop);
}

/* "Not ready" is what /ready is there to say, once a second while gigabytes are read. A refusal of
 * the probe has a problem, and a stalled engine is told by /health: both are warnings. So is a
 * stream that failed, whose status was sent before. */
static bool is_failure(const struct exchange *x, int status)
{
    const struct problem_row *problem = exchange_problem(x);

    return problem ? problem->status >= 500
                   : status >= 500 && strcmp(exchange_route(x), "/ready") != 0;
}

static void on_answered(void *app, const struct exchange *x, int status, double seconds,
                        size_t bytes)
{
    const struct problem_row *problem = exchange_problem(x);
    struct api *api = app;
    char number[16], time[32];

    metrics_count(&api->metrics, exchange_route(x), status, seconds, bytes);
    snprintf(number, sizeof(number), "%d", status);
    snprintf(time, sizeof(time), "%.6f", seconds);
    log_line(is_failure(x, status) ? LOG_WARN : LOG_DEBUG, "request", "id",
             exchange_header(x, "x-request-id"), "method", exchange_method(x), "path",
             exchange_path(x), "status", number, "seconds", time, problem ? "code" : NULL,
             problem ? problem->code : NULL, NULL);
}

static bool admit(void *app, const struct exchange *x, uint64_t *client, struct problem *p)
{
    const struct api *api = app;

    if (keys_find(api->keys, exchange_header(x, "authorization"), client))
        return true;
    return problem_set(p, PROBLEM_API_KEY, NULL,
                       "Incorrect API key provided: send one as \"Authorization: Bearer KEY\"");
}

static void warn_if_open(const char *path)
{
    if (key_file_is_open(path))
        log_note(LOG_WARN, "keys", "%s can be read by others than its owner: chmod 600", path);
}

static bool read_secret(struct server *s, const char *path, struct error *err)
{
    if (!path)
        return true;
    warn_if_open(path);
    s->api.state_key = &s->state_key;
    return secret_read(path, &s->state_key, err);
}

static bool read_keys(struct server *s, const char *path, struct error *err)
{
    char count[24];

    if (!path)
        return true;
    s->api.keys = s->keys = keys_open(path, err);
    if (!s->keys)
        return false;
    warn_if_open(path);
    snprintf(count, sizeof(count), "%zu", keys_count(s->keys));
    log_line(LOG_INFO, "keys", "file", path, "count", count, NULL);
    return true;
}

static bool loop_failed(int why, struct error *err)
{
    return error_set(err, why == UV_ENOMEM ? ERR_NOMEM : ERR_IO, "the event loop: %s",
                     uv_strerror(why));
}

static bool start_loop(struct server *s, struct error *err)
{
    /* A closed pipe, terminal or full disk is an error of a call, not the end. */
    static const int ignored[] = { SIGPIPE, SIGXFSZ, SIGHUP, SIGUSR1 };
    int why;

    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        signal(ignored[i], SIG_IGN);
    why = uv_loop_init(&s->loop);
    if (why != 0)
        return loop_failed(why, err);
    uv_timer_init(&s->loop, &s->tick);
    uv_signal_init(&s->loop, &s->terminate);
    uv_signal_init(&s->loop, &s->interrupt);
    s->tick.data = s->terminate.data = s->interrupt.data = s->wake.data = s;
    why = uv_async_init(&s->loop, &s->wake, on_wake);
    if (why != 0) {
        uv_close((uv_handle_t *)&s->tick, NULL);
        uv_close((uv_handle_t *)&s->terminate, NULL);
        uv_close((uv_handle_t *)&s->interrupt, NULL);
        uv_run(&s->loop, UV_RUN_DEFAULT);
        uv_loop_close(&s->loop);
        return loop_failed(why, err);
    }
    s->looping = true;
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    uv_signal_start(&s->terminate, on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_signal, SIGINT);
    return true;
}

/* none, always or interval:MS. */
static bool read_durability(const char *text, struct engine_options *to, struct error *err)
{
    int end = 0;

    to->durability = strcmp(text, "none") == 0 ? DISK_NONE : DISK_ALWAYS;
    if (to->durability == DISK_NONE || strcmp(text, "always") == 0)
        return true;
    to->durability = DISK_INTERVAL;
    if (sscanf(text, "interval:%7d%n", &to->interval_ms, &end) == 1 && !text[end] &&
        to->interval_ms >= 1)
        return true;
    return error_set(err, ERR_INPUT,
                     "durability is none, always or interval:MS with 1 to 9999999 ms, not "
                     "\"%.64s\"",
                     text);
}

/* The engine copies what it needs of the URL. */
static bool read_redis(const struct options *o, struct redis_url *url, struct engine_options *to,
                       struct error *err)
{
    if (!o->state_redis)
        return true;
    if (o->state_dir)
        return error_set(err, ERR_INPUT,
                         "states are kept in state_dir or in state_redis, not both");
    to->redis = url;
    to->store_bytes = UINT64_MAX;
    return redis_url_parse(url, o->state_redis, err);
}

static struct engine *start_engine(struct server *s, const struct server_parts *parts,
                                   struct error *err)
{
    const struct options *o = s->api.options;
    struct redis_url url;
    struct engine_options options = {
        .slots = o->slots,
        .max_batch = o->max_batch,
        .row_budget = model_info(parts->devices->at[0].model)->max_rows,
        .max_queue = o->max_queue,
        .max_sessions = o->max_sessions,
        .owner_sessions = o->owner_sessions,
        .owner_bytes = o->owner_memory,
        .host_bytes = o->host_memory,
        .spare_bytes = o->cache_memory,
        .history_tokens = (size_t)o->history_tokens,
        .cache_every = (size_t)o->cache_every,
        .session_ttl = o->session_ttl,
        .quantum = o->time_slice,
        .state_dir = o->state_dir,
        .lease_ms = o->state_lease,
        .store_bytes = o->disk_space,
    };

    if (!read_durability(o->durability, &options, err) || !read_redis(o, &url, &options, err))
        return NULL;
    return engine_create(parts->devices, parts->tokenizer, &options, engine_woke, s, err);
}

static bool listen_http(struct server *s, struct error *err)
{
    const struct options *o = s->api.options;
    const int connections = descriptors_provide(o->max_connections);
    const struct http_options options = {
        .host = o->host,
        .port = o->port,
        .max_connections = connections,
        .transfer_bytes = o->transfer_memory,
        .routes = s->route,
        .origins = o->allow_origin,
        .keyless = !o->api_keys,
        .app = &s->api,
        .admit = o->api_keys ? admit : NULL,
        .answered = on_answered,
    };

    memcpy(s->route, routes, sizeof(routes));
    s->api.http = http_server_open(&s->loop, &options, err);
    if (!s->api.http)
        return false;
    http_server_set_ready(s->api.http, false);
    if (connections < o->max_connections)
        log_note(LOG_WARN, "connections",
                 "the system lets this process have few files open (ulimit -n): at most %d "
                 "connections, not %d",
                 connections, o->max_connections);
    if (options.keyless && !is_loopback(o->host))
        log_note(LOG_WARN, "keys", "without api_keys whoever reaches %s may use every session",
                 o->host);
    return true;
}

struct server *server_open(const struct options *options, struct error *err)
{
    struct server *s = calloc(1, sizeof(*s));

    if (!s) {
        error_set(err, ERR_NOMEM, "no memory for the server");
        return NULL;
    }
    /* Left to itself the allocator learns to keep what long prompts took, in every thread. */
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    s->api = (struct api){
        .loop = &s->loop,
        .options = options,
        .repeats = repeats_create(),
        .started = (int64_t)time(NULL),
    };
    if (!s->api.repeats)
        error_set(err, ERR_NOMEM, "no memory for the server");
    if (!s->api.repeats || !read_secret(s, options->state_key, err) ||
        !read_keys(s, options->api_keys, err) || !start_loop(s, err) || !listen_http(s, err)) {
        server_close(s);
        return NULL;
    }
    return s;
}

static void load_main(void *arg)
{
    struct loading *l = arg;

    if (l->load(l->arg, &l->parts, &l->err))
        l->engine = start_engine(l->server, &l->parts, &l->err);
    atomic_store(&l->done, true);
    uv_async_send(&l->server->wake);
}

/* From here on every call is served. */
static bool take_over(struct server *s, const struct loading *l, struct error *err)
{
    s->api.model = model_info(l->parts.devices->at[0].model);
    s->api.devices = l->parts.devices;
    s->api.tokenizer = l->parts.tokenizer;
    s->api.model_name = l->parts.model_name;
    s->api.engine = l->engine;
    if (!api_choose_template(&s->api, err))
        return false;
    for (int i = 0; i < ROUTES; i++)
        if (s->route[i].max_body)
            s->route[i].max_body = format_max_upload_bytes(s->api.model) + SEAL_BYTES;
    http_server_set_ready(s->api.http, true);
    return true;
}

bool server_load(struct server *s,
                 bool (*load)(void *arg, struct server_parts *to, struct error *err), void *arg,
                 struct error *err)
{
    struct loading l = { .server = s, .load = load, .arg = arg };
    uv_thread_t thread;

    atomic_init(&l.done, false);
    if (uv_thread_create(&thread, load_main, &l) != 0)
        return error_set(err, ERR_NOMEM, "no thread can be started");
    while (!atomic_load(&l.done))
        uv_run(&s->loop, UV_RUN_ONCE);
    uv_thread_join(&thread);
    if (!l.engine) {
        *err = l.err;
        return false;
    }
    return take_over(s, &l, err);
}

int server_port(const struct server *s)
{
    return http_server_port(s->api.http);
}

bool server_run(struct server *s)
{
    uv_run(&s->loop, UV_RUN_DEFAULT);
    return !s->failed;
}

static void hang_up(struct server *s)
{
    if (!s->drained) {
        http_server_drain(s->api.http, on_drained, s);
        http_server_abort(s->api.http);
    }
    while (!s->drained)
        uv_run(&s->loop, UV_RUN_ONCE);
    http_server_close(s->api.http);
}

void server_close(struct server *s)
{
    if (!s)
        return;
    if (s->api.http)
        hang_up(s);
    engine_destroy(s->api.engine); /* before the handle that its thread signals */
    if (s->looping) {
        uv_close((uv_handle_t *)&s->wake, NULL);
        uv_close((uv_handle_t *)&s->terminate, NULL);
        uv_close((uv_handle_t *)&s->interrupt, NULL);
        uv_close((uv_handle_t *)&s->tick, NULL);
        uv_run(&s->loop, UV_RUN_DEFAULT);
        uv_loop_close(&s->loop);
    }
    repeats_destroy(s->api.repeats);
    keys_close(s->keys);
    digest_wipe(&s->state_key, sizeof(s->state_key));
    free(s);
}
