#include "tests/server/state/disk_rig.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_file.h"
#include "server/state/file_buffer.h"
#include "server/state/format.h"

void rig_begin(struct rig *r, uint64_t seed)
{
    memset(r, 0, sizeof(*r));
    /* Memory, where there is such a folder: what is tested is order, not the device. */
    snprintf(r->path, sizeof(r->path), "%s/eddy-disk-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(r->path));
    r->random = seed * 2 + 1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void rig_end(struct rig *r)
{
    for (int i = 0; i < RIG_OBJECTS; i++)
        free(r->found[i].note);
    nftw(r->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

uint64_t rig_random(struct rig *r, uint64_t below)
{
    r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return (r->random >> 33) % below;
}

static void report(void *arg, const char *what)
{
    struct rig *r = arg;

    r->reports++;
    snprintf(r->report, sizeof(r->report), "%s", what);
}

static enum disk_kind kind_of(int object)
{
    return object < RIG_SESSIONS ? DISK_SESSION_SET : DISK_SNAPSHOT_SET;
}

static void name_of(struct id *id, int object)
{
    snprintf(id->text, sizeof(id->text), "object-%d", object);
}

static void found(void *arg, const struct disk_record *record)
{
    struct rig *r = arg;
    struct id name;

    for (int i = 0; i < RIG_OBJECTS; i++) {
        name_of(&name, i);
        if (!id_equal(&name, &record->id) || kind_of(i) != record->kind)
            continue;
        assert_int_equal(r->found[i].kind, 0);
        r->found[i] = *record;
        r->found[i].note = malloc(record->note_len + 1);
        memcpy(r->found[i].note, record->note, record->note_len);
        return;
    }
    r->strangers++;
}

static bool is_whole(void *arg, const struct id *checkpoint, const void *bytes, size_t len)
{
    size_t expected_len;
    void *expected = rig_file(checkpoint, &expected_len);
    bool whole = len == expected_len && memcmp(bytes, expected, len) == 0;

    (void)arg;
    free(expected);
    return whole;
}

struct disk_options rig_options(struct rig *r, enum disk_mode mode, const struct disk_io *io)
{
    return (struct disk_options){
        .path = r->path,
        .mode = mode,
        .interval_ms = 5,
        .max_ops = 100000,
        .max_bytes = 64 << 20,
        .compact_bytes = 2048,
        .io = io,
        .arg = r,
        .found = found,
        .whole = is_whole,
        .report = report,
    };
}

struct disk *rig_open(struct rig *r, const struct disk_options *options, struct error *err)
{
    for (int i = 0; i < RIG_OBJECTS; i++) {
        free(r->found[i].note);
        r->found[i] = (struct disk_record){ 0 };
    }
    r->strangers = 0;
    r->reports = 0;
    return disk_open(options, err);
}

/* format.h's header and marks, with zeros for the rest of it. */
static void put_front(unsigned char *bytes, size_t len, const struct id *anchor, int n)
{
    const uint64_t file_len = len;
    const uint32_t version = 2, header_len = FORMAT_FRONT_BYTES;
    uint16_t marks_len = 0, anchors = (uint16_t)n;
    unsigned char *at = bytes + header_len;

    memset(bytes, 0, header_len);
    for (int i = 0; i < n; i++) {
        size_t id_len = strlen(anchor[i].text);

        memset(at, 0, 24);
        at[16] = 2;
        at[17] = (unsigned char)id_len;
        memcpy(at + 24, anchor[i].text, id_len);
        at += 24 + id_len;
    }
    marks_len = (uint16_t)(at - bytes - header_len);
    memcpy(bytes, "EDDYSTAT", 8);
    memcpy(bytes + 8, &version, sizeof(version));
    memcpy(bytes + 12, &header_len, sizeof(header_len));
    memcpy(bytes + 16, &file_len, sizeof(file_len));
    memcpy(bytes + 108, &marks_len, sizeof(marks_len));
    memcpy(bytes + 110, &anchors, sizeof(anchors));
}

void *rig_file_naming(size_t least, const struct id *anchor, int n, size_t *len)
{
    unsigned char *bytes;

    *len = FORMAT_FRONT_BYTES + (size_t)n * (24 + LIMIT_ID_BYTES);
    if (*len < least)
        *len = least;
    bytes = calloc(1, *len);
    assert_non_null(bytes);
    put_front(bytes, *len, anchor, n);
    return bytes;
}

enum { ANCHORS = 3 };

/* How many it names. */
static int name_anchors(const struct id *id, struct id anchor[ANCHORS])
{
    unsigned long long version;
    int object, end = 0;

    if (sscanf(id->text, "ckpt_%d_%llu%n", &object, &version, &end) != 2 || id->text[end])
        return 0;
    for (unsigned i = 0; i < version % 4; i++)
        snprintf(anchor[i].text, sizeof(anchor[i].text), "ckpt_%d_%llu", object, version - i - 1);
    return (int)(version % 4);
}

void *rig_file(const struct id *id, size_t *len)
{
    uint64_t x = 88172645463325252u, n;
    struct id anchor[ANCHORS];
    int anchors = name_anchors(id, anchor);
    unsigned char *bytes;

    for (const char *c = id->text; *c; c++)
        x = (x ^ (unsigned char)*c) * 1099511628211u;
    n = 24 + x % (RIG_FILE_MAX - 24);
    if (anchors)
        return rig_file_naming(n, anchor, anchors, len);
    *len = n;
    bytes = malloc(*len);
    assert_non_null(bytes);
    for (size_t i = 0; i < *len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (unsigned char)x;
    }
    memcpy(bytes, "EDDYSTAT", 8);
    memcpy(bytes + 16, &n, sizeof(n));
    return bytes;
}

struct disk_op *rig_set(enum disk_kind kind, const char *id, uint64_t version,
                        const char *checkpoint, bool with_file)
{
    struct disk_op *op = disk_op_create(kind, NULL);
    struct disk_record *r = &op->record;

    snprintf(r->id.text, sizeof(r->id.text), "%s", id);
    snprintf(r->checkpoint.text, sizeof(r->checkpoint.text), "%s", checkpoint);
    r->version = version;
    r->note = malloc(32);
    r->note_len = (size_t)snprintf(r->note, 32, "note %llu", (unsigned long long)version);
    if (with_file && checkpoint[0])
        op->file = rig_file(&r->checkpoint, &op->file_len);
    return op;
}

struct disk_op *rig_delete(enum disk_kind kind, const char *id)
{
    struct disk_op *op = disk_op_create(kind, NULL);

    snprintf(op->record.id.text, sizeof(op->record.id.text), "%s", id);
    return op;
}

struct error rig_do(struct disk *d, struct disk_op *op)
{
    struct error err;

    assert_true(disk_submit(d, op));
    disk_wait(d);
    assert_ptr_equal(disk_receive(d), op);
    err = op->error;
    disk_op_free(op);
    return err;
}

/* Snapshots are often of what a session stands on, whose file is then there already. */
static void choose(struct rig *r, int object, struct rig_version *v, bool *with_file)
{
    const struct rig_object *of = &r->object[rig_random(r, RIG_SESSIONS)];
    uint64_t dice = rig_random(r, 10);

    *with_file = true;
    *v = (struct rig_version){ .set = dice > 1 };
    if (dice <= 2)
        return;
    snprintf(v->checkpoint.text, sizeof(v->checkpoint.text), "ckpt_%d_%llu", object,
             (unsigned long long)r->object[object].newest);
    if (object >= RIG_SESSIONS && of->newest >= of->base && of->at[of->newest - of->base].set) {
        *v = of->at[of->newest - of->base];
        *with_file = false;
    }
}

struct disk_op *rig_next(struct rig *r)
{
    int object = (int)rig_random(r, RIG_OBJECTS);
    struct rig_object *o = &r->object[object];
    struct rig_version *v;
    struct disk_op *op;
    bool with_file;
    struct id name;

    if (o->newest - o->base + 1 == RIG_VERSIONS)
        return NULL;
    o->newest++;
    v = &o->at[o->newest - o->base];
    choose(r, object, v, &with_file);
    name_of(&name, object);
    if (v->set)
        op = rig_set(kind_of(object), name.text, o->newest, v->checkpoint.text, with_file);
    else
        op = rig_delete((enum disk_kind)(kind_of(object) + 1), name.text);
    op->record.version = o->newest;
    op->owner = o;
    return op;
}

void rig_acked(struct rig *r, const struct disk_op *op)
{
    (void)r;
    ((struct rig_object *)op->owner)->acked = op->record.version;
}

static bool may_be(const struct rig_object *o, uint64_t version, bool set, bool after)
{
    if (version < o->acked || version > (after ? o->newest : o->acked))
        return false;
    return o->at[version - o->base].set == set;
}

static void check_file(struct disk *d, const struct id *id)
{
    struct file_buffer file = { 0 };
    size_t expected_len;
    void *expected;
    struct error err;

    /* Twice, for a test may have let one call fail. */
    if (!disk_read(d, id, &file, &err) && !disk_read(d, id, &file, &err))
        fail_msg("%s", err.message);
    expected = rig_file(id, &expected_len);
    assert_int_equal(file.len, expected_len);
    assert_memory_equal(file.bytes, expected, expected_len);
    free(expected);
    file_buffer_finish(&file);
}

static void check_object(struct rig *r, struct disk *d, int object, bool after)
{
    struct rig_object *o = &r->object[object];
    struct disk_record *f = &r->found[object];
    struct rig_version now = { .set = f->kind != 0 };
    bool absent_is_right = false;
    char note[32];

    if (now.set) {
        if (!may_be(o, f->version, true, after))
            fail_msg("object %d: found version %d, acknowledged %d, submitted %d", object,
                     (int)f->version, (int)o->acked, (int)o->newest);
        assert_string_equal(f->checkpoint.text, o->at[f->version - o->base].checkpoint.text);
        snprintf(note, sizeof(note), "note %llu", (unsigned long long)f->version);
        assert_int_equal(f->note_len, strlen(note));
        assert_memory_equal(f->note, note, f->note_len);
        if (f->checkpoint.text[0])
            check_file(d, &f->checkpoint);
        now.checkpoint = f->checkpoint;
        o->base = f->version;
    } else {
        for (uint64_t v = o->acked; v <= o->newest && !absent_is_right; v++)
            absent_is_right = may_be(o, v, false, after);
        if (!absent_is_right)
            fail_msg("object %d is missing: acknowledged %d, submitted %d; %s", object,
                     (int)o->acked, (int)o->newest, r->report);
        o->base = o->newest;
    }
    o->newest = o->acked = o->base;
    o->at[0] = now;
}

bool rig_has_file(const struct rig *r, const struct id *checkpoint)
{
    char path[sizeof(r->path) + LIMIT_ID_BYTES + 32];

    snprintf(path, sizeof(path), "%s/states/%02x/%s", r->path, disk_folder_of(checkpoint->text),
             checkpoint->text);
    return access(path, F_OK) == 0;
}

/* A head's anchors were heads themselves, one after the other: so none of them has gone. */
static bool must_be_there(const struct rig *r, const struct id *head, int nth)
{
    unsigned long long version;
    int object;

    sscanf(head->text, "ckpt_%d_%llu", &object, &version);
    for (int i = 0; i <= nth; i++) {
        const struct rig_object *o = &r->object[object];
        uint64_t v = version - (uint64_t)i - 1;
        char own[LIMIT_ID_BYTES + 1];

        snprintf(own, sizeof(own), "ckpt_%d_%llu", object, (unsigned long long)v);
        if (v < o->base || v > o->newest || !o->at[v - o->base].set ||
            strcmp(o->at[v - o->base].checkpoint.text, own) != 0)
            return false;
    }
    return true;
}

static void add_once(struct id *seen, int *n, const struct id *id)
{
    for (int i = 0; i < *n; i++)
        if (id_equal(&seen[i], id))
            return;
    seen[(*n)++] = *id;
}

/* What the heads stand on, and what that names and is there. */
static int count_expected(const struct rig *r)
{
    struct id seen[RIG_OBJECTS * (1 + ANCHORS)], anchor[ANCHORS];
    int n = 0;

    for (int i = 0; i < RIG_OBJECTS; i++) {
        const struct id *head = &r->found[i].checkpoint;
        int anchors = r->found[i].kind && head->text[0] ? name_anchors(head, anchor) : 0;

        if (r->found[i].kind && head->text[0])
            add_once(seen, &n, head);
        for (int k = 0; k < anchors; k++) {
            if (rig_has_file(r, &anchor[k]))
                add_once(seen, &n, &anchor[k]);
            else if (r->strict && must_be_there(r, head, k))
                fail_msg("%s names %s, which is gone", head->text, anchor[k].text);
        }
    }
    return n;
}

void rig_check(struct rig *r, struct disk *d, bool after)
{
    int files = count_expected(r);

    for (int i = 0; i < RIG_OBJECTS; i++)
        check_object(r, d, i, after);
    assert_int_equal(r->strangers, 0);
    assert_int_equal(rig_count_files(r, ""), files);
    assert_int_equal(disk_counts(d).files, files);
}

static const char *suffix_sought;
static int suffix_count;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    const char *name = path + ftw->base, *dot = strchr(name, '.');

    (void)st;
    if (type == FTW_F && ftw->level == 3)
        suffix_count +=
            strcmp(dot ? dot : "", suffix_sought) == 0 ||
            (suffix_sought[0] && strncmp(name, suffix_sought, strlen(suffix_sought)) == 0);
    return 0;
}

int rig_count_files(const struct rig *r, const char *suffix)
{
    suffix_sought = suffix;
    suffix_count = 0;
    nftw(r->path, count_one, 16, FTW_PHYS);
    return suffix_count;
}
