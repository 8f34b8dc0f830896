#include "tests/server/http/site.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/error.h"
#include "config/limits.h"
#include "server/http/http_internal.h"

enum { STOP = 1, ABORT = 2, DRAIN = 4, READY = 8, UNREADY = 16, COUNT = 32 };

static void handle_health(struct exchange *x, void *app)
{
    struct site *s = app;

    s->handled++;
    exchange_reply(x, 200, "application/json", "{}", 2);
}

static void handle_echo(struct exchange *x, void *app)
{
    struct site *s = app;
    size_t len;
    const char *body = exchange_body(x, &len);

    s->handled++;
    exchange_reply(x, 200, "application/json", body, len);
}

static void handle_blob(struct exchange *x, void *app)
{
    struct site *s = app;
    char text[32];
    size_t len;

    s->handled++;
    exchange_body(x, &len);
    snprintf(text, sizeof(text), "%zu", len);
    exchange_reply(x, 201, "text/plain", text, strlen(text));
}

static void handle_item(struct exchange *x, void *app)
{
    char text[512];
    const char *q = exchange_query(x, "q");

    (void)app;
    snprintf(text, sizeof(text), "%s %s [%s] q=%s", exchange_method(x), exchange_route(x),
             exchange_param(x, "id"), q ? q : "none");
    exchange_reply(x, 200, "text/plain", text, strlen(text));
}

static void note_gone(struct exchange *x, void *owner)
{
    struct site *s = owner;

    s->gone++;
    exchange_abandon(x);
}

static void handle_never(struct exchange *x, void *app)
{
    struct site *s = app;

    s->handled++;
    exchange_watch(x, s, note_gone, NULL);
}

static void free_timer(uv_handle_t *handle)
{
    free(handle);
}

static void answer_later(uv_timer_t *timer)
{
    struct site *s = timer->loop->data;

    if (s->later_waits) {
        uv_timer_start(timer, answer_later, 1, 0);
        return;
    }
    exchange_reply(timer->data, 200, "text/plain", "later", 5);
    uv_close((uv_handle_t *)timer, free_timer);
}

/* Answers without having watched: by then the client may be gone. */
static void handle_later(struct exchange *x, void *app)
{
    struct site *s = app;
    uv_timer_t *timer = malloc(sizeof(*timer));

    s->handled++;
    uv_timer_init(&s->loop, timer);
    timer->data = x;
    uv_timer_start(timer, answer_later, 30, 0);
}

static void handle_events(struct exchange *x, void *app)
{
    const char *n = exchange_query(x, "n");

    (void)app;
    exchange_stream(x, 200, "text/event-stream");
    for (int i = 0; i < (n ? atoi(n) : 3); i++) {
        char text[32];
        int len = snprintf(text, sizeof(text), "{\"i\":%d}", i);

        exchange_event(x, text, (size_t)len);
        if (i % 2)
            exchange_flush(x);
    }
    exchange_event(x, "[DONE]", 6);
    exchange_end(x, true);
}

static void handle_cut(struct exchange *x, void *app)
{
    (void)app;
    exchange_stream(x, 200, "text/event-stream");
    exchange_event(x, "one", 3);
    exchange_end(x, false);
}

static void handle_drop(struct exchange *x, void *app)
{
    (void)app;
    exchange_abandon(x);
}

/* A stream that stays open until its client leaves. */
static void handle_open(struct exchange *x, void *app)
{
    handle_never(x, app);
    exchange_stream(x, 200, "text/event-stream");
    exchange_event(x, "hello", 5);
    exchange_flush(x);
}

static void pour(struct exchange *x, void *owner)
{
    static char block[16 * 1024];
    struct site *s = owner;

    /* A connection that broke has no backlog any more, whatever is written. */
    while (!x->c->broken && exchange_backlog(x) <= LIMIT_WRITE_QUEUE_BYTES) {
        exchange_write(x, block, sizeof(block));
        exchange_flush(x);
        if (exchange_backlog(x) > s->peak)
            s->peak = exchange_backlog(x);
    }
}

