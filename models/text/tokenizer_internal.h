/* tokenizer_internal.h - what a tokenizer is made of; for the sources of this folder and
 * their fuzz target. */
#ifndef MODELS_TEXT_TOKENIZER_INTERNAL_H
#define MODELS_TEXT_TOKENIZER_INTERNAL_H

#include "models/text/added_tokens.h"
#include "models/text/bpe.h"
#include "models/text/decoder.h"
#include "models/text/normalizer.h"
#include "models/text/pretokenizer.h"
#include "models/text/tokenizer.h"
#include "models/text/trie.h"
#include "models/text/vocabulary.h"

/* What one call of tokenizer_encode() works with. */
struct encoding {
    struct text_buffer normal;
    struct pretokenizer_run run;
    struct bpe_scratch bpe;
};

struct tokenizer {
    const char *kind;
    /* Appends the ids of a text between two added tokens. first: it begins the input. */
    bool (*encode_part)(const struct tokenizer *t, struct encoding *e, const char *text, size_t len,
                        bool first, bool special, struct token_list *out, struct error *err);
    struct vocabulary vocabulary; /* added tokens included */
    struct added_tokens added;
    struct token_list lead; /* the post-processor's leading tokens */
    struct decoded decoded; /* empty: an id's bytes are its text */

    /* tokenizer.json */
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct bpe bpe;

    struct trie trie; /* RWKV World */
};

/* Each fills a zeroed tokenizer from a file's text; on failure it is half built and
 * tokenizer_close() takes it. */
bool tokenizer_read_json(struct tokenizer *t, const char *text, size_t len, int vocab,
                         struct error *err);
bool tokenizer_read_world(struct tokenizer *t, const char *text, size_t len, int vocab,
                          struct error *err);
bool tokenizer_read_bytes(struct tokenizer *t, struct error *err);

/* The same from memory: what is a JSON object is read as a tokenizer.json, anything else as
 * an RWKV vocabulary. */
struct tokenizer *tokenizer_parse(const char *text, size_t len, int vocab, struct error *err);

/* encode_part of a tokenizer.json: normalize, split, merge. */
bool pipeline_encode(const struct tokenizer *t, struct encoding *e, const char *text, size_t len,
                     bool first, bool special, struct token_list *out, struct error *err);

#endif
