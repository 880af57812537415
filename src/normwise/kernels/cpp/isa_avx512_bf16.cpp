// What AVX-512 does, and bfloat16 by the instruction that rounds to it.
#define NORMWISE_ISA avx512_bf16
#include "backward.h"
#include "forward.h"

namespace normwise::avx512 {
extern const Kernels kKernels;
}

namespace normwise::avx512_bf16 {

static void forward(const Forward& task, const Threads& threads) {
  task.shape.type == Type::kBFloat16 ? forward_of<BFloat16>(task, threads) : avx512::kKernels.forward(task, threads);
}

static void backward(const Backward& task, const Threads& threads) {
  task.shape.type == Type::kBFloat16 ? backward_of<BFloat16>(task, threads) : avx512::kKernels.backward(task, threads);
}

static int64_t bytes_of_bits(const Shape& shape) { return avx512::kKernels.bytes_of_bits(shape); }

extern const Kernels kKernels;
const Kernels kKernels = {"avx512_bf16", forward, backward, bytes_of_bits};

}  // namespace normwise::avx512_bf16
