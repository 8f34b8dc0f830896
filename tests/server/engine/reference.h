/* reference.h - what a model makes of a list of ids, without an engine.
 *
 * One token after another is taken in, alone, from the empty state on. What came of each list
 * of ids is kept by the ids, so that a longer one costs its end; when there is too much of it,
 * all of it is forgotten. Knows no sessions, slots, batches or files. */
#ifndef TESTS_SERVER_ENGINE_REFERENCE_H
#define TESTS_SERVER_ENGINE_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

struct reference;

/* Asserts on failure. */
struct reference *reference_open(const char *model);
void reference_close(struct reference *r); /* takes NULL */

const struct model_info *reference_info(const struct reference *r);

/* The record after n ids; borrowed until the next call. */
const void *reference_state(struct reference *r, const int32_t *id, size_t n);
/* What is drawn after n > 0 ids. */
struct sample_result reference_draw(struct reference *r, const int32_t *id, size_t n,
                                    const struct sample_row *how);

#endif
