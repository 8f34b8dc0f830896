/* linear_tiles.cuh - what the paths of warpgroup products share: the tile, the maps by which the
 * copy engine reads an operand, runs of four rows of a product that are read and written
 * together, and launches in clusters. */
#ifndef KERNELS_CUDA_LINEAR_TILES_CUH
#define KERNELS_CUDA_LINEAR_TILES_CUH

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    TILE = 128,  /* rows of weights; two warpgroups */
    BLOCK_K = 64 /* columns of a stage: rows of 128 bytes */
};

/* n numbers, or four at once. */
static __device__ __forceinline__ float4 load_row(const float *p, bool aligned, int n)
{
    if (aligned && n >= 4)
        return *(const float4 *)p;
    return { n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, n > 3 ? p[3] : 0.0f };
}

static __device__ __forceinline__ void store_row(const struct output &o, size_t at, float4 v,
                                                 bool aligned, int n)
{
    const float of[4] = { v.x, v.y, v.z, v.w };

    if (aligned && n >= 4) {
        store_numbers<4>(o.y, o.y_bf16, at, { { v.x, v.y, v.z, v.w } });
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < n)
            store_numbers<1>(o.y, o.y_bf16, at + i, { { of[i] } });
}

static __device__ __forceinline__ float4 sum_of(float4 a, float4 b)
{
    return { a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w };
}

typedef CUresult (*encode_map)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static inline encode_map find_encode(void)
{
    cudaDriverEntryPointQueryResult found;
    void *f = NULL;

    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess)
        return NULL;
    return (encode_map)f;
}

/* Boxes of box_rows rows and BLOCK_K columns of a row-major matrix; zeros beyond it. */
static inline void make_map(struct stream *q, CUtensorMap *map, enum dtype dtype, const void *base,
                            int rows, int cols, size_t ld, int box_rows)
{
    static const encode_map encode = find_encode();
    const cuuint64_t size[2] = { (cuuint64_t)cols, (cuuint64_t)rows }, stride[1] = { ld * 2 };
    const cuuint32_t box[2] = { BLOCK_K, (cuuint32_t)box_rows }, step[2] = { 1, 1 };

    if (!encode || encode(map,
                          dtype == DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                              : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                          2, (void *)base, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
        stream_note(q, cudaErrorInvalidValue, "linear: tensor map");
}

/* A product of a group. */
struct tiled {
    CUtensorMap w_map, x_map;
    struct output out;
    int rows, blocks_k; /* stages of k */
    int first_tile;
    bool aligned; /* out takes four numbers at a time */
};

/* n products whose x is narrow, in boxes of so many rows of weights and of x; first_tile is the
 * caller's. */
static inline void make_tiled(struct stream *q, struct tiled *to, const struct linear *p, int n,
                              const struct narrow_group *narrow, int w_box, int x_box)
{
    const enum dtype dtype = p->w->dtype;

    for (int i = 0; i < n; i++) {
        const struct matrix *w = p[i].w;
        const int ld = matrix_ld(dtype, w->cols);

        make_map(q, &to[i].w_map, dtype, w->data, w->rows, ld, ld, w_box);
        make_map(q, &to[i].x_map, dtype, narrow->of[i].rows, p->T, w->cols, narrow->of[i].ld,
                 x_box);
        to[i].out = output_of(&p[i]);
        to[i].rows = w->rows;
        to[i].blocks_k = ld / BLOCK_K;
        to[i].aligned = is_aligned(to[i].out);
    }
}

/* The product of a group, G with products p and their number n, that a tile belongs to. */
template <typename G>
static __device__ __forceinline__ const struct tiled &product_of_tile(const G &g, int tile)
{
    int i = 0;

    while (i + 1 < g.n && tile >= g.p[i + 1].first_tile)
        i++;
    return g.p[i];
}

/* Enqueues kernel<<<grid, threads, shared>>>(g) in clusters of so many blocks along x, which may
 * start before the kernel in front has ended. A kernel whose launches differ in `shared` names the
 * most it takes, so that none lowers what a recorded one was allowed. */
template <typename G>
static void launch_clusters(struct stream *q, const char *where, void (*kernel)(G), dim3 grid,
                            int threads, int shared, int blocks, const G &g, int most = 0)
{
    stream_note(q,
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     shared > most ? shared : most),
                where);
    launch_as(q, where, true, dim3((unsigned)blocks), kernel, grid, dim3((unsigned)threads),
              (size_t)shared, g);
}

#endif
