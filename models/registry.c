/* The architectures, and which of them a checkpoint is: the one that config.json names, or,
 * where it names none, the one whose signature is among the tensors. */
#include "models/arch.h"

#include <stdio.h>
#include <string.h>

#include "config/error.h"
#include "models/bind.h"
#include "weights/model_config.h"

static const struct model_arch *const registry[] = {
    &arch_mamba,
    &arch_falcon_mamba,
    &arch_mamba2,
    &arch_rwkv7,
};

enum { ARCHITECTURES = sizeof(registry) / sizeof(registry[0]) };

static bool has_signature(const struct model_arch *arch, const struct weights *w)
{
    bool transposed;

    return arch->signature && bind_find(arch, w, arch->signature, 0, &transposed);
}

static bool refuse(const char *type, const char *path, struct error *err)
{
    char known[128] = "";

    if (!type)
        return error_set(err, ERR_FORMAT,
                         "%s: config.json names no model_type and no tensor tells the architecture",
                         path);
    for (int i = 0; i < ARCHITECTURES; i++) {
        size_t len = strlen(known);

        snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "", registry[i]->model_type);
    }
    return error_set(err, ERR_FORMAT, "%s: model_type: expected one of %s, found \"%s\"", path,
                     known, type);
}

const struct model_arch *arch_find(const struct model_config *config, const struct weights *w,
                                   const char *path, struct error *err)
{
    const char *type = NULL;

    if (!model_config_string(config, "model_type", &type, err))
        return NULL;
    for (int i = 0; i < ARCHITECTURES; i++)
        if (type ? strcmp(type, registry[i]->model_type) == 0 : has_signature(registry[i], w))
            return registry[i];
    refuse(type, path, err);
    return NULL;
}
