/* state.c - `eddy state info|verify|convert FILE`: saved states without a server.
 *
 * info shows what a file says of itself. verify proves its bytes; with --model also that it is
 * of that model, with --state-key also its seal. convert writes it with another number format,
 * sealed again if it was sealed; one of a server with --state-dtype bf16 needs --model. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/options.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/cli/cli.h"
#include "server/cli/load.h"
#include "server/cli/state_file.h"
#include "server/keys.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "server/state/seal.h"

struct saved {
    void *bytes; /* owned */
    size_t len;  /* without the seal */
    bool sealed;
    uint64_t owner;
    struct format_info info;
};

static bool fail(struct error *err, const char *path, const struct problem *p)
{
    return error_set(err, ERR_FORMAT, "%s: %s", path, p->message);
}

static bool read_secret(const struct options *o, struct secret *s, struct error *err)
{
    s->len = 0;
    return !o->state_key || secret_read(o->state_key, s, err);
}

/* Reads and proves the file; with a secret its seal must be there, and right. */
static bool open_saved(struct saved *s, const char *path, const struct secret *secret,
                       struct error *err)
{
    struct problem p = { 0 };
    size_t len;

    if (!state_file_read(path, SIZE_MAX, &s->bytes, &len, err))
        return false;
    s->sealed = seal_find(s->bytes, len, &s->owner);
    s->len = s->sealed ? len - SEAL_BYTES : len;
    if (!format_check(s->bytes, s->len, &s->info, &p))
        return fail(err, path, &p);
    if (secret->len && !s->sealed)
        return error_set(err, ERR_FORMAT, "%s: not sealed", path);
    if (secret->len && !seal_check(secret, s->bytes, len, &p))
        return fail(err, path, &p);
    return true;
}

static void print_info(const struct saved *s)
{
    const struct format_info *info = &s->info;

    printf("saved state of %" PRIu64 " bytes\n", info->bytes);
    printf("position      %" PRIu64 " tokens\n", info->position);
    printf("record        %" PRIu64 " bytes, %s\n", info->record_bytes, info->numbers);
    printf("known ids     %" PRIu64 "\n", info->tokens);
    printf("turn starts   %" PRIu64 "\n", info->turns);
    printf("layout        %016" PRIx64 "\n", info->layout);
    printf("fingerprint   ");
    for (size_t i = 0; i < sizeof(info->fingerprint); i++)
        printf("%02x", info->fingerprint[i]);
    printf("\nsealed        %s\n", s->sealed ? "yes" : "no");
    for (size_t i = 0; i < info->description_len; i++) {
        unsigned char c = (unsigned char)info->description[i];

        putchar(c >= ' ' && c < 0x7f ? c : '?');
    }
    putchar('\n');
}

static bool fits_model(const struct saved *s, const struct options *o, struct error *err)
{
    const struct model_options sizes = { .max_rows = 1, .max_logits = 1 };
    struct loaded l = { 0 };
    struct problem p = { 0 };
    struct checkpoint *c = NULL;
    bool ok = loaded_init(&l, o, &sizes, 0, err);

    if (ok) {
        c = format_decode(s->bytes, s->len, model_info(l.model), tokenizer_size(l.tokenizer), &p);
        ok = c || fail(err, o->state_file, &p);
        checkpoint_destroy(c);
    }
    loaded_finish(&l);
    return ok;
}

static bool verify(const struct saved *s, const struct options *o, const struct secret *secret,
                   struct error *err)
{
    if (o->model && !fits_model(s, o, err))
        return false;
    printf("%s: sound%s%s\n", o->state_file, secret->len ? ", sealed with this secret" : "",
           o->model ? ", of this model" : "");
    return true;
}

static bool convert(const struct saved *s, const struct options *o, const struct secret *secret,
                    struct error *err)
{
    enum dtype to = chosen_dtype(o->dtype);
    struct model_info model = { 0 };
    struct problem p = { 0 };
    void *out = NULL;
    size_t len;
    bool ok;

    if (s->sealed && !secret->len)
        return error_set(err, ERR_INPUT, "%s: sealed; --state-key names the secret", o->state_file);
    if (o->model && !model_describe(o->model, &model, err))
        return false;
    ok = (format_convert(s->bytes, s->len, o->model ? &model.layout : NULL, to, &out, &len, &p) &&
          (!s->sealed || seal_add(secret, s->owner, &out, &len, &p))) ||
         fail(err, o->state_file, &p);
    ok = ok && state_file_write(o->state_output, out, len, err);
    free(out);
    return ok;
}

static int finish(bool ok, struct saved *s, const struct error *err)
{
    if (!ok)
        fprintf(stderr, "eddy: %s\n", err->message);
    free(s->bytes);
    return !ok ? EXIT_USAGE : fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int cli_show_state(const char *path)
{
    const struct secret none = { .len = 0 };
    struct saved s = { 0 };
    struct error err;
    bool ok = open_saved(&s, path, &none, &err);

    if (ok)
        print_info(&s);
    return finish(ok, &s, &err);
}

int cli_state(const struct options *o)
{
    struct saved s = { 0 };
    struct secret secret;
    struct error err;
    bool ok;

    if (strcmp(o->state_action, "info") == 0)
        return cli_show_state(o->state_file);
    ok = read_secret(o, &secret, &err) && open_saved(&s, o->state_file, &secret, &err);
    if (ok && strcmp(o->state_action, "convert") == 0)
        ok = convert(&s, o, &secret, &err);
    else if (ok)
        ok = verify(&s, o, &secret, &err);
    digest_wipe(&secret, sizeof(secret));
    return finish(ok, &s, &err);
}
