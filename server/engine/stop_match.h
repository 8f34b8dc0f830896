/* stop_match.h - stop strings on a stream of text: found across pieces, never leaked.
 *
 * Text that may still become a stop string is held back. Of several that match, the one that
 * begins first wins, then the one named first. One thread. */
#ifndef SERVER_ENGINE_STOP_MATCH_H
#define SERVER_ENGINE_STOP_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "config/limits.h"
#include "models/text/detokenizer.h"

struct stop_match {
    const char (*stop)[LIMIT_STOP_BYTES + 1]; /* borrowed, none of them empty */
    int stops;
    struct text_buffer held; /* owned */
    size_t passed;           /* bytes at its front that may begin a stop string, but not end one */
};

void stop_match_init(struct stop_match *m, const char (*stop)[LIMIT_STOP_BYTES + 1], int stops);
void stop_match_finish(struct stop_match *m);

/* Takes len bytes in and appends to *out what is certain to be no stop string. *hit: the stop
 * string that was completed, or NULL; then `held` is the text from its first byte on, and
 * nothing more may be added. false: no memory. */
bool stop_match_add(struct stop_match *m, const char *text, size_t len, struct text_buffer *out,
                    const char **hit);
/* The same for text in which no stop string may end: it came before min_tokens. */
bool stop_match_pass(struct stop_match *m, const char *text, size_t len, struct text_buffer *out);
/* The text ended without a hit: appends what was held. */
bool stop_match_flush(struct stop_match *m, struct text_buffer *out);

#endif
