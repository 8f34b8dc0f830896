/* The server: its socket, the list of its connections, the clock and the way out. */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"
#include "server/http/http_internal.h"
#include "server/http/origin.h"

enum { BACKLOG = 4096 };

uint64_t server_now(const struct http_server *s)
{
    return uv_now(s->loop) * s->speed;
}

const char *server_date(struct http_server *s)
{
    time_t now = time(NULL);
    struct tm tm;

    if (now != s->date_at) {
        s->date_at = now;
        gmtime_r(&now, &tm);
        strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return s->date;
}

static int open_reserve(void)
{
    return open("/", O_RDONLY | O_CLOEXEC);
}

static void drop_connection(uv_handle_t *handle)
{
    free(handle);
}

/* Out of descriptors, libuv sends clients away through a reserve of its own. When another
 * thread took that one, accept() fails for as long as the socket is readable and libuv asks
 * again without end: our reserve then makes room to take the client off the queue. */
static void on_connection(uv_stream_t *listener, int status)
{
    struct http_server *s = listener->data;

    if (status < 0) {
        if (s->reserve >= 0)
            close(s->reserve);
        s->reserve = -1;
        return;
    }
    if (s->reserve >= 0) {
        s->unaccepted = !connection_accept(s);
        return;
    }
    uv_tcp_t *tcp = malloc(sizeof(*tcp));
    s->unaccepted = !tcp;
    if (!tcp)
        return;
    uv_tcp_init(s->loop, tcp);
    uv_accept(listener, (uv_stream_t *)tcp);
    s->counts.refused++;
    uv_close((uv_handle_t *)tcp, drop_connection);
    s->reserve = open_reserve();
}

static void on_tick(uv_timer_t *tick)
{
    struct http_server *s = tick->data;
    uint64_t now = server_now(s);

    if (s->reserve < 0 && !s->closing)
        s->reserve = open_reserve();
    if (s->unaccepted && !s->draining)
        s->unaccepted = !connection_accept(s);
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        connection_check_deadlines(c, now);
    }
    s->crowded = false;
}

static void start_tick(struct http_server *s)
{
    uint64_t ms = TICK_MS / s->speed;

    uv_timer_start(&s->tick, on_tick, ms ? ms : 1, ms ? ms : 1);
}

static bool read_address(const struct http_options *o, struct sockaddr_storage *address,
                         struct error *err)
{
    const char *host = strcmp(o->host, "localhost") == 0 ? "127.0.0.1" : o->host;

    if (o->port < 0 || o->port > 65535)
        return error_set(err, ERR_INPUT, "port %d is not in 0..65535", o->port);
    if (uv_ip4_addr(host, o->port, (struct sockaddr_in *)address) == 0 ||
        uv_ip6_addr(host, o->port, (struct sockaddr_in6 *)address) == 0)
        return true;
    return error_set(err, ERR_INPUT, "%s is not an address to listen on", o->host);
}

struct http_server *http_server_open(uv_loop_t *loop, const struct http_options *options,
                                     struct error *err)
{
    struct sockaddr_storage address;
    struct http_server *s;
    int e;

    if (!origin_list_check(options->origins, err) || !read_address(options, &address, err))
        return NULL;
    s = calloc(1, sizeof(*s));
    if (!s) {
        error_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    s->loop = loop;
    s->options = *options;
    s->speed = 1;
    s->ready = true;
    s->local = options->keyless && is_loopback(options->host);
    s->handles = 2;
    s->reserve = open_reserve();
    uv_tcp_init(loop, &s->listener);
    uv_timer_init(loop, &s->tick);
    s->listener.data = s->tick.data = s;

    e = uv_tcp_bind(&s->listener, (const struct sockaddr *)&address, 0);
    if (e == 0)
        e = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    if (e != 0) {
        error_set(err, ERR_IO, "cannot listen on %s port %d: %s", options->host, options->port,
                  uv_strerror(e));
        http_server_close(s);
        return NULL;
    }
    start_tick(s);
    return s;
}

int http_server_port(const struct http_server *s)
{
    struct sockaddr_storage address;
    int len = sizeof(address);

    if (uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &len) != 0)
        return -1;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

void http_server_set_ready(struct http_server *s, bool ready)
{
    s->ready = ready;
}

void http_server_set_speed(struct http_server *s, unsigned speed)
{
    s->speed = speed;
    start_tick(s);
}

struct http_counts http_server_counts(const struct http_server *s)
{
    return s->counts;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;
    void (*drained)(void *arg) = s->drained;

    if (--s->handles > 0)
        return;
    if (s->reserve >= 0)
        close(s->reserve);
    s->reserve = -1;
    if (s->closing) {
        free(s);
    } else if (drained) {
        s->drained = NULL;
        drained(s->drained_arg); /* may close the server */
    }
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_handle_closed);
}

void server_connection_closed(struct http_server *s)
{
    s->counts.connections--;
    if (s->draining && s->counts.connections == 0)
        close_handle((uv_handle_t *)&s->tick);
}

void http_server_drain(struct http_server *s, void (*drained)(void *arg), void *arg)
{
    s->draining = true;
    s->drained = drained;
    s->drained_arg = arg;
    close_handle((uv_handle_t *)&s->listener);
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        if (connection_idle(c))
            connection_fail(c);
    }
    if (s->counts.connections == 0)
        close_handle((uv_handle_t *)&s->tick);
}

void http_server_abort(struct http_server *s)
{
    if (!s->draining)
        http_server_drain(s, NULL, NULL);
    while (s->connections)
        connection_fail(s->connections);
}

void http_server_close(struct http_server *s)
{
    if (!s)
        return;
    assert(s->counts.connections == 0);
    s->closing = true;
    if (s->handles == 0) {
        free(s);
        return;
    }
    close_handle((uv_handle_t *)&s->listener);
    close_handle((uv_handle_t *)&s->tick);
}
