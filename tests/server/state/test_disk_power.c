/* The power goes: what was not fsynced is there, or not, or in part.
 *
 * The calls work on a real folder and are written down beside it: for each file the bytes
 * that are durable and the writes since its last fsync, for each folder the names that are
 * durable and the changes since its own. At a random call the power goes, and a second folder
 * is made of what is durable and a random choice of the rest, in 512-byte sectors. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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

#include "server/state/disk_io.h"
#include "tests/server/state/disk_rig.h"

enum { FDS = 512, NODES = 4096, CHANGES = 8192, IMAGE_MAX = 65536, PATH = 128 };

/* A write since the last fsync; bytes NULL: the file was cut to `at`. */
struct pending {
    unsigned char *bytes;
    size_t len, at;
    struct pending *next;
};

struct node {
    unsigned char *durable; /* IMAGE_MAX */
    size_t len;
    struct pending *pending, **end;
};

/* A name came (node), or went (NULL). A rename is one of each, and goes as one. */
struct change {
    char folder[PATH], gone[PATH], came[PATH];
    struct node *node;
    bool durable;
};

static struct rig rig;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char fd_path[FDS][PATH];
static struct node *fd_node[FDS];
static struct node node[NODES];
static struct change change[CHANGES]; /* oldest first */
static int nodes, changes, calls, cut_at;

/* Under the mutex. Nothing works once the power is gone. */
static bool powered(void)
{
    if (cut_at && ++calls > cut_at)
        errno = EIO;
    return !cut_at || calls <= cut_at;
}

static void path_at(char out[PATH], int dir, const char *path)
{
    if (dir == AT_FDCWD || !fd_path[dir][0])
        snprintf(out, PATH, "./%.100s", dir == AT_FDCWD ? "" : path);
    else
        snprintf(out, PATH, "%.60s/%.60s", fd_path[dir], path);
}

static void folder_of(char out[PATH], const char *path)
{
    snprintf(out, PATH, "%s", path);
    *strrchr(out, '/') = '\0';
}

/* The node of a name as the running process sees it. */
static struct node *find_node(const char *path)
{
    for (int i = changes - 1; i >= 0; i--) {
        if (strcmp(change[i].came, path) == 0)
            return change[i].node;
        if (strcmp(change[i].gone, path) == 0)
            return NULL;
    }
    return NULL;
}

static void add_change(const char *gone, const char *came, struct node *n)
{
    struct change *c = &change[changes++];

    assert_true(changes < CHANGES);
    *c = (struct change){ .node = n };
    folder_of(c->folder, came[0] ? came : gone);
    snprintf(c->gone, PATH, "%s", gone);
    snprintf(c->came, PATH, "%s", came);
}

