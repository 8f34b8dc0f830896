/* activation.h - the scalar nonlinearities, as the definitions use them. */
#ifndef KERNELS_CPU_ACTIVATION_H
#define KERNELS_CPU_ACTIVATION_H

#include <math.h>

#include "kernels/ops.h"

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static inline float silu(float x)
{
    return x / (1.0f + expf(-x));
}

/* log(1 + exp(x)); torch returns x itself above 20. */
static inline float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

static inline float activate(enum activation act, float x)
{
    switch (act) {
    case ACT_SILU:
        return silu(x);
    case ACT_SIGMOID:
        return sigmoid(x);
    case ACT_TANH:
        return tanhf(x);
    case ACT_RELU2:
        return x < 0.0f ? 0.0f : x * x; /* a NaN stays one */
    case ACT_SOFTPLUS:
        return softplus(x);
    case ACT_NONE:
        break;
    }
    return x;
}

#endif
