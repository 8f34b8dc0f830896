/* cuda.cuh - what the files of the CUDA backend share.
 *
 * Private to kernels/cuda/, C++ as nvcc reads it. Every <op>.cu is the twin of cpu/<op>.c: a
 * function <op>_cuda() that launches on the stream and returns nothing; a launch that fails is
 * noted by the stream and surfaces at backend_sync(). A decode step is recorded once as a
 * graph and replayed: so an operation may not allocate or synchronise while `recording`, nor
 * ever read anything of the batch on the host but its sizes S, T and L. Tokens, rows and slots
 * it reads from the device's copy, q->in, which begin() refreshes before every step. Before a
 * step is recorded, one with the same sizes has run unrecorded: that is when to choose an
 * algorithm or to grow the workspace.
 *
 * A sequence whose slot is SLOT_NONE is padding: its rows are computed and no state moves.
 *
 * Kernels overlap: launch() lets a kernel start while the one before it still runs, up to its
 * wait_for_inputs(), which every kernel calls in every thread before it reads or writes memory
 * that another kernel touches. Weights and constants may be read before, and so may the batch and a
 * state that no other kernel of the step touches, or whose number is not used then: the kernel with
 * which begin() brings the batch starts when all that is in front of it has ended, and what follows
 * starts when its last block has ended, which has made what it wrote visible (steps.cu). This is
 * for Hopper alone, as clusters are: other devices, newer ones too, run what was compiled for
 * compute_80, where nothing waits, so that there every kernel starts at the end of the one in
 * front. */
#ifndef KERNELS_CUDA_CUDA_CUH
#define KERNELS_CUDA_CUDA_CUH

#include <cublasLt.h>
#include <cuda_runtime.h>

extern "C" {
#include "config/error.h"
#include "kernels/backend.h"
}

/* The batch as kernels see it, device memory at addresses that depend on S, T and L only. */
struct device_batch {
    const int32_t *token;     /* [T] */
    const int *begin;         /* [S + 1] */
    const int *slot;          /* [S] */
    const int *row_seq;       /* [T] the sequence of each row */
    const int *logit_row;     /* [L] */
    const uint32_t *position; /* [S] */
    const int *logged;        /* [S] steps in the log of each slot, or -1: this one leaves none */
};

/* The sequences of a step that are behind the first ones of one row each (parts.cuh), as a batch of
 * its own: `at` counts rows from the first of them. */
struct step_part {
    struct batch in;
    struct device_batch at;
    int first; /* how many sequences, and rows, are in front */
};

struct linear_plans; /* linear*.cu's: what was chosen for each shape */
struct sampling;     /* sampling.cuh */
struct steps;        /* steps.cuh */

enum { ARRIVALS = 256 }; /* counts of blocks, see arrive_in_turn() */

enum { WAITED_SUMS = 84 * 64 * 192 }; /* scan_inputs.cu's: blocks of c, rows, outputs */

struct stream {
    cudaStream_t cuda;
    struct device_batch in;
    cublasLtHandle_t lt;
    struct linear_plans *plans; /* NULL at first; freed by linear_finish() */
    struct sampling *sampling;  /* NULL at first; freed by sampling_finish() */
    struct steps *steps;        /* borrowed: the backend */
    void *workspace;            /* see stream_workspace() */
    size_t workspace_bytes;
    unsigned *arrived;   /* [ARRIVALS] conv_linear.cu's, which leaves them zero */
    float4 *waited;      /* [WAITED_SUMS / 4] if it `waits`: scan_inputs.cu leaves all bits set */
    int device, sms;     /* multiprocessors */
    size_t block_memory; /* shared memory that a block can ask for */
    bool overlaps;       /* a Hopper: kernels start before the one in front ends, or in clusters */
    bool waits;          /* blocks of a kernel may wait for each other, as those of no other stream
                          * on this device may, in this process or another */
    bool recording;
    struct step_part rest; /* of this step; in.S 0: it is not taken apart */
    bool row_each;         /* every sequence of this step has one row */
    bool settles;          /* a sequence of several rows of this step has steps in its log */
    bool replayed;         /* this step is recorded, or will be when its size comes again */
    uint64_t marks;        /* how many places were marked: backend.h */
    cudaError_t fault;     /* the first, or cudaSuccess */
    const char *where;     /* the operation it came from */
    /* branch.cu's */
    cudaStream_t branch;
    cudaEvent_t branched;
    void *branch_workspace;
    size_t branch_workspace_bytes;
    bool forked; /* a branch has begun that was not joined */
    bool beside; /* what is enqueued is a branch */
};

/* Notes the first failure of a launch or call. */
static inline void stream_note(struct stream *q, cudaError_t e, const char *where)
{
    if (e != cudaSuccess && q->fault == cudaSuccess) {
        q->fault = e;
        q->where = where;
    }
}

