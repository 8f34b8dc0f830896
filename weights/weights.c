/* weights.c - which file of a folder is the checkpoint, and the reading of tensors.
 *
 * A folder with config.json is laid out as on the Hub: model.safetensors, else the shards
 * of model.safetensors.index.json, else the only *.safetensors, else the only *.pth. A
 * folder without one is an RWKV author's: a .pth comes before other *.safetensors.
 * Tensors are found by binary search: names made to collide in a hash gain nothing. */
#include "weights/weights.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"
#include "config/limits.h"
#include "config/text_file.h"
#include "weights/weights_internal.h"

static bool out_of_memory(const char *path, struct error *err)
{
    return error_set(err, ERR_NOMEM, "%.200s: out of memory", path);
}

bool weights_add_source(struct weights *w, const char *path, struct error *err)
{
    struct source *sources = realloc(w->sources, (w->source_count + 1) * sizeof(*sources));
    struct source *s;

    if (!sources)
        return out_of_memory(path, err);
    w->sources = sources;
    s = &sources[w->source_count++];
    *s = (struct source){ .path = strdup(path), .fd = -1 };
    if (!s->path)
        return out_of_memory(path, err);
    /* O_NONBLOCK: a FIFO in the folder must not hold the start. */
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0 || fstat(s->fd, &s->opened) < 0)
        return error_set(err, ERR_IO, "%.200s: %s", path, strerror(errno));
    if (!S_ISREG(s->opened.st_mode))
        return error_set(err, ERR_FORMAT, "%.200s: not a regular file", path);
    s->size = (uint64_t)s->opened.st_size;
    return true;
}

struct entry *weights_add_entry(struct weights *w, struct error *err)
{
    const char *path = w->sources[w->source_count - 1].path;

    if (w->count == LIMIT_TENSORS) {
        error_set(err, ERR_FORMAT, "%.200s: expected at most %d tensors, found more", path,
                  LIMIT_TENSORS);
        return NULL;
    }
    if (w->count == w->room) {
        size_t room = w->room ? 2 * w->room : 256;
        struct entry *entries = realloc(w->entries, room * sizeof(*entries));

        if (!entries) {
            out_of_memory(path, err);
            return NULL;
        }
        w->entries = entries;
        w->room = room;
    }
    w->entries[w->count] = (struct entry){ .source = w->source_count - 1 };
    return &w->entries[w->count++];
}

