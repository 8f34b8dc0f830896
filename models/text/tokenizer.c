/* tokenizer.c - opening a tokenizer by what its file is, and what all kinds share. */
#include "models/text/tokenizer.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/error.h"
#include "config/limits.h"
#include "config/text_file.h"
#include "models/text/text_buffer.h"
#include "models/text/tokenizer_internal.h"
#include "models/text/utf8.h"

static bool encode_bytes(const struct tokenizer *t, struct encoding *e, const char *text,
                         size_t len, bool first, bool special, struct token_list *out,
                         struct error *err)
{
    (void)t;
    (void)e;
    (void)first;
    (void)special;
    for (size_t i = 0; i < len; i++) {
        if (!token_list_append(out, (unsigned char)text[i]))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
    }
    return true;
}

bool tokenizer_read_bytes(struct tokenizer *t, struct error *err)
{
    t->kind = "bytes";
    t->encode_part = encode_bytes;
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;

        if (!vocabulary_add(&t->vocabulary, c, &byte, 1, 256, err))
            return false;
    }
    return true;
}

static bool is_json(const char *text, size_t len)
{
    size_t at = 0;

    while (at < len && strchr(" \t\r\n", text[at]) && text[at])
        at++;
    return at < len && text[at] == '{';
}

static struct tokenizer *create(struct error *err)
{
    struct tokenizer *t = calloc(1, sizeof(*t));

    if (!t)
        error_set(err, ERR_NOMEM, "tokenizer: out of memory");
    return t;
}

struct tokenizer *tokenizer_parse(const char *text, size_t len, int vocab, struct error *err)
{
    struct tokenizer *t = create(err);

    if (!t)
        return NULL;
    if (is_json(text, len) ? tokenizer_read_json(t, text, len, vocab, err)
                           : tokenizer_read_world(t, text, len, vocab, err))
        return t;
    tokenizer_close(t);
    return NULL;
}

static struct tokenizer *open_file(const char *path, int vocab, struct error *err)
{
    struct tokenizer *t;
    struct error inner;
    size_t len;
    char *text = text_file_read(path, LIMIT_MODEL_JSON_BYTES, &len, err);

    if (!text)
        return NULL;
    t = tokenizer_parse(text, len, vocab, &inner);
    if (!t)
        error_set(err, inner.code, "%s: %s", path, inner.message);
    free(text);
    return t;
}

static bool too_long(const char *folder, struct error *err)
{
    return error_set(err, ERR_IO, "%.100s...: %s", folder, strerror(ENAMETOOLONG));
}

/* The RWKV vocabulary in a folder, the last by name when there are several; "" if there is
 * none. */
static bool find_world(const char *folder, char *path, size_t size, struct error *err)
{
    char best[NAME_MAX + 1] = "";
    struct dirent *entry;
    DIR *dir = opendir(folder);

    if (!dir)
        return error_set(err, ERR_IO, "%s: %s", folder, strerror(errno));
    while ((entry = readdir(dir))) {
        if (fnmatch("rwkv_vocab*.txt", entry->d_name, 0) == 0 && strcmp(entry->d_name, best) > 0)
            snprintf(best, sizeof(best), "%s", entry->d_name);
    }
    closedir(dir);
    *path = '\0';
    return !*best || snprintf(path, size, "%s/%s", folder, best) < (int)size ||
           too_long(folder, err);
}

static struct tokenizer *open_folder(const char *folder, int vocab, struct error *err)
{
    char path[PATH_MAX];
    struct tokenizer *t;

    if (snprintf(path, sizeof(path), "%s/tokenizer.json", folder) >= (int)sizeof(path)) {
        too_long(folder, err);
        return NULL;
    }
    if (text_file_absent(path) && !find_world(folder, path, sizeof(path), err))
        return NULL;
    if (*path)
        return open_file(path, vocab, err);
    if (vocab != 256) {
        error_set(err, ERR_FORMAT,
                  "%s: no tokenizer.json and no rwkv_vocab*.txt, and a vocabulary of %d is not "
                  "plain bytes (256)",
                  folder, vocab);
        return NULL;
    }
    t = create(err);
    if (t && !tokenizer_read_bytes(t, err)) {
        tokenizer_close(t);
        return NULL;
    }
    return t;
}

struct tokenizer *tokenizer_open(const char *path, int vocab, struct error *err)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        return NULL;
    }
    return S_ISDIR(st.st_mode) ? open_folder(path, vocab, err) : open_file(path, vocab, err);
}

/* Accepts NULL and every half-read state. */
void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    vocabulary_finish(&t->vocabulary);
    added_tokens_finish(&t->added);
    decoded_finish(&t->decoded);
    free(t->lead.id);
    normalizer_destroy(t->normalizer);
    pretokenizer_destroy(t->pretokenizer);
    bpe_finish(&t->bpe);
    trie_finish(&t->trie);
    free(t);
}

const char *tokenizer_kind(const struct tokenizer *t)
{
    return t->kind;
}

int tokenizer_size(const struct tokenizer *t)
{
    return t->vocabulary.size;
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    const struct decoded *d = &t->decoded;

    if (!d->text)
        return vocabulary_text(&t->vocabulary, id, len);
    if (id < 0 || id >= d->size || d->text[id].len == 0) {
        *len = 0;
        return "";
    }
    *len = d->text[id].len;
    return d->arena.bytes + d->text[id].begin;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return added_tokens_flags(&t->added, id) & ADDED_SPECIAL;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t len)
{
    return vocabulary_find(&t->vocabulary, text, len);
}

static bool encode(const struct tokenizer *t, struct encoding *e, const char *text, size_t len,
                   bool special, struct token_list *out, struct error *err)
{
    size_t at = 0, begin, end;
    int32_t id;

    for (size_t i = 0; special && i < t->lead.count; i++) {
        if (!token_list_append(out, t->lead.id[i]))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
    }
    while (at < len) {
        id = added_tokens_find(&t->added, &t->added.raw, text, len, at, special, &begin, &end);
        if (id < 0)
            begin = end = len;
        if (begin > at && !t->encode_part(t, e, text + at, begin - at, at == 0, special, out, err))
            return false;
        if (id >= 0 && !token_list_append(out, id))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
        at = end;
    }
    return true;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                      struct token_list *out, size_t *lead, struct error *err)
{
    struct encoding e = { 0 };
    size_t count = out->count, valid;
    bool ok;

    if (t->encode_part != encode_bytes) {
        valid = utf8_valid_prefix(text, len);
        if (valid < len)
            return error_set(err, ERR_INPUT, "the text is not valid UTF-8 at byte %zu", valid);
    }
    ok = encode(t, &e, text, len, special, out, err);
    if (!ok)
        out->count = count;
    else if (lead)
        *lead = special ? t->lead.count : 0;
    free(e.normal.bytes);
    pretokenizer_run_finish(&e.run);
    bpe_scratch_finish(&e.bpe);
    return ok;
}
