/* wgmma.cuh - Hopper's asynchronous units as functions: barriers in shared memory, tensor
 * copies that complete on them, warpgroup matrix products, clusters of blocks.
 *
 * Names and meanings follow PTX (mbarrier, cp.async.bulk.tensor, wgmma.mma_async,
 * barrier.cluster). Only code compiled for sm_90a may use them. */
#ifndef KERNELS_CUDA_WGMMA_CUH
#define KERNELS_CUDA_WGMMA_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint64_t *b, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals)
                 : "memory");
}

/* After every barrier_init() of a block: the copy engine sees them too. */
static __device__ __forceinline__ void barriers_ready(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

/* At the barrier at the place of b in the cluster's block `rank`. */
static __device__ __forceinline__ void barrier_arrive_at(uint64_t *b, int rank)
{
    asm volatile("{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];}" ::"r"(shared_address(b)),
                 "r"(rank)
                 : "memory");
}

/* Arrives, and makes the phase wait for `bytes` of copies as well. */
static __device__ __forceinline__ void barrier_expect(uint64_t *b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

/* Until the phase of this parity has completed. */
static __device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity)
{
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}

/* Whether the phase of this parity has completed. */
static __device__ __forceinline__ bool barrier_passed(uint64_t *b, uint32_t parity)
{
    uint32_t passed;

    asm volatile("{.reg .pred done;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, done;}"
                 : "=r"(passed)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return passed;
}

/* As barrier_wait(), where other blocks of the cluster have written. */
static __device__ __forceinline__ void barrier_wait_cluster(uint64_t *b, uint32_t parity)
{
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}

/* L2 policies of a copy, in the encoding of createpolicy. */
static const uint64_t L2_EVICT_FIRST = 0x12f0000000000000u, L2_EVICT_LAST = 0x14f0000000000000u;

/* `bytes` of global memory; they and both addresses are multiples of 16. */
static __device__ __forceinline__ void copy_bytes(void *dst, const void *src, uint32_t bytes,
                                                  uint64_t *done, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(bytes), "r"(shared_address(done)), "l"(policy)
                 : "memory");
}

/* The box of a two-dimensional tensor whose corner is (x, y), x counting along memory. */
static __device__ __forceinline__ void copy_box(void *dst, const CUtensorMap *map, int x, int y,
                                                uint64_t *done, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(dst)),
                 "l"(map), "r"(shared_address(done)), "r"(x), "r"(y), "l"(policy)
                 : "memory");
}

/* The same into every block of the cluster that `blocks` has a bit of, at the same place, and
 * on the barriers at the place of `done`. */
static __device__ __forceinline__ void copy_box_to(void *dst, const CUtensorMap *map, int x, int y,
                                                   uint64_t *done, uint64_t policy, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
                     shared_address(dst)),
                 "l"(map), "r"(shared_address(done)), "r"(x), "r"(y), "h"(blocks), "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A tile of rows of 128 bytes, k running along them, swizzled by 128 bytes as the copy engine
 * writes it; 8 rows are 1024 bytes. Adding n to the result moves along k by 16 n bytes. */
