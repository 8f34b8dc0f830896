/* One client: reading into the exchange, the queue of bytes towards it, its deadlines and
 * the several ways in which it ends.
 *
 * One exchange is in flight at a time. What the client sends meanwhile waits in `ahead`, and
 * at LIMIT_PIPELINE_BYTES reading stops. The next request is looked at when the answer
 * before it was taken, so that a client that reads nothing holds one answer at most.
 *
 * The end of a client's bytes while a handler works counts as its leaving: TCP cannot tell a
 * half-closed client from a vanished one, and a vanished one must free its slot at once. An
 * answer that was complete by then is still delivered.
 *
 * A connection that is closed by us says FIN first and reads on for a moment, since closing
 * with unread bytes would make the kernel send RST and destroy the answer on its way. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "server/http/http_internal.h"

struct sending {
    uv_write_t req;
    char *owned[2];
    struct claim *claim;
    size_t total;
};

static void set_deadline(struct connection *c, int seconds)
{
    c->deadline = server_now(c->server) + (uint64_t)seconds * 1000;
}

bool connection_idle(const struct connection *c)
{
    return c->state == CONNECTION_READING && !c->x;
}

size_t connection_backlog(const struct connection *c)
{
    size_t queued = c->sending ? uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) : 0;

    return queued + c->out.len + c->body_len;
}

static void drop_body(struct connection *c)
{
    free(c->body);
    claim_release(c->claim);
    c->body = NULL;
    c->body_len = 0;
    c->claim = NULL;
}

static void drop_output(struct connection *c)
{
    buffer_finish(&c->out);
    drop_body(c);
}

static void drop_sending(struct connection *c)
{
    free(c->sending->owned[0]);
    free(c->sending->owned[1]);
    claim_release(c->sending->claim);
    free(c->sending);
    c->sending = NULL;
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *c = handle->data;
    struct http_server *s = c->server;

    s->surplus -= c->surplus;
    free(c);
    server_connection_closed(s);
}

void connection_fail(struct connection *c)
{
    struct exchange *x = c->x;

    if (c->state == CONNECTION_CLOSED)
        return;
    c->state = CONNECTION_CLOSED;
    c->x = NULL;
    *c->link = c->next; /* c->next stays: a walk over the list may stand on c */
    if (c->next)
        c->next->link = c->link;
    drop_output(c);
    buffer_finish(&c->ahead);
    if (!c->reset || c->sending || uv_tcp_close_reset(&c->tcp, on_closed) != 0)
        uv_close((uv_handle_t *)&c->tcp, on_closed);
    if (x)
        exchange_lose(x);
}

static void linger(struct connection *c)
{
    int fd;

    if (c->eof || c->reset || uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 ||
        shutdown(fd, SHUT_WR) != 0) {
        connection_fail(c);
        return;
    }
    c->state = CONNECTION_LINGERING;
    buffer_finish(&c->ahead);
    set_deadline(c, LINGER_SECONDS);
}

static void take(struct connection *c, const char *bytes, size_t len);
static void update_reading(struct connection *c);

/* An answer was given completely: go on once the client took it. */
static void settle(struct connection *c)
{
    struct buffer ahead;

    if (c->state != CONNECTION_SENDING)
        return;
    if (c->broken) {
        connection_fail(c);
        return;
    }
    if (connection_backlog(c) > 0)
        return;
    drop_output(c);
    if (c->close || c->eof || c->server->draining) {
        linger(c);
        update_reading(c);
        return;
    }
    c->state = CONNECTION_READING;
    set_deadline(c, LIMIT_IDLE_SECONDS);
    if (!c->advancing && c->ahead.len > 0) {
        ahead = c->ahead;
        c->ahead = (struct buffer){ 0 };
        take(c, ahead.bytes, ahead.len);
        buffer_finish(&ahead);
    }
    update_reading(c);
}

static void on_sent(uv_write_t *req, int status)
{
    struct connection *c = req->data;

    drop_sending(c);
    if (c->state == CONNECTION_CLOSED)
        return;
    if (status < 0) {
        connection_fail(c);
        return;
    }
    connection_flush(c);
    if (c->x)
        exchange_took(c->x);
    settle(c);
}

/* Gives libuv what the socket did not take at once; the buffers move with it. */
static bool send_later(struct connection *c, const uv_buf_t *bufs, unsigned count)
{
    struct sending *s = malloc(sizeof(*s));

    if (!s)
        return false;
    s->req.data = c;
    s->owned[0] = c->out.bytes;
    s->owned[1] = c->body;
    s->claim = c->claim;
    c->sending = s;
    c->out = (struct buffer){ 0 };
    c->body = NULL;
    c->body_len = 0;
    c->claim = NULL;
    if (uv_write(&s->req, (uv_stream_t *)&c->tcp, bufs, count, on_sent) != 0) {
        drop_sending(c);
        return false;
    }
    c->untaken = s->total = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
    c->began = server_now(c->server);
    c->stall_at = server_now(c->server) + (uint64_t)LIMIT_STALL_SECONDS * 1000;
    return true;
}

