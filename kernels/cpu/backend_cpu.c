/* backend_cpu.c - the host as a device: memory of the C library and of mmap, a compute pool
 * as its stream, and the table of the best instruction set the machine has. */
#include "kernels/backend.h"

#ifdef KERNELS_X86
#include <cpuid.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "config/error.h"
#include "kernels/cpu/ceiling.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"

struct backend_cpu {
    struct backend base;
    struct slab *slab; /* the one that is being filled, or NULL */
    float *ceiling;    /* what ceiling_read_bandwidth() reads, or NULL */
    bool round_x;
    char detail[64];
};

/* Memory in huge pages, given out from its beginning on; unmapped when its last block is freed.
 * A stream of weights crosses many pages, and matrices are smaller than a huge one. */
struct slab {
    size_t bytes, used;
    int blocks;
};

/* Stands in front of every allocation; as long as the alignment we promise. */
struct block {
    _Alignas(64) struct slab *slab; /* NULL: from the C library */
};

enum {
    SLAB_FROM = 64 << 10,  /* bytes from which a block lies in a slab */
    SLAB_BYTES = 64 << 20, /* of a slab, unless one block needs more */
    HUGE_BYTES = 2 << 20   /* of a huge page */
};

static struct slab *slab_create(size_t bytes)
{
    size_t mapped;
    char *all;

    if (__builtin_add_overflow(bytes, 2 * HUGE_BYTES, &mapped))
        return NULL;
    bytes = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    mapped = bytes + HUGE_BYTES;
    all = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;

    const size_t before = HUGE_BYTES - (uintptr_t)all % HUGE_BYTES;
    struct slab *slab = (struct slab *)(void *)(all + before);

    munmap(all, before);
    if (before < HUGE_BYTES)
        munmap(all + before + bytes, HUGE_BYTES - before);
    madvise(slab, bytes, MADV_HUGEPAGE);
    *slab = (struct slab){ .bytes = bytes, .used = 64 };
    return slab;
}

/* Never twice the same memory, so it is born zeroed without being touched. */
static struct block *slab_take(struct backend_cpu *cpu, size_t bytes)
{
    struct slab *slab = cpu->slab;

    if (!slab || slab->bytes - slab->used < bytes) {
        slab = slab_create(bytes < SLAB_BYTES / 2 ? SLAB_BYTES : bytes + 64);
        if (!slab)
            return NULL;
        if (slab->bytes == SLAB_BYTES)
            cpu->slab = slab;
    }

    struct block *block = (struct block *)(void *)((char *)slab + slab->used);

    slab->used += bytes;
    slab->blocks++;
    block->slab = slab;
    return block;
}

static void slab_release(struct backend_cpu *cpu, struct slab *slab)
{
    if (--slab->blocks)
        return;
    if (cpu->slab == slab)
        cpu->slab = NULL;
    munmap(slab, slab->bytes);
}

static void *cpu_alloc(struct backend *be, size_t bytes)
{
    struct block *block;
    size_t total;

    if (__builtin_add_overflow(bytes, sizeof(*block) + 63, &total))
        return NULL;
    total &= ~(size_t)63;
    if (total >= SLAB_FROM) {
        block = slab_take((struct backend_cpu *)be, total);
        return block ? block + 1 : NULL;
    }
    block = aligned_alloc(64, total);
    if (!block)
        return NULL;
    memset(block, 0, total);
    return block + 1;
}

static void cpu_free(struct backend *be, void *p)
{
    struct block *block = p;

    if (!p)
        return;
    block--;
    if (block->slab)
        slab_release((struct backend_cpu *)be, block->slab);
    else
        free(block);
}

static void cpu_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
}

static void cpu_zero(struct backend *be, void *dst, size_t bytes)
{
    (void)be;
    memset(dst, 0, bytes);
}

static size_t whole_pages(size_t bytes)
{
    const size_t unit = bytes < HUGE_BYTES / 2 ? 4096 : HUGE_BYTES;

    return (bytes + unit - 1) / unit * unit;
}