static void pour_on(struct exchange *x, void *owner)
{
    struct site *s = owner;

    s->drains++;
    pour(x, owner);
}

static void handle_flood(struct exchange *x, void *app)
{
    exchange_watch(x, app, note_gone, pour_on);
    exchange_stream(x, 200, "application/octet-stream");
    pour(x, app);
}

static void handle_big(struct exchange *x, void *app)
{
    size_t len = SITE_BIG_BYTES;

    (void)app;
    exchange_reply_take(x, 200, "application/octet-stream", calloc(1, len), len);
}

static size_t weigh_pull(const struct exchange *x, const void *app)
{
    (void)x, (void)app;
    return SITE_PULL_BYTES;
}

static size_t weigh_push(const struct exchange *x, const void *app)
{
    (void)x, (void)app;
    return SITE_PUSH_BYTES;
}

static size_t weigh_all(const struct exchange *x, const void *app)
{
    (void)x, (void)app;
    return 2 * SITE_TRANSFER_BYTES;
}

static void handle_inject(struct exchange *x, void *app)
{
    (void)app;
    exchange_set_header(x, "X-Good", "yes");
    exchange_set_header(x, "X-Bad", exchange_query(x, "v"));
    exchange_reply(x, 200, "text/plain", "", 0);
}

static void handle_problem(struct exchange *x, void *app)
{
    enum problem_code what = (enum problem_code)atoi(exchange_query(x, "what"));
    struct problem p;

    (void)app;
    problem_set(&p, what, "a.b", "bad \"text\"\n\xff");
    exchange_refuse(x, &p);
}

const struct route site_routes[] = {
    { METHOD_GET, "/health", handle_health, 0, NULL, NULL, true, NULL },
    { METHOD_POST, "/echo", handle_echo, 0, "application/json", NULL, false, NULL },
    { METHOD_PUT, "/blob", handle_blob, 4 << 20, NULL, NULL, false, NULL },
    { METHOD_GET, "/items/{id}", handle_item, 0, NULL, "q,r", false, NULL },
    { METHOD_DELETE, "/items/{id}", handle_item, 0, NULL, "q,r", false, NULL },
    { METHOD_GET, "/items/{id}/parts", handle_item, 0, NULL, "q,r", false, NULL },
    { METHOD_GET, "/rests/{id*}", handle_item, 0, NULL, "q,r", false, NULL },
    { METHOD_GET, "/never", handle_never, 0, NULL, NULL, false, NULL },
    { METHOD_POST, "/later", handle_later, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/later", handle_later, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/events", handle_events, 0, NULL, "n", false, NULL },
    { METHOD_GET, "/open", handle_open, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/cut", handle_cut, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/drop", handle_drop, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/flood", handle_flood, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/big", handle_big, 0, NULL, NULL, false, NULL },
    { METHOD_GET, "/pull", handle_big, 0, NULL, NULL, false, weigh_pull },
    { METHOD_GET, "/pull-never", handle_never, 0, NULL, NULL, false, weigh_pull },
    { METHOD_GET, "/pull-all", handle_health, 0, NULL, NULL, false, weigh_all },
    { METHOD_PUT, "/push", handle_blob, SITE_BODY_BYTES, NULL, NULL, false, weigh_push },
    { METHOD_GET, "/inject", handle_inject, 0, NULL, "v", false, NULL },
    { METHOD_GET, "/problem", handle_problem, 0, NULL, "what", false, NULL },
    { 0 },
};

static void count_answer(void *app, const struct exchange *x, int status, double seconds,
                         size_t bytes)
{
    struct site *s = app;

    (void)bytes;
    if (status > 0 && seconds >= 0 && exchange_path(x) && exchange_header(x, "x-request-id"))
        s->answered++;
}

static void close_site(void *arg)
{
    struct site *s = arg;

    s->drained++;
    http_server_close(s->server);
    uv_close((uv_handle_t *)&s->order, NULL);
}