void connection_flush(struct connection *c)
{
    uv_buf_t bufs[2] = { uv_buf_init(c->out.bytes, (unsigned)c->out.len),
                         { .base = c->body, .len = c->body_len } };
    size_t total = c->out.len + c->body_len;
    size_t done = 0;
    int n;

    if (c->sending || total == 0 || c->broken)
        return;
    /* A writer that saw the backlog over its limit waits for `drained`, which only the
     * callback of a uv_write() may call. */
    if (!c->x || !c->x->over) {
        n = uv_try_write((uv_stream_t *)&c->tcp, bufs, 2);
        done = n > 0 ? (size_t)n : 0;
        c->broken = n < 0 && n != UV_EAGAIN;
    }
    if (!c->broken && done < total) {
        for (int i = 0; i < 2; i++) {
            size_t part = done < bufs[i].len ? done : bufs[i].len;

            if (part > 0)
                bufs[i].base += part;
            bufs[i].len -= part;
            done -= part;
        }
        c->broken = !send_later(c, bufs, 2);
    }
    if (c->broken) {
        drop_output(c);
    } else if (!c->sending) {
        c->out.len = 0;
        drop_body(c);
    }
}

void connection_break(struct connection *c)
{
    c->broken = true;
    drop_output(c);
}

void connection_write(struct connection *c, const void *bytes, size_t len)
{
    if (!c->broken && !buffer_append(&c->out, bytes, len))
        connection_break(c);
}

void connection_finish(struct connection *c, bool keep)
{
    c->x = NULL;
    c->state = CONNECTION_SENDING;
    c->close |= !keep;
    connection_flush(c);
    settle(c);
}

static void answer(struct connection *c, struct exchange *x)
{
    c->state = CONNECTION_ANSWERING;
    c->close = x->refused_for_good || !x->request.keep_alive;
    if (c->close)
        buffer_finish(&c->ahead);
    exchange_dispatch(x);
}

static void refuse(struct connection *c, enum problem_code what, const char *why)
{
    problem_set(&c->x->reader.problem, what, NULL, "%s", why);
    c->x->refused_for_good = true;
    answer(c, c->x);
}

/* Feeds the exchange; returns how many bytes were its own. */
static size_t read_request(struct connection *c, const char *bytes, size_t len)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    enum reader_event event;
    size_t used;

    if (!c->x) {
        c->x = exchange_create(c);
        if (!c->x) {
            connection_fail(c);
            return len;
        }
        set_deadline(c, LIMIT_HEADER_SECONDS);
    }
    event = reader_feed(&c->x->reader, bytes, len, &used);
    if (event == READER_HEAD) {
        event = exchange_judge(c->x);
        set_deadline(c, LIMIT_BODY_GRACE_SECONDS);
        c->window = 0;
        c->began = server_now(c->server);
        if (event == READER_MORE && exchange_expects(c->x)) {
            connection_write(c, go_on, sizeof(go_on) - 1);
            connection_flush(c);
        }
    }
    if (event == READER_REFUSED)
        c->x->refused_for_good = true;
    if (event == READER_REFUSED || event == READER_DONE)
        answer(c, c->x);
    return used;
}

static void take(struct connection *c, const char *bytes, size_t len)
{
    c->advancing = true;
    while (len > 0 && c->state == CONNECTION_READING) {
        size_t used = read_request(c, bytes, len);

        bytes += used;
        len -= used;
    }
    c->advancing = false;
    if (c->state != CONNECTION_ANSWERING && c->state != CONNECTION_SENDING)
        return;
    if (len > 0 && !c->close && !buffer_append(&c->ahead, bytes, len))
        connection_fail(c);
}

