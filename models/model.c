#include "models/model.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config/error.h"
#include "config/text_file.h"
#include "kernels/backend.h"
#include "models/arch.h"
#include "models/bind.h"
#include "weights/model_config.h"
#include "weights/weights.h"

enum { ALIGN = 64, PROMPT_LEAST = 16 };

struct model {
    struct model_info info;
    const struct model_arch *arch;
    struct hyper hyper;
    struct backend *be; /* borrowed: whoever called model_open() */
    struct bound bound;
    char *scratch; /* the architecture's struct of pointers into memory */
    char *memory;  /* the backend's: scratch, x, last, normed and logits */
    float *x;      /* [max_rows, HIDDEN] */
    float *last;   /* [max_logits, HIDDEN] */
    float *normed; /* the same for the head */
    float *logits; /* [max_logits, VOCAB] */
    int max_logits;
    bool bf16_rows;       /* products take their inputs as bf16 */
    const float **rates;  /* the backend's, as state_log's; NULL: none */
    struct state_log log; /* but for the places of a pool; layers 0: there is none */
};

/* The files while they are looked at. */
struct source {
    struct weights *weights;
    struct model_config *config, *generation;
    const struct model_arch *arch;
    struct hyper hyper;
    struct bindings bindings;
};

static void source_finish(struct source *s)
{
    bind_finish(&s->bindings);
    model_config_close(s->generation);
    model_config_close(s->config);
    weights_close(s->weights);
}

