/* shards.c - a checkpoint in several safetensors files, tied together by an index.
 *
 *   { "metadata": { .. }, "weight_map": { tensor: file name, .. } }
 *
 * The index and the files must agree both ways: each tensor lies in the file that the index
 * names, and no file holds one that the index leaves out. A file name is a name in the
 * index's folder, never a path. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "config/limits.h"
#include "config/text_file.h"
#include "weights/json_pull.h"
#include "weights/weights_internal.h"

struct mapping {
    const char *tensor, *file; /* borrowed: the text of the index */
};

struct map {
    struct mapping *list;
    size_t count, room;
};

static bool add_mapping(struct map *map, struct mapping m, const char *path, struct error *err)
{
    if (map->count == LIMIT_TENSORS)
        return error_set(err, ERR_FORMAT, "%.200s: expected at most %d tensors, found more", path,
                         LIMIT_TENSORS);
    if (map->count == map->room) {
        size_t room = map->room ? 2 * map->room : 256;
        struct mapping *list = realloc(map->list, room * sizeof(*list));

        if (!list)
            return error_set(err, ERR_NOMEM, "%.200s: out of memory", path);
        map->list = list;
        map->room = room;
    }
    map->list[map->count++] = m;
    return true;
}

static bool parse_weight_map(struct map *map, struct json_pull *p, const char *path,
                             struct error *err)
{
    bool first = true;

    if (!json_pull_mark(p, '{'))
        return error_set(err, ERR_FORMAT,
                         "%.200s: weight_map: expected an object, found another value", path);
    while (json_pull_next(p, '}', &first)) {
        struct mapping m = { .tensor = json_pull_key(p) };

        m.file = json_pull_string(p);
        if (!m.file)
            return error_set(err, ERR_FORMAT,
                             "%.200s: tensor %.100s: expected a file name, found another value",
                             path, m.tensor);
        if (!*m.file || strchr(m.file, '/') || strstr(m.file, ".."))
            return error_set(err, ERR_FORMAT,
                             "%.200s: tensor %.100s: expected a file name in this folder, found "
                             "\"%.100s\"",
                             path, m.tensor, m.file);
        if (!add_mapping(map, m, path, err))
            return false;
    }
    return true;
}

static bool parse_index(struct map *map, struct json_pull *p, const char *path, struct error *err)
{
    bool first = true, found = false;

    if (!json_pull_mark(p, '{'))
        return error_set(err, ERR_FORMAT, "%.200s: expected an object, found another value", path);
    while (json_pull_next(p, '}', &first)) {
        if (strcmp(json_pull_key(p), "weight_map") != 0) {
            json_pull_skip(p);
            continue;
        }
        found = true;
        if (!parse_weight_map(map, p, path, err))
            return false;
    }
    return found || error_set(err, ERR_FORMAT, "%.200s: expected a weight_map, found none", path);
}

static const char *file_name(const struct source *s)
{
    const char *slash = strrchr(s->path, '/');

    return slash ? slash + 1 : s->path;
}

/* Opens the shard unless it is open already. */
static bool need_shard(struct weights *w, const char *name, struct error *err)
{
    char *path;
    bool ok;

    for (size_t i = w->source_count; i-- > 0;) /* the newest is the likely one */
        if (strcmp(file_name(&w->sources[i]), name) == 0)
            return true;
    if (asprintf(&path, "%s/%s", w->folder, name) < 0)
        return error_set(err, ERR_NOMEM, "%.200s: out of memory", name);
    ok = safetensors_add(w, path, err);
    free(path);
    return ok;
}

/* Names are distinct on both sides, so equal counts leave no tensor out of the index. */
static bool prove_map(const struct weights *w, const struct map *map, const char *path,
                      struct error *err)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct mapping *m = &map->list[i];
        const struct tensor *t = weights_find(w, m->tensor);
        const struct entry *e = (const struct entry *)t;

        if (!t || strcmp(file_name(&w->sources[e->source]), m->file) != 0)
            return error_set(err, ERR_FORMAT,
                             "%.200s: tensor %.100s: expected in %.100s, found %.100s", path,
                             m->tensor, m->file, t ? file_name(&w->sources[e->source]) : "nowhere");
    }
    if (map->count != w->count)
        return error_set(err, ERR_FORMAT, "%.200s: expected %zu tensors in its files, found %zu",
                         path, map->count, w->count);
    return true;
}

bool shards_load(struct weights *w, const char *path, struct error *err)
{
    static const struct json_bounds bounds = { .max_depth = 32, .max_values = 3 * LIMIT_TENSORS };
    struct map map = { 0 };
    struct json_pull p;
    size_t len;
    char *text = text_file_read(path, LIMIT_MODEL_JSON_BYTES, &len, err);
    bool ok = text && json_pull_init(&p, text, len, &bounds, path, "index", err) &&
              parse_index(&map, &p, path, err);

    for (size_t i = 0; ok && i < map.count; i++)
        ok = need_shard(w, map.list[i].file, err);
    ok = ok && weights_sort(w, err) && prove_map(w, &map, path, err);
    free(map.list);
    free(text);
    return ok;
}