static void on_end(struct connection *c)
{
    c->eof = true;
    c->reading = false;
    if (c->state == CONNECTION_SENDING) {
        c->close = true;
        buffer_finish(&c->ahead);
    } else if (c->state != CONNECTION_READING || !c->x || reader_blank(&c->x->reader)) {
        connection_fail(c);
    } else if (c->x->reader.phase == READER_IN_HEAD) {
        refuse(c, PROBLEM_BAD_REQUEST, "the request ended inside its head");
    } else {
        refuse(c, PROBLEM_INCOMPLETE_BODY, "the request ended inside its body");
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct connection *c = handle->data;

    (void)suggested;
    buf->base = c->server->read_buffer;
    buf->len = c->close ? READ_BYTES : LIMIT_PIPELINE_BYTES - c->ahead.len;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct connection *c = stream->data;

    if (n == UV_EOF) {
        on_end(c);
    } else if (n < 0) {
        connection_fail(c);
    } else if (n > 0 && c->state != CONNECTION_LINGERING && !c->close) {
        if (c->state == CONNECTION_READING)
            take(c, buf->base, (size_t)n);
        else if (!buffer_append(&c->ahead, buf->base, (size_t)n))
            connection_fail(c);
        update_reading(c);
    }
}

static void update_reading(struct connection *c)
{
    bool full = c->ahead.len >= LIMIT_PIPELINE_BYTES;
    bool want = c->state != CONNECTION_CLOSED && !c->eof && !full;

    if (c->state == CONNECTION_CLOSED || want == c->reading)
        return;
    if (want)
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    else
        uv_read_stop((uv_stream_t *)&c->tcp);
    c->reading = want;
}

/* The rate is measured over windows of the grace time; the first one is the grace. */
static void check_body_rate(struct connection *c)
{
    size_t got = c->x->reader.body - c->window;
    bool first = !c->x->graced;

    c->x->graced = true;
    if (!first && got < (size_t)LIMIT_BODY_RATE * LIMIT_BODY_GRACE_SECONDS) {
        refuse(c, PROBLEM_REQUEST_TIMEOUT, "the request's body comes too slowly");
        return;
    }
    c->window = c->x->reader.body;
    set_deadline(c, LIMIT_BODY_GRACE_SECONDS);
}

/* Others want the memory of a transfer that took or brought so many bytes. */
static bool must_yield(const struct connection *c, size_t bytes, uint64_t now)
{
    const uint64_t earned = (uint64_t)bytes * 1000 / LIMIT_TRANSFER_RATE;

    return c->server->crowded && now - c->began > LIMIT_STALL_SECONDS * 1000 + earned;
}

static void check_sending(struct connection *c, uint64_t now)
{
    const struct sending *s = c->sending;
    const size_t untaken = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
    const bool stalled = untaken == c->untaken && now >= c->stall_at;

    if (untaken != c->untaken)
        c->stall_at = now + (uint64_t)LIMIT_STALL_SECONDS * 1000;
    c->untaken = untaken;
    if (stalled || (s->claim && must_yield(c, s->total - untaken, now)))
        connection_fail(c);
}

/* Asked while reading is stopped, when libuv would not tell. */
static bool client_left(const struct connection *c)
{
    struct pollfd p = { .events = POLLRDHUP };

    return uv_fileno((const uv_handle_t *)&c->tcp, &p.fd) == 0 && poll(&p, 1, 0) == 1;
}

void connection_check_deadlines(struct connection *c, uint64_t now)
{
    if (c->broken || (c->state == CONNECTION_ANSWERING && !c->reading && client_left(c))) {
        connection_fail(c);
        return;
    }
    if (c->sending) {
        check_sending(c, now);
        return;
    }
    if (c->state == CONNECTION_READING && c->x && c->x->claim &&
        must_yield(c, c->x->reader.body, now)) {
        refuse(c, PROBLEM_REQUEST_TIMEOUT, "the state comes too slowly, and others wait");
        return;
    }
    if ((c->state != CONNECTION_READING && c->state != CONNECTION_LINGERING) || now < c->deadline)
        return;
    if (c->state == CONNECTION_LINGERING || !c->x || reader_blank(&c->x->reader))
        connection_fail(c);
    else if (c->x->reader.phase == READER_IN_HEAD)
        refuse(c, PROBLEM_REQUEST_TIMEOUT, "the request's head did not arrive in time");
    else
        check_body_rate(c);
}

/* A client above the limit is told so, while the room for telling lasts. */
static void turn_away(struct connection *c)
{
    struct http_server *s = c->server;

    s->counts.refused++;
    c->surplus = true;
    c->x = s->surplus++ < SURPLUS_ROOM ? exchange_create(c) : NULL;
    if (c->x)
        refuse(c, PROBLEM_TOO_MANY_CONNECTIONS, "the server has too many connections");
    else
        connection_fail(c);
}

bool connection_accept(struct http_server *s)
{
    struct connection *c = calloc(1, sizeof(*c));

    if (!c)
        return false;
    c->server = s;
    c->tcp.data = c;
    uv_tcp_init(s->loop, &c->tcp);
    c->next = s->connections;
    c->link = &s->connections;
    if (c->next)
        c->next->link = &c->next;
    s->connections = c;
    s->counts.connections++;
    set_deadline(c, LIMIT_IDLE_SECONDS);

    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) != 0) {
        connection_fail(c);
        return true;
    }
    s->counts.accepted++;
    uv_tcp_nodelay(&c->tcp, 1);
    update_reading(c);
    if (s->counts.connections - s->surplus > s->options.max_connections)
        turn_away(c);
    return true;
}
