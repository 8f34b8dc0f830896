/* redis_server.h - a real redis-server as a child process, on a socket in a folder of its own.
 *
 * The executable's path comes in $REDIS_SERVER. It keeps everything through kill -9 (an
 * append-only file that is fsynced) if it is asked to. */
#ifndef TESTS_SERVER_STATE_REDIS_SERVER_H
#define TESTS_SERVER_STATE_REDIS_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct redisReply;

struct redis_server {
    pid_t pid; /* 0: not running */
    char folder[32], url[64];
    bool keeps;
    const char *password; /* NULL: none */
    const char *memory;   /* maxmemory, NULL: no limit */
};

/* Whether there is one; otherwise says in TAP that the tests are skipped. */
bool redis_server_exists(void);

/* The other fields are set. Makes the folder, then starts. */
void redis_server_begin(struct redis_server *s);
void redis_server_end(struct redis_server *s); /* kills it and removes the folder */

void redis_server_start(struct redis_server *s); /* again, after a kill; waits until it serves */
void redis_server_kill(struct redis_server *s);
void redis_server_signal(const struct redis_server *s, int number);

/* One command on a connection of its own; the answer is for freeReplyObject(). */
struct redisReply *redis_server_ask(const struct redis_server *s, const char *format, ...);
/* The same where the answer is a number, or a list or text whose length is the number. */
long long redis_server_count(const struct redis_server *s, const char *format, ...);

#endif
