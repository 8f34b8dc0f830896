/* Key files: what is a key, whose it is, and what is refused without being repeated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "server/keys.h"

#define ALICE "alice-0123456789abcdef"
#define BOB   "bob-fedcba9876543210"
#define CAROL "carol-0000000000000000"

static char path[64];

static void write_file(const char *text, size_t len)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static struct keys *open_text(const char *text, struct error *err)
{
    write_file(text, strlen(text));
    return keys_open(path, err);
}

static struct keys *opened(const char *text)
{
    struct error err = { 0 };
    struct keys *k = open_text(text, &err);

    if (!k)
        fail_msg("%s", err.message);
    return k;
}

static uint64_t owner_of(const struct keys *k, const char *key)
{
    char header[512];
    uint64_t owner = 0;

    snprintf(header, sizeof(header), "Bearer %s", key);
    assert_true(keys_find(k, header, &owner));
    assert_true(owner != 0);
    return owner;
}

static void a_key_a_line_with_comments_and_names(void **unused)
{
    struct keys *k = opened("# the team\r\n\n  " ALICE "  \n" BOB "\tbob\n\n" CAROL " carol");

    (void)unused;
    assert_int_equal(keys_count(k), 3);
    assert_true(owner_of(k, ALICE) != owner_of(k, BOB));
    assert_true(owner_of(k, ALICE) != owner_of(k, CAROL));
    assert_true(owner_of(k, BOB) != owner_of(k, CAROL));
    keys_close(k);
}

/* A server that is restarted with its lines in another order gives nobody another's sessions. */
static void an_owner_outlives_the_order_of_lines_and_a_new_key(void **unused)
{
    struct keys *before = opened(ALICE "\n" BOB " bob\n");
    struct keys *after = opened(CAROL " bob\n" BOB " bob\n" ALICE "\n");

    (void)unused;
    assert_true(owner_of(before, ALICE) == owner_of(after, ALICE));
    assert_true(owner_of(before, BOB) == owner_of(after, BOB));
    assert_true(owner_of(before, BOB) == owner_of(after, CAROL));
    keys_close(before);
    keys_close(after);
}

/* Nobody becomes another by choosing a key that reads like a name, or the other way round. */
static void a_key_is_never_taken_for_a_name(void **unused)
{
    struct keys *k = opened(BOB "\n" ALICE " " BOB "\n");

    (void)unused;
    assert_true(owner_of(k, BOB) != owner_of(k, ALICE));
    keys_close(k);
}

static void only_the_whole_key_behind_bearer_opens(void **unused)
{
    static const char *const wrong[] = {
        NULL,
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        "Basic " ALICE,
        "Bearer" ALICE,
        "Bearer x" ALICE,
        "Bearer " ALICE "x",
        "Bearer " ALICE " ",
        "Bearer alice-0123456789abcde",
        "Bearer ALICE-0123456789ABCDEF",
        "Bearer " ALICE " " BOB,
        "Bearer # the team",
    };
    struct keys *k = opened("# the team\n" ALICE "\n" BOB "\n");
    uint64_t owner = 7;

    (void)unused;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        if (keys_find(k, wrong[i], &owner))
            fail_msg("\"%s\" opens", wrong[i]);
    assert_int_equal(owner, 7);
    assert_true(keys_find(k, "bearer  " ALICE, &owner)); /* schemes have no case */
    assert_true(owner == owner_of(k, ALICE));
    keys_close(k);
}

static void refuses(const char *text, enum error_code code, const char *says)
{
    struct error err = { 0 };
    struct keys *k = open_text(text, &err);

    assert_null(k);
    assert_int_equal(err.code, code);
    if (!strstr(err.message, says))
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
    if (strstr(err.message, "0123456789") || strstr(err.message, "fedcba"))
        fail_msg("\"%s\" repeats a key", err.message);
}

