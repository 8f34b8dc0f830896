#include "tests/server/state/power.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    FDS = 1024,
    NODES = 8192,
    CHANGES = 16384,
    IMAGE_MAX = 256 * 1024,
    PATH = 128,
    SECTOR = 512
};

/* A change since the last fsync: bytes were written at `at`; or the file was cut to that length,
 * or made at least that long. */
struct pending {
    enum { WRITTEN, CUT, GROWN } kind;
    unsigned char *bytes;
    size_t len, at;
    struct pending *next;
};

struct node {
    unsigned char *durable; /* IMAGE_MAX, or NULL before the first fsync */
    size_t len;
    struct pending *pending, **end;
};

/* A name came (node), or went (NULL). A rename is one of each, and goes as one. */
struct change {
    char folder[PATH], gone[PATH], came[PATH];
    struct node *node;
    bool durable;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char fd_path[FDS][PATH];
static struct node *fd_node[FDS];
static struct node node[NODES];
static struct change change[CHANGES]; /* oldest first */
static int nodes, changes, calls, cut_at;
static bool fails, off;
static uint64_t random_state;

static uint64_t below(uint64_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % n;
}

/* Under the mutex, before a call that changes something. false: it fails. */
static bool tick(void)
{
    off = off || (cut_at && ++calls > cut_at);
    if (off && fails)
        errno = EIO;
    return !off || !fails;
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

static void note_open(int fd, int dir, const char *path, int flags)
{
    char full[PATH];

    assert_true(fd < FDS);
    path_at(full, dir, path);
    if (dir == AT_FDCWD)
        strcpy(full, ".");
    strcpy(fd_path[fd], full);
    fd_node[fd] = flags & O_DIRECTORY ? NULL : find_node(full);
    if (fd_node[fd] || !(flags & O_CREAT))
        return;
    assert_true(nodes < NODES);
    fd_node[fd] = &node[nodes++];
    *fd_node[fd] = (struct node){ .end = &fd_node[fd]->pending };
    add_change("", full, fd_node[fd]);
}

static int power_openat(int dir, const char *path, int flags, mode_t mode)
{
    int fd = -1;

    pthread_mutex_lock(&mutex);
    if ((!(flags & O_CREAT) || tick()) &&
        (fd = disk_io_system.openat(dir, path, flags, mode)) >= 0 && !off)
        note_open(fd, dir, path, flags);
    pthread_mutex_unlock(&mutex);
    return fd;
}

static void add_pending(int fd, const struct pending *what)
{
    struct pending *p = malloc(sizeof(*p));

    assert_non_null(p);
    assert_true(what->at + what->len <= IMAGE_MAX);
    *p = *what;
    p->next = NULL;
    if (p->len) {
        p->bytes = malloc(p->len);
        assert_non_null(p->bytes);
        memcpy(p->bytes, what->bytes, p->len);
    }
    *fd_node[fd]->end = p;
    fd_node[fd]->end = &p->next;
}

static ssize_t power_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    ssize_t n = -1;

    pthread_mutex_lock(&mutex);
    if (tick() && (n = disk_io_system.pwrite(fd, bytes, len, at)) > 0 && !off)
        add_pending(fd, &(struct pending){ .kind = WRITTEN,
                                           .bytes = (unsigned char *)bytes,
                                           .len = (size_t)n,
                                           .at = (size_t)at });
    pthread_mutex_unlock(&mutex);
    return n;
}

static int power_ftruncate(int fd, off_t len)
{
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (tick() && (rc = disk_io_system.ftruncate(fd, len)) == 0 && !off)
        add_pending(fd, &(struct pending){ .kind = CUT, .at = (size_t)len });
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int power_fallocate(int fd, int mode, off_t at, off_t len)
{
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (tick() && (rc = disk_io_system.fallocate(fd, mode, at, len)) == 0 && !off &&
        !(mode & FALLOC_FL_KEEP_SIZE))
        add_pending(fd, &(struct pending){ .kind = GROWN, .at = (size_t)(at + len) });
    pthread_mutex_unlock(&mutex);
    return rc;
}

static void need_image(struct node *n)
{
    if (!n->durable)
        n->durable = calloc(1, IMAGE_MAX);
    assert_non_null(n->durable);
}

static void write_part(struct node *n, const struct pending *p, size_t from, size_t to)
{
    memcpy(n->durable + from, p->bytes + (from - p->at), to - from);
    n->len = to > n->len ? to : n->len;
}

static void apply(struct node *n, const struct pending *p)
{
    need_image(n);
    if (p->kind == WRITTEN) {
        write_part(n, p, p->at, p->at + p->len);
    } else if (p->kind == CUT) {
        memset(n->durable + p->at, 0, IMAGE_MAX - p->at);
        n->len = p->at;
    } else if (p->at > n->len) {
        n->len = p->at;
    }
}

/* Any sectors of it. */
static void apply_sectors(struct node *n, const struct pending *p)
{
    size_t end = p->at + p->len;

    need_image(n);
    for (size_t from = p->at, to; from < end; from = to) {
        to = (from / SECTOR + 1) * SECTOR;
        to = to < end ? to : end;
        if (below(2))
            write_part(n, p, from, to);
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

static void note_fsync(int fd)
{
    struct node *n = fd_node[fd];

    for (struct pending *p = n ? n->pending : NULL; p; p = p->next)
        apply(n, p);
    if (n)
        drop_pending(n);
    for (int i = 0; i < changes; i++)
        change[i].durable |= strcmp(change[i].folder, fd_path[fd]) == 0;
}

static int power_fsync(int fd)
{
    bool ok;

    pthread_mutex_lock(&mutex);
    ok = tick();
    if (ok && !off)
        note_fsync(fd);
    pthread_mutex_unlock(&mutex);
    return ok ? 0 : -1;
}

static int power_syncfs(int fd)
{
    (void)fd;
    return 0; /* the histories begin in an empty folder */
}

static int power_renameat(int dir, const char *path, int new_dir, const char *new_path)
{
    char from[PATH], to[PATH];
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (tick() && (rc = disk_io_system.renameat(dir, path, new_dir, new_path)) == 0 && !off) {
        path_at(from, dir, path);
        path_at(to, new_dir, new_path);
        add_change(from, to, find_node(from));
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int power_unlinkat(int dir, const char *path, int flags)
{
    char gone[PATH];
    int rc = -1;

    pthread_mutex_lock(&mutex);
    if (tick() && (rc = disk_io_system.unlinkat(dir, path, flags)) == 0 && !off) {
        path_at(gone, dir, path);
        add_change(gone, "", NULL);
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

struct disk_io power_io(void)
{
    struct disk_io io = disk_io_system;

    io.openat = power_openat;
    io.pwrite = power_pwrite;
    io.fallocate = power_fallocate;
    io.ftruncate = power_ftruncate;
    io.fsync = power_fsync;
    io.syncfs = power_syncfs;
    io.renameat = power_renameat;
    io.unlinkat = power_unlinkat;
    return io;
}

void power_cut_after(int after, bool calls_fail)
{
    pthread_mutex_lock(&mutex);
    calls = 0;
    cut_at = after;
    fails = calls_fail;
    pthread_mutex_unlock(&mutex);
}

bool power_is_on(void)
{
    bool on;

    pthread_mutex_lock(&mutex);
    on = !off;
    pthread_mutex_unlock(&mutex);
    return on;
}

bool power_is_settled(void)
{
    bool settled = true;

    pthread_mutex_lock(&mutex);
    for (int i = 0; i < changes && settled; i++)
        if (change[i].came[0] && find_node(change[i].came) == change[i].node)
            settled = change[i].durable && !change[i].node->pending;
    pthread_mutex_unlock(&mutex);
    return settled;
}

static void settle_node(struct node *n)
{
    for (struct pending *p = n->pending; p; p = p->next) {
        uint64_t dice = below(3);

        if (dice == 0)
            apply(n, p);
        else if (dice == 1 && p->kind == WRITTEN)
            apply_sectors(n, p);
    }
    drop_pending(n);
}

static void write_file(const char *path, const struct node *n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    if (n->len)
        assert_int_equal(write(fd, n->durable, n->len), n->len);
    close(fd);
}

void power_make_image(const char *root, uint64_t seed)
{
    char path[PATH + 80];

    pthread_mutex_lock(&mutex);
    off = true; /* at the latest */
    pthread_mutex_unlock(&mutex);
    random_state = seed;
    snprintf(path, sizeof(path), "%s/states", root);
    assert_int_equal(mkdir(path, 0700), 0);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(path, sizeof(path), "%s/states/%02x", root, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    for (int i = 0; i < nodes; i++)
        settle_node(&node[i]);
    for (int i = 0; i < changes; i++) {
        if (!change[i].durable && below(2))
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

void power_forget(void)
{
    for (int i = 0; i < nodes; i++) {
        drop_pending(&node[i]);
        free(node[i].durable);
    }
    memset(node, 0, sizeof(node));
    memset(fd_path, 0, sizeof(fd_path));
    memset(fd_node, 0, sizeof(fd_node));
    nodes = changes = calls = cut_at = 0;
    fails = off = false;
}
