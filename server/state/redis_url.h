/* redis_url.h - where a Redis is and how to be let in.
 *
 *   redis://[[USER][:PASSWORD]@]HOST[:PORT][/DB]
 *   unix://[[USER][:PASSWORD]@]/PATH[?db=DB]
 *
 * User, password and path may hold %XX. HOST may be a name, an IPv4 or, in brackets, an IPv6
 * address. Messages about an address never quote its password. Any thread. */
#ifndef SERVER_STATE_REDIS_URL_H
#define SERVER_STATE_REDIS_URL_H

#include <stdbool.h>

struct error;

enum { REDIS_URL_BYTES = 512 }; /* of a URL, its end included */

struct redis_url {
    char host[REDIS_URL_BYTES]; /* or the path of a unix socket */
    int port;                   /* 0: a unix socket */
    int db;
    char user[REDIS_URL_BYTES], password[REDIS_URL_BYTES]; /* "": none */
};

/* ERR_INPUT. */
bool redis_url_parse(struct redis_url *url, const char *text, struct error *err);

/* "HOST:PORT/DB" or "PATH/DB": what may be shown. */
void redis_url_show(const struct redis_url *url, char out[REDIS_URL_BYTES + 32]);

#endif
