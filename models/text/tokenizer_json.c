/* tokenizer_json.c - reads Hugging Face's tokenizer.json: byte pair encoding and the
 * components around it.
 *
 * The text is scanned strictly before cJSON sees it, objects and arrays become hash maps in
 * one pass, and whatever is not understood is refused by its name: a tokenizer that is
 * almost right gives a model that is quietly wrong. "truncation" and "padding" are about
 * batches of training data and mean nothing to a server. */
#include "models/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "models/text/component.h"
#include "models/text/text_buffer.h"

enum { DEPTH_MAX = 64, VALUES_MAX = 16 * 1000 * 1000, ADDED_BYTES_MAX = 1024 };

static bool read_vocabulary(struct tokenizer *t, const cJSON *model, int vocab, struct error *err)
{
    const cJSON *tokens = component_member(model, "vocab"), *item;

    if (!cJSON_IsObject(tokens))
        return error_set(err, ERR_FORMAT, "the model's \"vocab\" is not an object");
    cJSON_ArrayForEach(item, tokens)
    {
        double id = cJSON_IsNumber(item) ? item->valuedouble : -1.0;

        if (!(id >= 0.0 && id < VOCABULARY_MAX) || id != (double)(int32_t)id)
            return error_set(err, ERR_FORMAT, "token '%.40s' has no valid id", item->string);
        if (!vocabulary_add(&t->vocabulary, (int64_t)id, item->string, strlen(item->string), vocab,
                            err))
            return false;
    }
    return true;
}

/* "left right", or ["left", "right"]. */
static bool read_merge(struct bpe *b, const cJSON *item, struct error *err)
{
    const char *left, *right, *space;

    if (cJSON_IsString(item)) {
        left = item->valuestring;
        space = strchr(left, ' ');
        if (space && !strchr(space + 1, ' '))
            return bpe_add_merge(b, left, (size_t)(space - left), space + 1, strlen(space + 1),
                                 err);
    } else if (cJSON_IsArray(item) && item->child && item->child->next &&
               !item->child->next->next) {
        left = cJSON_GetStringValue(item->child);
        right = cJSON_GetStringValue(item->child->next);
        if (left && right)
            return bpe_add_merge(b, left, strlen(left), right, strlen(right), err);
    }
    return error_set(err, ERR_FORMAT, "merge %zu is not a pair of tokens", b->merge.count);
}

static bool refuse_member(const cJSON *model, const char *name, struct error *err)
{
    const cJSON *member = component_member(model, name);

    if (!member || (cJSON_IsString(member) && !*member->valuestring) ||
        (cJSON_IsNumber(member) && member->valuedouble == 0.0))
        return true;
    return error_set(err, ERR_FORMAT, "BPE's \"%s\" is not supported", name);
}

/* Older files leave the model's type out. */
static bool is_bpe(const cJSON *model)
{
    return component_is(model, "BPE") ||
           (!component_member(model, "type") && component_member(model, "merges"));
}

static bool read_model(struct tokenizer *t, const cJSON *model, int vocab, struct error *err)
{
    const cJSON *merges, *item;
    const char *unknown = NULL;

    if (!cJSON_IsObject(model))
        return error_set(err, ERR_FORMAT, "there is no \"model\"");
    if (!is_bpe(model))
        return component_refuse(model, "model", err);
    if (!refuse_member(model, "dropout", err) ||
        !refuse_member(model, "continuing_subword_prefix", err) ||
        !refuse_member(model, "end_of_word_suffix", err) || !read_vocabulary(t, model, vocab, err))
        return false;
    bpe_init(&t->bpe, &t->vocabulary, &t->added);
    if (!component_bool(model, "byte_fallback", &t->bpe.byte_fallback, err) ||
        !component_bool(model, "fuse_unk", &t->bpe.fuse_unknown, err) ||
        !component_bool(model, "ignore_merges", &t->bpe.ignore_merges, err) ||
        !component_string(model, "unk_token", &unknown, err) ||
        !component_array(model, "merges", &merges, err))
        return false;
    if (unknown) {
        t->bpe.unknown = vocabulary_find(&t->vocabulary, unknown, strlen(unknown));
        if (t->bpe.unknown < 0)
            return error_set(err, ERR_FORMAT, "unk_token '%.40s' is not a token", unknown);
    }
    cJSON_ArrayForEach(item, merges)
    {
        if (!read_merge(&t->bpe, item, err))
            return false;
    }
    return true;
}

