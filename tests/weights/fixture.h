/* fixture.h - a temporary folder, files made in it, and checkpoints that must be refused. */
#ifndef TESTS_WEIGHTS_FIXTURE_H
#define TESTS_WEIGHTS_FIXTURE_H

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/error.h"
#include "weights/weights.h"

/* Group set-up and tear-down: an empty folder, removed with all that is in it. */
int fixture_create(void **state);
int fixture_destroy(void **state);

/* The path of a name in the folder; lasts until the fourth next call. */
const char *fixture_path(const char *name);
/* Writes the file and returns its path. */
const char *fixture_write(const char *name, const void *bytes, size_t len);
void fixture_remove(const char *name);

/* The bytes of a safetensors file: this header, then `data` bytes 0, 1, 2, .. */
void *safetensors_make(const char *header, size_t data, size_t *len);
const char *safetensors_write(const char *name, const char *header, size_t data);

/* weights_open() must fail with this code and a message that holds every text of the
 * NULL-terminated list. */
void expect_refused(const char *path, enum error_code code, ...) __attribute__((sentinel));
struct weights *expect_open(const char *path);
/* Opens and, when that succeeds, reads every tensor: it may refuse, but not crash. */
void open_and_read(const char *path);
/* A malloc'd copy of a tensor that must be there. */
void *read_tensor(const struct weights *w, const char *name);

#endif
