/* inspect.c - `eddy inspect PATH`: what a model's files hold, without loading them.
 *
 * The same checks as loading, so a model that inspect shows without an error is one that eddy can
 * serve. One whose tokenizer is missing or wrong is shown all the same, before the error. A saved
 * state is shown as `eddy state info` does. */
#include "server/cli/cli.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/error.h"
#include "config/options.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/cli/load.h"
#include "weights/weights.h"

enum { NAME_COLUMNS_MAX = 60 };

static const char saved_magic[8] = "EDDYSTAT";

static void print_shape(const int64_t *shape, int rank)
{
    putchar('[');
    for (int i = 0; i < rank; i++)
        printf("%s%" PRId64, i ? ", " : "", shape[i]);
    putchar(']');
}

static void print_head(const struct model_info *info)
{
    printf("model         %s\n", info->name);
    printf("architecture  %s\n", info->architecture);
    printf("parameters    %" PRIu64 " (%.1f million)\n", info->parameters,
           (double)info->parameters / 1e6);
    printf("dtype         %s\n", dtype_name(info->dtype));
    printf("vocabulary    %d\n", info->vocab);
    printf("hidden        %d\n", info->hidden);
    printf("layers        %d\n", info->layers);
    if (info->bos >= 0)
        printf("begin id      %d\n", info->bos);
    for (int i = 0; i < info->stops; i++)
        printf("%s%d%s", i ? " " : "stop ids      ", info->stop[i],
               i + 1 == info->stops ? "\n" : "");
}

/* false: there is none that fits the model, and *err says why. */
static bool print_tokenizer(const char *path, int vocab, struct error *err)
{
    struct tokenizer *t = model_tokenizer(path, vocab, err);

    if (t)
        printf("tokenizer     %s, %d ids\n", tokenizer_kind(t), tokenizer_size(t));
    tokenizer_close(t);
    return t != NULL;
}

static void print_tensors(const struct weights *w)
{
    uint64_t elements = 0, bytes = 0;
    int columns = 0;

    for (size_t i = 0; i < weights_count(w); i++) {
        int len = snprintf(NULL, 0, "%s", weights_at(w, i)->name);

        columns = len > columns ? len : columns;
    }
    if (columns > NAME_COLUMNS_MAX)
        columns = NAME_COLUMNS_MAX;
    printf("\ntensors\n");
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);

        printf("  %-*s  %-4s  ", columns, t->name, dtype_name(t->dtype));
        print_shape(t->shape, t->rank);
        putchar('\n');
        elements += t->bytes / dtype_size(t->dtype);
        bytes += t->bytes;
    }
    printf("  %zu tensors, %" PRIu64 " elements, %" PRIu64 " bytes\n", weights_count(w), elements,
           bytes);
}

static void print_state(const struct state_layout *layout)
{
    printf("\nstate\n");
    for (int i = 0; i < layout->fields; i++) {
        const struct state_field *f = &layout->field[i];
        int64_t shape[STATE_FIELD_RANK];

        for (int k = 0; k < f->rank; k++)
            shape[k] = f->shape[k];
        printf("  %-10s  %3d x ", f->name, f->layers);
        print_shape(shape, f->rank);
        printf("  %zu bytes\n", f->layer_bytes * (size_t)f->layers);
    }
    printf("  one session: %zu bytes (%.2f MiB), float32\n", layout->bytes,
           (double)layout->bytes / (1 << 20));

    struct state_layout narrow = *layout;

    state_layout_pack(&narrow, DTYPE_BF16);
    printf("  or %zu bytes (%.2f MiB) with --state-dtype bf16\n", narrow.bytes,
           (double)narrow.bytes / (1 << 20));
}

static bool is_saved_state(const char *path)
{
    char beginning[sizeof(saved_magic)];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold it */
    struct stat st;
    bool is = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
              pread(fd, beginning, sizeof(beginning), 0) == sizeof(beginning) &&
              memcmp(beginning, saved_magic, sizeof(beginning)) == 0;

    if (fd >= 0)
        close(fd);
    return is;
}

int cli_inspect(const struct options *o)
{
    const char *path = model_path(o);
    struct model_info info;
    struct weights *w;
    struct error err;
    bool whole;

    if (is_saved_state(path))
        return cli_show_state(path);
    if (!model_describe(path, &info, &err) || !(w = weights_open(path, &err))) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return EXIT_USAGE;
    }
    print_head(&info);
    whole = print_tokenizer(path, info.vocab, &err);
    print_tensors(w);
    print_state(&info.layout);
    weights_close(w);
    if (fflush(stdout) != 0)
        return EXIT_FAILURE;
    if (!whole)
        fprintf(stderr, "eddy: %s\n", err.message);
    return whole ? EXIT_SUCCESS : EXIT_USAGE;
}
