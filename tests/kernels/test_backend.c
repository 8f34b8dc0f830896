/* test_backend.c - the backends: their tables, their memory and their refusals. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "config/error.h"

static void every_table_is_complete(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 1);
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

/* Of bf16 matrices alone, and the backend says so. */
static void rounding_is_a_choice(void **state)
{
    const float weight = 0;
    struct error err;

    (void)state;
    for (int round_x = 0; round_x <= 1; round_x++) {
        const struct backend_options options = { .threads = 1, .round_x = round_x };
        struct backend *be = backend_open_cpu(&options, &err);

        assert_non_null(be);
        assert_int_equal(strstr(be->detail, "bf16 activations") != NULL, round_x);
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            struct matrix m;

            assert_true(be->pack_matrix(be, &m, dtype, 1, 1, &weight, &err));
            assert_int_equal(m.round_x, round_x && dtype == DTYPE_BF16);
            be->free(be, m.data);
        }
        backend_close(be);
    }
}

static void check_zeroed(struct backend *be)
{
    const size_t sizes[] = { 0, 1, 63, 64, 4096, (1 << 20) - 65, (1 << 20) - 64, 1 << 20, 5000001 };
    unsigned char *p[9];

    for (int i = 0; i < 9; i++) {
        unsigned char *found = check_memory(sizes[i]);

        p[i] = be->alloc(be, sizes[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        be->download(be, found, p[i], sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            if (found[k])
                fail_msg("%s: byte %zu of %zu is not zero", be->detail, k, sizes[i]);
        memset(found, 0xee, sizes[i]);
        be->upload(be, p[i], found, sizes[i]);
    }
    for (int i = 0; i < 9; i++)
        be->free(be, p[i]);
}

static void memory_is_zeroed_and_aligned(void **state)
{
    struct backend *be = check_backend_of(state);

    if (!be)
        return;
    for (int round = 0; round < 3; round++)
        check_zeroed(be);
    be->free(be, NULL);
    assert_null(be->alloc(be, SIZE_MAX));
    assert_null(be->alloc(be, SIZE_MAX / 2));
    check_return(be); /* a refusal is no fault */
}

/* Far more than a copy's buffers hold, and an odd size. */
static void memory_moves_both_ways(void **state)
{
    enum { N = 5000003, BYTES = N * sizeof(float) };
    struct backend *be = check_backend_of(state);
    float *src = check_floats(N, -1, 1), *back = check_floats(N, 0, 1), *a, *b;

    if (!be)
        return;
    a = be->alloc(be, BYTES);
    b = be->alloc(be, BYTES);
    assert_true(a && b);
    be->upload(be, a, src, BYTES);
    be->copy(be, b, a, BYTES);
    be->download(be, back, b, BYTES);
    check_equal("round trip", back, src, N);
    be->zero(be, b + 1, BYTES - 2 * sizeof(float));
    be->download(be, back, b, BYTES);
    for (int i = 1; i < N - 1; i++)
        if (back[i] != 0.0f)
            fail_msg("%s: [%d] is not zero", be->detail, i);
    check_equal("first", back, src, 1);
    check_equal("last", back + N - 1, src + N - 1, 1);
    be->upload(be, b, src, 0);
    be->download(be, back, b, 0);
    be->free(be, a);
    be->free(be, b);
}

/* Memory that moves like best, or ordinary memory of a test. */
static char *host_memory(struct backend *be, bool fast, size_t bytes)
{
    char *p = fast && be->alloc_host ? be->alloc_host(be, bytes) : check_memory(bytes);

    assert_non_null(p);
    return p;
}

/* Round n writes its bytes into one of a few places of the device, takes them out again into a ring
 * of host memory, and overwrites the place's first half; nothing waits but for what a ring's place
 * held long ago. */
static void move_many(struct backend *be, bool fast)
{
    enum { BYTES = 300007, PLACES = 3, RING = 8, ROUNDS = 100 };
    char *in = host_memory(be, fast, (size_t)RING * BYTES);
    char *out = host_memory(be, fast, (size_t)RING * BYTES);
    char *device = be->alloc(be, (size_t)PLACES * BYTES);
    uint64_t last[RING] = { 0 };

    assert_non_null(device);
    for (int n = 0; n < ROUNDS + RING; n++) {
        char *place = device + (size_t)(n % PLACES) * BYTES;
        char *from = in + (size_t)(n % RING) * BYTES, *to = out + (size_t)(n % RING) * BYTES;

        assert_true(be->moved(be, last[n % RING], true));
        for (int i = 0; n >= RING && i < BYTES; i++)
            if (to[i] != (char)(n - RING))
                fail_msg("%s: round %d, byte %d", be->detail, n - RING, i);
        memset(from, n, BYTES);
        be->move_in(be, place, from, BYTES);
        if (!fast)
            memset(from, ~n, BYTES); /* it is free */
        last[n % RING] = be->move_out(be, to, place, BYTES);
        be->follow(be, last[n % RING]);
        be->zero(be, place, BYTES / 2);
    }
    be->download(be, out, device, BYTES);
    for (int i = 0; i < BYTES / 2; i++)
        assert_int_equal(out[i], 0);
    be->free(be, device);
    if (fast && be->alloc_host) {
        be->free_host(be, in, (size_t)RING * BYTES);
        be->free_host(be, out, (size_t)RING * BYTES);
    }
}

static void moves_keep_their_order(void **state)
{
    struct backend *be = check_backend_of(state);

    if (!be)
        return;
    move_many(be, true);
    move_many(be, false);
    if (be->free_host)
        be->free_host(be, NULL, 0);

    const uint64_t mark = be->mark(be);

    check_return(be);
    assert_false(be->busy(be, mark));
    assert_false(be->lost);
}

/* What was enqueued before a move is there for it. */
static void moves_come_behind_copies(void **state)
{
    enum { BYTES = 8 << 20 };
    struct backend *be = check_backend_of(state);
    char *host, *found, *a, *b;

    if (!be)
        return;
    host = host_memory(be, true, BYTES);
    found = host_memory(be, true, BYTES);
    a = be->alloc(be, BYTES);
    b = be->alloc(be, BYTES);
    assert_true(a && b);
    for (int round = 1; round < 20; round++) {
        memset(host, round, BYTES);
        be->upload(be, a, host, BYTES);
        be->copy(be, b, a, BYTES);
        be->zero(be, b, BYTES / 4);
        assert_true(be->moved(be, be->move_out(be, found, b, BYTES), true));
        for (int i = 0; i < BYTES; i += 4099)
            assert_int_equal(found[i], i < BYTES / 4 ? 0 : round);
    }
    be->free(be, a);
    be->free(be, b);
    if (be->alloc_host) {
        be->free_host(be, host, BYTES);
        be->free_host(be, found, BYTES);
    }
}

static size_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long all, resident;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &all, &resident), 2);
    fclose(f);
    return resident * 4096;
}

