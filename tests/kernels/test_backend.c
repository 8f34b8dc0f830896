/* test_backend.c - the CPU backend: its tables, its memory and its refusals. */
#include "check.h"

#include <string.h>

#include "config/error.h"

static void every_table_is_complete(void **state)
{
    (void)state;
    for (int i = 0; check_isas[i]; i++) {
        struct backend *be = check_backend(check_isas[i], 1);
        void *entry[sizeof(struct ops) / sizeof(void *)];

        if (!be)
            continue;
        memcpy(entry, be->ops, sizeof(*be->ops));
        for (size_t k = 0; k < sizeof(entry) / sizeof(entry[0]); k++)
            if (!entry[k])
                fail_msg("%s: operation %zu is missing", be->detail, k);
    }
}

static void the_plain_table_is_always_there_and_an_unknown_one_never(void **state)
{
    const struct backend_options unknown = { .isa = "avx9000", .threads = 1 };
    const struct backend_options automatic = { .threads = 2 };
    struct error err;
    struct backend *be;

    (void)state;
    assert_non_null(check_backend("plain", 1));
    assert_null(backend_open_cpu(&unknown, &err));
    assert_int_equal(err.code, ERR_INPUT);
    assert_non_null(strstr(err.message, "avx9000"));
    be = backend_open_cpu(&automatic, &err);
    assert_non_null(be);
    assert_string_equal(be->name, "cpu");
    assert_non_null(strstr(be->detail, "2 threads"));
    assert_true(be->sync(be, &err));
    backend_close(be);
    backend_close(NULL);
}

static void memory_is_zeroed_and_aligned(void **state)
{
    const size_t sizes[] = { 0, 1, 63, 64, 4096, (1 << 20) - 65, (1 << 20) - 64, 1 << 20, 5000001 };
    struct backend *be = check_backend("plain", 1);

    (void)state;
    for (int round = 0; round < 3; round++) {
        unsigned char *p[9];

        for (int i = 0; i < 9; i++) {
            p[i] = be->alloc(be, sizes[i]);
            assert_non_null(p[i]);
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            for (size_t k = 0; k < sizes[i]; k++)
                if (p[i][k])
                    fail_msg("byte %zu of %zu is not zero", k, sizes[i]);
            memset(p[i], 0xee, sizes[i]);
        }
        for (int i = 0; i < 9; i++)
            be->free(be, p[i]);
    }
    be->free(be, NULL);
    assert_null(be->alloc(be, SIZE_MAX));
    assert_null(be->alloc(be, SIZE_MAX / 2));
}

static void memory_moves_both_ways(void **state)
{
    struct backend *be = check_backend("plain", 1);
    float *a = be->alloc(be, 400), *b = be->alloc(be, 400), back[100];
    const float *src = check_floats(100, -1, 1);

    (void)state;
    be->upload(be, a, src, 400);
    be->copy(be, b, a, 400);
    be->download(be, back, b, 400);
    check_equal("round trip", back, src, 100);
    be->zero(be, b + 1, 392);
    be->download(be, back, b, 400);
    for (int i = 1; i < 99; i++)
        assert_true(back[i] == 0.0f);
    check_equal("first", back, src, 1);
    check_equal("last", back + 99, src + 99, 1);
    be->free(be, a);
    be->free(be, b);
}

static void a_matrix_that_does_not_fit_is_refused(void **state)
{
    struct backend *be = check_backend("plain", 1);
    struct matrix m = { .rows = -7 };
    struct error err;

    (void)state;
    assert_false(be->pack_matrix(be, &m, DTYPE_F32, INT32_MAX - 16, INT32_MAX, "", &err));
    assert_int_equal(err.code, ERR_NOMEM);
    assert_int_equal(m.rows, -7);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_table_is_complete, check_release),
        cmocka_unit_test_teardown(the_plain_table_is_always_there_and_an_unknown_one_never,
                                  check_release),
        cmocka_unit_test_teardown(memory_is_zeroed_and_aligned, check_release),
        cmocka_unit_test_teardown(memory_moves_both_ways, check_release),
        cmocka_unit_test_teardown(a_matrix_that_does_not_fit_is_refused, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
