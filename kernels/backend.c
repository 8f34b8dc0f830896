/* backend.c - what is the same for every device, and where the CUDA module is found: beside
 * the program, where the build left it, where it was installed, or wherever the dynamic
 * linker looks. A module stays loaded until the program ends. */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"

#define MODULE "libeddy_cuda.so"

/* A module that is there and cannot be loaded says why; one that is not there does not. */
static void *load(const char *folder, const char *file, struct error *why)
{
    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s%s", folder, file);
    void *module = NULL;

    if (len < 0 || (size_t)len >= sizeof(path) || (strchr(path, '/') && access(path, R_OK) < 0))
        return NULL;
    module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module && why->code != ERR_IO)
        error_set(why, *folder ? ERR_IO : ERR_INPUT, "cuda: the module could not be loaded: %s",
                  dlerror());
    return module;
}

static void *find_module(struct error *why)
{
    static const char *const beside[] = { "/" MODULE, "/../lib/eddy/" MODULE };
    static const char *const folders[] = { EDDY_MODULE_DIRS };
    char self[PATH_MAX] = "";
    void *module = NULL;

    if (readlink("/proc/self/exe", self, sizeof(self) - 1) > 0)
        *strrchr(self, '/') = '\0';
    for (size_t i = 0; *self && i < sizeof(beside) / sizeof(beside[0]) && !module; i++)
        module = load(self, beside[i], why);
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]) && !module; i++)
        module = load(folders[i], "/" MODULE, why);
    return module ? module : load("", MODULE, why);
}

struct backend *backend_open_cuda(const struct backend_options *options, struct error *err)
{
    const struct backend_module *module;
    void *handle;

    err->code = ERR_NONE;
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) { /* the driver's: quick to look for */
        error_set(err, ERR_INPUT, "cuda: this machine has no NVIDIA driver: %s", dlerror());
        return NULL;
    }
    handle = find_module(err);
    if (!handle)
        return NULL;
    module = dlsym(handle, BACKEND_MODULE_SYMBOL);
    if (!module || module->interface != BACKEND_MODULE_INTERFACE) {
        error_set(err, ERR_IO, "cuda: " MODULE " is of another version of eddy");
        return NULL;
    }
    return module->open(options, err);
}

void backend_close(struct backend *be)
{
    if (be)
        be->destroy(be);
}
