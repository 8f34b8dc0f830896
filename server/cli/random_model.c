#include "server/cli/random_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/dtype.h"
#include "config/error.h"

enum { CHUNK = 1 << 18, TABLE = 4096, THREADS_MAX = 64 };

enum { CONFIG, WEIGHTS, VOCABULARY, FILES };

static const char *const file_names[FILES] = { "config.json", "model.safetensors",
                                               "rwkv_vocab_random.txt" };

static size_t elements(const struct random_tensor *t)
{
    size_t n = 1;

    for (int i = 0; i < RANDOM_RANK && t->shape[i]; i++)
        n *= (size_t)t->shape[i];
    return n;
}

static int first_layer(const struct random_tensor *t)
{
    return t->where == RANDOM_LATER_LAYERS ? 1 : 0;
}

static int end_layer(const struct random_model *m, const struct random_tensor *t)
{
    return t->where == RANDOM_ENDS ? 1 : m->layers;
}

/* One tensor of one layer, and where its bytes begin behind the header. */
struct piece {
    const struct random_tensor *tensor;
    int layer;
    uint64_t at, bytes;
};

/* Writing a file of weights, by all threads. */
struct writer {
    int fd;
    uint64_t front; /* bytes before the first tensor's */
    struct piece *piece;
    size_t pieces;
    atomic_size_t next;
    atomic_int failed; /* errno of the first failure */
};

/* Every tensor of the file, in order. NULL: no memory. */
static struct piece *list_pieces(const struct random_model *m, size_t *count)
{
    struct piece *list = NULL;
    uint64_t at = 0;
    size_t n = 0;

    for (const struct random_tensor *t = m->tensors; t->where; t++)
        n += (size_t)(end_layer(m, t) - first_layer(t));
    list = calloc(n, sizeof(*list));
    *count = n;
    n = 0;
    for (const struct random_tensor *t = m->tensors; list && t->where; t++) {
        for (int l = first_layer(t); l < end_layer(m, t); l++) {
            list[n] = (struct piece){ t, l, at, elements(t) * sizeof(uint16_t) };
            at += list[n++].bytes;
        }
    }
    return list;
}

static void write_entry(const struct piece *p, FILE *f)
{
    const struct random_tensor *t = p->tensor;
    const char *digits = strstr(t->name, "%d");

    if (digits)
        fprintf(f, "\"%.*s%d%s\"", (int)(digits - t->name), t->name, p->layer, digits + 2);
    else
        fprintf(f, "\"%s\"", t->name);
    fprintf(f, ":{\"dtype\":\"BF16\",\"shape\":[%d", t->shape[0]);
    for (int i = 1; i < RANDOM_RANK && t->shape[i]; i++)
        fprintf(f, ",%d", t->shape[i]);
    fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", p->at, p->at + p->bytes);
}

/* The safetensors header with its length in front, padded to whole blocks of 8. */
static char *make_header(const struct piece *list, size_t pieces, size_t *len)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, len);

    if (!f)
        return NULL;
    fwrite("\0\0\0\0\0\0\0", 1, 8, f);
    for (size_t i = 0; i < pieces; i++) {
        fputc(i ? ',' : '{', f);
        write_entry(&list[i], f);
    }
    fputc('}', f);
    while (ftell(f) % 8)
        fputc(' ', f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    for (size_t i = 0; i < 8; i++)
        text[i] = (char)(unsigned char)((*len - 8) >> 8 * i);
    return text;
}

