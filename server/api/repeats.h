/* repeats.h - a request that comes again is answered as it was the first time.
 *
 * A client names a POST with Idempotency-Key. Its answer is kept for LIMIT_REPEAT_SECONDS under
 * the owner and the key: the same request under the same key gets it again, another request
 * under that key is refused. Only what was done is kept: a refusal has left nothing behind, so
 * the next try is the first again. A repeat that comes while the first one runs waits for it,
 * and takes its place if it fails; the client of the first may leave meanwhile.
 *
 * The OpenAI libraries send no key, but they count their retries in X-Stainless-Retry-Count:
 * of a request that changes a session and came with that header, a later try (a count above
 * 0, and otherwise the same request) is a repeat; a count of 0 never is. A first try may be lost
 * on its way here: so once something else was done to the session, no later try repeats what
 * was done before.
 *
 * Kept answers are bounded per owner in number and bytes, the oldest go first. A key whose
 * answer went before its time is still known, and its repeat refused. Loop thread only. */
#ifndef SERVER_API_REPEATS_H
#define SERVER_API_REPEATS_H

#include <stdbool.h>
#include <stddef.h>

struct id;
struct pending;
struct repeats;

struct repeats *repeats_create(void); /* NULL: no memory */
/* After every pending has finished. Takes NULL. */
void repeats_destroy(struct repeats *r);

/* Called once a request was read without fault. changes: whether it changes a session, or makes
 * one; that which it names, or "". false: its exchange was answered, or is waiting elsewhere; only
 * finishing is left to the caller. */
bool repeats_begin(struct pending *p, bool changes, const struct id *session);

/* The whole answer, or the next part of one. Nothing happens for requests that are not kept. */
void repeats_add(struct pending *p, const void *bytes, size_t len);
/* What was added has a gap: a repeat is told that the answer is gone. */
void repeats_spoil(struct pending *p);
/* What was added is the answer, of this media type; those that wait get it. */
void repeats_keep(struct pending *p, const char *type);
/* The request ends without one: the first of those that wait runs at the next repeats_run(). */
void repeats_drop(struct pending *p);
void repeats_run(struct repeats *r);

/* Somebody else waits for its answer: it must not be cancelled when its own client leaves. */
bool repeats_awaited(const struct pending *p);

#endif
