#include "tests/server/state/redis_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "server/state/file_buffer.h"

static void report(void *arg, const char *what)
{
    struct rig_reports *reports = arg;

    if (!reports)
        return;
    reports->count++;
    snprintf(reports->newest, sizeof(reports->newest), "%s", what);
}

struct redis_options rig_options(const char *url, struct redis_url *parsed,
                                 struct rig_reports *reports)
{
    struct error err;

    if (!redis_url_parse(parsed, url, &err))
        fail_msg("%s", err.message);
    return (struct redis_options){
        .url = parsed,
        .fingerprint = { 1, 2, 3 },
        .layout = 5,
        .max_file = RIG_MAX_FILE,
        .lease_ms = RIG_LEASE_MS,
        .timeout_ms = RIG_TIMEOUT_MS,
        .max_ops = 1000,
        .max_bytes = 64 << 20,
        .arg = reports,
        .report = report,
    };
}

struct redis *rig_open(const char *url)
{
    return rig_open_leasing(url, RIG_LEASE_MS);
}

struct redis *rig_open_leasing(const char *url, int lease_ms)
{
    struct redis_url parsed;
    struct redis_options options = rig_options(url, &parsed, NULL);
    struct error err;
    struct redis *r;

    options.lease_ms = lease_ms;
    r = redis_open(&options, &err);
    if (!r)
        fail_msg("%s", err.message);
    return r;
}

double rig_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

struct redis_op *rig_op(enum redis_kind kind, enum disk_kind object, const char *id)
{
    struct redis_op *op = redis_op_create(kind, object, NULL);

    assert_non_null(op);
    op->record.owner = 7;
    snprintf(op->record.id.text, sizeof(op->record.id.text), "%s", id);
    return op;
}

struct redis_op *rig_do(struct redis *r, struct redis_op *op)
{
    assert_true(redis_submit(r, op));
    redis_wait(r);
    assert_ptr_equal(redis_receive(r), op);
    return op;
}

enum redis_verdict rig_verdict(struct redis_op *op)
{
    enum redis_verdict v = op->verdict;

    redis_op_free(op);
    return v;
}

static void bring(struct redis_op *op, const char *checkpoint, size_t bytes)
{
    snprintf(op->record.checkpoint.text, sizeof(op->record.checkpoint.text), "%s", checkpoint);
    if (!bytes)
        return;
    op->file = rig_file(checkpoint, bytes);
    op->file_len = bytes;
}

enum redis_verdict rig_create(struct redis *r, enum disk_kind object, const char *id,
                              const char *checkpoint, size_t bytes, double ttl)
{
    struct redis_op *op = rig_op(REDIS_CREATE, object, id);

    op->record.created = rig_seconds();
    op->record.ttl = ttl;
    bring(op, checkpoint, bytes);
    return rig_verdict(rig_do(r, op));
}

struct redis_op *rig_commit_op(const struct redis_op *taken, const char *checkpoint, size_t bytes)
{
    struct redis_op *op = redis_op_create(REDIS_COMMIT, taken->record.kind, NULL);

    assert_non_null(op);
    op->record = taken->record;
    op->record.note = NULL;
    op->record.note_len = 0;
    op->record.version++;
    op->record.parent = taken->record.checkpoint;
    op->token = taken->token;
    bring(op, checkpoint, bytes);
    return op;
}

enum redis_verdict rig_commit(struct redis *r, const struct redis_op *taken, const char *checkpoint,
                              size_t bytes)
{
    return rig_verdict(rig_do(r, rig_commit_op(taken, checkpoint, bytes)));
}

enum redis_verdict rig_delete_version(struct redis *r, const struct redis_op *looked)
{
    struct redis_op *op = rig_op(REDIS_DELETE, looked->record.kind, looked->record.id.text);

    op->record.version = looked->record.version;
    op->record.created = looked->record.created;
    return rig_verdict(rig_do(r, op));
}

enum redis_verdict rig_leave(struct redis *r, const struct redis_op *taken)
{
    struct redis_op *op = redis_op_create(REDIS_LEAVE, taken->record.kind, NULL);

    assert_non_null(op);
    op->record = taken->record;
    op->record.note = NULL;
    op->record.note_len = 0;
    op->token = taken->token;
    return rig_verdict(rig_do(r, op));
}

uint64_t rig_random(uint64_t *state, uint64_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (*state >> 11) % below;
}

void *rig_file(const char *checkpoint, size_t len)
{
    size_t words = (len + 7) / 8;
    uint64_t x = 88172645463325252u, *bytes = malloc(words * 8);

    assert_non_null(bytes);
    for (const char *c = checkpoint; *c; c++)
        x = (x ^ (unsigned char)*c) * 1099511628211u;
    for (size_t i = 0; i < words; i++) {
        rig_random(&x, 1);
        bytes[i] = x;
    }
    return bytes;
}

void rig_check_file(struct redis *r, const char *checkpoint, size_t len)
{
    void *expected = rig_file(checkpoint, len);
    struct file_buffer file = { 0 };
    struct error err;
    struct id id;

    assert_true(id_parse(&id, checkpoint));
    if (!redis_read(r, &id, &file, &err))
        fail_msg("%s: %s", checkpoint, err.message);
    assert_int_equal(file.len, len);
    assert_int_equal(memcmp(file.bytes, expected, len), 0);
    file_buffer_finish(&file);
    free(expected);
}
