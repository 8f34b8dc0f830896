#include "models/arch.h"

struct field arch_state(const struct arch_step *a, int i, int layer)
{
    const struct state_field *f = &a->layout->field[i];

    const size_t at = f->offset + (size_t)layer * f->layer_bytes, size = dtype_size(f->dtype);
    void *first = a->records + at;
    const bool logs = f->large && a->log->layers;

    return (struct field){
        .base = f->dtype == DTYPE_F32 ? first : NULL,
        .stride = a->slot_bytes / size,
        .bf16 = f->dtype == DTYPE_BF16 ? first : NULL,
        .place = (uint32_t)(at / size),
        .log = logs ? a->log->state.log + (size_t)layer * a->log->log_distance : NULL,
    };
}

float *arch_f32_rows(const struct arch_step *a, float *rows)
{
    return a->bf16_rows ? NULL : rows;
}

uint16_t *arch_bf16_rows(const struct arch_step *a, float *rows)
{
    return a->bf16_rows ? (uint16_t *)rows : NULL;
}

struct norm arch_norm(const struct arch_step *a, float *y, const float *weight, const float *bias,
                      const struct linear *added)
{
    const int hidden = a->hyper->dim[HIDDEN];

    return (struct norm){
        .kind = a->norm,
        .added = added && added->w ? added : NULL,
        .y = arch_f32_rows(a, y),
        .y_bf16 = arch_bf16_rows(a, y),
        .x = a->x,
        .y_ld = (size_t)hidden,
        .x_ld = (size_t)hidden,
        .weight = weight,
        .bias = bias,
        .T = a->in->T,
        .dim = hidden,
        .groups = 1,
        .eps = a->hyper->number[EPS],
    };
}

struct linear arch_linear(const struct arch_step *a, float *y, const float *x,
                          const struct matrix *w, const float *bias, enum activation act)
{
    return (struct linear){
        .y = y,
        .x = a->bf16_rows ? NULL : x,
        .x_bf16 = a->bf16_rows ? (const uint16_t *)x : NULL,
        .y_ld = (size_t)w->rows,
        .x_ld = (size_t)w->cols,
        .w = w,
        .bias = bias,
        .act = act,
        .T = a->in->T,
    };
}

struct linear arch_inner_linear(const struct arch_step *a, float *y, const float *x,
                                const struct matrix *w, const float *bias, enum activation act)
{
    struct linear p = arch_linear(a, arch_f32_rows(a, y), x, w, bias, act);

    p.y_bf16 = arch_bf16_rows(a, y);
    return p;
}

struct linear arch_added(const struct arch_step *a, const float *x, const struct matrix *w,
                         const float *bias)
{
    struct linear p = arch_linear(a, a->x, x, w, bias, ACT_NONE);

    p.add = true;
    return p;
}
