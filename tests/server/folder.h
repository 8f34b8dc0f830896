/* folder.h - an empty folder of a test's own, as its setup and teardown. */
#ifndef TESTS_SERVER_FOLDER_H
#define TESTS_SERVER_FOLDER_H

extern char folder[64]; /* its path */

int folder_make(void **unused); /* 0 */
/* In memory, where there is such a place: for tests of order, not of the device. */
int folder_make_in_memory(void **unused);
int folder_remove(void **unused); /* with all that is in it; 0 */

#endif
