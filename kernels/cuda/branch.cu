/* branch.cu - products that a recorded step takes beside the operations that follow them.
 *
 * In a graph the edges say what waits for what. A branch is recorded on a stream of its own,
 * whose first kernel waits for what the main stream had enqueued last, and join() makes the next
 * kernel there wait for both. Each has a workspace of its own. Kernels of either may start early
 * (cuda.cuh): an edge is programmatic if the kernel behind it asks for that. */
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

void branch_begin(struct stream *q)
{
    std::swap(q->workspace, q->branch_workspace);
    std::swap(q->workspace_bytes, q->branch_workspace_bytes);
    q->beside = true;
    if (!q->recording)
        return;
    q->forked = true;
    stream_note(q, cudaEventRecord(q->branched, q->cuda), "recording");
    stream_note(q, cudaStreamWaitEvent(q->branch, q->branched, 0), "recording");
    follow(q, q->branch, q->cuda, cudaStreamSetCaptureDependencies);
    std::swap(q->cuda, q->branch);
}

void branch_end(struct stream *q)
{
    std::swap(q->workspace, q->branch_workspace);
    std::swap(q->workspace_bytes, q->branch_workspace_bytes);
    q->beside = false;
    if (q->recording)
        std::swap(q->cuda, q->branch);
}

void join_cuda(struct stream *q)
{
    if (q->forked)
        follow(q, q->cuda, q->branch, cudaStreamAddCaptureDependencies);
    q->forked = false;
}