static uint64_t next_random(uint64_t *seed)
{
    uint64_t x = *seed += 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Nearly normal numbers of the tensor's center and deviation: the sums of four uniform ones. */
static void fill_table(uint16_t table[TABLE], const struct random_tensor *t)
{
    uint64_t seed = 1;

    for (int i = 0; i < TABLE; i++) {
        const uint64_t x = next_random(&seed);
        const float sum = (float)(x & 0xffff) + (float)(x >> 16 & 0xffff) +
                          (float)(x >> 32 & 0xffff) + (float)(x >> 48);

        table[i] = f32_to_bf16(t->center + t->deviation * (sum / 65536.0f - 2.0f) * 1.7320508f);
    }
}

/* n elements from element `first` of the tensor on: five draws from the table a number. */
static void fill_chunk(uint16_t *chunk, size_t first, size_t n, const struct random_tensor *t,
                       const uint16_t table[TABLE], uint64_t *seed)
{
    if (t->deviation == RANDOM_A_LOG) {
        for (size_t i = 0; i < n; i++)
            chunk[i] = f32_to_bf16(logf(1.0f + (float)((first + i) % (size_t)t->shape[1])));
        return;
    }
    for (size_t i = 0; i < n;) {
        uint64_t x = next_random(seed);

        for (int k = 0; k < 5 && i < n; k++, x >>= 12)
            chunk[i++] = table[x % TABLE];
    }
}

static bool write_piece(struct writer *w, const struct piece *p, uint16_t *chunk)
{
    const size_t n = elements(p->tensor);
    uint64_t seed = p->at;
    uint16_t table[TABLE];

    fill_table(table, p->tensor);
    for (size_t done = 0; done < n;) {
        const size_t take = n - done < CHUNK ? n - done : CHUNK;
        const char *bytes = (const char *)chunk;
        size_t left = take * sizeof(*chunk), at = 0;

        fill_chunk(chunk, done, take, p->tensor, table, &seed);
        while (at < left) {
            ssize_t put = pwrite(w->fd, bytes + at, left - at,
                                 (off_t)(w->front + p->at + done * sizeof(*chunk) + at));

            if (put <= 0)
                return false;
            at += (size_t)put;
        }
        done += take;
    }
    return true;
}

static void *write_pieces(void *arg)
{
    struct writer *w = arg;
    uint16_t *chunk = malloc(CHUNK * sizeof(*chunk));

    if (!chunk)
        atomic_store(&w->failed, ENOMEM);
    for (size_t i = atomic_fetch_add(&w->next, 1); chunk && i < w->pieces;
         i = atomic_fetch_add(&w->next, 1)) {
        errno = ENOSPC;
        if (!write_piece(w, &w->piece[i], chunk)) {
            atomic_store(&w->failed, errno);
            break;
        }
    }
    free(chunk);
    return NULL;
}

/* The calling thread is one of them. */
static void write_by_all(struct writer *w)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t thread[THREADS_MAX];
    int threads = 0;

    while (threads < THREADS_MAX && threads < cores - 1 &&
           pthread_create(&thread[threads], NULL, write_pieces, w) == 0)
        threads++;
    write_pieces(w);
    while (threads)
        pthread_join(thread[--threads], NULL);
}

static bool write_weights(const struct random_model *m, const char *path, struct error *err)
{
    struct writer w = { .fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) };
    size_t len = 0;
    char *header = NULL;
    int failed;

    if (w.fd < 0)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    w.piece = list_pieces(m, &w.pieces);
    header = w.piece ? make_header(w.piece, w.pieces, &len) : NULL;
    w.front = len;
    if (!header)
        atomic_store(&w.failed, ENOMEM);
    else if (pwrite(w.fd, header, len, 0) != (ssize_t)len)
        atomic_store(&w.failed, errno);
    else
        write_by_all(&w);
    failed = atomic_load(&w.failed);
    if (close(w.fd) != 0 && !failed)
        failed = errno;
    free(header);
    free(w.piece);
    return !failed || error_set(err, ERR_IO, "%s: %s", path, strerror(failed));
}

static void write_config(const struct random_model *m, FILE *f)
{
    fprintf(f, "{\"num_hidden_layers\":%d,%s", m->layers, m->config + 1); /* behind its brace */
}

/* Every byte, then words of hexadecimal digits, in the form of the RWKV World vocabulary. */
static void write_vocabulary(const struct random_model *m, FILE *f)
{
    char word[16];

    for (int id = 1; id < m->vocab; id++) {
        if (id <= 256) {
            fprintf(f, "%d b'\\x%02x' 1\n", id, (unsigned)(id - 1));
            continue;
        }
        snprintf(word, sizeof(word), " %x", (unsigned)id);
        fprintf(f, "%d '%s' %zu\n", id, word, strlen(word));
    }
}

static bool write_text(const struct random_model *m, const char *path,
                       void (*write)(const struct random_model *m, FILE *f), struct error *err)
{
    FILE *f = fopen(path, "wxe");

    if (!f)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    write(m, f);
    bool ok = !ferror(f);

    if (fclose(f) != 0 || !ok)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    return true;
}

bool random_model_write(const struct random_model *m, const char *folder, struct error *err)
{
    char path[FILES][PATH_MAX];

    for (int i = 0; i < FILES; i++)
        snprintf(path[i], sizeof(path[i]), "%s/%s", folder, file_names[i]);
    return write_text(m, path[CONFIG], write_config, err) && write_weights(m, path[WEIGHTS], err) &&
           write_text(m, path[VOCABULARY], write_vocabulary, err);
}

void random_model_remove(const char *folder)
{
    char path[PATH_MAX];

    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, file_names[i]);
        unlink(path);
    }
    rmdir(folder);
}
