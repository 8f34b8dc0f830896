/* norm_shift.cu - a norm and the token shift of its rows as one kernel for decode, so that the
 * normed rows are never in memory (definition: cpu/fused.c).
 *
 * Longer batches go through the parts: a block that takes a few rows and norms the one in front
 * of them again is 4 % slower in a prefill of 512 tokens and no faster in one of 4,096. */
#include "kernels/cuda/row.cuh"
#include "kernels/cuda/token_shift.cuh"

enum { MIXES = 6 };

/* The rows of sequence blockIdx.x, which is read before the wait with its state (cuda.cuh). */
static __global__ void __launch_bounds__(ROW_THREADS_MAX, 2)
    shift_sequences(const struct norm_shift p, const struct pieces add,
                    const struct device_batch in)
{
    __shared__ struct row_moments shared;
    const int c = row_place();
    floats<ROW_OWN> before = {};

    let_next_start();

    const auto mix = load_mixes<ROW_OWN, MIXES>(p.shift, c);
    const floats<ROW_OWN> weight = load_constant(p.norm.weight, c, 1);
    const floats<ROW_OWN> bias = load_constant(p.norm.bias, c, 0);
    const struct sequence q = load_sequence(in, p.shift.state, (int)blockIdx.x);

    if (q.state)
        before = load<ROW_OWN>(q.state + c);
    begin_rows(&shared);
    wait_for_inputs();
    for (int t = q.begin; t < q.end; t++) {
        const floats<ROW_OWN> own = load_own(p.norm, add, t, c);
        const floats<ROW_OWN> x = norm_own(p.norm, own, weight, bias, t - q.begin, &shared);

        mix_row(p.shift, mix, x, before, (size_t)t * (size_t)p.shift.dim + (size_t)c);
        before = x;
    }
    if (q.state && q.end > q.begin)
        store<ROW_OWN>(q.state + c, before);
}

static bool fits(const struct stream *q, const struct batch *in, const struct norm_shift *p)
{
    return in->T <= in->S && row_fits(q, &p->norm) && !p->norm.y_bf16 && p->shift.n <= MIXES &&
           shift_off_grid(&p->shift) == 0;
}

void norm_shift_cuda(struct stream *q, const struct batch *in, const struct norm_shift *p)
{
    if (!fits(q, in, p)) {
        norm_cuda(q, &p->norm);
        token_shift_cuda(q, in, &p->shift);
        return;
    }

    const struct pieces add = p->norm.added ? linear_pieces(q, p->norm.added) : pieces{};

    launch_rows(q, "norm_shift", shift_sequences, in->S, p->norm.dim, *p, add, q->in);
}
