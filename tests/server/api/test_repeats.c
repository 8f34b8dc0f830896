/* What is kept of answers takes no more memory than it may, while they run and afterwards.
 *
 * Linked with --wrap: the requests are made here, and the text of answers is counted. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/limits.h"
#include "server/api/api.h"
#include "server/api/pending.h"
#include "server/api/repeats.h"
#include "server/http/http.h"

enum { OWNERS = 2, RUNNING = 6, PIECE = 64 * 1024 };

struct exchange {
    char key[16];
    uint64_t owner;
};

static size_t held; /* bytes */

void *__real_realloc(void *p, size_t size);
void __real_free(void *p);
void *__wrap_realloc(void *p, size_t size);
void __wrap_free(void *p);
const char *__wrap_exchange_method(const struct exchange *x);
const char *__wrap_exchange_path(const struct exchange *x);
const char *__wrap_exchange_header(const struct exchange *x, const char *name);
const char *__wrap_exchange_queries(const struct exchange *x, size_t *len);
const char *__wrap_exchange_body(const struct exchange *x, size_t *len);
uint64_t __wrap_exchange_client(const struct exchange *x);

/* Only what grows is counted: text does, and nothing else is large. */
void *__wrap_realloc(void *p, size_t size)
{
    held -= p ? malloc_usable_size(p) : 0;
    p = __real_realloc(p, size);
    held += malloc_usable_size(p);
    return p;
}

void __wrap_free(void *p)
{
    size_t size = p ? malloc_usable_size(p) : 0;

    held -= size >= PIECE ? size : 0;
    __real_free(p);
}

const char *__wrap_exchange_method(const struct exchange *x)
{
    (void)x;
    return "POST";
}

const char *__wrap_exchange_path(const struct exchange *x)
{
    (void)x;
    return "/v1/completions";
}

const char *__wrap_exchange_header(const struct exchange *x, const char *name)
{
    return strcmp(name, "idempotency-key") == 0 ? x->key : NULL;
}

const char *__wrap_exchange_queries(const struct exchange *x, size_t *len)
{
    (void)x;
    *len = 0;
    return "";
}

const char *__wrap_exchange_body(const struct exchange *x, size_t *len)
{
    (void)x;
    *len = 0;
    return "";
}

uint64_t __wrap_exchange_client(const struct exchange *x)
{
    return x->owner;
}

struct answer {
    struct pending pending;
    struct exchange exchange;
};

static void begin(struct answer *a, struct api *api, uint64_t owner, int key)
{
    *a = (struct answer){ .exchange.owner = owner };
    snprintf(a->exchange.key, sizeof(a->exchange.key), "key-%d", key);
    a->pending.api = api;
    a->pending.exchange = &a->exchange;
    assert_true(repeats_begin(&a->pending, true, &(struct id){ "" }));
}

/* A buffer that grows doubles. */
static void assert_bounded(void)
{
    assert_true(held <= (size_t)OWNERS * (2 * LIMIT_REPEAT_BYTES + RUNNING * PIECE));
}

static void answers_that_run_side_by_side_are_bounded_too(void **unused)
{
    static const char piece[PIECE];
    static struct answer a[OWNERS][RUNNING];
    struct api api = { .repeats = repeats_create() };

    (void)unused;
    assert_non_null(api.repeats);
    for (int round = 0; round < 3; round++) {
        for (int o = 0; o < OWNERS; o++)
            for (int i = 0; i < RUNNING; i++)
                begin(&a[o][i], &api, (uint64_t)o, round * RUNNING + i);
        for (int at = 0; at < LIMIT_REPEAT_BYTES * 3 / 4; at += PIECE)
            for (int o = 0; o < OWNERS; o++)
                for (int i = 0; i < RUNNING; i++) {
                    repeats_add(&a[o][i].pending, piece, sizeof(piece));
                    assert_bounded();
                }
        for (int o = 0; o < OWNERS; o++)
            for (int i = 0; i < RUNNING; i++) {
                repeats_keep(&a[o][i].pending, "text/plain");
                assert_bounded();
            }
    }
    repeats_destroy(api.repeats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_that_run_side_by_side_are_bounded_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