static __device__ __forceinline__ uint64_t tile_descriptor(const void *tile)
{
    return (uint64_t)((shared_address(tile) & 0x3ffff) >> 4) | (uint64_t)1 << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* What this thread wrote to shared memory is in the tiles of products behind the next barrier. */
static __device__ __forceinline__ void tile_ready(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_end(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most N of this warpgroup's groups are under way. */
template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Sums are not to be moved across this place. */
template <int N> static __device__ __forceinline__ void hold(float (&sum)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(sum[i])::"memory");
}

#define WGMMA_REGS_8  "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_REGS_16 WGMMA_REGS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_REGS_28 WGMMA_REGS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27"
#define WGMMA_REGS_32                                                                              \
    WGMMA_REGS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "  \
                  "%31"
#define WGMMA_REGS_64                                                                              \
    WGMMA_REGS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "  \
                  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "    \
                  "%62, %63"
#define WGMMA_REGS_128                                                                             \
    WGMMA_REGS_64                                                                                  \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
    "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "   \
    "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
    "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SUMS(i)                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_SUMS_8  WGMMA_SUMS(0)
#define WGMMA_SUMS_16 WGMMA_SUMS_8, WGMMA_SUMS(8)
#define WGMMA_SUMS_28                                                                              \
    WGMMA_SUMS_16, WGMMA_SUMS(16), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_SUMS_32 WGMMA_SUMS_16, WGMMA_SUMS(16), WGMMA_SUMS(24)
#define WGMMA_SUMS_64 WGMMA_SUMS_32, WGMMA_SUMS(32), WGMMA_SUMS(40), WGMMA_SUMS(48), WGMMA_SUMS(56)
#define WGMMA_SUMS_128                                                                             \
    WGMMA_SUMS_64, WGMMA_SUMS(64), WGMMA_SUMS(72), WGMMA_SUMS(80), WGMMA_SUMS(88), WGMMA_SUMS(96), \
        WGMMA_SUMS(104), WGMMA_SUMS(112), WGMMA_SUMS(120)

/* d += A B^T for 64 rows of A and n of B, 16 columns of k each: both are tiles. d, of `half` a
 * thread, is laid out as PTX's wgmma accumulator; `next` is half + 1. */
#define WGMMA(n, half, next, type, name)                                                           \
    static __device__ __forceinline__ void wgmma(float(&d)[half], uint64_t a, uint64_t b, type)    \
    {                                                                                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." name "." name               \
                     " {" WGMMA_REGS_##half "}, %" #half ", %" #next ", 1, 1, 1, 0, 0;"            \
                     : WGMMA_SUMS_##half                                                           \
                     : "l"(a), "l"(b));                                                            \
    }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
WGMMA(16, 8, 9, __nv_bfloat16, "bf16")
WGMMA(16, 8, 9, __half, "f16")
WGMMA(32, 16, 17, __nv_bfloat16, "bf16")
WGMMA(32, 16, 17, __half, "f16")
WGMMA(56, 28, 29, __nv_bfloat16, "bf16")
WGMMA(64, 32, 33, __nv_bfloat16, "bf16")
WGMMA(64, 32, 33, __half, "f16")
WGMMA(128, 64, 65, __nv_bfloat16, "bf16")
WGMMA(128, 64, 65, __half, "f16")
WGMMA(256, 128, 129, __nv_bfloat16, "bf16")
WGMMA(256, 128, 129, __half, "f16")
#endif

/* This block in its cluster; and along x its cluster, and how many there are. */
static __device__ __forceinline__ int rank_in_cluster(void)
{
    int rank;

    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

static __device__ __forceinline__ int place_of_cluster(void)
{
    int x;

    asm("mov.u32 %0, %%clusterid.x;" : "=r"(x));
    return x;
}

static __device__ __forceinline__ int clusters_along_x(void)
{
    int n;

    asm("mov.u32 %0, %%nclusterid.x;" : "=r"(n));
    return n;
}

/* Every thread of every block of the cluster; what was written before is seen after. */
static __device__ __forceinline__ void cluster_barrier(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* The same for a block that only has to stay: nothing is promised of what was written. */
static __device__ __forceinline__ void cluster_leave(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* The halves of a barrier that promises no more than that every block has begun, and shows its
 * barriers_ready(). */
static __device__ __forceinline__ void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* To the place of p in the shared memory of the cluster's block `rank`, whose barrier at the place
 * of `done` counts the 8 bytes. Nothing waits here. */
static __device__ __forceinline__ void store_at_block(float *p, float2 v, uint64_t *done, int rank)
{
    asm volatile("{.reg .b32 there, barrier;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 barrier, %1, %2;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32"
                 " [there], {%3, %4}, [barrier];}" ::"r"(shared_address(p)),
                 "r"(shared_address(done)), "r"(rank), "f"(v.x), "f"(v.y)
                 : "memory");
}

/* 16 bytes at the place of p in the shared memory of the cluster's block `rank`. */
static __device__ __forceinline__ float4 load_of_block(const float *p, int rank)
{
    float4 v;

    asm volatile("{.reg .b32 there; mapa.shared::cluster.u32 there, %4, %5;\n"
                 "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];}"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(shared_address(p)), "r"(rank));
    return v;
}

#endif