static void on_order(uv_async_t *order)
{
    struct site *s = order->data;
    int wanted = atomic_exchange(&s->wanted, 0);

    if (wanted & READY)
        http_server_set_ready(s->server, true);
    if (wanted & UNREADY)
        http_server_set_ready(s->server, false);
    if (wanted & DRAIN)
        http_server_drain(s->server, close_site, s);
    if (wanted & ABORT)
        http_server_abort(s->server);
    if (wanted & COUNT) {
        s->connections = http_server_counts(s->server).connections;
        s->held = http_server_counts(s->server).transfer_bytes;
    }
    uv_sem_post(&s->done);
}

static void run(void *arg)
{
    struct site *s = arg;

    uv_run(&s->loop, UV_RUN_DEFAULT);
    s->left = uv_loop_close(&s->loop);
}

static void give_order(struct site *s, int what)
{
    atomic_fetch_or(&s->wanted, what);
    uv_async_send(&s->order);
    uv_sem_wait(&s->done);
}

void site_start(struct site *s, int max_connections, unsigned speed)
{
    const struct http_options o = { .host = "127.0.0.1",
                                    .max_connections = max_connections,
                                    .transfer_bytes = SITE_TRANSFER_BYTES,
                                    .routes = site_routes,
                                    .origins = "http://a.example,https://b.example:8443",
                                    .app = s,
                                    .answered = count_answer };
    struct error err;

    memset(s, 0, sizeof(*s));
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(uv_loop_init(&s->loop), 0);
    s->loop.data = s;
    uv_sem_init(&s->done, 0);
    uv_async_init(&s->loop, &s->order, on_order);
    s->order.data = s;
    s->server = http_server_open(&s->loop, &o, &err);
    assert_non_null(s->server);
    if (speed > 1)
        http_server_set_speed(s->server, speed);
    s->port = http_server_port(s->server);
    uv_thread_create(&s->thread, run, s);
}

void site_drain(struct site *s)
{
    s->stopped = true;
    give_order(s, DRAIN);
}

void site_abort(struct site *s)
{
    give_order(s, s->stopped ? ABORT : DRAIN | ABORT);
    s->stopped = true;
    site_stop(s);
}

void site_stop(struct site *s)
{
    if (!s->stopped)
        site_drain(s);
    uv_thread_join(&s->thread);
    uv_sem_destroy(&s->done);
    assert_int_equal(s->left, 0);
    assert_int_equal(s->drained, 1);
}

void site_set_ready(struct site *s, bool ready)
{
    give_order(s, ready ? READY : UNREADY);
}

bool site_reaches(atomic_int *counter, int n)
{
    for (int i = 0; i < 10000 && *counter < n; i++)
        usleep(1000);
    return *counter >= n;
}

bool site_settles(struct site *s, long n)
{
    for (int i = 0; i < 1000; i++) {
        give_order(s, COUNT);
        if (s->connections == n)
            return true;
        usleep(10000);
    }
    return false;
}

bool site_holds(struct site *s, size_t bytes)
{
    for (int i = 0; i < 1000; i++) {
        give_order(s, COUNT);
        if (s->held == bytes)
            return true;
        usleep(10000);
    }
    return false;
}

struct peer peer_open(void)
{
    struct peer p = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };

    assert_true(p.fd >= 0);
    return p;
}

void peer_connect(struct peer *p, const struct site *s)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)s->port),
                              .sin_addr = { htonl(INADDR_LOOPBACK) } };

    assert_int_equal(connect(p->fd, (struct sockaddr *)&to, sizeof(to)), 0);
}

struct peer peer_dial(const struct site *s)
{
    struct peer p = peer_open();

    peer_connect(&p, s);
    return p;
}

void peer_close(struct peer *p)
{
    close(p->fd);
    free(p->bytes);
    *p = (struct peer){ .fd = -1 };
}

