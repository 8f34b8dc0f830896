#include "tests/server/e2e/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "config/limits.h"
#include "tests/server/e2e/client.h"

struct state state_download(int port, const char *path)
{
    struct response r = call(port, "GET", path, NULL);
    struct state s = { (unsigned char *)r.body, r.len };
    char type[256];

    assert_int_equal(r.status, 200);
    assert_true(response_header(&r, "content-type", type));
    assert_string_equal(type, "application/octet-stream");
    assert_true(s.len >= STATE_HEADER);
    assert_int_equal(state_number(&s, STATE_LENGTH_AT), s.len);
    r.body = NULL;
    response_finish(&r);
    return s;
}

struct state state_of(int port, const char *session)
{
    char path[128];

    snprintf(path, sizeof(path), "/v1/sessions/%s/state", session);
    return state_download(port, path);
}

struct state state_copy(const struct state *s)
{
    struct state copy = { malloc(s->len), s->len };

    assert_non_null(copy.bytes);
    memcpy(copy.bytes, s->bytes, s->len);
    return copy;
}

void state_free(struct state *s)
{
    free(s->bytes);
    *s = (struct state){ 0 };
}

uint64_t state_number(const struct state *s, size_t at)
{
    uint64_t n;

    memcpy(&n, s->bytes + at, sizeof(n));
    return n;
}

void state_set(struct state *s, size_t at, uint64_t value, size_t bytes)
{
    memcpy(s->bytes + at, &value, bytes); /* little-endian, as the file */
}

void state_seal(struct state *s)
{
    XXH3_state_t *h = XXH3_createState();
    XXH128_canonical_t sum;

    assert_non_null(h);
    XXH3_128bits_reset(h);
    XXH3_128bits_update(h, s->bytes, STATE_CHECKSUM_AT);
    XXH3_128bits_update(h, s->bytes + STATE_HEADER, s->len - STATE_HEADER);
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(h));
    memcpy(s->bytes + STATE_CHECKSUM_AT, &sum, sizeof(sum));
    XXH3_freeState(h);
}

static size_t tail_len(const struct state *s)
{
    uint32_t n;

    memcpy(&n, s->bytes + STATE_TAIL_AT, sizeof(n));
    return n;
}

const uint32_t *state_tokens(const struct state *s, size_t *count)
{
    static uint32_t token[LIMIT_HISTORY_IDS];
    size_t bytes = state_number(s, STATE_TOKENS_AT);

    assert_true(bytes <= sizeof(token));
    memcpy(token, s->bytes + s->len - state_number(s, STATE_RECORD_AT) - bytes, bytes);
    *count = bytes / sizeof(token[0]);
    return token;
}

unsigned char *state_record(const struct state *s, size_t *bytes)
{
    *bytes = state_number(s, STATE_RECORD_AT);
    return s->bytes + s->len - *bytes;
}

/* Behind the description and the marks of turns: how a context came about is not its state. */
static size_t tail_at(const struct state *s)
{
    uint16_t marks;

    memcpy(&marks, s->bytes + STATE_MARKS_AT, sizeof(marks));
    return STATE_HEADER + state_number(s, STATE_DESCRIPTION_AT) + marks;
}

uint64_t state_digest(const struct state *s)
{
    size_t from;

    if (s->len < STATE_HEADER || state_number(s, STATE_LENGTH_AT) != s->len || tail_at(s) > s->len)
        return 0;
    from = tail_at(s);
    return XXH3_64bits_withSeed(
        s->bytes + from, s->len - from,
        XXH3_64bits(s->bytes + STATE_TOKENS_AT, STATE_MARKS_AT - STATE_TOKENS_AT));
}

void assert_same_state(const struct state *a, const struct state *b, const char *what)
{
    size_t from_a = tail_at(a), from_b = tail_at(b);

    if (memcmp(a->bytes + STATE_TOKENS_AT, b->bytes + STATE_TOKENS_AT,
               STATE_MARKS_AT - STATE_TOKENS_AT) != 0)
        fail_msg("%s: counters, seeds or lengths differ", what);
    if (a->len - from_a != b->len - from_b ||
        memcmp(a->bytes + from_a, b->bytes + from_b, a->len - from_a) != 0)
        fail_msg("%s: tail, tokens or record differ", what);
    assert_true(tail_len(a) <= a->len && state_number(a, STATE_RECORD_AT) > 0);
}