#ifdef __SANITIZE_THREAD__
enum { MEMORY_OF_ITS_OWN = true }; /* for every byte that is written */
#else
enum { MEMORY_OF_ITS_OWN = false };
#endif

/* Whoever bounds what it holds counts on that; a driver may keep a part for itself. */
static void host_memory_takes_what_was_asked_for(void **state)
{
    enum { BYTES = (2 << 20) + 64, PIECES = 16 };
    struct backend *be = check_backend_of(state);
    char *piece[PIECES];
    size_t before, taken;

    if (!be || !be->alloc_host || MEMORY_OF_ITS_OWN)
        return;
    be->free_host(be, be->alloc_host(be, BYTES), BYTES);
    before = resident_bytes();
    for (int i = 0; i < PIECES; i++) {
        assert_non_null(piece[i] = be->alloc_host(be, BYTES));
        memset(piece[i], 1, BYTES);
    }
    taken = resident_bytes() - before;
    assert_true(taken < (size_t)PIECES * BYTES / 8 * 9);
    for (int i = 0; i < PIECES; i++)
        be->free_host(be, piece[i], BYTES);
}

static void a_matrix_that_does_not_fit_is_refused(void **state)
{
    struct backend *be = check_backend_of(state);
    struct matrix m = { .rows = -7 };
    struct error err;

    if (!be)
        return;
    assert_false(be->pack_matrix(be, &m, DTYPE_F32, INT32_MAX - 16, INT32_MAX, "", &err));
    assert_int_equal(err.code, ERR_NOMEM);
    assert_int_equal(m.rows, -7);
    check_return(be);
}

/* What the module says depends on the machine; that it says it does not. */
static void a_device_that_is_not_there_is_refused(void **state)
{
    const struct backend_options far = { .device = 4096 };
    struct error err = { 0 };

    (void)state;
    assert_null(backend_open_cuda(&far, &err));
    assert_int_equal(err.code, ERR_INPUT);
    assert_non_null(strstr(err.message, "cuda"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_table_is_complete, check_release),
        cmocka_unit_test_teardown(the_plain_table_is_always_there_and_an_unknown_one_never,
                                  check_release),
        cmocka_unit_test(rounding_is_a_choice),
        ON_BOTH(memory_is_zeroed_and_aligned),
        ON_BOTH(memory_moves_both_ways),
        ON_BOTH(moves_keep_their_order),
        ON_BOTH(moves_come_behind_copies),
        ON_BOTH(host_memory_takes_what_was_asked_for),
        ON_BOTH(a_matrix_that_does_not_fit_is_refused),
        cmocka_unit_test(a_device_that_is_not_there_is_refused),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