void peer_send(struct peer *p, const void *bytes, size_t len)
{
    const char *at = bytes;

    while (len > 0) {
        ssize_t n = send(p->fd, at, len, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        at += n;
        len -= (size_t)n;
    }
}

void peer_say(struct peer *p, const char *text)
{
    peer_send(p, text, strlen(text));
}

void peer_half_close(struct peer *p)
{
    shutdown(p->fd, SHUT_WR);
}

static bool fill(struct peer *p)
{
    struct pollfd poll_fd = { .fd = p->fd, .events = POLLIN };
    char piece[16384];
    ssize_t n;

    if (p->eof || poll(&poll_fd, 1, 10000) != 1)
        return false;
    n = recv(p->fd, piece, sizeof(piece), 0);
    if (n <= 0) {
        p->eof = true;
        p->reset = n < 0;
        return false;
    }
    if (p->cap < p->len + (size_t)n + 1) {
        p->cap = 2 * (p->len + (size_t)n + 1);
        p->bytes = realloc(p->bytes, p->cap);
    }
    memcpy(p->bytes + p->len, piece, (size_t)n);
    p->len += (size_t)n;
    p->bytes[p->len] = '\0';
    return true;
}

static void consume(struct peer *p, size_t n)
{
    memmove(p->bytes, p->bytes + n, p->len - n + 1);
    p->len -= n;
}

static void keep(struct answer *a, const char *bytes, size_t len)
{
    size_t room = sizeof(a->body) - 1 - a->len;
    size_t kept = len < room ? len : room;

    memcpy(a->body + a->len, bytes, kept);
    a->len += kept;
    a->body[a->len] = '\0';
}

static bool read_chunks(struct peer *p, struct answer *a)
{
    for (;;) {
        char *end;
        size_t size, head;

        while (!p->len || !(end = strstr(p->bytes, "\r\n")))
            if (!fill(p))
                return false;
        size = strtoul(p->bytes, NULL, 16);
        head = (size_t)(end - p->bytes) + 2;
        while (p->len < head + size + 2)
            if (!fill(p))
                return false;
        keep(a, p->bytes + head, size);
        consume(p, head + size + 2);
        if (size == 0)
            return true;
    }
}

bool peer_read_head_only(struct peer *p, struct answer *a)
{
    char *end;

    memset(a, 0, offsetof(struct answer, body));
    a->len = 0;
    a->body[0] = '\0';
    while (!p->len || !(end = strstr(p->bytes, "\r\n\r\n")))
        if (!fill(p))
            return false;
    assert_true((size_t)(end - p->bytes) + 5 < sizeof(a->head));
    memcpy(a->head, p->bytes, (size_t)(end - p->bytes) + 2);
    consume(p, (size_t)(end - p->bytes) + 4);
    return sscanf(a->head, "HTTP/1.1 %d ", &a->status) == 1;
}

bool peer_read(struct peer *p, struct answer *a)
{
    const char *length;

    if (!peer_read_head_only(p, a))
        return false;
    if (a->status == 100 || a->status == 204)
        return true;
    if (answer_header(a, "Transfer-Encoding"))
        return read_chunks(p, a);
    length = answer_header(a, "Content-Length");
    if (!length) {
        while (fill(p))
            ;
        keep(a, p->bytes, p->len);
        consume(p, p->len);
        return true;
    }
    size_t want = strtoul(length, NULL, 10);
    while (p->len < want)
        if (!fill(p))
            return false;
    keep(a, p->bytes, want);
    consume(p, want);
    return true;
}

bool peer_sees_end(struct peer *p)
{
    do
        p->len = 0;
    while (fill(p));
    return p->eof;
}

const char *answer_header(const struct answer *a, const char *name)
{
    static char value[512];
    size_t len = strlen(name);

    for (const char *at = strstr(a->head, "\r\n"); at; at = strstr(at + 2, "\r\n")) {
        if (strncasecmp(at + 2, name, len) != 0 || at[2 + len] != ':')
            continue;
        sscanf(at + 2 + len + 1, " %511[^\r]", value);
        return value;
    }
    return NULL;
}

bool answer_has_code(const struct answer *a, const char *code)
{
    char want[128];

    snprintf(want, sizeof(want), "\"code\":\"%s\"}}", code);
    return strncmp(a->body, "{\"error\":{\"message\":\"", 21) == 0 && strstr(a->body, want);
}