static void a_bad_line_is_named_and_never_repeated(void **unused)
{
    static char long_key[LIMIT_API_KEY_BYTES + 8];

    (void)unused;
    memset(long_key, 'k', LIMIT_API_KEY_BYTES + 1);
    refuses("", ERR_INPUT, "no key");
    refuses("# only this\n\n", ERR_INPUT, "no key");
    refuses(ALICE "\nshort\n", ERR_INPUT, "line 2");
    refuses(ALICE "\n\n" BOB "\n" ALICE " again\n", ERR_INPUT, "line 4");
    refuses(long_key, ERR_INPUT, "line 1");
    refuses(ALICE " two names\n", ERR_INPUT, "line 1");
    refuses(ALICE " b\xc3\xb6"
                  "b\n",
            ERR_INPUT, "line 1");
    refuses("0123456789\x01"
            "0123456789\n",
            ERR_INPUT, "line 1");
    unlink(path);
    assert_null(keys_open(path, &(struct error){ 0 }));
}

static void the_file_and_its_keys_are_bounded(void **unused)
{
    char *text = malloc(LIMIT_KEY_FILE_BYTES + 1);
    struct error err = { 0 };
    struct keys *k;
    size_t len = 0;

    (void)unused;
    assert_non_null(text);
    for (int i = 0; i < LIMIT_API_KEYS; i++)
        len += (size_t)sprintf(text + len, "key-number-%08d\n", i);
    write_file(text, len);
    k = keys_open(path, &err);
    assert_non_null(k);
    assert_true(owner_of(k, "key-number-00000000") != owner_of(k, "key-number-00001023"));
    keys_close(k);
    len += (size_t)sprintf(text + len, "one-more-than-there-may-be\n");
    write_file(text, len);
    assert_null(keys_open(path, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    memset(text, '\n', LIMIT_KEY_FILE_BYTES + 1);
    write_file(text, LIMIT_KEY_FILE_BYTES + 1);
    assert_null(keys_open(path, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    free(text);
}

static void a_secret_is_long_and_its_line_end_does_not_count(void **unused)
{
    static const char text[] = "0123456789abcdef0123456789abcdef";
    struct secret plain, line;
    struct error err = { 0 };

    (void)unused;
    write_file(text, 32);
    assert_true(secret_read(path, &plain, &err));
    write_file("0123456789abcdef0123456789abcdef\n", 33);
    assert_true(secret_read(path, &line, &err));
    assert_int_equal(plain.len, 32);
    assert_int_equal(line.len, 32);
    assert_memory_equal(plain.bytes, line.bytes, 32);
    write_file(text, 31);
    assert_false(secret_read(path, &line, &err));
    assert_int_equal(err.code, ERR_INPUT);
}

static void a_file_that_others_can_read_is_noticed(void **unused)
{
    (void)unused;
    write_file(ALICE, strlen(ALICE));
    assert_int_equal(chmod(path, 0600), 0);
    assert_false(key_file_is_open(path));
    assert_int_equal(chmod(path, 0640), 0);
    assert_true(key_file_is_open(path));
    assert_int_equal(chmod(path, 0604), 0);
    assert_true(key_file_is_open(path));
}

static int make_path(void **unused)
{
    int fd;

    (void)unused;
    snprintf(path, sizeof(path), "/tmp/eddy-keys-XXXXXX");
    fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **unused)
{
    (void)unused;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_a_line_with_comments_and_names),
        cmocka_unit_test(an_owner_outlives_the_order_of_lines_and_a_new_key),
        cmocka_unit_test(a_key_is_never_taken_for_a_name),
        cmocka_unit_test(only_the_whole_key_behind_bearer_opens),
        cmocka_unit_test(a_bad_line_is_named_and_never_repeated),
        cmocka_unit_test(the_file_and_its_keys_are_bounded),
        cmocka_unit_test(a_secret_is_long_and_its_line_end_does_not_count),
        cmocka_unit_test(a_file_that_others_can_read_is_noticed),
    };

    return cmocka_run_group_tests(tests, make_path, remove_path);
}
