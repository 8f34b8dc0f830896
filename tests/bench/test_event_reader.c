#include "tests/bench/event_reader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct lines {
    int n;
    char text[8][64];
};

static void keep(void *arg, const char *line)
{
    struct lines *l = arg;

    assert_true(l->n < 8);
    snprintf(l->text[l->n++], sizeof(l->text[0]), "%s", line);
}

static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                              "8\r\ndata: a\n\r\n"
                              "1;extension\r\n\n\r\n"
                              "1A\r\ndata: bcdefghijklmnopqrs\n\n\r\n"
                              "0\r\nX-Trailer: 1\r\n\r\n";

/* Each way to cut the bytes in three, fed to a reader of its own. */
static void where_reads_are_cut_changes_nothing(void **state)
{
    const size_t n = sizeof(chunked) - 1;
    static struct event_reader r;

    (void)state;
    for (size_t a = 0; a <= n; a++) {
        for (size_t b = a; b <= n; b++) {
            struct lines l = { 0 };

            event_reader_init(&r, keep, &l);
            assert_int_not_equal(event_reader_add(&r, chunked, a), READ_WRONG);
            assert_int_not_equal(event_reader_add(&r, chunked + a, b - a), READ_WRONG);
            assert_int_equal(event_reader_add(&r, chunked + b, n - b), READ_WHOLE);
            assert_int_equal(l.n, 4);
            assert_string_equal(l.text[0], "data: a");
            assert_string_equal(l.text[1], "");
            assert_string_equal(l.text[2], "data: bcdefghijklmnopqrs");
            assert_string_equal(l.text[3], "");
            assert_true(event_reader_keeps(&r));
        }
    }
}

static void a_cut_stream_is_not_whole(void **state)
{
    static struct event_reader r;
    struct lines l = { 0 };

    (void)state;
    event_reader_init(&r, keep, &l);
    assert_int_equal(event_reader_add(&r, chunked, sizeof(chunked) - 2), READING);
    assert_false(event_reader_keeps(&r));
}

static void a_refusal_is_told_from_a_stream(void **state)
{
    static const char refusal[] = "HTTP/1.1 429 Too Many Requests\r\n\r\n";
    static struct event_reader r;
    struct lines l = { 0 };

    (void)state;
    event_reader_init(&r, keep, &l);
    assert_int_equal(event_reader_add(&r, refusal, sizeof(refusal) - 1), READ_WRONG);
    assert_int_equal(l.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_reads_are_cut_changes_nothing),
        cmocka_unit_test(a_cut_stream_is_not_whole),
        cmocka_unit_test(a_refusal_is_told_from_a_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