static bool read_flag(const cJSON *item, const char *name, unsigned flag, unsigned *flags,
                      struct error *err)
{
    bool set = false;

    if (!component_bool(item, name, &set, err))
        return false;
    *flags |= set ? flag : 0;
    return true;
}

/* What a normalized token looks like in a normalized text. */
static bool add_normalized(struct tokenizer *t, int32_t id, unsigned flags, const char *content,
                           struct error *err)
{
    struct pattern_matcher matcher = { 0 };
    struct text_buffer text = { 0 };
    bool ok;

    ok = text_buffer_append(&text, content, strlen(content)) ||
         error_set(err, ERR_NOMEM, "added tokens: out of memory");
    ok = ok && normalizer_apply(t->normalizer, &matcher, &text, err);
    if (ok && text.len == 0)
        ok = error_set(err, ERR_FORMAT, "added token '%.40s' is empty once normalized", content);
    else if (ok)
        ok = added_tokens_add(&t->added, &t->added.normalized, id, flags, text.bytes, text.len) ||
             error_set(err, ERR_NOMEM, "added tokens: out of memory");
    pattern_matcher_finish(&matcher);
    free(text.bytes);
    return ok;
}

static bool read_added_token(struct tokenizer *t, const cJSON *item, int vocab, struct error *err)
{
    const char *content = "";
    bool normalized = false;
    unsigned flags = 0;
    int64_t id = -1;
    int32_t have;
    size_t len;

    if (!component_string(item, "content", &content, err) ||
        !component_int(item, "id", 0, VOCABULARY_MAX - 1, &id, err) ||
        !component_bool(item, "normalized", &normalized, err) ||
        !read_flag(item, "special", ADDED_SPECIAL, &flags, err) ||
        !read_flag(item, "lstrip", ADDED_LSTRIP, &flags, err) ||
        !read_flag(item, "rstrip", ADDED_RSTRIP, &flags, err) ||
        !read_flag(item, "single_word", ADDED_SINGLE_WORD, &flags, err))
        return false;
    len = strlen(content);
    if (len > ADDED_BYTES_MAX)
        return error_set(err, ERR_FORMAT, "added token '%.40s...' has more than %d bytes", content,
                         ADDED_BYTES_MAX);
    have = vocabulary_find(&t->vocabulary, content, len);
    if (have < 0 && !vocabulary_add(&t->vocabulary, id, content, len, vocab, err))
        return false;
    if (have >= 0 && have != id)
        return error_set(err, ERR_FORMAT, "added token '%.40s' has id %lld, the vocabulary says %d",
                         content, (long long)id, have);
    if (normalized)
        return add_normalized(t, (int32_t)id, flags, content, err);
    return added_tokens_add(&t->added, &t->added.raw, (int32_t)id, flags, content, len) ||
           error_set(err, ERR_NOMEM, "added tokens: out of memory");
}

static bool read_added_tokens(struct tokenizer *t, const cJSON *list, int vocab, struct error *err)
{
    const cJSON *item;

    if (list && !cJSON_IsArray(list))
        return error_set(err, ERR_FORMAT, "\"added_tokens\" is not an array");
    cJSON_ArrayForEach(item, list)
    {
        if (!read_added_token(t, item, vocab, err))
            return false;
    }
    return true;
}

/* The ids that a template's special token stands for. */
static bool add_template_ids(struct tokenizer *t, const cJSON *template, const char *name,
                             struct token_list *out, struct error *err)
{
    const cJSON *entry = component_member(component_member(template, "special_tokens"), name);
    const cJSON *ids = component_member(entry, "ids"), *id;
    size_t len;

