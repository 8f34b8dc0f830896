/* What becomes of the limit on open files, each in a process of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/descriptors.h"

/* Connections that are provided for under these limits, and the limit that is left. */
static void provide(rlim_t soft, rlim_t hard, int connections, int result[2])
{
    const struct rlimit given = { soft, hard };
    struct rlimit left;
    int fd[2], status;
    pid_t pid;

    assert_int_equal(pipe(fd), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int said[2] = { 0 };

        if (setrlimit(RLIMIT_NOFILE, &given) == 0)
            said[0] = descriptors_provide(connections);
        if (getrlimit(RLIMIT_NOFILE, &left) == 0)
            said[1] = (int)left.rlim_cur;
        _exit(write(fd[1], said, sizeof(said)) != sizeof(said));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(fd[0], result, 2 * sizeof(int)), 2 * sizeof(int));
    close(fd[0]);
    close(fd[1]);
}

static void assert_provided(rlim_t soft, rlim_t hard, int wanted, int connections, int files)
{
    int result[2];

    provide(soft, hard, wanted, result);
    assert_int_equal(result[0], connections);
    assert_int_equal(result[1], files);
}

static void the_limit_is_raised_to_what_connections_need(void **unused)
{
    (void)unused;
    assert_provided(1024, 4096, 2000, 2000, 2000 + DESCRIPTORS_OTHERS);
    assert_provided(64, 4096, 100, 100, 100 + DESCRIPTORS_OTHERS);
}

static void a_limit_that_is_high_enough_stays(void **unused)
{
    (void)unused;
    assert_provided(4096, 4096, 100, 100, 4096);
    assert_provided(2000 + DESCRIPTORS_OTHERS, 4096, 2000, 2000, 2000 + DESCRIPTORS_OTHERS);
}

static void where_it_cannot_be_there_are_fewer_connections(void **unused)
{
    (void)unused;
    assert_provided(1024, 4096, 16384, 4096 - DESCRIPTORS_OTHERS, 4096);
    assert_provided(1024, 1024, 16384, 512, 1024);
    assert_provided(256, 256, 16384, 128, 256);
    assert_provided(256, 256, 100, 100, 256);
    assert_provided(256, 256, 1, 1, 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_is_raised_to_what_connections_need),
        cmocka_unit_test(a_limit_that_is_high_enough_stays),
        cmocka_unit_test(where_it_cannot_be_there_are_fewer_connections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