static int note_openat(int dir, const char *path, int flags, mode_t mode)
{
    char full[PATH];
    int fd = -1;

    pthread_mutex_lock(&mutex);
    if (powered() && (fd = disk_io_system.openat(dir, path, flags, mode)) >= 0) {
        assert_true(fd < FDS);
        path_at(full, dir, path);
        if (dir == AT_FDCWD)
            strcpy(full, ".");
        strcpy(fd_path[fd], full);
        fd_node[fd] = flags & O_DIRECTORY ? NULL : find_node(full);
        if (!fd_node[fd] && (flags & O_CREAT)) {
            assert_true(nodes < NODES);
            fd_node[fd] = &node[nodes++];
            fd_node[fd]->durable = calloc(1, IMAGE_MAX);
            fd_node[fd]->end = &fd_node[fd]->pending;
            add_change("", full, fd_node[fd]);
        }
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

static void add_pending(int fd, const void *bytes, size_t len, size_t at)
{
    struct pending *p = calloc(1, sizeof(*p));

    assert_true(at + len <= IMAGE_MAX);
    *p = (struct pending){ .len = len, .at = at };
    if (bytes) {
        p->bytes = malloc(len + 1);
        memcpy(p->bytes, bytes, len);
    }
    *fd_node[fd]->end = p;
    fd_node[fd]->end = &p->next;
}

static ssize_t note_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    ssize_t n = -1;

    pthread_mutex_lock(&mutex);
    if (powered() && (n = disk_io_system.pwrite(fd, bytes, len, at)) > 0)
        add_pending(fd, bytes, (size_t)n, (size_t)at);
    pthread_mutex_unlock(&mutex);
    return n;
}

static int note_ftruncate(int fd, off_t len)
{
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (powered() && (rc = disk_io_system.ftruncate(fd, len)) == 0)
        add_pending(fd, NULL, 0, (size_t)len);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static void apply(struct node *n, const struct pending *p, size_t len)
{
    if (p->bytes) {
        memcpy(n->durable + p->at, p->bytes, len);
        n->len = p->at + len > n->len ? p->at + len : n->len;
    } else {
        memset(n->durable + p->at, 0, IMAGE_MAX - p->at);
        n->len = p->at;
    }
}

static void drop_pending(struct node *n)
{
    for (struct pending *p = n->pending, *next; p; p = next) {
        next = p->next;
        free(p->bytes);
        free(p);
    }
    n->pending = NULL;
    n->end = &n->pending;
}

static int note_fsync(int fd)
{
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (powered()) {
        rc = 0;
        if (fd_node[fd]) {
            for (struct pending *p = fd_node[fd]->pending; p; p = p->next)
                apply(fd_node[fd], p, p->len);
            drop_pending(fd_node[fd]);
        }
        for (int i = 0; i < changes; i++)
            change[i].durable |= strcmp(change[i].folder, fd_path[fd]) == 0;
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int note_syncfs(int fd)
{
    (void)fd;
    return 0; /* the histories begin in an empty folder */
}

static int note_renameat(int dir, const char *path, int new_dir, const char *new_path)
{
    char from[PATH], to[PATH];
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (powered() && (rc = disk_io_system.renameat(dir, path, new_dir, new_path)) == 0) {
        path_at(from, dir, path);
        path_at(to, new_dir, new_path);
        add_change(from, to, find_node(from));
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int note_unlinkat(int dir, const char *path, int flags)
{
    char gone[PATH];
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (powered() && (rc = disk_io_system.unlinkat(dir, path, flags)) == 0) {
        path_at(gone, dir, path);
        add_change(gone, "", NULL);
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

/* Of one pending write: nothing, all, or some leading sectors. */
static void settle_node(struct node *n)
{
    for (struct pending *p = n->pending; p; p = p->next) {
        uint64_t dice = rig_random(&rig, 3);

        if (dice == 0)
            apply(n, p, p->len);
        else if (dice == 1 && p->bytes)
            apply(n, p, p->len > 512 ? rig_random(&rig, p->len / 512 + 1) * 512 : 0);
    }
    drop_pending(n);
}

static void write_file(const char *path, const struct node *n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, n->durable, n->len), n->len);
    close(fd);
}

static void make_image(const char *root)
{
    char path[PATH + 80];

    snprintf(path, sizeof(path), "%s/states", root);
    assert_int_equal(mkdir(path, 0700), 0);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(path, sizeof(path), "%s/states/%02x", root, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    for (int i = 0; i < nodes; i++)
        settle_node(&node[i]);
    for (int i = 0; i < changes; i++) {
        if (!change[i].durable && rig_random(&rig, 2))
            continue;
        if (change[i].gone[0]) {
            snprintf(path, sizeof(path), "%s/%s", root, change[i].gone);
            unlink(path);
        }
        if (change[i].came[0]) {
            snprintf(path, sizeof(path), "%s/%s", root, change[i].came);
            write_file(path, change[i].node);
        }
    }
}

static struct disk_io noting(void)
{
    struct disk_io io = disk_io_system;

    io.openat = note_openat;
    io.pwrite = note_pwrite;
    io.ftruncate = note_ftruncate;
    io.fsync = note_fsync;
    io.syncfs = note_syncfs;
    io.renameat = note_renameat;
    io.unlinkat = note_unlinkat;
    return io;
}

static void receive_all(struct disk *d)
{
    disk_wait(d);
    for (struct disk_op *op; (op = disk_receive(d)); disk_op_free(op))
        if (op->error.code == ERR_NONE)
            rig_acked(&rig, op);
}

static void run_ops(struct disk *d, int ops)
{
    for (int i = 0; i < ops; i++) {
        assert_true(disk_submit(d, rig_next(&rig)));
        if (rig_random(&rig, 2))
            receive_all(d);
    }
    receive_all(d);
}

static void forget_all(void)
{
    for (int i = 0; i < nodes; i++) {
        drop_pending(&node[i]);
        free(node[i].durable);
    }
    memset(node, 0, sizeof(node));
    memset(fd_path, 0, sizeof(fd_path));
    memset(fd_node, 0, sizeof(fd_node));
    nodes = changes = calls = cut_at = 0;
}

/* What was acknowledged up to here is what must be found. */
static void cut_once(enum disk_mode mode, uint64_t seed)
{
    struct disk_io io = noting();
    uint64_t acked[RIG_OBJECTS];
    struct disk_options options;
    char image[64], old[64];
    struct error err;
    struct disk *d;

    rig_begin(&rig, seed);
    options = rig_options(&rig, mode, &io);
    options.compact_bytes = 1024 << seed % 4;
    d = rig_open(&rig, &options, &err);
    assert_non_null(d);
    run_ops(d, 20);
    if (mode == DISK_INTERVAL)
        usleep(40000); /* some intervals of 5 ms: all of it is durable by now */
    for (int i = 0; i < RIG_OBJECTS; i++)
        acked[i] = rig.object[i].acked;
    pthread_mutex_lock(&mutex);
    calls = 0;
    cut_at = 1 + (int)rig_random(&rig, 200);
    pthread_mutex_unlock(&mutex);
    run_ops(d, 30);
    for (int i = 0; i < RIG_OBJECTS && mode == DISK_INTERVAL; i++)
        rig.object[i].acked = acked[i];
    disk_close(d);

    snprintf(old, sizeof(old), "%s", rig.path);
    snprintf(image, sizeof(image), "%.50s-image", old);
    assert_int_equal(mkdir(image, 0700), 0);
    make_image(image);
    memcpy(rig.path, image, sizeof(rig.path));
    options.io = &disk_io_system;
    options.path = rig.path;
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("seed %d: %s", (int)seed, err.message);
    rig_check(&rig, d, true);
    disk_close(d);
    rig_end(&rig);
    memset(rig.found, 0, sizeof(rig.found));
    memcpy(rig.path, old, sizeof(old));
    rig_end(&rig);
    forget_all();
}

static void always_keeps_what_was_acknowledged(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++)
        cut_once(DISK_ALWAYS, seed);
}

static void interval_keeps_what_is_older_than_an_interval(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        cut_once(DISK_INTERVAL, seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(always_keeps_what_was_acknowledged),
        cmocka_unit_test(interval_keeps_what_is_older_than_an_interval),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