/* Huge pages as far as they are full: of one at the end, a single byte would take the whole. */
static void *cpu_alloc_host(struct backend *be, size_t bytes)
{
    const size_t huge = bytes / HUGE_BYTES * HUGE_BYTES;
    char *p =
        mmap(NULL, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)be;
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, huge, MADV_HUGEPAGE); /* without it there are small pages */
    madvise(p + huge, whole_pages(bytes) - huge, MADV_NOHUGEPAGE);
    return p;
}

static void cpu_free_host(struct backend *be, void *p, size_t bytes)
{
    (void)be;
    if (p)
        munmap(p, whole_pages(bytes));
}

static uint64_t cpu_move(struct backend *be, void *dst, const void *src, size_t bytes)
{
    cpu_copy(be, dst, src, bytes);
    return 0;
}

static bool cpu_moved(struct backend *be, uint64_t move, bool wait)
{
    (void)be;
    (void)move;
    (void)wait;
    return true;
}

static void cpu_follow(struct backend *be, uint64_t move)
{
    (void)be;
    (void)move;
}

/* Interleaves the rows of one group; the padding is left as it is, zero. */
static void pack_group(const struct matrix *m, int group, const unsigned char *src)
{
    const size_t size = dtype_size(m->dtype);
    const int first = group * GROUP_ROWS;
    const int end = m->rows - first < GROUP_ROWS ? m->rows : first + GROUP_ROWS;
    unsigned char *dst = m->data;

    src += (size_t)first * (size_t)m->cols * size;
    for (int r = first; r < end; r++)
        for (int j = 0; j < m->cols; j++, src += size)
            if (size == sizeof(float))
                memcpy(dst + matrix_index(m, r, j) * sizeof(float), src, sizeof(float));
            else
                memcpy(dst + matrix_index(m, r, j) * sizeof(uint16_t), src, sizeof(uint16_t));
}

static bool cpu_pack_matrix(struct backend *be, struct matrix *m, enum dtype dtype, int rows,
                            int cols, const void *src, struct error *err)
{
    struct matrix packed = { .rows = rows, .cols = cols, .dtype = dtype };

    packed.round_x = dtype == DTYPE_BF16 && ((struct backend_cpu *)be)->round_x;

    const size_t elements =
        (size_t)matrix_groups(&packed) * GROUP_ROWS * 2 * (size_t)matrix_pairs(&packed);

    if (__builtin_mul_overflow(elements, dtype_size(dtype), &packed.bytes))
        packed.bytes = SIZE_MAX; /* more than there can be */
    packed.data = cpu_alloc(be, packed.bytes);
    if (!packed.data)
        return error_set(err, ERR_NOMEM, "no room for a matrix of %d x %d (%zu bytes)", rows, cols,
                         packed.bytes);
    for (int group = 0; group < matrix_groups(&packed); group++)
        pack_group(&packed, group, src);
    *m = packed;
    return true;
}

static size_t cpu_room(struct backend *be)
{
    (void)be;
    return 0; /* the operating system promises more than it has */
}

static const struct batch *cpu_begin(struct backend *be, const struct step_key *key,
                                     const struct batch *in)
{
    (void)be;
    (void)key;
    return in;
}

static void cpu_end(struct backend *be)
{
    (void)be;
}

static double cpu_ceiling(struct backend *be, enum ceiling which)
{
    switch (which) {
    case CEILING_READ:
        return ceiling_read_bandwidth(be, &((struct backend_cpu *)be)->ceiling);
    case CEILING_FMA:
        return ceiling_fma_rate(be);
    case CEILING_BF16:
        return ceiling_bf16_rate(be);
    case CEILING_COPY:
        break;
    }
    return 0;
}

static uint64_t cpu_mark(struct backend *be)
{
    (void)be;
    return 0;
}

