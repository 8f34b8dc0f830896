/* state.h - the state file of a session, and what of two such files must be equal.
 *
 * A file also says when and of which session it was made (server/state/format.h): its
 * description, its own length and its checksum. Everything else is the state itself. */
#ifndef TESTS_SERVER_E2E_STATE_H
#define TESTS_SERVER_E2E_STATE_H

#include <stddef.h>
#include <stdint.h>

enum {
    STATE_LENGTH_AT = 16,
    STATE_DESCRIPTION_AT = 24,
    STATE_TOKENS_AT = 32,
    STATE_RECORD_AT = 40,
    STATE_LAYOUT_AT = 48,
    STATE_FINGERPRINT_AT = 56,
    STATE_POSITION_AT = 72,
    STATE_TAIL_AT = 100,
    STATE_MARKS_AT = 108,
    STATE_CHECKSUM_AT = 112,
    STATE_HEADER = 128,
};

struct state {
    unsigned char *bytes;
    size_t len;
};

/* GET path, which answers with a state file. */
struct state state_download(int port, const char *path);
struct state state_of(int port, const char *session);
struct state state_copy(const struct state *s);
void state_free(struct state *s);

uint64_t state_number(const struct state *s, size_t at); /* 8 bytes */
void state_set(struct state *s, size_t at, uint64_t value, size_t bytes);
/* The file as if it had been written like that. */
void state_seal(struct state *s);
/* Its recent token ids (bit 31: sampled), in static storage. */
const uint32_t *state_tokens(const struct state *s, size_t *count);
unsigned char *state_record(const struct state *s, size_t *bytes);

/* Of what assert_same_state() compares: equal of equal states. Fails nothing; 0: the bytes are no
 * whole state file. */
uint64_t state_digest(const struct state *s);
void assert_same_state(const struct state *a, const struct state *b, const char *what);

#endif
