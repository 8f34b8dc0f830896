/* pth.c - a PyTorch checkpoint: a zip archive of a pickle and of raw storages.
 *
 *   NAME/data.pkl      what the tensors are, and in which storage each lies
 *   NAME/data/KEY      the bytes of a storage
 *   NAME/byteorder     "little" (newer writers)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/limits.h"
#include "weights/pickle.h"
#include "weights/weights_internal.h"
#include "weights/zip.h"

enum { NAME_BYTES = 512 };

/* The folder inside the archive, with its slash: what stands before "data.pkl". */
static bool find_pickle(const struct zip *z, const struct zip_entry **pickle, int *prefix,
                        struct error *err)
{
    static const char ending[] = "/data.pkl";

    *pickle = NULL;
    for (size_t i = 0; i < z->count; i++) {
        size_t n = strlen(z->entries[i].name);

        if (n < sizeof(ending) || strcmp(z->entries[i].name + n - sizeof(ending) + 1, ending) != 0)
            continue;
        if (*pickle)
            return error_set(err, ERR_FORMAT, "%.200s: expected one data.pkl, found several",
                             z->source->path);
        *pickle = &z->entries[i];
        *prefix = (int)(n - strlen("data.pkl"));
    }
    if (!*pickle)
        return error_set(err, ERR_FORMAT, "%.200s: expected a data.pkl, found none",
                         z->source->path);
    if (*prefix > NAME_BYTES / 2 || (*pickle)->size > LIMIT_PTH_HEADER_BYTES)
        return error_set(
            err, ERR_FORMAT, "%.200s: expected a data.pkl of at most %d bytes, found %llu",
            z->source->path, LIMIT_PTH_HEADER_BYTES, (unsigned long long)(*pickle)->size);
    return true;
}

static bool prove_byte_order(const struct zip *z, const char *folder, int folder_len,
                             struct error *err)
{
    char name[NAME_BYTES], order[6];
    const struct zip_entry *e;
    uint64_t at;

    snprintf(name, sizeof(name), "%.*sbyteorder", folder_len, folder);
    e = zip_find(z, name);
    if (!e)
        return true;
    if (e->size == sizeof(order)) {
        if (!zip_locate(z, e, &at, err) || !source_read(z->source, order, sizeof(order), at, err))
            return false;
        if (memcmp(order, "little", sizeof(order)) == 0)
            return true;
    }
    return error_set(err, ERR_FORMAT, "%.200s: expected byte order little, found another",
                     z->source->path);
}

static bool add_tensor(struct weights *w, const struct zip *z, const char *folder, int folder_len,
                       const struct pickle_tensor *p, struct error *err)
{
    size_t size = dtype_size(p->tensor.dtype);
    char name[NAME_BYTES];
    const struct zip_entry *data = NULL;
    struct entry *e;
    uint64_t at;
    int n = snprintf(name, sizeof(name), "%.*sdata/%s", folder_len, folder, p->storage);

    if (n < NAME_BYTES)
        data = zip_find(z, name);
    if (!data)
        return error_set(err, ERR_FORMAT,
                         "%.200s: tensor %.100s: expected an entry data/%.50s, found none",
                         z->source->path, p->tensor.name, p->storage);
    if (data->size % size != 0 || data->size / size != p->elements)
        return error_set(
            err, ERR_FORMAT,
            "%.200s: tensor %.100s: expected %llu %s elements in data/%.50s, found %llu "
            "bytes",
            z->source->path, p->tensor.name, (unsigned long long)p->elements,
            dtype_name(p->tensor.dtype), p->storage, (unsigned long long)data->size);
    if (!zip_locate(z, data, &at, err))
        return false;
    e = weights_add_entry(w, err);
    if (!e)
        return false;
    e->tensor = p->tensor;
    e->offset = at + p->first * size;
    return true;
}

static bool add_tensors(struct weights *w, const struct zip *z, struct error *err)
{
    struct source *s = &w->sources[w->source_count - 1];
    const struct zip_entry *pickle;
    struct pickle_tensor *list = NULL;
    size_t count = 0;
    uint64_t at;
    int prefix = 0;
    bool ok;

    if (!find_pickle(z, &pickle, &prefix, err) || !prove_byte_order(z, pickle->name, prefix, err) ||
        !zip_locate(z, pickle, &at, err))
        return false;
    s->text = malloc(pickle->size + 1);
    if (!s->text)
        return error_set(err, ERR_NOMEM, "%.200s: out of memory", s->path);
    if (!source_read(s, s->text, pickle->size, at, err))
        return false;
    list = pickle_take_tensors(s->text, pickle->size, s->path, &count, err);
    ok = list != NULL;
    for (size_t i = 0; ok && i < count; i++)
        ok = add_tensor(w, z, pickle->name, prefix, &list[i], err);
    free(list);
    return ok;
}

bool pth_load(struct weights *w, const char *path, struct error *err)
{
    struct zip z;
    bool ok;

    if (!weights_add_source(w, path, err))
        return false;
    ok = zip_init(&z, &w->sources[w->source_count - 1], err) && add_tensors(w, &z, err) &&
         weights_sort(w, err);
    zip_finish(&z);
    return ok;
}
