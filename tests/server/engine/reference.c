#include "tests/server/engine/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"

enum { NODES = 4096, NONE = -1 };

/* One id behind another; the ids from the first node to here are the list. */
struct node {
    int32_t id;
    int child, next; /* next: of the same list before it */
};

struct reference {
    struct backend *backend;
    struct model *model;
    const struct model_info *info;
    char *slot; /* backend memory: one record, which the model works on */
    struct node node[NODES];
    char *record;  /* [NODES] records */
    float *logits; /* [NODES, vocab] */
    int nodes;
};

/* The empty list stays. */
static void forget(struct reference *r)
{
    r->node[0] = (struct node){ .id = NONE, .child = NONE, .next = NONE };
    r->nodes = 1;
}

struct reference *reference_open(const char *model)
{
    struct reference *r = calloc(1, sizeof(*r));
    struct error err = { 0 };

    assert_non_null(r);
    r->backend = backend_open_cpu(&(struct backend_options){ .threads = 1, .isa = "auto" }, &err);
    assert_non_null(r->backend);
    r->model = model_open(model, r->backend,
                          &(struct model_options){ .max_rows = 1, .max_logits = 1 }, &err);
    if (!r->model)
        fail_msg("%s", err.message);
    r->info = model_info(r->model);
    r->slot = r->backend->alloc(r->backend, r->info->layout.bytes);
    r->record = calloc(NODES, r->info->layout.bytes);
    r->logits = calloc(NODES, (size_t)r->info->vocab * sizeof(*r->logits));
    assert_true(r->slot && r->record && r->logits);
    forget(r);
    return r;
}

void reference_close(struct reference *r)
{
    if (!r)
        return;
    r->backend->free(r->backend, r->slot);
    model_close(r->model);
    backend_close(r->backend);
    free(r->record);
    free(r->logits);
    free(r);
}

const struct model_info *reference_info(const struct reference *r)
{
    return r->info;
}

static char *record_of(const struct reference *r, int at)
{
    return r->record + (size_t)at * r->info->layout.bytes;
}

static float *logits_of(const struct reference *r, int at)
{
    return r->logits + at * r->info->vocab;
}

static int take_in(struct reference *r, int before, int32_t id)
{
    const int begin[] = { 0, 1 }, slot = 0, row = 0;
    const struct batch in = {
        .S = 1, .T = 1, .L = 1, .token = &id, .begin = begin, .slot = &slot, .logit_row = &row
    };
    struct backend *be = r->backend;
    struct error err = { 0 };
    int at = r->nodes++;

    be->upload(be, r->slot, record_of(r, before), r->info->layout.bytes);
    model_step(r->model, r->slot, &in);
    be->download(be, record_of(r, at), r->slot, r->info->layout.bytes);
    be->download(be, logits_of(r, at), model_logits(r->model),
                 (size_t)r->info->vocab * sizeof(float));
    assert_true(be->sync(be, &err));
    r->node[at] = (struct node){ .id = id, .child = NONE, .next = r->node[before].child };
    r->node[before].child = at;
    return at;
}

static int find(struct reference *r, const int32_t *id, size_t n)
{
    int at = 0;

    assert_true(n < NODES);
    if ((size_t)r->nodes + n > NODES)
        forget(r);
    for (size_t i = 0; i < n; i++) {
        int before = at;

        at = r->node[at].child;
        while (at != NONE && r->node[at].id != id[i])
            at = r->node[at].next;
        if (at == NONE)
            at = take_in(r, before, id[i]);
    }
    return at;
}

const void *reference_state(struct reference *r, const int32_t *id, size_t n)
{
    return record_of(r, find(r, id, n));
}

struct sample_result reference_draw(struct reference *r, const int32_t *id, size_t n,
                                    const struct sample_row *how)
{
    struct error err = { 0 };
    struct sample_result out;

    r->backend->ops->sample(r->backend->stream,
                            &(struct sample){ .logits = logits_of(r, find(r, id, n)),
                                              .ld = (size_t)r->info->vocab,
                                              .rows = 1,
                                              .vocab = r->info->vocab,
                                              .row = how,
                                              .out = &out });
    assert_true(r->backend->sync(r->backend, &err));
    return out;
}
