#include "models/hyper.h"

#include <string.h>

#include "config/error.h"
#include "weights/model_config.h"

bool hyper_dim(const struct model_config *c, const char *keys, int least, int *dim,
               struct error *err)
{
    int64_t value = *dim;

    if (!model_config_int(c, keys, least, HYPER_DIM_MAX, &value, err))
        return false;
    if (value == 0)
        return error_set(err, ERR_FORMAT, "config.json: %s is missing", keys);
    *dim = (int)value;
    return true;
}

bool hyper_flag(const struct model_config *c, const char *keys, int *dim, struct error *err)
{
    bool value = *dim;

    if (!model_config_bool(c, keys, &value, err))
        return false;
    *dim = value;
    return true;
}

bool hyper_number(const struct model_config *c, const char *keys, float *number, struct error *err)
{
    double value = (double)*number;

    if (!model_config_number(c, keys, 0.0, 1.0, &value, err))
        return false;
    *number = (float)value;
    return true;
}

bool hyper_word(const struct model_config *c, const char *keys, const char *allowed,
                const char *also, struct error *err)
{
    const char *word = allowed;

    if (!model_config_string(c, keys, &word, err))
        return false;
    if (strcmp(word, allowed) != 0 && strcmp(word, also) != 0)
        return error_set(err, ERR_FORMAT,
                         "config.json: %s: expected \"%s\" or \"%s\", found \"%s\"", keys, allowed,
                         also, word);
    return true;
}

bool hyper_common(const struct model_config *c, struct hyper *h, struct error *err)
{
    /* MambaConfig of state-spaces/mamba: these two are its defaults, not transformers'. */
    bool original = model_config_has(c, "d_model") && !model_config_has(c, "hidden_size");
    int multiple = original ? 8 : 1;

    if (original)
        h->dim[TIED] = 1;
    h->number[EPS] = 1e-5f;
    if (!hyper_dim(c, "vocab_size", 1, &h->dim[VOCAB], err) ||
        !hyper_dim(c, "hidden_size|d_model", 1, &h->dim[HIDDEN], err) ||
        !hyper_dim(c, "num_hidden_layers|n_layer", 1, &h->dim[LAYERS], err) ||
        !hyper_dim(c, "pad_vocab_size_multiple", 1, &multiple, err) ||
        !hyper_flag(c, "tie_word_embeddings|tie_embeddings", &h->dim[TIED], err) ||
        !hyper_number(c, "layer_norm_epsilon|norm_eps|norm_epsilon", &h->number[EPS], err))
        return false;
    h->dim[UNTIED] = !h->dim[TIED];
    h->dim[VOCAB] = (int)(((int64_t)h->dim[VOCAB] + multiple - 1) / multiple * multiple);
    return true;
}

bool hyper_inner(const struct model_config *c, const struct hyper *h, int *inner, struct error *err)
{
    int expand = 2;

    /* Falcon-Mamba-7B says expand 16 and intermediate_size 2 * hidden_size: the size wins. */
    if (model_config_has(c, "intermediate_size"))
        return hyper_dim(c, "intermediate_size", 1, inner, err);
    if (!hyper_dim(c, "expand|ssm_cfg.expand", 1, &expand, err))
        return false;
    if (expand > HYPER_DIM_MAX / h->dim[HIDDEN])
        return error_set(err, ERR_FORMAT, "config.json: expand %d is too large", expand);
    *inner = expand * h->dim[HIDDEN];
    return true;
}
