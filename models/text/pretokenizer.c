/* pretokenizer.c - a tokenizer.json pre-tokenizer as a flat list of stages.
 *
 * Each stage reads the pieces of the one before and writes its own; a piece is looked at
 * alone, so a look-around never sees its neighbours. Meaning and defaults follow Hugging
 * Face tokenizers' pre_tokenizers/ and NormalizedString::split. */
#include "models/text/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/component.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

enum { STAGES_MAX = 32 };

enum stage_kind { STAGE_BYTE_LEVEL, STAGE_SPLIT, STAGE_DIGITS, STAGE_PUNCTUATION, STAGE_METASPACE };

enum behavior { REMOVED, ISOLATED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };

static const char *const behaviors[] = { "Removed", "Isolated", "Contiguous", "MergedWithPrevious",
                                         "MergedWithNext" };

struct pretokenizer {
    int stages;
    struct stage {
        enum stage_kind kind;
        struct pattern *pattern; /* split, metaspace, byte level: NULL when it does not split */
        enum behavior behavior;
        bool invert;
        enum metaspace_prepend prepend; /* byte level, metaspace */
        struct metaspace space;

    } stage[STAGES_MAX];
};

/* The expression of ByteLevel, as GPT-2 published it. */
static const char gpt2_expression[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool no_memory(struct error *err)
{
    return error_set(err, ERR_NOMEM, "pre-tokenizer: out of memory");
}

void pieces_finish(struct pieces *p)
{
    free(p->text.bytes);
    free(p->end);
    *p = (struct pieces){ 0 };
}

void pretokenizer_run_finish(struct pretokenizer_run *r)
{
    pattern_matcher_finish(&r->matcher);
    pieces_finish(&r->pieces);
    pieces_finish(&r->next);
}

static void pieces_clear(struct pieces *p)
{
    p->text.len = 0;
    p->count = 0;
}

/* Ends a piece at the end of the text written so far, unless it would be empty. */
static bool pieces_end(struct pieces *p)
{
    uint32_t end = (uint32_t)p->text.len;

    if (end == (p->count ? p->end[p->count - 1] : 0))
        return true;
    if (p->count == p->capacity) {
        size_t capacity = grown_capacity(p->capacity, p->count + 1);
        uint32_t *grown = capacity ? realloc(p->end, capacity * sizeof(*grown)) : NULL;

        if (!grown)
            return false;
        p->end = grown;
        p->capacity = capacity;
    }
    p->end[p->count++] = end;
    return true;
}

static bool read_behavior(struct stage *s, const cJSON *component, struct error *err)
{
    const char *name = behaviors[s->behavior];

    if (!component_string(component, "behavior", &name, err))
        return false;
    for (size_t i = 0; i < sizeof(behaviors) / sizeof(*behaviors); i++) {
        if (strcmp(name, behaviors[i]) == 0) {
            s->behavior = (enum behavior)i;
            return true;
        }
    }
    return error_set(err, ERR_FORMAT, "%s: unknown behavior '%.40s'", component_type(component),
                     name);
}

static bool read_byte_level(struct stage *s, const cJSON *component, struct error *err)
{
    bool space = true, regex = true;

    s->kind = STAGE_BYTE_LEVEL;
    s->behavior = ISOLATED;
    if (!component_bool(component, "add_prefix_space", &space, err) ||
        !component_bool(component, "use_regex", &regex, err))
        return false;
    s->prepend = space ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!regex)
        return true;
    s->pattern = pattern_create(gpt2_expression, true, err);
    return s->pattern != NULL;
}

static bool read_split(struct stage *s, const cJSON *component, struct error *err)
{
    const char *text;
    bool regex;

    s->kind = STAGE_SPLIT;
    if (!component_pattern(component, "pattern", &text, &regex, err) ||
        !component_bool(component, "invert", &s->invert, err) || !read_behavior(s, component, err))
        return false;
    s->pattern = pattern_create(text, regex, err);
    return s->pattern != NULL;
}

static bool read_metaspace(struct stage *s, const cJSON *component, struct error *err)
{
    bool split = true;

    s->kind = STAGE_METASPACE;
    s->behavior = MERGED_WITH_NEXT;
    if (!component_metaspace(component, &s->space, &s->prepend, err) ||
        !component_bool(component, "split", &split, err))
        return false;
    if (!split)
        return true;
    s->pattern = pattern_create(s->space.text, false, err);
    return s->pattern != NULL;
}

