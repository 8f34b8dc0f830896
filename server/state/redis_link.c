#include "server/state/redis_link.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "config/error.h"
#include "server/clock.h"

enum { WORDS_MAX = 20, BACKOFF_FIRST_MS = 50, BACKOFF_MAX_MS = 2000 };

void redis_link_init(struct redis_link *l, const struct redis_url *url, int timeout_ms)
{
    *l = (struct redis_link){ .url = url, .timeout_ms = timeout_ms };
}

static void disconnect(struct redis_link *l)
{
    if (l->context)
        redisFree(l->context);
    l->context = NULL;
}

void redis_link_finish(struct redis_link *l)
{
    disconnect(l);
}

static void back_off(struct redis_link *l)
{
    l->backoff_ms = l->backoff_ms ? l->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (l->backoff_ms > BACKOFF_MAX_MS)
        l->backoff_ms = BACKOFF_MAX_MS;
    l->retry_at = clock_seconds() + l->backoff_ms * 1e-3;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Some versions put a script's name in front of what a command in it answered. */
static enum redis_link_end sort(const redisReply *reply, struct error *err)
{
    static const char *const away[] = { "LOADING",    "READONLY",
                                        "MASTERDOWN", "BUSY ",
                                        "TRYAGAIN",   "NOAUTH",
                                        "NOREPLICAS", "ERR max number of clients" };
    const char *text = reply->str;

    if (reply->type != REDIS_REPLY_ERROR)
        return LINK_DONE;
    error_set(err, ERR_IO, "Redis answered: %.400s", text);
    if (strstr(text, "OOM ") || strstr(text, "MISCONF "))
        return LINK_FULL;
    for (size_t i = 0; i < sizeof(away) / sizeof(away[0]); i++)
        if (begins(text, away[i]))
            return LINK_AWAY;
    return LINK_REFUSED;
}

struct redis_word redis_word(const char *text)
{
    return (struct redis_word){ text, strlen(text) };
}

/* One command on the connection there is. LINK_AWAY: there is none any more. */
static enum redis_link_end exchange(struct redis_link *l, const struct redis_word *word, int words,
                                    redisReply **reply, struct error *err)
{
    const char *argv[WORDS_MAX];
    size_t len[WORDS_MAX];

    assert(words <= WORDS_MAX);
    for (int i = 0; i < words; i++) {
        argv[i] = word[i].bytes;
        len[i] = word[i].len;
    }
    *reply = redisCommandArgv(l->context, words, argv, len);
    if (*reply)
        return LINK_DONE;
    error_set(err, ERR_IO, "the connection to Redis failed: %s",
              l->context->err == REDIS_ERR_IO ? strerror(errno) : l->context->errstr);
    disconnect(l);
    return LINK_AWAY;
}

static enum redis_link_end greet_with(struct redis_link *l, const struct redis_word *word,
                                      int words, struct error *err)
{
    redisReply *reply;
    enum redis_link_end end = exchange(l, word, words, &reply, err);

    if (end != LINK_DONE)
        return end;
    end = sort(reply, err);
    freeReplyObject(reply);
    return end;
}

/* AUTH, SELECT, PING: what any command could be refused for is known before the first. */
static enum redis_link_end greet(struct redis_link *l, struct error *err)
{
    const struct redis_url *u = l->url;
    struct redis_word words[3] = { redis_word("AUTH"), redis_word(u->user),
                                   redis_word(u->password) };
    enum redis_link_end end = LINK_DONE;
    char db[16];

    if (u->password[0] && u->user[0]) {
        end = greet_with(l, words, 3, err);
    } else if (u->password[0]) {
        words[1] = words[2];
        end = greet_with(l, words, 2, err);
    }
    if (end == LINK_DONE && u->db) {
        snprintf(db, sizeof(db), "%d", u->db);
        words[0] = redis_word("SELECT");
        words[1] = redis_word(db);
        end = greet_with(l, words, 2, err);
    }
    words[0] = redis_word("PING");
    return end == LINK_DONE ? greet_with(l, words, 1, err) : end;
}

static struct redisContext *dial(const struct redis_link *l)
{
    struct timeval timeout = { .tv_sec = l->timeout_ms / 1000,
                               .tv_usec = (l->timeout_ms % 1000) * 1000 };
    redisContext *c = l->url->port ? redisConnectWithTimeout(l->url->host, l->url->port, timeout)
                                   : redisConnectUnixWithTimeout(l->url->host, timeout);

    if (c && !c->err && redisSetTimeout(c, timeout) == REDIS_OK && l->url->port)
        redisEnableKeepAlive(c);
    return c;
}

enum redis_link_end redis_link_connect(struct redis_link *l, struct error *err)
{
    enum redis_link_end end;

    if (l->context)
        return LINK_DONE;
    if (clock_seconds() < l->retry_at) {
        error_set(err, ERR_IO, "there is no connection to Redis");
        return LINK_AWAY;
    }
    l->context = dial(l);
    if (!l->context || l->context->err) {
        error_set(err, ERR_IO, "no connection to Redis: %s",
                  l->context ? l->context->errstr : "no memory");
        end = LINK_AWAY;
    } else {
        end = greet(l, err);
    }
    if (end != LINK_DONE) {
        disconnect(l);
        back_off(l);
        return end;
    }
    l->connects++;
    l->backoff_ms = 0;
    l->retry_at = 0;
    return LINK_DONE;
}

enum redis_link_end redis_link_call(struct redis_link *l, const struct redis_word *word, int words,
                                    struct redisReply **reply, struct error *err)
{
    bool fresh = !l->context;
    enum redis_link_end end = redis_link_connect(l, err);

    if (end == LINK_DONE)
        end = exchange(l, word, words, reply, err);
    if (end == LINK_AWAY && !fresh && redis_link_connect(l, err) == LINK_DONE)
        end = exchange(l, word, words, reply, err);
    if (end != LINK_DONE) {
        if (end == LINK_AWAY && !l->context && clock_seconds() >= l->retry_at)
            back_off(l);
        return LINK_AWAY;
    }
    end = sort(*reply, err);
    if (end == LINK_DONE)
        return LINK_DONE;
    freeReplyObject(*reply);
    *reply = NULL;
    if (end == LINK_AWAY) { /* the next attempt may find another Redis under this name */
        disconnect(l);
        back_off(l);
    }
    return end;
}
