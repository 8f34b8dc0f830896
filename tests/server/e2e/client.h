/* client.h - an HTTP/1.1 client for tests: blocking, one connection kept until it is closed.
 *
 * It writes what it is told, byte for byte, and reads whole answers or server-sent events.
 * Whatever the server owes and does not give within WAIT_SECONDS fails the test, so it
 * belongs to the test's main thread; stream_text() alone fails nothing and may run on any. */
#ifndef TESTS_SERVER_E2E_CLIENT_H
#define TESTS_SERVER_E2E_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

enum { CHOICES = 4 }; /* that a story tells apart */

struct client {
    int fd;
    char *bytes; /* read, not yet consumed: [at, len) */
    size_t at, len, cap;
    size_t chunk; /* of a stream: bytes left of the chunk being read */
    bool ended;   /* of a stream: its last chunk came */
};

struct response {
    int status; /* 0: none came */
    char head[4096];
    char *body; /* followed by a NUL */
    size_t len;
    cJSON *json; /* the body, when it is JSON */
};

struct client client_dial(int port);
void client_close(struct client *c);
/* Closes with a reset, as a client that crashes does. */
void client_reset(struct client *c);
/* false: the server no longer takes it. */
bool client_send(struct client *c, const void *bytes, size_t len);
/* headers: lines ended by \r\n, or NULL. body NULL: none. */
bool client_ask(struct client *c, const char *method, const char *path, const char *headers,
                const void *body, size_t len);
/* false: the connection ended before a whole answer. */
bool client_read(struct client *c, struct response *r);
bool client_read_head(struct client *c, struct response *r);
/* The data of the next event, from malloc; NULL: the stream is over, c->ended tells how. */
char *client_event(struct client *c);

void response_finish(struct response *r);
bool response_header(const struct response *r, const char *name, char value[256]);

/* One request on a connection of its own; the format makes its JSON body, NULL: none. */
struct response call(int port, const char *method, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same with headers, lines ended by \r\n, and with the body as it is; NULL: none. */
struct response call_with(int port, const char *headers, const char *method, const char *path,
                          const char *body);
/* call(), which must be answered 200; the answer's JSON, for cJSON_Delete(). */
cJSON *ask(int port, const char *method, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same, which must be refused with this status and code, in the shape of an error. */
void refused(int port, int status, const char *code, const char *method, const char *path,
             const char *format, ...) __attribute__((format(printf, 6, 7)));
/* The same for a body that is given as it is; where names the recipe when it fails. */
void refused_bytes(int port, int status, const char *code, const char *method, const char *path,
                   const void *body, size_t len, const char *where);
void assert_refusal(const struct response *r, int status, const char *code, const char *where);

/* Fields of an object; the test fails where they are absent or of another type. */
const char *text_of(const cJSON *object, const char *key);
double number_of(const cJSON *object, const char *key);
bool flag_of(const cJSON *object, const char *key);
const cJSON *item_of(const cJSON *object, const char *key);
/* The text of a completion's only choice, from malloc. */
char *answer_text(const cJSON *completion);

/* A stream of completion chunks, read to its end. */
struct story {
    int status;
    char *text[CHOICES];
    char finish[CHOICES][16]; /* "" when none came */
    char error[64];           /* the code of an error event, "" for none */
    int events;
    bool done, whole;       /* [DONE] came; the last chunk came */
    bool invalid;           /* an event was no JSON, or came after the end */
    cJSON *usage, *session; /* copies, or NULL */
};

/* Asks for and reads a stream. body is the request's JSON. Fails no test. */
void stream_text(int port, const char *body, struct story *s);
/* Reads the rest of a stream that was asked for. */
void stream_rest(struct client *c, struct story *s);
void story_finish(struct story *s);

#endif
