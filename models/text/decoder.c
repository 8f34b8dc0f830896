/* decoder.c - a tokenizer.json decoder applied to each token of the vocabulary.
 *
 * That is possible because every supported decoder but one treats tokens alone; the
 * exception, a strip after Fuse (or in Metaspace), concerns the spaces a text begins with
 * and is left to the detokenizer as a number. */
#include "models/text/decoder.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/component.h"
#include "models/text/pattern.h"
#include "models/text/pretokenizer.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

enum { STEPS_MAX = 32 };

enum step_kind { STEP_BYTE_LEVEL, STEP_BYTE_FALLBACK, STEP_REPLACE, STEP_STRIP };

struct decoder {
    int steps;
    struct step {
        enum step_kind kind;
        const char *from;   /* replace, strip; borrowed from the JSON tree */
        const char *to;     /* replace */
        size_t start, stop; /* strip: at most so many at either end */
    } step[STEPS_MAX];
    struct metaspace space; /* what a Metaspace step's `from` points to */
    bool fused;
    size_t lead;
};

static bool read_replace(struct step *s, const cJSON *component, struct error *err)
{
    bool regex;

    s->kind = STEP_REPLACE;
    s->to = "";
    if (!component_pattern(component, "pattern", &s->from, &regex, err) ||
        !component_string(component, "content", &s->to, err))
        return false;
    if (regex || !*s->from)
        return error_set(err, ERR_FORMAT, "the decoder 'Replace' needs a plain string");
    return true;
}

static bool read_strip(struct decoder *d, struct step *s, const cJSON *component, struct error *err)
{
    int64_t start = 0, stop = 0;

    s->kind = STEP_STRIP;
    s->from = " ";
    if (!component_string(component, "content", &s->from, err) ||
        !component_int(component, "start", 0, 1024, &start, err) ||
        !component_int(component, "stop", 0, 1024, &stop, err))
        return false;
    if (!*s->from)
        return error_set(err, ERR_FORMAT, "the decoder 'Strip' needs a character");
    if (!d->fused) {
        s->start = (size_t)start;
        s->stop = (size_t)stop;
        return true;
    }
    if (stop > 0 || strcmp(s->from, " ") != 0)
        return error_set(err, ERR_FORMAT,
                         "a 'Strip' after 'Fuse' that does not just remove "
                         "leading spaces is not supported");
    d->lead = (size_t)start;
    d->steps--;
    return true;
}

static bool read_step(struct decoder *d, const cJSON *component, struct error *err)
{
    struct step *s = &d->step[d->steps];
    enum metaspace_prepend prepend;

    if (component_is(component, "Fuse")) {
        d->fused = true;
        return true;
    }
    if (d->steps == STEPS_MAX)
        return error_set(err, ERR_FORMAT, "more than %d decoders", STEPS_MAX);
    d->steps++;
    if (component_is(component, "ByteLevel")) {
        s->kind = STEP_BYTE_LEVEL;
        return true;
    }
    if (component_is(component, "ByteFallback")) {
        s->kind = STEP_BYTE_FALLBACK;
        return true;
    }
    if (component_is(component, "Replace"))
        return read_replace(s, component, err);
    if (component_is(component, "Strip"))
        return read_strip(d, s, component, err);
    if (component_is(component, "Metaspace") && !*d->space.text) {
        if (!component_metaspace(component, &d->space, &prepend, err))
            return false;
        *s = (struct step){ .kind = STEP_REPLACE, .from = d->space.text, .to = " " };
        d->lead = prepend == PREPEND_NEVER ? 0 : SIZE_MAX;
        return true;
    }
    return component_refuse(component, "decoder", err);
}

/* Recursion is bounded by the depth the JSON text was scanned with. */
static bool read_component(struct decoder *d, const cJSON *component, struct error *err)
{
    const cJSON *list, *item;

    if (!component_is(component, "Sequence"))
        return read_step(d, component, err);
    if (!component_array(component, "decoders", &list, err))
        return false;
    cJSON_ArrayForEach(item, list)
    {
        if (!read_component(d, item, err))
            return false;
    }
    return true;
}

