/* A seal is broken by every changed byte, of the file and of itself, and by another secret. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/keys.h"
#include "server/state/seal.h"

enum { LEN = 700 };

static const struct secret ours = { .bytes = "0123456789abcdef0123456789abcdef", .len = 32 };
static const struct secret other = { .bytes = "0123456789abcdef0123456789abcdeF", .len = 32 };

static unsigned char *sealed(uint64_t owner, size_t *len)
{
    struct problem p = { 0 };
    void *file = malloc(LEN);

    assert_non_null(file);
    for (int i = 0; i < LEN; i++)
        ((unsigned char *)file)[i] = (unsigned char)(i * 7);
    *len = LEN;
    assert_true(seal_add(&ours, owner, &file, len, &p));
    assert_int_equal(*len, LEN + SEAL_BYTES);
    return file;
}

static bool holds(const struct secret *s, const void *file, size_t len)
{
    struct problem p = { 0 };
    bool good = seal_check(s, file, len, &p);

    assert_true(good || p.what == PROBLEM_SNAPSHOT_SEAL);
    assert_null(strstr(p.message, "server")); /* eddy state verify has none */
    return good;
}

static void a_seal_names_its_owner_and_holds(void **unused)
{
    size_t len;
    unsigned char *file = sealed(0x1122334455667788, &len);
    uint64_t owner;

    (void)unused;
    assert_true(seal_find(file, len, &owner));
    assert_true(owner == 0x1122334455667788);
    assert_true(holds(&ours, file, len));
    assert_false(holds(&other, file, len));
    assert_false(seal_find(file, LEN, &owner));
    assert_false(seal_find(file, SEAL_BYTES - 1, &owner));
    free(file);
}

static void every_flipped_bit_breaks_it(void **unused)
{
    size_t len;
    unsigned char *file = sealed(7, &len);
    uint64_t owner;

    (void)unused;
    for (size_t bit = 0; bit < len * 8; bit++) {
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (seal_find(file, len, &owner) && holds(&ours, file, len))
            fail_msg("bit %zu does not matter", bit);
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(holds(&ours, file, len));
    free(file);
}

/* Another owner's seal cannot be put under a file, nor a file's seal under another file. */
static void a_seal_fits_one_file(void **unused)
{
    size_t len, longer;
    unsigned char *file = sealed(7, &len), *two = sealed(8, &longer);

    (void)unused;
    memcpy(file + LEN, two + LEN, SEAL_BYTES);
    assert_true(holds(&ours, file, len)); /* the same bytes, sealed for owner 8 */
    file[0] ^= 1;
    assert_false(holds(&ours, file, len));
    memcpy(two + LEN + 8, &(uint64_t){ 7 }, 8);
    assert_false(holds(&ours, two, longer));
    free(file);
    free(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seal_names_its_owner_and_holds),
        cmocka_unit_test(every_flipped_bit_breaks_it),
        cmocka_unit_test(a_seal_fits_one_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
