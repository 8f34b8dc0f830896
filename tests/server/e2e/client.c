#include "tests/server/e2e/client.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_SECONDS = 120, PIECE = 64 * 1024 };

/* fd -1: no connection. */
static struct client dial(int port)
{
    struct client c = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
    const struct sockaddr_in to = { .sin_family = AF_INET,
                                    .sin_port = htons((uint16_t)port),
                                    .sin_addr = { htonl(INADDR_LOOPBACK) } };
    const int on = 1;
    const struct timeval wait = { .tv_sec = WAIT_SECONDS };

    if (c.fd < 0)
        return c;
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    if (connect(c.fd, (const struct sockaddr *)&to, sizeof(to)) != 0) {
        close(c.fd);
        c.fd = -1;
    }
    return c;
}

struct client client_dial(int port)
{
    struct client c = dial(port);

    assert_true(c.fd >= 0);
    return c;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->bytes);
    *c = (struct client){ .fd = -1 };
}

void client_reset(struct client *c)
{
    const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };

    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    client_close(c);
}

bool client_send(struct client *c, const void *bytes, size_t len)
{
    const char *at = bytes;

    while (len > 0) {
        ssize_t n = send(c->fd, at, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

bool client_ask(struct client *c, const char *method, const char *path, const char *headers,
                const void *body, size_t len)
{
    char head[12 * 1024], length[96] = "";
    int n;

    if (body)
        snprintf(length, sizeof(length), "%sContent-Length: %zu\r\n",
                 headers && strcasestr(headers, "content-type:")
                     ? ""
                     : "Content-Type: application/json\r\n",
                 len);
    n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: localhost\r\n%s%s\r\n", method, path,
                 length, headers ? headers : "");
    return n > 0 && (size_t)n < sizeof(head) && client_send(c, head, (size_t)n) &&
           client_send(c, body ? body : "", body ? len : 0);
}

/* More bytes, followed by a NUL; false: the connection ended, or nothing came in time. */
static bool fill(struct client *c)
{
    ssize_t n;

    if (c->at) {
        memmove(c->bytes, c->bytes + c->at, c->len - c->at);
        c->len -= c->at;
        c->at = 0;
    }
    if (c->cap < c->len + PIECE + 1) {
        size_t cap = 2 * c->cap + PIECE + 1;
        char *bytes = realloc(c->bytes, cap);

        if (!bytes)
            return false;
        c->bytes = bytes;
        c->cap = cap;
    }
    n = recv(c->fd, c->bytes + c->len, PIECE, 0);
    if (n <= 0)
        return false;
    c->len += (size_t)n;
    c->bytes[c->len] = 0;
    return true;
}

/* Where `mark` ends in what waits, as an offset from at; 0: the connection ended before. */
static size_t reach(struct client *c, const char *mark)
{
    size_t seen = 0, n = strlen(mark);

    for (;;) {
        size_t have = c->len - c->at;
        char *found = have > seen ? memmem(c->bytes + c->at + seen, have - seen, mark, n) : NULL;

        if (found)
            return (size_t)(found - c->bytes) - c->at + n;
        seen = have >= n ? have - n + 1 : 0;
        if (!fill(c))
            return 0;
    }
}

static bool take(struct client *c, size_t len, char **to, size_t *to_len)
{
    char *grown;

    while (c->len - c->at < len)
        if (!fill(c))
            return false;
    grown = realloc(*to, *to_len + len + 1);
    if (!grown)
        return false;
    memcpy(grown + *to_len, c->bytes + c->at, len);
    *to_len += len;
    grown[*to_len] = 0;
    *to = grown;
    c->at += len;
    return true;
}

bool client_read_head(struct client *c, struct response *r)
{
    size_t n = reach(c, "\r\n\r\n");

    *r = (struct response){ 0 };
    if (!n || n >= sizeof(r->head))
        return false;
    memcpy(r->head, c->bytes + c->at, n);
    c->at += n;
    c->chunk = 0;
    c->ended = false;
    return sscanf(r->head, "HTTP/1.1 %d ", &r->status) == 1;
}

/* The next chunk's size line, and before it the end of the chunk before. */
static bool next_chunk(struct client *c)
{
    size_t n = reach(c, "\r\n");

    if (!n)
        return false;
    c->chunk = strtoul(c->bytes + c->at, NULL, 16);
    c->at += n;
    if (c->chunk)
        return true;
    c->ended = reach(c, "\r\n") == 2;
    c->at += c->ended ? 2 : 0;
    return false;
}

static bool end_chunk(struct client *c)
{
    if (reach(c, "\r\n") != 2)
        return false;
    c->at += 2;
    return true;
}

static bool read_body(struct client *c, struct response *r)
{
    char value[256];

    r->body = calloc(1, 1);
    if (r->status == 100 || r->status == 204 || !r->body)
        return r->body != NULL;
    if (!response_header(r, "transfer-encoding", value))
        return response_header(r, "content-length", value) &&
               take(c, strtoul(value, NULL, 10), &r->body, &r->len);
    while (next_chunk(c))
        if (!take(c, c->chunk, &r->body, &r->len) || !end_chunk(c))
            return false;
    return c->ended;
}

bool client_read(struct client *c, struct response *r)
{
    char type[256];

    if (!client_read_head(c, r) || !read_body(c, r))
        return false;
    if (response_header(r, "content-type", type) && strncmp(type, "application/json", 16) == 0)
        r->json = cJSON_ParseWithLength(r->body, r->len);
    return true;
}

/* What is there of the chunk, up to the end of a line. */
static bool take_line(struct client *c, char **to, size_t *len)
{
    size_t have = c->len - c->at, n;
    const char *end;

    if (!have && !fill(c))
        return false;
    have = c->len - c->at;
    n = have < c->chunk ? have : c->chunk;
    end = memchr(c->bytes + c->at, '\n', n);
    if (end)
        n = (size_t)(end - c->bytes) - c->at + 1;
    c->chunk -= n;
    return take(c, n, to, len) && (c->chunk || end_chunk(c));
}

/* Events may be spread over chunks at any place. */
char *client_event(struct client *c)
{
    char *event = NULL, *data;
    size_t len = 0;

    while ((c->chunk || next_chunk(c)) && take_line(c, &event, &len)) {
        if (len < 2 || memcmp(event + len - 2, "\n\n", 2) != 0)
            continue;
        event[len - 2] = 0;
        data = strdup(strncmp(event, "data: ", 6) == 0 ? event + 6 : "");
        free(event);
        return data;
    }
    free(event);
    return NULL;
}

void response_finish(struct response *r)
{
    cJSON_Delete(r->json);
    free(r->body);
    *r = (struct response){ 0 };
}

bool response_header(const struct response *r, const char *name, char value[256])
{
    size_t len = strlen(name);

    for (const char *at = strstr(r->head, "\r\n"); at && at[2] != '\r'; at = strstr(at + 2, "\r\n"))
        if (strncasecmp(at + 2, name, len) == 0 && at[2 + len] == ':')
            return sscanf(at + 2 + len + 1, " %255[^\r]", value) == 1;
    return false;
}

/* One request on a connection of its own. */
static struct response once(int port, const char *headers, const char *method, const char *path,
                            const void *body, size_t len)
{
    struct client c = client_dial(port);
    struct response r = { 0 };

    client_ask(&c, method, path, headers, body, len); /* it may be refused before it is taken */
    if (!client_read(&c, &r))
        fail_msg("%s %s: no answer", method, path);
    client_close(&c);
    return r;
}

__attribute__((format(printf, 4, 0))) static struct response
call_list(int port, const char *method, const char *path, const char *format, va_list args)
{
    struct response r;
    char *body = NULL;

    if (format)
        assert_true(vasprintf(&body, format, args) >= 0);
    r = once(port, NULL, method, path, body, body ? strlen(body) : 0);
    free(body);
    return r;
}

struct response call(int port, const char *method, const char *path, const char *format, ...)
{
    struct response r;
    va_list args;

    va_start(args, format);
    r = call_list(port, method, path, format, args);
    va_end(args);
    return r;
}

struct response call_with(int port, const char *headers, const char *method, const char *path,
                          const char *body)
{
    return once(port, headers, method, path, body, body ? strlen(body) : 0);
}

cJSON *ask(int port, const char *method, const char *path, const char *format, ...)
{
    struct response r;
    cJSON *json;
    va_list args;

    va_start(args, format);
    r = call_list(port, method, path, format, args);
    va_end(args);
    if (r.status != 200 || !r.json)
        fail_msg("%s %s: %d %s", method, path, r.status, r.body);
    json = r.json;
    r.json = NULL;
    response_finish(&r);
    return json;
}

void assert_refusal(const struct response *r, int status, const char *code, const char *where)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(r->json, "error");
    const cJSON *got = cJSON_GetObjectItemCaseSensitive(error, "code");

    if (r->status != status || !cJSON_IsString(got) || strcmp(got->valuestring, code) != 0)
        fail_msg("%s: expected %d %s, got %d %s", where, status, code, r->status,
                 r->body ? r->body : "nothing");
    assert_true(*text_of(error, "message"));
    assert_true(*text_of(error, "type"));
    assert_true(cJSON_HasObjectItem(error, "param"));
}

void refused(int port, int status, const char *code, const char *method, const char *path,
             const char *format, ...)
{
    struct response r;
    va_list args;

    va_start(args, format);
    r = call_list(port, method, path, format, args);
    va_end(args);
    assert_refusal(&r, status, code, path);
    response_finish(&r);
}

void refused_bytes(int port, int status, const char *code, const char *method, const char *path,
                   const void *body, size_t len, const char *where)
{
    struct response r = once(port, NULL, method, path, body, len);

    assert_refusal(&r, status, code, where);
    response_finish(&r);
}

const cJSON *item_of(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);

    if (!v)
        fail_msg("the field %s is missing", key);
    return v;
}