/* Device memory for what one operation keeps between its own launches, aligned to 256 bytes;
 * the next operation may overwrite it. NULL, with the fault noted, when there is no room. */
void *stream_workspace(struct stream *q, size_t bytes, const char *where);

/* Enqueues kernel<<<grid, block, shared>>>(args...) in clusters of so many blocks, more than one on
 * a Hopper only. It may start before the one in front has ended if `overlaps`. `shared` above 48
 * KiB needs the kernel's attribute raised first. */
template <typename... P, typename... A>
static void launch_as(struct stream *q, const char *where, bool overlaps, dim3 cluster,
                      void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... args)
{
    cudaLaunchAttribute with[2] = {};
    cudaLaunchConfig_t config = {};

    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = q->cuda;
    config.attrs = with;
    if (q->overlaps && overlaps) {
        with[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        with[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster.x * cluster.y * cluster.z > 1) {
        with[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        with[config.numAttrs++].val.clusterDim = { cluster.x, cluster.y, cluster.z };
    }
    stream_note(q, cudaLaunchKernelEx(&config, kernel, P(args)...), where);
}

template <typename... P, typename... A>
static void launch(struct stream *q, const char *where, void (*kernel)(P...), dim3 grid, dim3 block,
                   size_t shared, A... args)
{
    launch_as(q, where, true, dim3(1), kernel, grid, block, shared, args...);
}

/* For few blocks that take long: started early they would crowd on the multiprocessors that
 * the kernel in front happens to leave first. And for what all in front must have ended for. */
template <typename... P, typename... A>
static void launch_apart(struct stream *q, const char *where, void (*kernel)(P...), dim3 grid,
                         dim3 block, size_t shared, A... args)
{
    launch_as(q, where, false, dim3(1), kernel, grid, block, shared, args...);
}

/* What every kernel in front of this one wrote is visible from here on. */
static __device__ __forceinline__ void wait_for_inputs(void)
{
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/* The next kernel may be put on the device now, as soon as every block has said so or ended;
 * it still waits for this one's end. */
static __device__ __forceinline__ void let_next_start(void)
{
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* What is enqueued from begin to end has what was enqueued before the fork as its inputs, and runs
 * beside what follows that until join_cuda(). In a step that is recorded that must come before the
 * next fork; in others a fork without it goes on behind the branch that is there. When a step that
 * will be recorded runs for the first time, all happens in order. */
void branch_fork(struct stream *q);
void branch_begin(struct stream *q);
void branch_end(struct stream *q);
/* In a branch: takes the workspace of what is in front of it, which is free while the host waits
 * for all that was enqueued, and gives it back. */
void branch_swap_workspace(struct stream *q);

void embed_cuda(struct stream *q, const struct batch *in, float *x, const struct matrix *table);
void gather_cuda(struct stream *q, const struct batch *in, float *y, const float *x, int dim);
void linear_cuda(struct stream *q, const struct linear *p, int n);
void linear_split_cuda(struct stream *q, const struct linear *p, int now, int later);
void join_cuda(struct stream *q);
void norm_cuda(struct stream *q, const struct norm *p);
void gated_norm_cuda(struct stream *q, const struct gated_norm *p);
void lerp_cuda(struct stream *q, const struct lerp *p);
void token_shift_cuda(struct stream *q, const struct batch *in, const struct token_shift *p);
void short_conv_cuda(struct stream *q, const struct batch *in, const struct short_conv *p);
void diagonal_scan_cuda(struct stream *q, const struct batch *in, const struct diagonal_scan *p);
void decay_gates_cuda(struct stream *q, const struct decay_gates *p);
void delta_gates_cuda(struct stream *q, const struct delta_gates *p);
void matrix_state_cuda(struct stream *q, const struct batch *in, const struct matrix_state *p);
void head_output_cuda(struct stream *q, const struct head_output *p);
void norm_shift_cuda(struct stream *q, const struct batch *in, const struct norm_shift *p);
void scan_inputs_cuda(struct stream *q, const struct batch *in, const struct scan_inputs *p);
void dt_scan_cuda(struct stream *q, const struct batch *in, const struct dt_scan *p);
void scalar_state_cuda(struct stream *q, const struct batch *in, const struct scalar_state *p);
void delta_state_cuda(struct stream *q, const struct batch *in, const struct delta_state *p);
void sample_cuda(struct stream *q, const struct sample *p);

/* conv_linear.cu's, of two parts of scan_inputs. */
void conv_linear(struct stream *q, const struct batch *in, const struct short_conv *conv,
                 const struct linear *product);

/* linear*.cu's: the layout of a weight (backend.h), and the end of q->plans. */
bool pack_matrix_cuda(struct backend *be, struct matrix *m, enum dtype dtype, int rows, int cols,
                      const void *src, struct error *err);
void linear_finish(struct stream *q);

#endif
