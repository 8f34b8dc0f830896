#include "tests/server/state/redis_server.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

enum { WAIT_MS = 20000, ARGUMENTS = 32 };

bool redis_server_exists(void)
{
    const char *path = getenv("REDIS_SERVER");

    if (path && *path)
        return true;
    puts("1..0 # SKIP redis-server is not installed");
    return false;
}

static void socket_of(const struct redis_server *s, char path[64])
{
    snprintf(path, 64, "%s/socket", s->folder);
}

static redisContext *dial(const struct redis_server *s)
{
    redisContext *c;
    char path[64];

    socket_of(s, path);
    c = redisConnectUnix(path);
    if (c && !c->err && s->password)
        freeReplyObject(redisCommand(c, "AUTH %s", s->password));
    return c;
}

static bool serves(const struct redis_server *s)
{
    redisContext *c = dial(s);
    redisReply *reply = c && !c->err ? redisCommand(c, "PING") : NULL;
    bool well = reply && reply->type == REDIS_REPLY_STATUS;

    freeReplyObject(reply);
    if (c)
        redisFree(c);
    return well;
}

static void run(const struct redis_server *s)
{
    char path[64];
    const char *argv[ARGUMENTS] = {
        "redis-server", "--port",        "0",      "--unixsocket", path, "--dir",
        s->folder,      "--save",        "",       "--daemonize",  "no", "--loglevel",
        "warning",      "--appendfsync", "always", "--appendonly",
    };
    int n = 16, null = open("/dev/null", O_RDWR);

    socket_of(s, path);
    argv[n++] = s->keeps ? "yes" : "no";
    if (s->password) {
        argv[n++] = "--requirepass";
        argv[n++] = s->password;
    }
    if (s->memory) {
        argv[n++] = "--maxmemory";
        argv[n++] = s->memory;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    execv(getenv("REDIS_SERVER"), (char *const *)argv);
    _exit(127);
}

void redis_server_start(struct redis_server *s)
{
    char path[64];

    socket_of(s, path);
    unlink(path);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (!s->pid)
        run(s);
    for (int waited = 0; !serves(s); waited += 5) {
        if (waited > WAIT_MS)
            fail_msg("redis-server does not serve");
        usleep(5000);
    }
}

void redis_server_begin(struct redis_server *s)
{
    signal(SIGPIPE, SIG_IGN);
    snprintf(s->folder, sizeof(s->folder), "%s/eddy-redis-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(s->folder));
    snprintf(s->url, sizeof(s->url), "unix://%s%s%s%s/socket", s->password ? ":" : "",
             s->password ? s->password : "", s->password ? "@" : "", s->folder);
    redis_server_start(s);
}

void redis_server_kill(struct redis_server *s)
{
    if (!s->pid)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

void redis_server_signal(const struct redis_server *s, int number)
{
    assert_int_equal(kill(s->pid, number), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void redis_server_end(struct redis_server *s)
{
    redis_server_kill(s);
    nftw(s->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static redisReply *ask(const struct redis_server *s, const char *format, va_list args)
{
    redisContext *c = dial(s);
    redisReply *reply;

    assert_non_null(c);
    reply = redisvCommand(c, format, args);
    redisFree(c);
    assert_non_null(reply);
    return reply;
}

struct redisReply *redis_server_ask(const struct redis_server *s, const char *format, ...)
{
    redisReply *reply;
    va_list args;

    va_start(args, format);
    reply = ask(s, format, args);
    va_end(args);
    return reply;
}

long long redis_server_count(const struct redis_server *s, const char *format, ...)
{
    redisReply *reply;
    long long n = 0;
    va_list args;

    va_start(args, format);
    reply = ask(s, format, args);
    va_end(args);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", format, reply->str);
    if (reply->type == REDIS_REPLY_INTEGER)
        n = reply->integer;
    else if (reply->type == REDIS_REPLY_ARRAY)
        n = (long long)reply->elements;
    else if (reply->type == REDIS_REPLY_STRING)
        n = (long long)reply->len;
    freeReplyObject(reply);
    return n;
}