const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *v = item_of(object, key);

    if (!cJSON_IsString(v))
        fail_msg("%s is no string", key);
    return v->valuestring;
}

double number_of(const cJSON *object, const char *key)
{
    const cJSON *v = item_of(object, key);

    if (!cJSON_IsNumber(v))
        fail_msg("%s is no number", key);
    return v->valuedouble;
}

bool flag_of(const cJSON *object, const char *key)
{
    const cJSON *v = item_of(object, key);

    if (!cJSON_IsBool(v))
        fail_msg("%s is neither true nor false", key);
    return cJSON_IsTrue(v);
}

char *answer_text(const cJSON *completion)
{
    const cJSON *choices = item_of(completion, "choices");

    assert_int_equal(cJSON_GetArraySize(choices), 1);
    return strdup(text_of(choices->child, "text"));
}

static void add_text(char **to, const char *text)
{
    size_t have = *to ? strlen(*to) : 0, len = strlen(text);
    char *grown = realloc(*to, have + len + 1);

    if (!grown)
        return;
    memcpy(grown + have, text, len + 1);
    *to = grown;
}

static void take_choice(struct story *s, const cJSON *choice)
{
    const cJSON *index = cJSON_GetObjectItemCaseSensitive(choice, "index");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(choice, "text");
    const cJSON *finish = cJSON_GetObjectItemCaseSensitive(choice, "finish_reason");
    int i = cJSON_IsNumber(index) ? index->valueint : -1;

    if (i < 0 || i >= CHOICES || !cJSON_IsString(text) || s->finish[i][0]) {
        s->invalid = true;
        return;
    }
    add_text(&s->text[i], text->valuestring);
    if (cJSON_IsString(finish))
        snprintf(s->finish[i], sizeof(s->finish[i]), "%s", finish->valuestring);
}