static bool read_stage(struct stage *s, const cJSON *component, struct error *err)
{
    bool individual = false;

    if (component_is(component, "ByteLevel"))
        return read_byte_level(s, component, err);
    if (component_is(component, "Split"))
        return read_split(s, component, err);
    if (component_is(component, "Metaspace"))
        return read_metaspace(s, component, err);
    if (component_is(component, "Digits")) {
        s->kind = STAGE_DIGITS;
        if (!component_bool(component, "individual_digits", &individual, err))
            return false;
        s->behavior = individual ? ISOLATED : CONTIGUOUS;
        return true;
    }
    if (component_is(component, "Punctuation")) {
        s->kind = STAGE_PUNCTUATION;
        s->behavior = ISOLATED;
        return read_behavior(s, component, err);
    }
    return component_refuse(component, "pre-tokenizer", err);
}

/* Recursion is bounded by the depth the JSON text was scanned with. */
static bool read_component(struct pretokenizer *p, const cJSON *component, struct error *err)
{
    const cJSON *list, *item;

    if (!component_is(component, "Sequence")) {
        if (p->stages == STAGES_MAX)
            return error_set(err, ERR_FORMAT, "more than %d pre-tokenizers", STAGES_MAX);
        return read_stage(&p->stage[p->stages++], component, err);
    }
    if (!component_array(component, "pretokenizers", &list, err))
        return false;
    cJSON_ArrayForEach(item, list)
    {
        if (!read_component(p, item, err))
            return false;
    }
    return true;
}

struct pretokenizer *pretokenizer_create(const cJSON *component, struct error *err)
{
    struct pretokenizer *p = calloc(1, sizeof(*p));

    if (!p) {
        no_memory(err);
        return NULL;
    }
    if (component && !read_component(p, component, err)) {
        pretokenizer_destroy(p);
        return NULL;
    }
    return p;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->stages; i++)
        pattern_destroy(p->stage[i].pattern);
    free(p);
}

/* The alphabet maps a printable byte to the character of its number and the others, in
 * order, to U+0100 and up. */
static int32_t byte_level_code(unsigned char byte)
{
    if (byte <= ' ')
        return 0x100 + byte;
    if (byte < 0x7f || (byte > 0xa0 && byte != 0xad))
        return byte;
    return byte == 0xad ? 0x143 : 0x121 + (byte - 0x7f);
}

int byte_level_byte(int32_t code)
{
    if (code > 0x143)
        return -1;
    if (code >= 0x100)
        return code == 0x143 ? 0xad : code <= 0x120 ? code - 0x100 : code - 0x121 + 0x7f;
    return byte_level_code((unsigned char)code) == code ? code : -1;
}

/* Writes a part of a piece as the stage changes it. */
static bool write_text(const struct stage *s, struct pieces *out, const char *text, size_t len)
{
    if (s->kind != STAGE_BYTE_LEVEL)
        return text_buffer_append(&out->text, text, len);
    if (!text_buffer_reserve(&out->text, 2 * len))
        return false;
    char *to = out->text.bytes + out->text.len;
    for (size_t i = 0; i < len; i++) {
        int32_t code = byte_level_code((unsigned char)text[i]);

        if (code >= 0x80) {
            *to++ = (char)(0xc0 | code >> 6);
            *to++ = (char)(0x80 | (code & 0x3f));
        } else {
            *to++ = (char)code;
        }
    }
    out->text.len = (size_t)(to - out->text.bytes);
    return true;
}

/* The next stretch that the stage's pattern or character class matches. */
static enum pattern_result find(const struct stage *s, struct pattern_matcher *m, const char *text,
                                size_t len, size_t from, size_t *begin, size_t *end,
                                struct error *err)
{
    size_t step;

    if (s->pattern)
        return pattern_find(s->pattern, m, text, len, from, begin, end, err);
    if (s->kind != STAGE_DIGITS && s->kind != STAGE_PUNCTUATION)
        return PATTERN_NONE;
    for (; from < len; from += step) {
        int32_t code = utf8_decode(text + from, &step);

        if (s->kind == STAGE_DIGITS ? utf8_is_numeric(code) : utf8_is_punctuation(code)) {
            *begin = from;
            *end = from + step;
            return PATTERN_MATCH;
        }
    }
    return PATTERN_NONE;
}

