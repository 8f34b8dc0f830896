/* vocabulary.c - see vocabulary.h. */
#include "models/text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/text_buffer.h"

void vocabulary_finish(struct vocabulary *v)
{
    free(v->arena.bytes);
    free(v->text);
    free(v->bucket);
    *v = (struct vocabulary){ 0 };
}

static uint64_t hash(const char *text, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The bucket that holds the text, or the free one where it would go. */
static size_t bucket_of(const struct vocabulary *v, const char *text, size_t len)
{
    size_t i = hash(text, len) & (v->buckets - 1), have;

    for (; v->bucket[i] >= 0; i = (i + 1) & (v->buckets - 1)) {
        const char *other = vocabulary_text(v, v->bucket[i], &have);

        if (have == len && memcmp(other, text, len) == 0)
            break;
    }
    return i;
}

static bool grow_buckets(struct vocabulary *v)
{
    size_t buckets = v->buckets ? v->buckets * 2 : 512, len;
    int32_t *bucket = malloc(buckets * sizeof(*bucket));

    if (!bucket)
        return false;
    for (size_t i = 0; i < buckets; i++)
        bucket[i] = -1;
    free(v->bucket);
    v->bucket = bucket;
    v->buckets = buckets;
    for (int32_t id = 0; id < v->size; id++) {
        const char *text = vocabulary_text(v, id, &len);

        if (len)
            bucket[bucket_of(v, text, len)] = id;
    }
    return true;
}

static bool make_room(struct vocabulary *v, int32_t id)
{
    if (id >= v->capacity) {
        size_t capacity = grown_capacity((size_t)v->capacity, (size_t)id + 1);
        struct vocabulary_text *text = realloc(v->text, capacity * sizeof(*text));

        if (!text)
            return false;
        v->text = text;
        v->capacity = (int32_t)capacity;
    }
    for (; v->size <= id; v->size++)
        v->text[v->size] = (struct vocabulary_text){ 0 };
    return v->count * 2 < v->buckets || grow_buckets(v);
}

bool vocabulary_add(struct vocabulary *v, int64_t id, const char *text, size_t len, int limit,
                    struct error *err)
{
    int cut = len > 40 ? 40 : (int)len;
    size_t at, there;

    if (len == 0)
        return error_set(err, ERR_FORMAT, "token %lld has no text", (long long)id);
    if (id < 0 || id >= limit || id >= VOCABULARY_MAX)
        return error_set(err, ERR_FORMAT, "token '%.*s' has id %lld, outside the model's 0..%d",
                         cut, text, (long long)id, limit - 1);
    vocabulary_text(v, (int32_t)id, &there);
    if (there)
        return error_set(err, ERR_FORMAT, "token '%.*s' has id %lld, which another token has", cut,
                         text, (long long)id);
    if (!make_room(v, (int32_t)id))
        return error_set(err, ERR_NOMEM, "vocabulary: out of memory");
    at = bucket_of(v, text, len);
    if (v->bucket[at] >= 0)
        return error_set(err, ERR_FORMAT, "tokens %d and %lld have the same text '%.*s'",
                         v->bucket[at], (long long)id, cut, text);
    v->text[id].begin = (uint32_t)v->arena.len;
    if (!text_buffer_append(&v->arena, text, len))
        return error_set(err, ERR_NOMEM, "vocabulary: out of memory");
    v->text[id].len = (uint32_t)len;
    v->bucket[at] = (int32_t)id;
    v->count++;
    return true;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t len)
{
    if (v->buckets == 0 || len == 0)
        return -1;
    return v->bucket[bucket_of(v, text, len)];
}
