// The kernels of one instruction set, as kernels.cpp finds them.
#pragma once

#include "backward.h"
#include "forward.h"

#define NORMWISE_TEXT_OF(name) #name
#define NORMWISE_TEXT(name) NORMWISE_TEXT_OF(name)

namespace normwise::NORMWISE_ISA {

inline void forward(const Forward& task, const Threads& threads) {
  switch (task.shape.type) {
    case Type::kFloat32:
      return forward_of<float>(task, threads);
    case Type::kFloat64:
      return forward_of<double>(task, threads);
    case Type::kBFloat16:
      return forward_of<BFloat16>(task, threads);
    case Type::kHalf:
      return forward_of<Half>(task, threads);
  }
}

inline void backward(const Backward& task, const Threads& threads) {
  switch (task.shape.type) {
    case Type::kFloat32:
      return backward_of<float>(task, threads);
    case Type::kFloat64:
      return backward_of<double>(task, threads);
    case Type::kBFloat16:
      return backward_of<BFloat16>(task, threads);
    case Type::kHalf:
      return backward_of<Half>(task, threads);
  }
}

inline int64_t bytes_of_bits(const Shape& shape) {
  const int64_t length = shape.run_length();
  return shape.runs() *
         (shape.type == Type::kFloat64 ? bit_bytes_of_run<double>(length) : bit_bytes_of_run<float>(length));
}

extern const Kernels kKernels;
const Kernels kKernels = {NORMWISE_TEXT(NORMWISE_ISA), forward, backward, bytes_of_bits};

}  // namespace normwise::NORMWISE_ISA