/* One stretch of a piece, a match or what lies between two. `last` is the kind of the
 * stretch before it in the same piece, -1 at the beginning. */
static bool write_stretch(const struct stage *s, struct pieces *out, const char *text, size_t len,
                          bool match, int last)
{
    bool cut = true; /* from what was written before */

    if (len == 0)
        return true;
    switch (s->behavior) {
    case REMOVED:
        if (match)
            return pieces_end(out);
        break;
    case ISOLATED:
        break;
    case CONTIGUOUS:
        cut = last != match;
        break;
    case MERGED_WITH_PREVIOUS:
        cut = !match || last == 1;
        break;
    case MERGED_WITH_NEXT:
        cut = match || last == 0;
        break;
    }
    return (!cut || pieces_end(out)) && write_text(s, out, text, len);
}

static bool cut_piece(const struct stage *s, struct pretokenizer_run *r, const char *text,
                      size_t len, struct error *err)
{
    size_t at = 0, begin, end;
    enum pattern_result found;
    int last = -1;

    while ((found = find(s, &r->matcher, text, len, at, &begin, &end, err)) == PATTERN_MATCH) {
        if (begin > at) {
            if (!write_stretch(s, &r->next, text + at, begin - at, s->invert, last))
                return no_memory(err);
            last = s->invert;
        }
        if (!write_stretch(s, &r->next, text + begin, end - begin, !s->invert, last))
            return no_memory(err);
        last = !s->invert;
        at = end;
    }
    if (found == PATTERN_FAILED)
        return false;
    if (!write_stretch(s, &r->next, text + at, len - at, s->invert, last) || !pieces_end(&r->next))
        return no_memory(err);
    return true;
}

/* Puts `space` in front of a piece that does not begin with it. */
static bool prepend_space(struct text_buffer *to, const char *space, const char *text, size_t len)
{
    size_t n = strlen(space);

    if (len >= n && memcmp(text, space, n) == 0)
        return true;
    return text_buffer_append(to, space, n);
}

/* ByteLevel and Metaspace may put a space in front of a piece, and Metaspace writes spaces in
 * its own way, before they cut: the changed copy of the piece. */
static bool prepare_piece(const struct stage *s, bool first, const char *text, size_t len,
                          struct text_buffer *to)
{
    bool prepend = s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && first);
    const char *space = s->kind == STAGE_METASPACE ? s->space.text : " ", *at;
    size_t part;

    to->len = 0;
    if (prepend && !(s->kind == STAGE_METASPACE && text[0] == ' ') &&
        !prepend_space(to, space, text, len))
        return false;
    if (s->kind != STAGE_METASPACE)
        return text_buffer_append(to, text, len);
    for (; len > 0; text += part, len -= part) {
        at = memchr(text, ' ', len);
        part = at ? (size_t)(at - text) : len;
        if (!text_buffer_append(to, text, part))
            return false;
        if (at) {
            if (!text_buffer_append(to, space, strlen(space)))
                return false;
            part++;
        }
    }
    return true;
}

static bool run_stage(const struct stage *s, struct pretokenizer_run *r, struct error *err)
{
    bool prepare = s->kind == STAGE_METASPACE || s->prepend != PREPEND_NEVER, ok = true;
    struct text_buffer prepared = { 0 };
    struct pieces swap;
    size_t begin = 0;

    pieces_clear(&r->next);
    for (size_t i = 0; i < r->pieces.count && ok; i++) {
        const char *text = r->pieces.text.bytes + begin;
        size_t len = r->pieces.end[i] - begin;

        begin = r->pieces.end[i];
        if (prepare) {
            if (!prepare_piece(s, r->first && i == 0, text, len, &prepared)) {
                ok = no_memory(err);
                break;
            }
            text = prepared.bytes;
            len = prepared.len;
        }
        ok = cut_piece(s, r, text, len, err);
    }
    free(prepared.bytes);
    swap = r->pieces;
    r->pieces = r->next;
    r->next = swap;
    return ok;
}

bool pretokenizer_cut(const struct pretokenizer *p, struct pretokenizer_run *r, const char *text,
                      size_t len, struct error *err)
{
    pieces_clear(&r->pieces);
    if (!text_buffer_append(&r->pieces.text, text, len) || !pieces_end(&r->pieces))
        return no_memory(err);
    for (int i = 0; i < p->stages; i++) {
        if (!run_stage(&p->stage[i], r, err))
            return false;
    }
    return true;
}
