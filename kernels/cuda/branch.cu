/* branch.cu - products that run beside the operations that follow them.
 *
 * They are enqueued on a stream of their own, which waits for what the main one was given before,
 * and what join() is followed by waits for both. Each has a workspace of its own. In a graph the
 * edges say what waits for what: a fork adds no more than the branch needs, and kernels of either
 * side may start early (cuda.cuh), as an edge is programmatic if the kernel behind it asks for
 * that. */
#include "kernels/cuda/cuda.cuh"

#include <utility>

/* Makes `to` go on behind what `from` goes on behind. */
static void follow(struct stream *q, cudaStream_t to, cudaStream_t from, unsigned how)
{
    cudaStreamCaptureStatus status;
    const cudaGraphNode_t *nodes = NULL;
    const cudaGraphEdgeData *edges = NULL;
    size_t n = 0;

    stream_note(q, cudaStreamGetCaptureInfo(from, &status, NULL, NULL, &nodes, &edges, &n),
                "recording");
    stream_note(q, cudaStreamUpdateCaptureDependencies(to, (cudaGraphNode_t *)nodes, edges, n, how),
                "recording");
}

/* What `to` is given from now on waits for all that `from` was given. */
static void await(struct stream *q, cudaStream_t to, cudaStream_t from)
{
    stream_note(q, cudaEventRecord(q->branched, from), "branch");
    stream_note(q, cudaStreamWaitEvent(to, q->branched, 0), "branch");
}

/* The first run of what is recorded later. */
static bool in_order(const struct stream *q)
{
    return q->replayed && !q->recording;
}

void branch_swap_workspace(struct stream *q)
{
    std::swap(q->workspace, q->branch_workspace);
    std::swap(q->workspace_bytes, q->branch_workspace_bytes);
}

void branch_fork(struct stream *q)
{
    if (in_order(q))
        return;
    q->forked = true;
    await(q, q->branch, q->cuda);
    if (q->recording)
        follow(q, q->branch, q->cuda, cudaStreamSetCaptureDependencies);
}

void branch_begin(struct stream *q)
{
    branch_swap_workspace(q);
    q->beside = true;
    if (!in_order(q))
        std::swap(q->cuda, q->branch);
}

void branch_end(struct stream *q)
{
    branch_swap_workspace(q);
    q->beside = false;
    if (!in_order(q))
        std::swap(q->cuda, q->branch);
}

void join_cuda(struct stream *q)
{
    if (q->forked && q->recording)
        follow(q, q->cuda, q->branch, cudaStreamAddCaptureDependencies);
    else if (q->forked)
        await(q, q->cuda, q->branch);
    q->forked = false;
}
