/* Stop strings and penalties: pure functions of the text and of the window. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/engine/penalties.h"
#include "server/engine/stop_match.h"
#include "server/state/checkpoint.h"

static uint64_t state = 1442695040888963407u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* The definition: of those that end behind the first `passed` bytes the earliest beginning, the
 * first named among equals. */
static const char *find_first(const char *text, int passed,
                              const char (*stop)[LIMIT_STOP_BYTES + 1], int n, const char **hit)
{
    const char *best = NULL;

    *hit = NULL;
    for (int i = 0; i < n; i++) {
        int len = (int)strlen(stop[i]);
        const char *at = strstr(text + (passed < len ? 0 : passed - len + 1), stop[i]);

        if (at && (!best || at < best)) {
            best = at;
            *hit = stop[i];
        }
    }
    return best;
}

/* Pieces are cut where they please; a hit is reported as soon as it is complete, so the text
 * that counts ends with the piece that completed it. */
static void cuts_are_invisible_and_nothing_leaks(void **unused)
{
    char stop[3][LIMIT_STOP_BYTES + 1], text[64], seen[64];

    (void)unused;
    for (int round = 0; round < 20000; round++) {
        int stops = 1 + (int)below(3), len = 1 + (int)below(60), fed = 0;
        int most = round % 2 ? (int)below((unsigned)len) : 0, passed = 0;
        struct stop_match m;
        struct text_buffer out = { 0 };
        const char *hit = NULL, *expected, *at;

        for (int i = 0; i < stops; i++) {
            int n = 1 + (int)below(4);

            memset(stop[i], 0, sizeof(stop[i]));
            for (int j = 0; j < n; j++)
                stop[i][j] = (char)('a' + below(2));
        }
        for (int i = 0; i < len; i++)
            text[i] = (char)('a' + below(3));
        text[len] = '\0';
        stop_match_init(&m, (const char(*)[LIMIT_STOP_BYTES + 1]) stop, stops);
        while (fed < len && !hit) {
            int n = (int)below(6); /* a token may bring no text */

            n = n < len - fed ? n : len - fed;
            if (fed + n <= most) {
                assert_true(stop_match_pass(&m, text + fed, (size_t)n, &out));
                passed = fed + n;
            } else {
                most = 0;
                assert_true(stop_match_add(&m, text + fed, (size_t)n, &out, &hit));
            }
            fed += n;
        }
        memcpy(seen, text, (size_t)fed);
        seen[fed] = '\0';
        at = find_first(seen, passed, (const char(*)[LIMIT_STOP_BYTES + 1]) stop, stops, &expected);
        assert_ptr_equal(hit, expected);
        if (!hit)
            assert_true(stop_match_flush(&m, &out));
        assert_int_equal(out.len, hit ? at - seen : fed);
        assert_memory_equal(out.bytes ? out.bytes : "", text, out.len);
        if (hit)
            assert_memory_equal(m.held.bytes, at, m.held.len);
        stop_match_finish(&m);
        free(out.bytes);
    }
}

static void no_more_is_held_back_than_may_become_a_stop_string(void **unused)
{
    static const char stop[1][LIMIT_STOP_BYTES + 1] = { "\n\nUser:" };
    struct text_buffer out = { 0 };
    struct stop_match m;
    const char *hit;

    (void)unused;
    stop_match_init(&m, stop, 1);
    assert_true(stop_match_add(&m, "hello\n", 6, &out, &hit));
    assert_int_equal(out.len, 5);
    assert_true(stop_match_add(&m, "world", 5, &out, &hit));
    assert_int_equal(out.len, 11);
    stop_match_finish(&m);
    free(out.bytes);
}

/* One that begins in text that was passed is found, one that lies in it is not. */
static void a_stop_string_ends_behind_what_was_passed(void **unused)
{
    static const char stop[2][LIMIT_STOP_BYTES + 1] = { "abcd", "bc" };
    struct text_buffer out = { 0 };
    struct stop_match m;
    const char *hit;

    (void)unused;
    stop_match_init(&m, stop, 2);
    assert_true(stop_match_pass(&m, "abcdabc", 7, &out));
    assert_int_equal(out.len, 4); /* the rest may become "abcd" */
    assert_true(stop_match_add(&m, "x", 1, &out, &hit));
    assert_null(hit);
    assert_int_equal(out.len, 8);
    assert_true(stop_match_pass(&m, "ab", 2, &out));
    assert_true(stop_match_add(&m, "c", 1, &out, &hit));
    assert_ptr_equal(hit, stop[1]);
    assert_int_equal(out.len, 9);
    assert_memory_equal(out.bytes, "abcdabcxa", 9);
    stop_match_finish(&m);
    free(out.bytes);
}

static float weight_of(const struct recent *r, int32_t id, float decay, bool *seen)
{
    float weight = 0, power = 1;

    *seen = false;
    for (int i = r->count - 1; i >= 0;
         i--, power = power * decay > FLT_MIN ? power * decay : FLT_MIN) {
        if ((int32_t)(r->token[i] & ~RECENT_SAMPLED) != id)
            continue;
        *seen = true;
        if (r->token[i] & RECENT_SAMPLED)
            weight += power;
    }
    return weight;
}

/* What was drawn stays drawn for the presence penalty, as long as the window holds it. */
static void a_weight_fades_and_is_never_nothing(void **unused)
{
    static const float decay[] = { 0, 0.1f, 0.5f, 0.9f };
    static struct recent r;
    static struct penalties p;

    (void)unused;
    r.count = 0;
    recent_add(&r, 1, true);
    recent_add(&r, 2, false);
    while (r.count < LIMIT_PENALTY_WINDOW)
        recent_add(&r, 3, true);
    for (size_t i = 0; i < sizeof(decay) / sizeof(decay[0]); i++) {
        penalties_compute(&p, &r, decay[i]);
        assert_int_equal(p.count, 3);
        assert_int_equal(p.id[2], 1);
        assert_true(p.weight[2] == FLT_MIN);
        assert_true(p.weight[1] == 0); /* of a prompt */
        assert_true(p.weight[0] >= 1);
    }
}

static void weights_follow_their_definition(void **unused)
{
    static struct recent r;
    static struct penalties p;
    static const float decay[] = { 1, 0.99f, 0.5f };

    (void)unused;
    for (int round = 0; round < 60; round++) {
        int distinct = 0;

        r.count = 0;
        for (unsigned i = below(3000); i > 0; i--)
            recent_add(&r, (int32_t)below(round % 2 ? 50 : 60000), below(2));
        assert_true(r.count <= LIMIT_PENALTY_WINDOW);
        penalties_compute(&p, &r, decay[round % 3]);
        for (int i = 0; i < p.count; i++) {
            bool seen;

            assert_true(p.weight[i] == weight_of(&r, p.id[i], decay[round % 3], &seen));
            assert_true(seen);
            for (int j = 0; j < i; j++)
                assert_int_not_equal(p.id[i], p.id[j]);
        }
        for (int i = 0; i < r.count; i++) {
            int j = 0;

            while (j < i && (r.token[j] & ~RECENT_SAMPLED) != (r.token[i] & ~RECENT_SAMPLED))
                j++;
            distinct += j == i;
        }
        assert_int_equal(p.count, distinct);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_are_invisible_and_nothing_leaks),
        cmocka_unit_test(no_more_is_held_back_than_may_become_a_stop_string),
        cmocka_unit_test(a_stop_string_ends_behind_what_was_passed),
        cmocka_unit_test(weights_follow_their_definition),
        cmocka_unit_test(a_weight_fades_and_is_never_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