static void take_event(struct story *s, const char *data)
{
    cJSON *json = cJSON_Parse(data);
    const cJSON *choice, *error = cJSON_GetObjectItemCaseSensitive(json, "error");
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(json, "usage");
    const cJSON *session = cJSON_GetObjectItemCaseSensitive(json, "session");
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(error, "code");

    s->events++;
    s->invalid = s->invalid || !json || s->done || s->error[0];
    if (cJSON_IsString(code))
        snprintf(s->error, sizeof(s->error), "%s", code->valuestring);
    cJSON_ArrayForEach(choice, cJSON_GetObjectItemCaseSensitive(json, "choices"))
    {
        take_choice(s, choice);
    }
    if (cJSON_IsObject(usage)) {
        cJSON_Delete(s->usage);
        s->usage = cJSON_Duplicate(usage, true);
    }
    if (cJSON_IsObject(session)) {
        cJSON_Delete(s->session);
        s->session = cJSON_Duplicate(session, true);
    }
    cJSON_Delete(json);
}

void stream_rest(struct client *c, struct story *s)
{
    char *data;

    while ((data = client_event(c))) {
        if (strcmp(data, "[DONE]") == 0)
            s->done = true;
        else
            take_event(s, data);
        free(data);
    }
    s->whole = c->ended;
}

void stream_text(int port, const char *body, struct story *s)
{
    struct client c = dial(port);
    struct response r;

    *s = (struct story){ 0 };
    if (c.fd >= 0 && client_ask(&c, "POST", "/v1/completions", NULL, body, strlen(body)) &&
        client_read_head(&c, &r)) {
        s->status = r.status;
        if (r.status == 200)
            stream_rest(&c, s);
    }
    client_close(&c);
}

void story_finish(struct story *s)
{
    for (int i = 0; i < CHOICES; i++)
        free(s->text[i]);
    cJSON_Delete(s->usage);
    cJSON_Delete(s->session);
    *s = (struct story){ 0 };
}
