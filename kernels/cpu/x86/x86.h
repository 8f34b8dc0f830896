/* x86.h - the twins of this folder, under the names of the instruction set at hand. */
#ifndef KERNELS_CPU_X86_X86_H
#define KERNELS_CPU_X86_X86_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/x86/simd.h"

void ISA_BF16(linear)(struct stream *q, const struct linear *p, int n);
void ISA(norm)(struct stream *q, const struct norm *p);
void ISA(gated_norm)(struct stream *q, const struct gated_norm *p);
void ISA(lerp)(struct stream *q, const struct lerp *p);
void ISA(token_shift)(struct stream *q, const struct batch *in, const struct token_shift *p);
void ISA(short_conv)(struct stream *q, const struct batch *in, const struct short_conv *p);
void ISA(diagonal_scan)(struct stream *q, const struct batch *in, const struct diagonal_scan *p);
void ISA(decay_gates)(struct stream *q, const struct decay_gates *p);
void ISA(delta_gates)(struct stream *q, const struct delta_gates *p);
void ISA(matrix_state)(struct stream *q, const struct batch *in, const struct matrix_state *p);
void ISA(head_output)(struct stream *q, const struct head_output *p);
void ISA(sample)(struct stream *q, const struct sample *p);

#endif
