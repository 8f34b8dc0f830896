/* world.c - the RWKV World vocabulary: greedy longest match over bytes.
 *
 * One token a line: its id, a Python literal (a string, meaning its UTF-8, or bytes), and
 * its length in bytes: 257 '\x7f' 1. No merges, nothing before or after. Id 0 is the end of
 * a text and has no line. Every byte must be a token, so that every text can be encoded. */
#include "models/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "config/error.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

/* What RWKV's Hugging Face tokenizer calls id 0. */
static const char end_of_text[] = "<|rwkv_tokenizer_end_of_text|>";

struct line {
    const char *at, *end;
    size_t number;
};

static bool fail(const struct line *l, const char *what, struct error *err)
{
    return error_set(err, ERR_FORMAT, "line %zu: %s", l->number, what);
}

static bool read_number(struct line *l, int64_t *out, struct error *err)
{
    const char *begin = l->at;

    for (*out = 0; l->at < l->end && *l->at >= '0' && *l->at <= '9'; l->at++) {
        if (l->at - begin == 9)
            return fail(l, "a number of more than 9 digits", err);
        *out = *out * 10 + (*l->at - '0');
    }
    return l->at > begin || fail(l, "a number is missing", err);
}

static bool read_space(struct line *l, struct error *err)
{
    if (l->at == l->end || *l->at != ' ')
        return fail(l, "a space is missing", err);
    l->at++;
    return true;
}

/* Exactly n hexadecimal digits. */
static bool read_hex(struct line *l, int n, int32_t *out, struct error *err)
{
    uint32_t value = 0;

    for (int i = 0; i < n; i++, l->at++) {
        char c = l->at < l->end ? *l->at : 0;

        if (c >= '0' && c <= '9')
            value = value << 4 | (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            value = value << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return fail(l, "an escape needs more hexadecimal digits", err);
    }
    if (value > 0x10ffff)
        return fail(l, "an escape beyond U+10FFFF", err);
    *out = (int32_t)value;
    return true;
}

/* After the backslash. */
static bool read_escape(struct line *l, bool bytes, int32_t *code, struct error *err)
{
    static const char letters[] = "\\'\"ntrabfv", values[] = "\\'\"\n\t\r\a\b\f\v";
    char c = l->at < l->end ? *l->at : 0;
    const char *known = c ? strchr(letters, c) : NULL;

    l->at++;
    if (known) {
        *code = values[known - letters];
        return true;
    }
    if (c == 'x')
        return read_hex(l, 2, code, err);
    if (c == 'u' && !bytes)
        return read_hex(l, 4, code, err);
    if (c == 'U' && !bytes)
        return read_hex(l, 8, code, err);
    l->at--;
    return fail(l, "an unknown escape", err);
}

/* A Python literal into out, which is emptied first. */
static bool read_literal(struct line *l, struct text_buffer *out, struct error *err)
{
    bool bytes = l->at < l->end && *l->at == 'b', escaped;
    char quote, utf8[4];
    int32_t code = 0;
    size_t len;

    out->len = 0;
    l->at += bytes;
    quote = l->at < l->end ? *l->at : 0;
    if (quote != '\'' && quote != '"')
        return fail(l, "a quoted token is missing", err);
    for (l->at++; l->at < l->end && *l->at != quote;) {
        escaped = *l->at == '\\';
        if (escaped) {
            l->at++;
            if (!read_escape(l, bytes, &code, err))
                return false;
        } else {
            if (utf8_next(l->at, (size_t)(l->end - l->at), &len) != UTF8_CHARACTER)
                return fail(l, "invalid UTF-8", err);
            code = utf8_decode(l->at, &len);
            l->at += len;
        }
        if (bytes && (code > 0xff || (!escaped && code > 0x7f)))
            return fail(l, "a bytes literal with a character beyond ASCII", err);
        if (code >= 0xd800 && code <= 0xdfff)
            return fail(l, "a surrogate", err);
        utf8[0] = (char)code;
        len = bytes ? 1 : (size_t)utf8proc_encode_char(code, (utf8proc_uint8_t *)utf8);
        if (!text_buffer_append(out, utf8, len))
            return error_set(err, ERR_NOMEM, "vocabulary: out of memory");
    }
    if (l->at == l->end)
        return fail(l, "the token's quote is not closed", err);
    l->at++;
    return true;
}

static bool read_line(struct tokenizer *t, struct line *l, struct text_buffer *text, int vocab,
                      struct error *err)
{
    int64_t id, length;

    if (!read_number(l, &id, err) || !read_space(l, err) || !read_literal(l, text, err) ||
        !read_space(l, err) || !read_number(l, &length, err))
        return false;
    if (l->at != l->end)
        return fail(l, "something after the length", err);
    if ((size_t)length != text->len)
        return error_set(err, ERR_FORMAT, "line %zu: the token has %zu bytes, not %lld", l->number,
                         text->len, (long long)length);
    if (id == 0)
        return fail(l, "id 0 is the end of a text and cannot have a token", err);
    if (!vocabulary_add(&t->vocabulary, id, text->bytes, text->len, vocab, err))
        return false;
    return trie_add(&t->trie, text->bytes, text->len, (int32_t)id) ||
           error_set(err, ERR_NOMEM, "vocabulary: out of memory");
}

static bool read_lines(struct tokenizer *t, const char *text, size_t len, int vocab,
                       struct error *err)
{
    struct text_buffer token = { 0 };
    const char *end = text + len, *next;
    struct line line = { .number = 1 };
    bool ok = true;

    for (; text < end && ok; text = next + 1, line.number++) {
        next = memchr(text, '\n', (size_t)(end - text));
        if (!next)
            next = end;
        line.at = text;
        line.end = next;
        ok = read_line(t, &line, &token, vocab, err);
        if (next == end)
            break;
    }
    free(token.bytes);
    return ok;
}

static bool encode_greedy(const struct tokenizer *t, struct encoding *e, const char *text,
                          size_t len, bool first, bool special, struct token_list *out,
                          struct error *err)
{
    size_t step;

    (void)e;
    (void)first;
    (void)special;
    for (size_t at = 0; at < len; at += step) {
        if (!token_list_append(out, trie_longest(&t->trie, text + at, len - at, &step)))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
    }
    return true;
}

bool tokenizer_read_world(struct tokenizer *t, const char *text, size_t len, int vocab,
                          struct error *err)
{
    size_t n = sizeof(end_of_text) - 1;

    t->kind = "rwkv-world";
    t->encode_part = encode_greedy;
    if (!vocabulary_add(&t->vocabulary, 0, end_of_text, n, vocab, err))
        return false;
    if (!added_tokens_add(&t->added, &t->added.raw, 0, ADDED_SPECIAL, end_of_text, n))
        return error_set(err, ERR_NOMEM, "vocabulary: out of memory");
    if (!read_lines(t, text, len, vocab, err))
        return false;
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;

        if (vocabulary_find(&t->vocabulary, &byte, 1) < 0)
            return error_set(err, ERR_FORMAT, "the byte 0x%02x has no token", (unsigned)c);
    }
    return true;
}