static bool is_same(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* What is rewritten in place keeps its size, and who copies files may set st_mtim back. Nobody
 * can set st_ctim, but it moves with the file's names and mode as well; where another file took the
 * name over, which leaves the opened one as it was, it has a name less. */
static bool is_unchanged(const struct source *s, struct error *err)
{
    struct stat now;

    if (fstat(s->fd, &now) < 0)
        return error_set(err, ERR_IO, "%.200s: %s", s->path, strerror(errno));
    if ((uint64_t)now.st_size != s->size)
        return error_set(err, ERR_IO,
                         "%.200s: changed since it was opened: expected %llu bytes, found %llu",
                         s->path, (unsigned long long)s->size, (unsigned long long)now.st_size);
    if (!is_same(&now.st_mtim, &s->opened.st_mtim) ||
        (now.st_nlink == s->opened.st_nlink && !is_same(&now.st_ctim, &s->opened.st_ctim)))
        return error_set(err, ERR_IO,
                         "%.200s: changed since it was opened: its bytes, name or mode", s->path);
    return true;
}

static bool read_all(const struct source *s, void *dst, size_t n, uint64_t offset,
                     struct error *err)
{
    char *to = dst;

    while (n > 0) {
        ssize_t got = pread(s->fd, to, n, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set(err, ERR_IO, "%.200s: %s", s->path, strerror(errno));
        if (got == 0)
            return error_set(err, ERR_IO, "%.200s: ends at byte %llu: expected %zu more", s->path,
                             (unsigned long long)offset, n);
        to += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

/* Before: what was cut off is told as that. After: it may have been written to meanwhile. */
bool source_read(const struct source *s, void *dst, size_t n, uint64_t offset, struct error *err)
{
    return is_unchanged(s, err) && read_all(s, dst, n, offset, err) && is_unchanged(s, err);
}

bool tensor_bytes(const struct tensor *t, size_t *bytes)
{
    size_t n = dtype_size(t->dtype);

    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return false;
    *bytes = n;
    return true;
}

static int compare_names(const void *left, const void *right)
{
    const struct entry *const *a = left, *const *b = right;

    return strcmp((*a)->tensor.name, (*b)->tensor.name);
}

bool weights_sort(struct weights *w, struct error *err)
{
    w->by_name = malloc((w->count + 1) * sizeof(const struct entry *));
    if (!w->by_name)
        return out_of_memory(w->folder, err);
    for (size_t i = 0; i < w->count; i++)
        w->by_name[i] = &w->entries[i];
    qsort(w->by_name, w->count, sizeof(const struct entry *), compare_names);
    for (size_t i = 1; i < w->count; i++) {
        const struct entry *a = w->by_name[i - 1], *b = w->by_name[i];

        if (compare_names(&a, &b) == 0)
            return error_set(
                err, ERR_FORMAT, "tensor %.100s: expected once, found in %.150s and %.150s",
                a->tensor.name, w->sources[a->source].path, w->sources[b->source].path);
    }
    return true;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n > m && strcmp(s + n - m, end) == 0;
}

static bool load_file(struct weights *w, const char *path, struct error *err)
{
    static const struct {
        const char *ending;
        bool (*load)(struct weights *w, const char *path, struct error *err);
    } kinds[] = {
        { ".safetensors", safetensors_load },
        { ".safetensors.index.json", shards_load },
        { ".pth", pth_load },
    };

    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (ends_with(path, kinds[i].ending))
            return kinds[i].load(w, path, err);
    return error_set(err, ERR_FORMAT,
                     "%.200s: expected a folder, a .safetensors or a .pth file, found another name",
                     path);
}

/* *path is the folder's only file with this ending, or NULL when it has none. */
static bool find_only(const char *folder, const char *ending, char **path, struct error *err)
{
    DIR *dir = opendir(folder);
    struct dirent *d;
    int found = 0;

    *path = NULL;
    if (!dir)
        return error_set(err, ERR_IO, "%.200s: %s", folder, strerror(errno));
    while ((d = readdir(dir))) {
        if (!ends_with(d->d_name, ending) || found++)
            continue;
        if (asprintf(path, "%s/%s", folder, d->d_name) < 0) {
            *path = NULL;
            closedir(dir);
            return out_of_memory(folder, err);
        }
    }
    closedir(dir);
    if (found <= 1)
        return true;
    free(*path);
    *path = NULL;
    return error_set(err, ERR_FORMAT, "%.200s: expected one *%s file, found %d", folder, ending,
                     found);
}

/* *path is folder/name, or NULL when there is no such file. */
static bool find_named(const char *folder, const char *name, char **path, struct error *err)
{
    if (asprintf(path, "%s/%s", folder, name) < 0) {
        *path = NULL;
        return out_of_memory(folder, err);
    }
    if (text_file_absent(*path)) {
        free(*path);
        *path = NULL;
    }
    return true;
}

static bool find_checkpoint(const char *folder, char **path, struct error *err)
{
    bool hub;

    if (!find_named(folder, "config.json", path, err))
        return false;
    hub = *path != NULL;
    free(*path);
    if (!find_named(folder, "model.safetensors", path, err) || *path)
        return *path != NULL;
    if (!find_named(folder, "model.safetensors.index.json", path, err) || *path)
        return *path != NULL;
    if (!find_only(folder, hub ? ".safetensors" : ".pth", path, err) || *path)
        return *path != NULL;
    if (!find_only(folder, hub ? ".pth" : ".safetensors", path, err) || *path)
        return *path != NULL;
    return error_set(err, ERR_IO, "%.200s: expected a *.safetensors or a *.pth file, found none",
                     folder);
}

static bool load(struct weights *w, const char *path, struct error *err)
{
    struct stat st;
    char *file;
    bool ok;

    if (stat(path, &st) < 0)
        return error_set(err, ERR_IO, "%.200s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        const char *slash = strrchr(path, '/');

        w->folder = !slash          ? strdup(".")
                    : slash == path ? strdup("/")
                                    : strndup(path, (size_t)(slash - path));
        return w->folder ? load_file(w, path, err) : out_of_memory(path, err);
    }
    w->folder = strdup(path);
    if (!w->folder)
        return out_of_memory(path, err);
    if (!find_checkpoint(path, &file, err))
        return false;
    ok = load_file(w, file, err);
    free(file);
    return ok;
}

struct weights *weights_open(const char *path, struct error *err)
{
    struct weights *w = calloc(1, sizeof(*w));

    if (!w) {
        out_of_memory(path, err);
        return NULL;
    }
    if (load(w, path, err))
        return w;
    weights_close(w);
    return NULL;
}

/* Accepts NULL and every half-opened state that weights_open() can leave. */
void weights_close(struct weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->source_count; i++) {
        if (w->sources[i].fd >= 0)
            close(w->sources[i].fd);
        free(w->sources[i].path);
        free(w->sources[i].text);
    }
    free(w->sources);
    free(w->by_name);
    free(w->entries);
    free(w->folder);
    free(w);
}

const char *weights_folder(const struct weights *w)
{
    return w->folder;
}

size_t weights_count(const struct weights *w)
{
    return w->count;
}

const struct tensor *weights_at(const struct weights *w, size_t i)
{
    assert(i < w->count);
    return &w->entries[i].tensor;
}

static int compare_name(const void *name, const void *entry)
{
    const struct entry *const *e = entry;

    return strcmp(name, (*e)->tensor.name);
}

const struct tensor *weights_find(const struct weights *w, const char *name)
{
    const struct entry *const *found =
        bsearch(name, w->by_name, w->count, sizeof(const struct entry *), compare_name);

    return found ? &(*found)->tensor : NULL;
}

bool weights_read(const struct weights *w, const struct tensor *t, void *dst, struct error *err)
{
    const struct entry *e = (const struct entry *)t;

    return source_read(&w->sources[e->source], dst, t->bytes, e->offset, err);
}

bool weights_unchanged(const struct weights *w, struct error *err)
{
    for (size_t i = 0; i < w->source_count; i++)
        if (!is_unchanged(&w->sources[i], err))
            return false;
    return true;
}