    if (!cJSON_IsArray(ids))
        return error_set(err, ERR_FORMAT, "TemplateProcessing: '%.40s' has no ids", name);
    cJSON_ArrayForEach(id, ids)
    {
        double value = cJSON_IsNumber(id) ? id->valuedouble : -1.0;

        if (!(value >= 0.0 && value < t->vocabulary.size) || value != (double)(int32_t)value ||
            (vocabulary_text(&t->vocabulary, (int32_t)value, &len), len == 0))
            return error_set(err, ERR_FORMAT, "TemplateProcessing: '%.40s' has an unknown id",
                             name);
        if (!token_list_append(out, (int32_t)value))
            return error_set(err, ERR_NOMEM, "post-processor: out of memory");
    }
    return true;
}

/* Only what a template puts in front of the text is of use: a prompt is to be continued, so
 * an end mark after it would be wrong. A later processor writes before an earlier one. */
static bool read_template(struct tokenizer *t, const cJSON *template, struct error *err)
{
    struct token_list lead = { 0 };
    const cJSON *single, *item;
    const char *name;
    bool ok;

    if (!component_array(template, "single", &single, err))
        return false;
    ok = true;
    for (item = single->child; item && ok && !component_member(item, "Sequence");
         item = item->next) {
        name = cJSON_GetStringValue(component_member(component_member(item, "SpecialToken"), "id"));
        if (name)
            ok = add_template_ids(t, template, name, &lead, err);
        else
            ok = error_set(err, ERR_FORMAT, "TemplateProcessing: an unknown piece");
    }
    for (size_t i = 0; i < t->lead.count && ok; i++)
        ok = token_list_append(&lead, t->lead.id[i]) ||
             error_set(err, ERR_NOMEM, "post-processor: out of memory");
    free(t->lead.id);
    t->lead = lead;
    return ok;
}

/* Recursion is bounded by DEPTH_MAX. ByteLevel only trims offsets, which nobody sees here. */
static bool read_post_processor(struct tokenizer *t, const cJSON *component, struct error *err)
{
    const cJSON *list, *item;

    if (!component || component_is(component, "ByteLevel"))
        return true;
    if (component_is(component, "TemplateProcessing"))
        return read_template(t, component, err);
    if (!component_is(component, "Sequence"))
        return component_refuse(component, "post-processor", err);
    if (!component_array(component, "processors", &list, err))
        return false;
    cJSON_ArrayForEach(item, list)
    {
        if (!read_post_processor(t, item, err))
            return false;
    }
    return true;
}

static bool read_tree(struct tokenizer *t, const cJSON *tree, int vocab, struct error *err)
{
    t->kind = "bpe";
    t->encode_part = pipeline_encode;
    if (!read_model(t, component_member(tree, "model"), vocab, err))
        return false;
    t->normalizer = normalizer_create(component_member(tree, "normalizer"), err);
    if (!t->normalizer)
        return false;
    t->pretokenizer = pretokenizer_create(component_member(tree, "pre_tokenizer"), err);
    if (!t->pretokenizer)
        return false;
    return read_added_tokens(t, component_member(tree, "added_tokens"), vocab, err) &&
           read_post_processor(t, component_member(tree, "post_processor"), err) &&
           decoded_init(&t->decoded, component_member(tree, "decoder"), &t->vocabulary, &t->added,
                        err);
}

bool tokenizer_read_json(struct tokenizer *t, const char *text, size_t len, int vocab,
                         struct error *err)
{
    const struct json_bounds bounds = { .max_depth = DEPTH_MAX, .max_values = VALUES_MAX };
    cJSON *tree;
    bool ok;

    if (json_scan(text, len, &bounds, err) != JSON_OK) {
        err->code = err->code == ERR_NOMEM ? ERR_NOMEM : ERR_FORMAT;
        return false;
    }
    tree = cJSON_ParseWithLength(text, len);
    if (!tree)
        return error_set(err, ERR_NOMEM, "tokenizer: out of memory");
    ok = read_tree(t, tree, vocab, err);
    cJSON_Delete(tree);
    return ok;
}
