/* bpe.c - see bpe.h.
 *
 * The heap holds every pair that can be merged, as it was when it was pushed. An entry is
 * stale when the pair now at its position has another rank; a merge pushes the two pairs it
 * made, so at most 3n entries are pushed for n symbols. Behaviour, quirks of unknown
 * characters included, follows Hugging Face tokenizers' models/bpe. */
#include "models/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

void bpe_init(struct bpe *b, const struct vocabulary *v, const struct added_tokens *added)
{
    char text[8];

    *b = (struct bpe){ .vocabulary = v, .added = added, .unknown = -1 };
    for (int c = 0; c < BPE_DIRECT; c++) {
        int len = 1;

        if (c < 0x80) {
            text[0] = (char)c;
        } else {
            text[0] = (char)(0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
            len = 2;
        }
        b->direct[c] = vocabulary_find(v, text, (size_t)len);
    }
    for (int c = 0; c < 256; c++) {
        snprintf(text, sizeof(text), "<0x%02X>", (unsigned)c);
        b->byte_id[c] = vocabulary_find(v, text, 6);
    }
}

void bpe_finish(struct bpe *b)
{
    number_map_finish(&b->merge);
}

void bpe_scratch_finish(struct bpe_scratch *s)
{
    free(s->symbol);
    free(s->heap);
}

bool bpe_add_merge(struct bpe *b, const char *left, size_t left_len, const char *right,
                   size_t right_len, struct error *err)
{
    int32_t l = vocabulary_find(b->vocabulary, left, left_len);
    int32_t r = vocabulary_find(b->vocabulary, right, right_len), whole;
    uint64_t rank = b->merge.count, key, there;
    struct text_buffer joined = { 0 };
    int lc = left_len > 40 ? 40 : (int)left_len, rc = right_len > 40 ? 40 : (int)right_len;

    if (l < 0 || r < 0)
        return error_set(err, ERR_FORMAT, "merge %llu: '%.*s' is not a token",
                         (unsigned long long)rank, l < 0 ? lc : rc, l < 0 ? left : right);
    if (!text_buffer_append(&joined, left, left_len) ||
        !text_buffer_append(&joined, right, right_len)) {
        free(joined.bytes);
        return error_set(err, ERR_NOMEM, "merges: out of memory");
    }
    whole = vocabulary_find(b->vocabulary, joined.bytes, joined.len);
    free(joined.bytes);
    if (whole < 0)
        return error_set(err, ERR_FORMAT, "merge %llu: '%.*s' and '%.*s' give no token",
                         (unsigned long long)rank, lc, left, rc, right);
    key = (uint64_t)l << 32 | (uint32_t)r;
    if (number_map_find(&b->merge, key, &there))
        return error_set(err, ERR_FORMAT, "merge %llu: '%.*s' and '%.*s' are merged twice",
                         (unsigned long long)rank, lc, left, rc, right);
    if (!number_map_set(&b->merge, key, rank << 32 | (uint32_t)whole))
        return error_set(err, ERR_NOMEM, "merges: out of memory");
    return true;
}

/* Whether special tokens may come out of a text was decided before it got here. */
static int32_t find_ordinary(const struct bpe *b, const char *text, size_t len)
{
    int32_t id = vocabulary_find(b->vocabulary, text, len);

    return added_tokens_flags(b->added, id) & ADDED_SPECIAL ? -1 : id;
}

static bool add_symbol(struct bpe_scratch *s, int32_t id)
{
    if (s->symbols == s->symbol_capacity) {
        size_t capacity = grown_capacity(s->symbol_capacity, s->symbols + 1);
        struct bpe_symbol *symbol =
            capacity ? realloc(s->symbol, capacity * sizeof(*symbol)) : NULL;

        if (!symbol)
            return false;
        s->symbol = symbol;
        s->symbol_capacity = capacity;
    }
    s->symbol[s->symbols] =
        (struct bpe_symbol){ id, s->symbols ? (uint32_t)s->symbols - 1 : BPE_NONE, BPE_NONE,
                             BPE_NO_MERGE };
    if (s->symbols)
        s->symbol[s->symbols - 1].next = (uint32_t)s->symbols;
    s->symbols++;
    return true;
}

/* true when every byte of the character has a token of its own. */
static bool has_bytes(const struct bpe *b, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (b->byte_id[(unsigned char)text[i]] < 0)
            return false;
    }
    return true;
}

