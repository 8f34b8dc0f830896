/* disk_index.c - what the log says, in memory. */
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

void disk_index_finish(struct disk_index *x)
{
    free_all(&x->sessions);
    free_all(&x->snapshots);
    free_all(&x->files);
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
    file->bytes = bytes;
    if (id_map_put(&x->files, 0, file->id, file))
        return file;
    free(file);
    return NULL;
}

void disk_index_forget_file(struct disk_index *x, struct disk_file *file)
{
    id_map_remove(&x->files, 0, file->id);
    free(file);
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
    if (file->heads || file->kept || file->doomed)
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
    if (file) {
        file->heads--;
        disk_index_doom(x, file);
    }
}

void disk_index_set(struct disk_index *x, struct disk_head *head, struct disk_file *file,
                    uint64_t at, size_t len)
{
    if (file)
        file->heads++; /* first, for it may be the one it stood on */
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
