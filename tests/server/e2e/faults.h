/* faults.h - what the preloaded library of faults.c and the test that steers it share.
 *
 * The server is an ordinary one: its calls of the C library go through the preloaded one, which
 * finds a page of shared memory in the file that $EDDY_TEST_FAULTS names. */
#ifndef TESTS_SERVER_E2E_FAULTS_H
#define TESTS_SERVER_E2E_FAULTS_H

#include <stdatomic.h>

enum fault_call { FAULT_NOWHERE, FAULT_WRITE, FAULT_RESERVE, FAULT_SYNC, FAULT_RENAME };

enum fault_kind {
    FAULT_FAILS, /* with `code`, and does nothing */
    FAULT_PART,  /* writes a half, then fails with `code` */
    FAULT_SHORT, /* writes a half, and says so */
};

struct faults {
    atomic_int call;        /* enum fault_call; set last */
    atomic_int kind, code;  /* errno */
    atomic_int from, count; /* the from-th such call from now on, and count - 1 after it */
    atomic_int seen, hits;  /* such calls, and of these the faulty ones */
};

#endif
