/* Whatever is said, only a token that holds_find() named completes a stop string. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "models/text/detokenizer.h"
#include "models/text/text_buffer.h"
#include "models/text/tokenizer.h"
#include "server/engine/holds.h"
#include "server/engine/stop_match.h"

enum { TEXTS = 400, TOKENS = 60, STOPS = 2 };

typedef const char stop_strings[STOPS][LIMIT_STOP_BYTES + 1];

static stop_strings sets[] = {
    { "\n\nUser:", "<|im_end|>" },  { "</s>", "\n\n" },      { "the end", ". A" },
    { "\xc3\xa9", "caf\xc3\xa9!" }, { "\xe4\xb8\xad", "x" }, { "zz", "\t\tz" },
};

static uint64_t state = 88172645463325252u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static bool is_among(const int32_t *id, int n, int32_t one)
{
    for (int i = 0; i < n; i++)
        if (id[i] == one)
            return true;
    return false;
}

/* A token that is held, one of a piece of a stop string, or any. */
static int32_t choose(const struct tokenizer *t, stop_strings stop, const int32_t *id, int n)
{
    const char *s = stop[below(STOPS)];
    const size_t len = strlen(s), from = below((unsigned)len), most = len - from;
    const int32_t piece = tokenizer_find(t, s + from, 1 + below((unsigned)most));

    if (n && !below(3))
        return id[below((unsigned)n)];
    return piece >= 0 && below(4) ? piece : (int32_t)below((unsigned)tokenizer_size(t));
}

/* How many strings were completed by a token that is not whole of it. */
static int speak(const struct tokenizer *t, stop_strings stop, const int32_t *id, int n)
{
    int hits = 0;

    for (int text = 0; text < TEXTS; text++) {
        struct detokenizer d;
        struct stop_match m;
        const char *hit = NULL;

        detokenizer_init(&d, t, true);
        stop_match_init(&m, stop, STOPS);
        for (int i = 0; i < TOKENS && !hit; i++) {
            const int32_t token = choose(t, stop, id, n);
            struct text_buffer raw = { 0 }, out = { 0 };

            assert_true(detokenizer_add(&d, token, &raw));
            assert_true(stop_match_add(&m, raw.bytes, raw.len, &out, &hit));
            assert_true(!hit || is_among(id, n, token));
            hits += hit && i > 0;
            free(raw.bytes);
            free(out.bytes);
        }
        stop_match_finish(&m);
    }
    return hits;
}

static void check(const char *path, int vocab)
{
    struct error err;
    struct tokenizer *t = tokenizer_open(path, vocab, &err);
    struct holds *h;
    int hits = 0;

    if (!t)
        fail_msg("%s", err.message);
    h = holds_create(t);
    assert_non_null(h);
    for (int round = 0; round < 2; round++) /* found, and found again */
        for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
            const int32_t *id;
            int n;

            if (holds_find(h, sets[i], STOPS, &id, &n))
                hits += speak(t, sets[i], id, n);
        }
    assert_true(hits > TEXTS);
    holds_destroy(h);
    tokenizer_close(t);
}

static void only_those_complete_a_string(void **unused)
{
    (void)unused;
    check("tests/data/tokenizer-world", 65536);
    check("tests/data/tokenizer-neox", 50280);
    check("tests/data/mamba-tiny", 256);
}

static void what_chats_stop_at_is_few_tokens(void **unused)
{
    struct error err;
    struct tokenizer *t = tokenizer_open("tests/data/tokenizer-world", 65536, &err);
    struct holds *h = holds_create(t);
    const int32_t *id;
    int n;

    (void)unused;
    assert_true(t && h);
    assert_true(holds_find(h, sets[0], 1, &id, &n));
    assert_in_range(n, 1, HOLDS_MAX);
    print_message("# %d of %d tokens may complete it\n", n, tokenizer_size(t));
    holds_destroy(h);
    tokenizer_close(t);
}

/* Bytes that are no character become U+FFFD, and too many are not told apart. */
static void any_token_may_complete_some(void **unused)
{
    static const char any[][LIMIT_STOP_BYTES + 1] = { "a\xef\xbf\xbd" }, often[][257] = { "e" };
    struct error err;
    struct tokenizer *t = tokenizer_open("tests/data/tokenizer-world", 65536, &err);
    struct holds *h = holds_create(t);
    const int32_t *id;
    int n;

    (void)unused;
    assert_true(t && h);
    for (int i = 0; i < 2; i++) {
        assert_false(holds_find(h, any, 1, &id, &n));
        assert_false(holds_find(h, often, 1, &id, &n));
    }
    holds_destroy(h);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_those_complete_a_string),
        cmocka_unit_test(what_chats_stop_at_is_few_tokens),
        cmocka_unit_test(any_token_may_complete_some),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