static bool cpu_busy(struct backend *be, uint64_t mark)
{
    (void)be;
    (void)mark;
    return false;
}

static bool cpu_sync(struct backend *be, struct error *err)
{
    if (pool_take_fault(be->stream))
        return error_set(err, ERR_DEVICE, "cpu: out of memory inside an operation");
    return true;
}

static bool cpu_wait(struct backend *be, uint64_t mark, struct error *err)
{
    (void)mark;
    return cpu_sync(be, err);
}

static void cpu_destroy(struct backend *be)
{
    cpu_free(be, ((struct backend_cpu *)be)->ceiling);
    pool_destroy(be->stream);
    free(be);
}

struct isa {
    const char *name;
    const struct ops *ops;
    bool (*is_there)(void);
};

static bool always(void)
{
    return true;
}

#ifdef KERNELS_X86
static bool has_avx2(void)
{
    unsigned a, b, c, d; /* clang 14 has no name for F16C */

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

/* Best first. */
static const struct isa isas[] = {
#ifdef KERNELS_X86
    { "avx512bf16", &ops_cpu_avx512bf16, has_avx512bf16 },
    { "avx512", &ops_cpu_avx512, has_avx512 },
    { "avx2", &ops_cpu_avx2, has_avx2 },
#endif
    { "plain", &ops_cpu_plain, always },
};

enum { ISAS = sizeof(isas) / sizeof(isas[0]) };

static const struct isa *choose_isa(const char *name, struct error *err)
{
    for (int i = 0; i < ISAS; i++) {
        if (strcmp(name, "auto") != 0 && strcmp(name, isas[i].name) != 0)
            continue;
        if (isas[i].is_there())
            return &isas[i];
    }
    error_set(err, ERR_INPUT, "this machine or build has no instruction set \"%s\"", name);
    return NULL;
}

static int count_threads(const struct backend_options *o)
{
    const int all = o->threads > 0 ? o->threads : pool_cores();
    const int own = o->share > 1 ? all / o->share : all;

    return own > 0 ? own : 1;
}

struct backend *backend_open_cpu(const struct backend_options *options, struct error *err)
{
    const struct isa *isa = choose_isa(options->isa ? options->isa : "auto", err);
    struct backend_cpu *cpu;

    if (!isa)
        return NULL;
    cpu = calloc(1, sizeof(*cpu));
    if (!cpu) {
        error_set(err, ERR_NOMEM, "cpu: out of memory");
        return NULL;
    }
    cpu->base = (struct backend){
        .name = "cpu",
        .step_rows = 512,
        .detail = cpu->detail,
        .ops = isa->ops,
        .stream = pool_create(count_threads(options), err),
        .alloc = cpu_alloc,
        .free = cpu_free,
        .room = cpu_room,
        .upload = cpu_copy,
        .download = cpu_copy,
        .copy = cpu_copy,
        .zero = cpu_zero,
        .log_steps = 1,
        .move_in = cpu_move,
        .move_out = cpu_move,
        .moved = cpu_moved,
        .follow = cpu_follow,
        .alloc_host = cpu_alloc_host,
        .free_host = cpu_free_host,
        .pack_matrix = cpu_pack_matrix,
        .begin = cpu_begin,
        .end = cpu_end,
        .ceiling = cpu_ceiling,
        .mark = cpu_mark,
        .busy = cpu_busy,
        .wait = cpu_wait,
        .sync = cpu_sync,
        .destroy = cpu_destroy,
    };
    if (!cpu->base.stream) {
        free(cpu);
        return NULL;
    }
    pool_set_ops(cpu->base.stream, isa->ops);
    cpu->round_x = options->round_x;
    snprintf(cpu->detail, sizeof(cpu->detail), "%s, %d thread%s%s", isa->name,
             pool_threads(cpu->base.stream), pool_threads(cpu->base.stream) == 1 ? "" : "s",
             cpu->round_x ? ", bf16 activations" : "");
    return &cpu->base;
}
