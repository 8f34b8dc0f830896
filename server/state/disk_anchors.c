/* disk_anchors.c - files that are there so that heads can go back to them.
 *
 * The file of a head names anchors (format.h), and while a head stands on it they stay. They
 * are the first to go where room is wanted: whoever asks for one may find it gone. */
#include <stdlib.h>

#include "config/error.h"
#include "server/state/disk_internal.h"

struct naming {
    struct disk *disk;
    struct disk_file *file;
};

/* After a start one may be damaged that no record tells of. */
static bool is_whole(struct disk *d, struct disk_file *anchor)
{
    struct disk_front front;
    struct error why;

    if (anchor->checked)
        return true;
    if (disk_file_look(&d->files, anchor->id, &front, &why)) {
        anchor->checked = true;
        anchor->names = (uint8_t)front.marks.anchors;
        disk_index_measure(&d->index, anchor, front.bytes);
        return true;
    }
    disk_report(d, "%s; set aside as %s.corrupt", why.message, anchor->id);
    if (why.code == ERR_FORMAT)
        disk_file_set_aside(&d->files, anchor->id, ".corrupt", &why);
    return false;
}

static void name(void *arg, const struct id *id)
{
    const struct naming *n = arg;
    struct disk_file *anchor = id_map_find(&n->disk->index.files, 0, id);

    if (anchor && anchor != n->file && n->file->holds < n->file->names && is_whole(n->disk, anchor))
        disk_index_hold(&n->disk->index, n->file, anchor);
}

void disk_anchors_hold(struct disk *d, struct disk_file *file, const void *marks, size_t len)
{
    struct naming n = { .disk = d, .file = file };
    struct format_marks found;
    void *bytes = NULL;
    struct error err = { 0 };

    if (!file->names || file->name)
        return;
    file->name = malloc(file->names * sizeof(struct disk_file *));
    if (!file->name)
        error_set(&err, ERR_NOMEM, "no memory for the anchors of state %s", file->id);
    else if (!marks && disk_file_read_marks(&d->files, file->id, &found, &bytes, &err))
        format_walk_anchors(bytes, found.len, name, &n);
    else if (marks)
        format_walk_anchors(marks, len, name, &n);
    if (err.code != ERR_NONE)
        disk_report(d, "%s; what it names is not kept", err.message);
    free(bytes);
}

/* Nobody holds what has been chosen any more. */
static void part(struct disk_file *file)
{
    uint8_t kept = 0;

    for (uint8_t i = 0; i < file->holds; i++) {
        struct disk_file *anchor = file->name[i];

        if (anchor->yields)
            anchor->lists--;
        else
            file->name[kept++] = anchor;
    }
    file->holds = kept;
}

bool disk_anchors_yield(struct disk *d, uint64_t bytes)
{
    struct disk_index *x = &d->index;
    struct id_entry *e;
    uint64_t chosen = 0;

    if (!x->anchors)
        return false;
    for (size_t i = 0; chosen < bytes && (e = id_map_walk(&x->files, &i)); i++) {
        struct disk_file *file = e->value;

        if (!file->anchor)
            continue;
        file->yields = true;
        chosen += file->bytes;
    }
    for (size_t i = 0; (e = id_map_walk(&x->files, &i)); i++)
        part(e->value);
    for (size_t i = 0; (e = id_map_walk(&x->files, &i)); i++) {
        struct disk_file *file = e->value;

        if (!file->yields)
            continue;
        file->yields = false;
        d->counts.anchors_dropped++;
        disk_index_keep(x, file, false);
    }
    return true;
}

void disk_anchors_recover(struct disk *d)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(&d->index.files, &i)); i++) {
        struct disk_file *file = e->value;

        if (file->heads)
            disk_anchors_hold(d, file, NULL, 0);
    }
}
