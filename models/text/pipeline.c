/* pipeline.c - how a tokenizer.json encodes: normalize, find the added tokens that are
 * looked for in normalized text, cut what lies between them, merge each piece. */
#include "models/text/tokenizer_internal.h"

#include "config/error.h"
#include "models/text/text_buffer.h"

static bool encode_words(const struct tokenizer *t, struct encoding *e, const char *text,
                         size_t len, struct token_list *out, struct error *err)
{
    size_t begin = 0;

    if (!pretokenizer_cut(t->pretokenizer, &e->run, text, len, err))
        return false;
    for (size_t i = 0; i < e->run.pieces.count; i++) {
        size_t end = e->run.pieces.end[i];

        if (!bpe_encode(&t->bpe, &e->bpe, e->run.pieces.text.bytes + begin, end - begin, out))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
        begin = end;
    }
    return true;
}

bool pipeline_encode(const struct tokenizer *t, struct encoding *e, const char *text, size_t len,
                     bool first, bool special, struct token_list *out, struct error *err)
{
    size_t at = 0, begin, end;
    int32_t id;

    e->normal.len = 0;
    if (!text_buffer_append(&e->normal, text, len))
        return error_set(err, ERR_NOMEM, "encoding: out of memory");
    if (!normalizer_apply(t->normalizer, &e->run.matcher, &e->normal, err))
        return false;
    text = e->normal.bytes;
    len = e->normal.len;
    while (at < len) {
        id = added_tokens_find(&t->added, &t->added.normalized, text, len, at, special, &begin,
                               &end);
        if (id < 0)
            begin = end = len;
        e->run.first = first && at == 0;
        if (begin > at && !encode_words(t, e, text + at, begin - at, out, err))
            return false;
        if (id >= 0 && !token_list_append(out, id))
            return error_set(err, ERR_NOMEM, "encoding: out of memory");
        at = end;
    }
    return true;
}
