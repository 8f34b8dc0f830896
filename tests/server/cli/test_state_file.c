#include "server/cli/state_file.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"

static char folder[] = "/tmp/eddy-state-XXXXXX", path[64];

static int files_in_folder(void)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int n = 0;

    while (dir && (entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void expect(const void *bytes, size_t len)
{
    struct error err;
    void *found;
    size_t found_len;

    assert_true(state_file_read(path, len, &found, &found_len, &err));
    assert_int_equal(found_len, len);
    assert_memory_equal(found, bytes, len);
    free(found);
}

static void what_is_written_is_read_back_and_nothing_is_left_beside_it(void **state)
{
    static char bytes[200000];
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 31);
    assert_true(state_file_write(path, "before", 6, &err));
    assert_true(state_file_write(path, bytes, sizeof(bytes), &err));
    expect(bytes, sizeof(bytes));
    assert_int_equal(files_in_folder(), 1);
}

static void a_write_that_fails_leaves_the_file_that_was_there(void **state)
{
    char inside[80];
    struct error err = { 0 };

    (void)state;
    assert_true(state_file_write(path, "before", 6, &err));
    snprintf(inside, sizeof(inside), "%s/file", path); /* path is no folder */
    assert_false(state_file_write(inside, "after", 5, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_false(state_file_write(folder, "after", 5, &err)); /* cannot be renamed over */
    assert_int_equal(err.code, ERR_IO);
    expect("before", 6);
    assert_int_equal(files_in_folder(), 1);
}

static void what_is_no_file_stays_and_a_link_is_followed(void **state)
{
    char link[80], pipe[80];
    struct error err = { 0 };
    struct stat st;

    (void)state;
    snprintf(link, sizeof(link), "%s.link", path);
    snprintf(pipe, sizeof(pipe), "%s.pipe", path);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_false(state_file_write(pipe, "after", 5, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(lstat(pipe, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_true(state_file_write(path, "before", 6, &err));
    assert_int_equal(symlink("state", link), 0);
    assert_true(state_file_write(link, "after", 5, &err));
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    expect("after", 5);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink(pipe, link), 0);
    assert_false(state_file_write(link, "after", 5, &err));
    assert_int_equal(unlink(link), 0);
    assert_int_equal(unlink(pipe), 0);
    assert_int_equal(files_in_folder(), 1);
}

static void a_file_that_is_too_long_is_refused_unread(void **state)
{
    struct error err = { 0 };
    void *bytes = NULL;
    size_t len;

    (void)state;
    assert_true(state_file_write(path, "seven 7", 7, &err));
    assert_false(state_file_read(path, 6, &bytes, &len, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    assert_null(bytes);
    assert_false(state_file_read(folder, 1 << 20, &bytes, &len, &err));
    assert_int_equal(err.code, ERR_IO);
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/state", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back_and_nothing_is_left_beside_it),
        cmocka_unit_test(a_write_that_fails_leaves_the_file_that_was_there),
        cmocka_unit_test(what_is_no_file_stays_and_a_link_is_followed),
        cmocka_unit_test(a_file_that_is_too_long_is_refused_unread),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
