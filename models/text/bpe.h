/* bpe.h - byte pair encoding of one pre-token.
 *
 * The symbols are the characters of the pre-token; the pair of neighbours whose merge has
 * the lowest rank, leftmost first, is merged until no pair is left. A linked list and a heap
 * make that O(n log n), so a pre-token may be a whole prompt. A bpe is immutable once built
 * (any thread); the scratch belongs to one call. */
#ifndef MODELS_TEXT_BPE_H
#define MODELS_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/added_tokens.h"
#include "models/text/number_map.h"
#include "models/text/tokenizer.h"
#include "models/text/vocabulary.h"

enum { BPE_DIRECT = 0x200 };

#define BPE_NONE     UINT32_MAX
#define BPE_NO_MERGE UINT64_MAX

struct bpe {
    const struct vocabulary *vocabulary; /* borrowed */
    const struct added_tokens *added;    /* borrowed */
    struct number_map merge;             /* left << 32 | right to rank << 32 | id */
    int32_t direct[BPE_DIRECT];          /* ids of the characters below U+0200, -1: none */
    int32_t byte_id[256];                /* ids of <0x00> to <0xFF>, -1: none */
    int32_t unknown;                     /* for characters without a token; -1: drop them */
    bool byte_fallback, fuse_unknown, ignore_merges;
};

struct bpe_scratch {
    struct bpe_symbol {
        int32_t id;
        uint32_t prev, next; /* BPE_NONE at the ends */
        uint64_t merge;      /* with the next: rank << 32 | id; BPE_NO_MERGE */
    } * symbol;
    size_t symbols;
    uint64_t *heap; /* rank << 32 | position of the left symbol; smallest first */
    size_t heaped, symbol_capacity, heap_capacity;
};

/* Fills direct and byte_id; unknown, the flags and the merges are the caller's. */
void bpe_init(struct bpe *b, const struct vocabulary *v, const struct added_tokens *added);
void bpe_finish(struct bpe *b);

/* The merges must be added in the order of their rank. ERR_FORMAT: a part or the whole is
 * not a token, or the pair was there before. */
bool bpe_add_merge(struct bpe *b, const char *left, size_t left_len, const char *right,
                   size_t right_len, struct error *err);

/* Appends the ids of len bytes of valid UTF-8. false when memory ran out. */
bool bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *text, size_t len,
                struct token_list *out);
void bpe_scratch_finish(struct bpe_scratch *s);

#endif
