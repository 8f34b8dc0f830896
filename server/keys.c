#include "server/keys.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"
#include "server/state/id.h"

enum { KEY_MIN = 16, SECRET_MIN = 32, NAME_TAG = 'n', KEY_TAG = 'k' };

struct keys {
    size_t count, capacity;
    struct key {
        struct digest digest; /* of the key */
        uint64_t owner;
    } * key;
};

/* Up to max bytes of a file, at the head of a buffer of max + 1. */
static bool read_file(const char *path, char *to, size_t max, size_t *len, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t n = 1;

    if (fd < 0)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    while (have <= max && n) {
        n = read(fd, to + have, max + 1 - have);
        if (n < 0 && errno != EINTR)
            break;
        have += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (n < 0)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if (have > max)
        return error_set(err, ERR_LIMIT, "%s: longer than %zu bytes", path, max);
    *len = have;
    return true;
}

static const struct key *find(const struct keys *k, const struct digest *digest)
{
    const struct key *found = NULL;

    for (size_t i = 0; i < k->count; i++)
        if (digest_equal(&k->key[i].digest, digest))
            found = &k->key[i];
    return found;
}

/* The first 8 bytes of a digest of what names the owner; 0 stands for a server without keys. */
static bool number_of(char tag, const char *text, size_t len, uint64_t *owner)
{
    char tagged[LIMIT_API_KEY_BYTES + 1] = { tag };
    struct digest d;
    bool ok;

    memcpy(tagged + 1, text, len);
    ok = digest_of(tagged, len + 1, &d);
    digest_wipe(tagged, sizeof(tagged));
    if (!ok)
        return false;
    memcpy(owner, d.bytes, sizeof(*owner));
    *owner += *owner == 0;
    return true;
}

static bool grow(struct keys *k)
{
    size_t capacity = k->capacity ? k->capacity * 2 : 16;
    struct key *grown = realloc(k->key, capacity * sizeof(*grown));

    if (!grown)
        return false;
    k->key = grown;
    k->capacity = capacity;
    return true;
}

static bool add(struct keys *k, const char *key, size_t len, const char *name, size_t name_len,
                struct error *err)
{
    struct key *new;
    bool ok;

    if (k->count == LIMIT_API_KEYS)
        return error_set(err, ERR_LIMIT, "more than %d keys", LIMIT_API_KEYS);
    if (k->count == k->capacity && !grow(k))
        return error_set(err, ERR_NOMEM, "no memory for %zu keys", k->count + 1);
    new = &k->key[k->count];
    ok = digest_of(key, len, &new->digest) &&
         (name_len ? number_of(NAME_TAG, name, name_len, &new->owner)
                   : number_of(KEY_TAG, key, len, &new->owner));
    if (!ok)
        return error_set(err, ERR_NOMEM, "SHA-256 is not to be had");
    if (find(k, &new->digest))
        return error_set(err, ERR_INPUT, "the key is there twice");
    k->count++;
    return true;
}

/* "KEY", "KEY NAME", or nothing. The text of a key never reaches a message. */
static bool read_line(struct keys *k, const char *at, const char *end, struct error *err)
{
    char name[LIMIT_ID_BYTES + 1];
    const char *key_end, *name_end;
    struct id id;

    while (at < end && isspace((unsigned char)*at))
        at++;
    while (end > at && isspace((unsigned char)end[-1]))
        end--;
    if (at == end || *at == '#')
        return true;
    for (key_end = at; key_end < end && isgraph((unsigned char)*key_end); key_end++)
        ;
    if (key_end - at < KEY_MIN || key_end - at > LIMIT_API_KEY_BYTES)
        return error_set(err, ERR_INPUT, "a key has %d to %d printable characters", KEY_MIN,
                         LIMIT_API_KEY_BYTES);
    for (name_end = key_end; name_end < end && isblank((unsigned char)*name_end); name_end++)
        ;
    if (end - name_end > LIMIT_ID_BYTES)
        return error_set(err, ERR_INPUT, "a name has at most %d characters", LIMIT_ID_BYTES);
    memcpy(name, name_end, (size_t)(end - name_end));
    name[end - name_end] = '\0';
    if (name[0] &&
        (name_end == key_end || strlen(name) != (size_t)(end - name_end) || !id_parse(&id, name)))
        return error_set(err, ERR_INPUT,
                         "behind a key stands nothing, or a name of A-Z, a-z, 0-9, "
                         "'.', '_' and '-'");
    return add(k, at, (size_t)(key_end - at), name, strlen(name), err);
}

static bool read_lines(struct keys *k, const char *path, const char *text, size_t len,
                       struct error *err)
{
    struct error why;
    int line = 1;

    for (const char *at = text, *end; at < text + len; at = end + 1, line++) {
        end = memchr(at, '\n', (size_t)(text + len - at));
        if (!end)
            end = text + len;
        if (!read_line(k, at, end, &why))
            return error_set(err, why.code, "%s: line %d: %s", path, line, why.message);
    }
    if (!k->count) /* the file of a half-done deployment must not open the server */
        return error_set(err, ERR_INPUT, "%s: no key in it", path);
    return true;
}

struct keys *keys_open(const char *path, struct error *err)
{
    struct keys *k = calloc(1, sizeof(*k));
    char *text = malloc(LIMIT_KEY_FILE_BYTES + 1);
    size_t len;
    bool ok;

    if (!k || !text) {
        error_set(err, ERR_NOMEM, "%s: no memory for the keys", path);
        free(text);
        free(k);
        return NULL;
    }
    ok = read_file(path, text, LIMIT_KEY_FILE_BYTES, &len, err) &&
         read_lines(k, path, text, len, err);
    digest_wipe(text, LIMIT_KEY_FILE_BYTES + 1);
    free(text);
    if (ok)
        return k;
    keys_close(k);
    return NULL;
}

void keys_close(struct keys *k)
{
    if (!k)
        return;
    free(k->key);
    free(k);
}

size_t keys_count(const struct keys *k)
{
    return k->count;
}

bool keys_find(const struct keys *k, const char *authorization, uint64_t *owner)
{
    const char *key = authorization;
    const struct key *found;
    struct digest digest;

    if (!key || strncasecmp(key, "Bearer ", 7) != 0)
        return false;
    key += 7 + strspn(key + 7, " ");
    if (!digest_of(key, strlen(key), &digest))
        return false;
    found = find(k, &digest);
    if (found)
        *owner = found->owner;
    return found != NULL;
}

bool secret_read(const char *path, struct secret *s, struct error *err)
{
    char text[LIMIT_SECRET_BYTES + 1];
    size_t from = 0, to;
    bool ok = read_file(path, text, LIMIT_SECRET_BYTES, &to, err);

    while (ok && from < to && isspace((unsigned char)text[from]))
        from++;
    while (ok && to > from && isspace((unsigned char)text[to - 1]))
        to--;
    if (ok && to - from < SECRET_MIN)
        ok = error_set(err, ERR_INPUT, "%s: %zu bytes; a secret has at least %d", path, to - from,
                       SECRET_MIN);
    if (ok) {
        s->len = to - from;
        memcpy(s->bytes, text + from, s->len);
    }
    digest_wipe(text, sizeof(text));
    return ok;
}

bool key_file_is_open(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0;
}
