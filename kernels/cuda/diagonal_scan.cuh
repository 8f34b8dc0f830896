/* diagonal_scan.cuh - one token of a diagonal state of 16 numbers a channel, and how a warp of
 * a decode step shares the states of 32 channels. */
#ifndef KERNELS_CUDA_DIAGONAL_SCAN_CUH
#define KERNELS_CUDA_DIAGONAL_SCAN_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/state.cuh"
#include "kernels/cuda/state_log.cuh"

enum { N = 16 };

static const float LOG2_E = 1.44269504f;

/* A state takes a token in; the decay is 2^(dt A). As of matrix states (matrix_rows.cuh), a step
 * that waits in a log leaves the bits of one that does not. */
static __device__ __forceinline__ float scanned(float h, float A, float dt, float dx, float B)
{
    return __fmaf_rn(fast_exp2(__fmul_rn(dt, A)), h, __fmul_rn(dx, B));
}

/* OWN states of one channel. */
template <int OWN>
static __device__ __forceinline__ float advance(float (&h)[OWN], const float (&A)[OWN], float dt,
                                                float dx, const float *B, const float *C)
{
    float y = 0.0f;

#pragma unroll
    for (int n = 0; n < OWN; n++) {
        h[n] = scanned(h[n], A[n], dt, dx, B[n]);
        y += h[n] * C[n];
    }
    return y;
}

static __device__ __forceinline__ void unpack(float *to, float4 from)
{
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
}

/* The sums over LANES neighbouring threads of LANES values each: thread i gets value i's. In
 * each step a thread gives half of its values to the one HALF away and adds what it gets. */
template <int HALF>
static __device__ __forceinline__ float sum_across(const float (&v)[2 * HALF], int lane)
{
    const bool upper = lane & HALF;
    float sum[HALF];

#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const float keep = upper ? v[i + HALF] : v[i], give = upper ? v[i] : v[i + HALF];

        sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, HALF);
    }
    if constexpr (HALF > 1)
        return sum_across<HALF / 2>(sum, lane);
    else
        return sum[0];
}

/* In decode four lanes share four channels, 8 apart, so that a warp's accesses are contiguous:
 * each lane has a quarter of the states of all four, and the inputs and the output of one. */
enum { SHARED = 4, OWN = N / SHARED, APART = 32 / SHARED };

/* Of the states of a lane, or of their rates: [SHARED, OWN]. */
typedef float quarters[SHARED][OWN];

/* The first n of a lane's shared channels, and zeros. */
template <bool ALIGNED>
static __device__ __forceinline__ void load_states(quarters &s, const kept_state &h, bool narrow,
                                                   int n)
{
#pragma unroll
    for (int k = 0; k < SHARED; k++)
        unpack(s[k],
               k < n && h.at ? load_kept4<ALIGNED>(h, narrow, (size_t)(k * APART * N)) : float4{});
}

template <bool ALIGNED>
static __device__ __forceinline__ void store_states(const quarters &s, const kept_state &h,
                                                    bool narrow, int n)
{
#pragma unroll
    for (int k = 0; k < SHARED; k++)
        if (k < n && h.at)
            store_kept4<ALIGNED>(h, narrow, (size_t)(k * APART * N),
                                 make_float4(s[k][0], s[k][1], s[k][2], s[k][3]));
}

template <bool ALIGNED>
static __device__ __forceinline__ void load_rates(quarters &A, const float *from, int n)
{
#pragma unroll
    for (int k = 0; k < SHARED; k++)
        unpack(A[k], k < n ? load4<ALIGNED>(from + k * APART * N) : float4{});
}

/* A step as a lane takes it in: dt log2(e) and dt x of the channels that it shares, B of its
 * quarter of the states. */
struct step_inputs {
    float time[SHARED], add[SHARED], B[OWN];
};

/* Of the lanes' own channels, to all that share them. */
static __device__ __forceinline__ void share(float (&to)[SHARED], float own)
{
#pragma unroll
    for (int k = 0; k < SHARED; k++)
        to[k] = __shfl_sync(0xffffffffu, own, k, SHARED);
}

static __device__ __forceinline__ void take_in(quarters &h, const quarters &A,
                                               const struct step_inputs &s)
{
#pragma unroll
    for (int k = 0; k < SHARED; k++)
#pragma unroll
        for (int n = 0; n < OWN; n++)
            h[k][n] = scanned(h[k][n], A[k][n], s.time[k], s.add[k], s.B[n]);
}

/* A step becomes an entry of the log: each lane has its channel's part, `its` lanes have B's. */
static __device__ __forceinline__ void put_step(const struct scan_entry &e, float time, float add,
                                                const float (&B)[OWN], int channel, bool its)
{
    e.time[channel] = time;
    e.add[channel] = add;
    if (its)
        store4<true>(e.B + threadIdx.x % SHARED * OWN, make_float4(B[0], B[1], B[2], B[3]));
}

/* The row's output of the lane's own channel, without D x and the gate. */
static __device__ __forceinline__ float
advance_row(quarters &h, const quarters &A, const struct step_inputs &s, const float (&C)[OWN])
{
    float sum[SHARED];

#pragma unroll
    for (int k = 0; k < SHARED; k++)
        sum[k] = advance<OWN>(h[k], A[k], s.time[k], s.add[k], s.B, C);
    return sum_across<SHARED / 2>(sum, (int)threadIdx.x % SHARED);
}

/* The form for long sequences. It takes those of more rows than what it returns, which is INT_MAX
 * if the operation's sizes are not its own or no sequence is that long. raw: dt is what a
 * softplus makes a step size of. */
int diagonal_segments(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                      bool raw);

/* Whether every sequence of the batch is one that it takes. */
bool diagonal_segments_take(const struct batch *in, const struct diagonal_scan *p);

/* Any batch; and whether it is one whose dt may be raw. */
void diagonal_scan_of(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                      bool raw);
bool diagonal_scan_takes_raw(const struct stream *q, const struct batch *in,
                             const struct diagonal_scan *p);

#endif