/* A text with a character outside the byte-level alphabet stays as it is. */
static void apply_byte_level(struct text_buffer *text)
{
    size_t out = 0, step;

    for (size_t at = 0; at < text->len; at += step) {
        if (byte_level_byte(utf8_decode(text->bytes + at, &step)) < 0)
            return;
    }
    for (size_t at = 0; at < text->len; at += step)
        text->bytes[out++] = (char)byte_level_byte(utf8_decode(text->bytes + at, &step));
    text->len = out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool apply_byte_fallback(struct text_buffer *text, struct error *err)
{
    int high, low;

    if (text->len != 6 || memcmp(text->bytes, "<0x", 3) != 0 || text->bytes[5] != '>')
        return true;
    high = hex_digit(text->bytes[3]);
    low = hex_digit(text->bytes[4]);
    if (high < 0 || low < 0)
        return error_set(err, ERR_FORMAT, "'%.6s' is not a byte token <0xHH>", text->bytes);
    text->bytes[0] = (char)(high << 4 | low);
    text->len = 1;
    return true;
}

static bool apply_replace(const struct step *s, struct text_buffer *text, struct error *err)
{
    size_t from = strlen(s->from), to = strlen(s->to), at = 0;
    struct text_buffer out = { 0 };
    const char *hit;

    while ((hit = memmem(text->bytes + at, text->len - at, s->from, from))) {
        if (!text_buffer_append(&out, text->bytes + at, (size_t)(hit - text->bytes) - at) ||
            !text_buffer_append(&out, s->to, to))
            goto no_memory;
        at = (size_t)(hit - text->bytes) + from;
    }
    if (at == 0)
        return true;
    if (!text_buffer_append(&out, text->bytes + at, text->len - at))
        goto no_memory;
    free(text->bytes);
    *text = out;
    return true;

no_memory:
    free(out.bytes);
    return error_set(err, ERR_NOMEM, "decoder: out of memory");
}

static void apply_strip(const struct step *s, struct text_buffer *text)
{
    size_t n = strlen(s->from), begin = 0, end = text->len;

    for (size_t i = 0; i < s->start && end - begin >= n; i++, begin += n) {
        if (memcmp(text->bytes + begin, s->from, n) != 0)
            break;
    }
    for (size_t i = 0; i < s->stop && end - begin >= n; i++, end -= n) {
        if (memcmp(text->bytes + end - n, s->from, n) != 0)
            break;
    }
    memmove(text->bytes, text->bytes + begin, end - begin);
    text->len = end - begin;
}

/* A special token is its own text. An added one that is not special is text as a person
 * wrote it, not in the byte-level alphabet. */
static bool decode(const struct decoder *d, unsigned flags, struct text_buffer *text,
                   struct error *err)
{
    for (int i = 0; i < d->steps && !(flags & ADDED_SPECIAL) && text->len > 0; i++) {
        const struct step *s = &d->step[i];

        if (s->kind == STEP_STRIP)
            apply_strip(s, text);
        else if (s->kind == STEP_BYTE_LEVEL && !(flags & ADDED))
            apply_byte_level(text);
        else if (s->kind == STEP_BYTE_FALLBACK && !apply_byte_fallback(text, err))
            return false;
        else if (s->kind == STEP_REPLACE && !apply_replace(s, text, err))
            return false;
    }
    return true;
}

static bool decode_all(struct decoded *d, const struct decoder *decoder, const struct vocabulary *v,
                       const struct added_tokens *added, struct text_buffer *one, struct error *err)
{
    size_t len;

    d->text = calloc((size_t)v->size + 1, sizeof(*d->text));
    if (!d->text)
        return error_set(err, ERR_NOMEM, "decoder: out of memory");
    for (d->size = 0; d->size < v->size; d->size++) {
        const char *text = vocabulary_text(v, d->size, &len);

        one->len = 0;
        if (!text_buffer_append(one, text, len))
            return error_set(err, ERR_NOMEM, "decoder: out of memory");
        if (!decode(decoder, added_tokens_flags(added, d->size), one, err))
            return false;
        d->text[d->size].begin = (uint32_t)d->arena.len;
        d->text[d->size].len = (uint32_t)one->len;
        if (!text_buffer_append(&d->arena, one->bytes, one->len))
            return error_set(err, ERR_NOMEM, "decoder: out of memory");
    }
    return true;
}

bool decoded_init(struct decoded *d, const cJSON *component, const struct vocabulary *v,
                  const struct added_tokens *added, struct error *err)
{
    struct decoder decoder = { 0 };
    struct text_buffer one = { 0 };
    bool ok;

    *d = (struct decoded){ 0 };
    if (!read_component(&decoder, component, err))
        return false;
    d->lead = decoder.lead;
    ok = decode_all(d, &decoder, v, added, &one, err);
    free(one.bytes);
    return ok;
}

void decoded_finish(struct decoded *d)
{
    free(d->arena.bytes);
    free(d->text);
    *d = (struct decoded){ 0 };
}