static bool split_characters(const struct bpe *b, struct bpe_scratch *s, const char *text,
                             size_t len)
{
    bool unknown = false; /* one is seen but not yet added: the next may be fused with it */
    size_t step;

    s->symbols = 0;
    for (size_t at = 0; at < len; at += step) {
        int32_t code = utf8_decode(text + at, &step);
        int32_t id = code < BPE_DIRECT ? b->direct[code] : find_ordinary(b, text + at, step);

        if (id >= 0) {
            if (unknown && !add_symbol(s, b->unknown))
                return false;
            unknown = false;
            if (!add_symbol(s, id))
                return false;
        } else if (b->byte_fallback && has_bytes(b, text + at, step)) {
            for (size_t i = 0; i < step; i++) {
                if (!add_symbol(s, b->byte_id[(unsigned char)text[at + i]]))
                    return false;
            }
        } else if (b->unknown >= 0) {
            if (unknown && !b->fuse_unknown && !add_symbol(s, b->unknown))
                return false;
            unknown = true;
        }
    }
    return !unknown || add_symbol(s, b->unknown);
}

/* Four children a node: half the depth of a binary heap, and a node's children share a
 * cache line. */
static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t moved = heap[i];

    for (size_t first; (first = 4 * i + 1) < n;) {
        size_t least = first, end = first + 4 < n ? first + 4 : n;

        for (size_t child = first + 1; child < end; child++)
            least = heap[child] < heap[least] ? child : least;
        if (moved <= heap[least])
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = moved;
}

static void sift_up(uint64_t *heap, size_t i)
{
    uint64_t moved = heap[i];

    for (; i > 0 && moved < heap[(i - 1) / 4]; i = (i - 1) / 4)
        heap[i] = heap[(i - 1) / 4];
    heap[i] = moved;
}

/* Looks the symbol and its right neighbour up; a pair that can be merged goes to the end of
 * the heap, where room was made by reserve_heap(). */
static bool push(const struct bpe *b, struct bpe_scratch *s, uint32_t left)
{
    struct bpe_symbol *l = &s->symbol[left];

    l->merge = BPE_NO_MERGE;
    if (l->next == BPE_NONE)
        return false;
    if (!number_map_find(&b->merge, (uint64_t)l->id << 32 | (uint32_t)s->symbol[l->next].id,
                         &l->merge))
        return false;
    s->heap[s->heaped++] = (l->merge >> 32) << 32 | left;
    return true;
}

/* Each merge takes one entry out and puts at most two in, and there are fewer than n of
 * them: never more than 2n entries are there at once. */
static bool reserve_heap(struct bpe_scratch *s)
{
    uint64_t *heap;

    if (s->heap_capacity >= 2 * s->symbols)
        return true;
    heap = realloc(s->heap, 2 * s->symbol_capacity * sizeof(*heap));
    if (!heap)
        return false;
    s->heap = heap;
    s->heap_capacity = 2 * s->symbol_capacity;
    return true;
}

static void merge_symbols(const struct bpe *b, struct bpe_scratch *s)
{
    s->heaped = 0;
    for (size_t i = 0; i < s->symbols; i++)
        push(b, s, (uint32_t)i);
    for (size_t i = s->heaped / 4 + 1; i-- > 0 && s->heaped > 1;)
        sift_down(s->heap, s->heaped, i);

    while (s->heaped > 0) {
        uint64_t top = s->heap[0];
        uint32_t left = (uint32_t)top, right;
        struct bpe_symbol *l = &s->symbol[left];

        s->heap[0] = s->heap[--s->heaped];
        if (s->heaped > 0)
            sift_down(s->heap, s->heaped, 0);
        if (l->merge == BPE_NO_MERGE || l->merge >> 32 != top >> 32)
            continue;

        right = l->next;
        l->id = (int32_t)(uint32_t)l->merge;
        l->next = s->symbol[right].next;
        if (l->next != BPE_NONE)
            s->symbol[l->next].prev = left;
        s->symbol[right].merge = BPE_NO_MERGE;
        if (push(b, s, left))
            sift_up(s->heap, s->heaped - 1);
        if (l->prev != BPE_NONE && push(b, s, l->prev))
            sift_up(s->heap, s->heaped - 1);
    }
}

bool bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *text, size_t len,
                struct token_list *out)
{
    if (b->ignore_merges) {
        int32_t id = find_ordinary(b, text, len);

        if (id >= 0)
            return token_list_append(out, id);
    }
    if (!split_characters(b, s, text, len) || !reserve_heap(s))
        return false;
    merge_symbols(b, s);
    for (uint32_t i = 0; i < s->symbols; i = s->symbol[i].next) {
        if (!token_list_append(out, s->symbol[i].id))
            return false;
        if (s->symbol[i].next == BPE_NONE)
            break;
    }
    return true;
}