static size_t align(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* A JSON file of the model's folder, empty where it is not there. */
static struct model_config *open_config(const char *folder, const char *file, struct error *err)
{
    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s/%s", folder, file);

    if (len < 0 || (size_t)len >= sizeof(path)) {
        error_set(err, ERR_IO, "%s: the path is too long", folder);
        return NULL;
    }
    if (text_file_absent(path))
        return model_config_parse("{}", 2, file, err);
    return model_config_open(path, err);
}

static void read_layout(struct state_layout *layout, const struct model_arch *arch,
                        const struct hyper *h, enum dtype large)
{
    *layout = (struct state_layout){ 0 };
    for (const struct state_row *row = arch->state; row->name; row++) {
        struct state_field *f = &layout->field[layout->fields++];

        f->name = row->name;
        f->layers = h->dim[LAYERS];
        f->large = row->large;
        while (f->rank < STATE_FIELD_RANK && row->shape[f->rank]) {
            f->shape[f->rank] = h->dim[row->shape[f->rank]];
            f->rank++;
        }
    }
    state_layout_pack(layout, large);
}

/* The rates of a diagonal state, of all layers, as its log is settled with. */
static bool gather_rates(struct model *m, struct state_log *log, struct error *err)
{
    const size_t bytes = (size_t)log->layers * sizeof(*m->rates);
    const float **of = malloc(bytes);

    m->rates = m->be->alloc(m->be, bytes);
    if (!of || !m->rates) {
        free(of);
        return error_set(err, ERR_NOMEM, "out of memory for the rates of %d layers", log->layers);
    }
    for (int l = 0; l < log->layers; l++)
        memcpy(&of[l], m->bound.layers + (size_t)l * m->arch->layer_size + m->arch->rates,
               sizeof(*of));
    m->be->upload(m->be, m->rates, of, bytes);
    free(of);
    log->A = m->rates;
    return true;
}

/* What the backend keeps of the large field, the last one, which is float32. */
static bool read_log(struct model *m, bool wanted, struct error *err)
{
    const struct state_layout *layout = &m->info.layout;
    const struct state_field *f = &layout->field[layout->fields - 1];
    struct state_log log = { .layers = f->layers,
                             .state_distance = f->layer_bytes / sizeof(float) };

    m->info.log_steps = 1;
    if (!wanted || m->be->log_steps < 2 || f->dtype != DTYPE_F32)
        return true;
    m->arch->log(&m->hyper, &log);
    log.log_distance = m->be->log_numbers(m->be, &log);
    if (!log.log_distance)
        return true;
    if (log.dim && !gather_rates(m, &log, err))
        return false;
    m->log = log;
    m->info.log_steps = m->be->log_steps;
    m->info.log_bytes = log.log_distance * sizeof(float) * (size_t)log.layers;
    return true;
}

/* The same with the places of a pool. */
static struct state_log log_of(const struct model *m, char *records)
{
    const struct state_layout *layout = &m->info.layout;
    struct state_log log = m->log;

    log.state = (struct field){
        .base = (float *)(records + layout->field[layout->fields - 1].offset),
        .stride = model_slot_bytes(m) / sizeof(float),
        .log = (float *)(records + layout->bytes),
    };
    return log;
}

static void read_name(struct model_info *info, const char *path)
{
    char full[PATH_MAX];
    const char *name = realpath(path, full) ? full : path, *slash = strrchr(name, '/');

    snprintf(info->name, sizeof(info->name), "%.*s", (int)sizeof(info->name) - 1,
             slash ? slash + 1 : name);
}

/* generation_config.json has the say, config.json where it is silent. */
static bool read_ids(struct model_info *info, const struct source *s, struct error *err)
{
    const struct model_config *g = s->generation, *c = s->config;
    int64_t stop[MODEL_STOP_IDS_MAX], bos = s->arch->text_end;

    if (!model_config_ints(model_config_has(g, "eos_token_id") ? g : c, "eos_token_id", 0,
                           info->vocab - 1, MODEL_STOP_IDS_MAX - 1, stop, &info->stops, err) ||
        !model_config_int(c, "bos_token_id", 0, info->vocab - 1, &bos, err) ||
        !model_config_int(g, "bos_token_id", 0, info->vocab - 1, &bos, err))
        return false;
    info->bos = (int)bos;
    bool ends = s->arch->text_end < 0;
    for (int i = 0; i < info->stops; i++) {
        info->stop[i] = (int)stop[i];
        ends = ends || info->stop[i] == s->arch->text_end;
    }
    if (!ends)
        info->stop[info->stops++] = s->arch->text_end;
    return true;
}

/* Opens and proves everything of a checkpoint that does not need its tensors' bytes. */
static bool source_init(struct source *s, struct model_info *info, const char *path,
                        enum dtype state, struct error *err)
{
    *s = (struct source){ .weights = weights_open(path, err) };
    if (!s->weights)
        return false;
    s->config = open_config(weights_folder(s->weights), "config.json", err);
    if (!s->config)
        return false;
    s->generation = open_config(weights_folder(s->weights), "generation_config.json", err);
    if (!s->generation)
        return false;
    s->arch = arch_find(s->config, s->weights, path, err);
    if (!s->arch || !s->arch->configure(s->arch, s->config, s->weights, &s->hyper, err) ||
        !bind_resolve(&s->bindings, s->arch, &s->hyper, s->weights, path, err))
        return false;

    *info = (struct model_info){
        .architecture = s->arch->name,
        .vocab = s->hyper.dim[VOCAB],
        .hidden = s->hyper.dim[HIDDEN],
        .layers = s->hyper.dim[LAYERS],
        .parameters = s->bindings.parameters,
        .dtype = s->bindings.dtype,
    };
    read_name(info, path);
    read_layout(&info->layout, s->arch, &s->hyper, state);
    return read_ids(info, s, err);
}

bool model_describe(const char *path, struct model_info *info, struct error *err)
{
    struct source s;
    struct model_info found;
    bool ok = source_init(&s, &found, path, DTYPE_F32, err);

    source_finish(&s);
    if (ok)
        *info = found;
    return ok;
}

static bool load_weights(struct model *m, const struct source *s, struct error *err)
{
    XXH3_state_t *hash = XXH3_createState();

    m->bound.model = calloc(1, m->arch->model_size);
    m->bound.layers = calloc((size_t)m->info.layers, m->arch->layer_size);
    bool ok = (hash && m->bound.model && m->bound.layers) ||
              error_set(err, ERR_NOMEM, "out of memory for %d layers", m->info.layers);
    if (ok) {
        XXH3_128bits_reset(hash);
        XXH3_128bits_update(hash, m->arch->name, strlen(m->arch->name) + 1);
        XXH3_128bits_update(hash, &m->hyper, sizeof(m->hyper));
        ok = bind_load(&s->bindings, m->be, &m->bound, hash, err);
    }
    if (ok) {
        XXH128_canonical_t canonical;

        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
        memcpy(m->info.fingerprint, canonical.digest, sizeof(m->info.fingerprint));
        m->info.weight_bytes = m->bound.bytes;
    }
    XXH3_freeState(hash);
    return ok;
}

static size_t rows_bytes(int rows, int columns)
{
    return align((size_t)rows * (size_t)columns * sizeof(float));
}

/* One allocation, cut into the rows of the scratch table and model.c's own four. */
static bool allocate_scratch(struct model *m, struct error *err)
{
    const int *d = m->hyper.dim;
    size_t x = rows_bytes(m->info.max_rows, d[HIDDEN]), last = rows_bytes(m->max_logits, d[HIDDEN]);
    size_t logits = rows_bytes(m->max_logits, d[VOCAB]), total = x + 2 * last + logits;

    for (const struct scratch_row *row = m->arch->scratch; row->columns; row++)
        total += rows_bytes(m->info.max_rows, d[row->columns]);
    m->scratch = calloc(1, m->arch->scratch_size);
    m->memory = m->be->alloc(m->be, total);
    if (!m->scratch || !m->memory)
        return error_set(err, ERR_NOMEM, "out of memory for %zu bytes of activations (%d rows)",
                         total, m->info.max_rows);
    m->info.scratch_bytes = total;

    char *at = m->memory;
    m->x = (float *)at;
    m->last = (float *)(at + x);
    m->normed = (float *)(at + x + last);
    m->logits = (float *)(at + x + 2 * last);
    at += x + 2 * last + logits;
    for (const struct scratch_row *row = m->arch->scratch; row->columns; row++) {
        float *rows = (float *)at;

        memcpy(m->scratch + row->at, &rows, sizeof(rows));
        at += rows_bytes(m->info.max_rows, d[row->columns]);
    }
    return true;
}

struct model *model_open(const char *path, struct backend *be, const struct model_options *options,
                         struct error *err)
{
    struct source s = { 0 };
    struct model *m = calloc(1, sizeof(*m));

    assert(options->max_rows > 0 && options->max_logits > 0);
    if (!m) {
        error_set(err, ERR_NOMEM, "%s: out of memory", path);
        return NULL;
    }
    m->be = be;
    m->max_logits = options->max_logits;
    bool ok = source_init(&s, &m->info, path, options->state_dtype, err);

    m->info.max_rows = options->max_rows;
    if (ok) {
        m->arch = s.arch;
        m->hyper = s.hyper;
        m->bf16_rows = be->bf16_rows && s.bindings.one_dtype && m->info.dtype == DTYPE_BF16;
        ok = load_weights(m, &s, err) && read_log(m, options->logs, err) &&
             allocate_scratch(m, err) && be->sync(be, err);
    }
    source_finish(&s);
    if (ok)
        return m;
    model_close(m);
    return NULL;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    if (m->bound.model && m->bound.layers)
        bind_release(&m->bound, m->arch, &m->hyper, m->be);
    m->be->free(m->be, m->rates);
    m->be->free(m->be, m->memory);
    free(m->scratch);
    free(m->bound.layers);
    free(m->bound.model);
    free(m);
}

const struct model_info *model_info(const struct model *m)
{
    return &m->info;
}

size_t model_slot_bytes(const struct model *m)
{
    return m->info.layout.bytes + m->info.log_bytes;
}

uint64_t model_settle(const struct model *m, void *records, int slot, int logged)
{
    const struct state_log log = log_of(m, records);

    return m->be->settle(m->be, &log, slot, logged);
}

/* Last norm and head, of the wanted rows only. */
static void read_out(const struct model *m, struct arch_step a, const struct linear *added)
{
    const struct model_ends *ends = (const struct model_ends *)m->bound.model;
    const struct batch wanted = { .T = a.in->L };
    const bool all = batch_wants_all(a.in);

    if (!all) {
        a.ops->linear(a.stream, added, 1);
        a.ops->gather(a.stream, a.in, m->last, a.x, m->hyper.dim[HIDDEN]);
        a.x = m->last;
    }
    a.in = &wanted;

    const struct norm norm =
        arch_norm(&a, m->normed, ends->norm, ends->norm_bias, all ? added : NULL);
    const struct linear head = arch_linear(
        &a, m->logits, m->normed, m->hyper.dim[TIED] ? &ends->embed : &ends->head, NULL, ACT_NONE);

    a.ops->norm(a.stream, &norm);
    a.ops->linear(a.stream, &head, 1);
}

/* What a step is, but for its batch: the backend may record it and not ask again. */
static void enqueue(struct model *m, void *records, const struct batch *in)
{
    const struct state_log log = log_of(m, records);
    const struct arch_step a = {
        .ops = m->be->ops,
        .stream = m->be->stream,
        .in = in,
        .hyper = &m->hyper,
        .norm = m->arch->norm,
        .model = m->bound.model,
        .layers = m->bound.layers,
        .scratch = m->scratch,
        .x = m->x,
        .layout = &m->info.layout,
        .records = records,
        .slot_bytes = model_slot_bytes(m),
        .log = &log,
        .bf16_rows = m->bf16_rows,
    };

    const struct linear added = m->arch->step(&a);

    if (in->L > 0)
        read_out(m, a, &added);
}

/* false: the backend had recorded this step and replayed it. */
static bool step(struct model *m, void *records, const struct batch *in)
{
    const struct step_key key = {
        .model = m,
        .records = records,
        .rows = m->info.max_rows < m->max_logits ? m->info.max_rows : m->max_logits,
    };

    assert(in->T <= m->info.max_rows && in->L <= m->max_logits);
    in = m->be->begin(m->be, &key, in);
    if (in)
        enqueue(m, records, in);
    m->be->end(m->be);
    return in != NULL;
}

void model_step(struct model *m, void *records, const struct batch *in)
{
    step(m, records, in);
}

/* One step of every size up to most, of sequences without a state; *replayed: the backend had
 * recorded them all. */
static bool step_every_size(struct model *m, void *records, struct batch in, int most,
                            bool *replayed, struct error *err)
{
    const int *size = m->be->sizes;

    *replayed = true;
    do {
        in.S = in.T = in.L = *size < most ? *size : most;
        if (step(m, records, &in))
            *replayed = false;
    } while (in.T < most && *++size);
    return m->be->sync(m->be, err);
}

/* A prompt's step of each size up to max_rows, without a state, by itself and behind a sequence of
 * one row: where a backend chooses by size how to compute, it has chosen before somebody waits. */
static bool try_prompts(struct model *m, void *records, struct error *err)
{
    int32_t *token = calloc((size_t)m->info.max_rows, sizeof(*token));
    bool ok = token || error_set(err, ERR_NOMEM, "out of memory for %d rows", m->info.max_rows);

    for (int n = PROMPT_LEAST; ok && n <= 2 * m->info.max_rows; n = n % 3 ? n / 2 * 3 : n / 3 * 4) {
        const int T = n < m->info.max_rows ? n : m->info.max_rows, begin[] = { 0, 1, T },
                  alone[] = { 0, T };
        const int slot[] = { SLOT_NONE, SLOT_NONE }, last = T - 1;

        for (int S = 1; S <= 2; S++)
            step(m, records,
                 &(struct batch){ .S = S,
                                  .T = T,
                                  .L = 1,
                                  .token = token,
                                  .begin = S == 1 ? alone : begin,
                                  .slot = slot,
                                  .logit_row = &last });
        ok = m->be->sync(m->be, err);
        if (T == m->info.max_rows)
            break;
    }
    free(token);
    return ok;
}

/* The draws of the last step's rows that take most memory, as long as there is some to refuse. */
static bool try_draws(struct model *m, int rows, struct error *err)
{
    struct sample_row *row = calloc((size_t)rows, sizeof(*row));
    struct sample_result *out = calloc((size_t)rows, sizeof(*out));
    bool ok = (row && out) || error_set(err, ERR_NOMEM, "out of memory for %d rows", rows);

    for (int i = 0; ok && i < rows; i++)
        row[i] = (struct sample_row){ .temperature = 1.0f,
                                      .top_p = 0.5f,
                                      .typical_p = 1.0f,
                                      .repetition = 1.0f,
                                      .top = SAMPLE_TOP_MAX,
                                      .forced = -1 };
    if (ok) {
        m->be->ops->sample(m->be->stream, &(struct sample){ .logits = m->logits,
                                                            .ld = (size_t)m->info.vocab,
                                                            .rows = rows,
                                                            .vocab = m->info.vocab,
                                                            .row = row,
                                                            .out = out });
        ok = m->be->sync(m->be, err);
    }
    free(row);
    free(out);
    return ok;
}

/* A size is enqueued as it is, then recorded, then replayed; what one needs for the first time
 * can make the backend forget the others, so all are tried until none is missing. */
bool model_prepare(struct model *m, void *records, int most, struct error *err)
{
    enum { TRIES = 8 };
    int *place = calloc(2 * (size_t)most + 1, sizeof(*place)), *slot = place + most + 1;
    int32_t *token = calloc((size_t)most, sizeof(*token));
    bool ok = (place && token) || error_set(err, ERR_NOMEM, "out of memory for %d rows", most);
    bool replayed = m->be->sizes == NULL;

    ok = ok && (!m->be->sizes || try_prompts(m, records, err)); /* first: they need most scratch */
    for (int i = 0; ok && i <= most; i++)
        place[i] = i;
    for (int i = 0; ok && i < most; i++)
        slot[i] = SLOT_NONE;
    for (int i = 0; ok && i < TRIES && !replayed; i++)
        ok = step_every_size(
            m, records,
            (struct batch){ .token = token, .begin = place, .slot = slot, .logit_row = place },
            most, &replayed, err);
    if (ok && !replayed)
        ok = error_set(err, ERR_DEVICE, "%s: decode steps cannot be recorded", m->be->detail);
    ok = ok && (!m->be->sizes || try_draws(m, most, err));
    free(place);
    free(token);
    return ok;
}

const float *model_logits(const struct model *m)
{
    return m->logits;
}
