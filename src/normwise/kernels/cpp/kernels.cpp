#include "kernels.h"

#include <cstring>

namespace normwise {

#if defined(__x86_64__)
namespace avx512_bf16 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
#endif
namespace baseline {
extern const Kernels kKernels;
}

const Kernels* kernels(const char* name) {
  const auto wanted = [name](const Kernels& one) { return !name || !*name || !std::strcmp(name, one.name); };
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  if (has_bf16 && wanted(avx512_bf16::kKernels)) return &avx512_bf16::kKernels;
  if (has_avx512 && wanted(avx512::kKernels)) return &avx512::kKernels;
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (has_avx2 && wanted(avx2::kKernels)) return &avx2::kKernels;
#endif
  return wanted(baseline::kKernels) ? &baseline::kKernels : nullptr;
}

}  // namespace normwise
