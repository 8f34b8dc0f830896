/* disk_index.c - what the log says, in memory.
 *
 * A file lives while heads refer to it, while it is kept, and as an anchor while a file under a
 * head names it. The last holds for one step only: a file that is itself no more than an
 * anchor holds nothing, or no file of a context would ever go. */
#include <stdlib.h>
#include <string.h>

#include "server/state/disk_internal.h"

void disk_index_init(struct disk_index *x)
{
    *x = (struct disk_index){ 0 };
    id_map_init(&x->sessions);
    id_map_init(&x->snapshots);
    id_map_init(&x->files);
}

static void free_all(struct id_map *m)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++)
        free(e->value);
    id_map_finish(m);
}

static void free_files(struct id_map *m)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++)
        free(((struct disk_file *)e->value)->name);
    free_all(m);
}

void disk_index_finish(struct disk_index *x)
{
    free_all(&x->sessions);
    free_all(&x->snapshots);
    free_files(&x->files);
}

struct id_map *disk_index_map(struct disk_index *x, enum disk_kind kind)
{
    return kind == DISK_SESSION_SET || kind == DISK_SESSION_DELETED ? &x->sessions : &x->snapshots;
}

struct disk_file *disk_index_add_file(struct disk_index *x, const char *id, uint64_t bytes)
{
    size_t len = strlen(id) + 1;
    struct disk_file *file = calloc(1, sizeof(*file) + len);

    if (!file)
        return NULL;
    memcpy(file->id, id, len);
    if (!id_map_put(&x->files, 0, file->id, file)) {
        free(file);
        return NULL;
    }
    disk_index_measure(x, file, bytes);
    return file;
}

void disk_index_measure(struct disk_index *x, struct disk_file *file, uint64_t bytes)
{
    x->file_bytes += bytes - file->bytes;
    if (file->anchor)
        x->anchor_bytes += bytes - file->bytes;
    file->bytes = bytes;
}

void disk_index_forget_file(struct disk_index *x, struct disk_file *file)
{
    disk_index_let_go(x, file);
    disk_index_measure(x, file, 0);
    id_map_remove(&x->files, 0, file->id);
    free(file);
}

/* After any change of what refers to it. */
static void account(struct disk_index *x, struct disk_file *file)
{
    bool anchor = file->lists && !file->heads && !file->kept;

    if (anchor == file->anchor)
        return;
    file->anchor = anchor;
    x->anchors += anchor ? 1 : (size_t)-1;
    x->anchor_bytes += anchor ? file->bytes : -file->bytes;
}

void disk_index_keep(struct disk_index *x, struct disk_file *file, bool kept)
{
    file->kept = kept;
    account(x, file);
    disk_index_doom(x, file);
}

void disk_index_hold(struct disk_index *x, struct disk_file *file, struct disk_file *anchor)
{
    file->name[file->holds++] = anchor;
    anchor->lists++;
    account(x, anchor);
}

void disk_index_let_go(struct disk_index *x, struct disk_file *file)
{
    struct disk_file **name = file->name;
    uint8_t n = file->holds;

    file->name = NULL;
    file->holds = 0;
    for (uint8_t i = 0; i < n; i++) {
        name[i]->lists--;
        account(x, name[i]);
        disk_index_doom(x, name[i]);
    }
    free(name);
}

struct disk_head *disk_index_add_head(struct disk_index *x, enum disk_kind kind, uint64_t owner,
                                      const struct id *id)
{
    struct id_map *m = disk_index_map(x, kind);
    struct disk_head *head = id_map_find(m, owner, id);
    size_t len = strlen(id->text) + 1;

    if (head)
        return head;
    head = calloc(1, sizeof(*head) + len);
    if (!head)
        return NULL;
    memcpy(head->id, id->text, len);
    if (id_map_put(m, owner, head->id, head))
        return head;
    free(head);
    return NULL;
}

void disk_index_doom(struct disk_index *x, struct disk_file *file)
{
    if (file->heads || file->kept || file->lists || file->doomed)
        return;
    file->doomed = true;
    file->next_doomed = x->doomed;
    x->doomed = file;
}

void disk_index_clear(struct disk_index *x, struct disk_head *head)
{
    struct disk_file *file = head->file;

    x->live_bytes -= head->len;
    head->len = 0;
    head->file = NULL;
    if (!file)
        return;
    if (!--file->heads)
        disk_index_let_go(x, file);
    account(x, file);
    disk_index_doom(x, file);
}

void disk_index_set(struct disk_index *x, struct disk_head *head, struct disk_file *file,
                    uint64_t at, size_t len)
{
    if (file) {
        file->heads++; /* first, for it may be the one it stood on */
        account(x, file);
    }
    disk_index_clear(x, head);
    head->file = file;
    head->at = at;
    head->len = (uint32_t)len;
    x->live_bytes += len;
}

void disk_index_prune(struct disk_index *x, enum disk_kind kind, uint64_t owner,
                      const struct id *id)
{
    struct id_map *m = disk_index_map(x, kind);
    struct disk_head *head = id_map_find(m, owner, id);

    if (head && !head->len) {
        id_map_remove(m, owner, head->id);
        free(head);
    }
}
