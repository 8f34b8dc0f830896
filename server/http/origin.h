/* origin.h - which web pages may call (the fetch standard's CORS).
 *
 * A browser says in Origin where a page comes from. It keeps an answer from the page unless that
 * allows the origin, and asks before it sends what no form could send. One call that changes
 * something a form could send, too: a POST without a body, whose media type says nothing.
 *
 * None of this holds once the page's own name means this machine (DNS rebinding): the browser then
 * takes the server for the page's own, and only Host tells. */
#ifndef SERVER_HTTP_ORIGIN_H
#define SERVER_HTTP_ORIGIN_H

#include <stdbool.h>

struct error;
struct exchange;
struct problem;
struct request;

/* Whether all of a list are what browsers send; ERR_INPUT names one that never would be met. */
bool origin_list_check(const char *list, struct error *err);
/* What Access-Control-Allow-Origin says to this Origin (NULL: none was sent); NULL: nothing.
 * list: exact origins with a comma between, or "*", or NULL for none. */
const char *origin_allow(const char *list, const char *origin);
/* false: a POST without a body that a page of another origin sends. */
bool origin_check(const char *list, const struct request *r, struct problem *p);
/* Whether an address, without brackets, or localhost is one that no other machine reaches. */
bool is_loopback(const char *address);
/* false: it asks for a host that is neither this machine's (localhost, *.localhost, a loopback
 * address) nor that of an origin in the list: such a page may call in any case. */
bool host_check(const char *list, const struct request *r, struct problem *p);
/* Adds the headers that let the page have the answer, which may be to the browser's question. */
void origin_answer(struct exchange *x);

#endif
