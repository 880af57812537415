// What forward and backward share: threads, numbers per channel, and the walk along a run.
//
// Where the channels come first, the unit of work is a channel: one thread reads it from memory once, and a second time
// from the cache. Where they come last, it is a column of channels, as long as that stays in the cache; a longer column
// is cut into blocks of rows, and swept twice, the second time from its end.
#pragma once

#include <unistd.h>


#include "activations.h"
#include "kernels.h"
#include "vectors.h"

namespace normwise::NORMWISE_ISA {

constexpr int64_t kSerial = 64 * 1024;             // elements up to which waking threads costs more than they save
constexpr int64_t kStreamed = int64_t{48} << 20;   // bytes from which an output is written past the caches
constexpr int64_t kPage = 4096;
constexpr int kColumn = 4;                         // vectors side by side in a column of channels

inline int64_t cache_bytes() {
  static const int64_t bytes = [] {
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return static_cast<int64_t>(found > 0 ? found : 1 << 20);
  }();
  return bytes;
}

template <class Body>
void in_parallel(const Threads& threads, int64_t count, bool serial, const Body& body) {
  if (serial || count <= 1 || threads.number <= 1) return body(0, count);
  threads.run(
      count,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// A number per channel, padded so that a whole column may be read from any channel.
template <class F>
class PerChannel {
 public:
  explicit PerChannel(int64_t channels) : values_(channels + kColumn * kLanes<F>) {}
  F& operator[](int64_t c) { return values_[c]; }
  const F* from(int64_t c) const { return values_.data() + c; }

 private:
  Array<F> values_;
};

// Such a number in registers: one for a whole run, or one for each channel of a column where the channels come last.
template <class F, bool kLast>
struct Along {
  static constexpr int kHeld = kLast ? kColumn : 1;
  Vector<F> held[kHeld];
  NORMWISE_INLINE explicit Along(const F* values) {
    for (int v = 0; v < kHeld; ++v) held[v] = kLast ? load(values + v * kLanes<F>) : all(*values);
  }
  NORMWISE_INLINE Vector<F> at(int64_t i) const { return held[kLast ? i / kLanes<F> : 0]; }
};

template <bool kWhole, class T, class F = typename Wide<T>::type>
NORMWISE_INLINE Vector<F> get(const T* from, int64_t count) {
  if constexpr (kWhole) return load(from);
  return load_part(from, count, Vector<F>{});
}
template <bool kWhole, bool kStream, class T>
NORMWISE_INLINE void put(T* to, Vector<typename Wide<T>::type> v, int64_t count) {
  if constexpr (kWhole) return store<kStream>(to, v);
  store_part(to, v, count);
}

template <class F>
constexpr int kBitBytes = kLanes<F> >= 8 ? kLanes<F> / 8 : 1;  // per vector

template <class F>
int64_t bit_bytes_of_run(int64_t length) {
  return (length + kLanes<F> - 1) / kLanes<F> * kBitBytes<F>;
}

// Calls step(whole, i, count) for each vector of a run, the last of which may be a part.
template <class F, class Step>
NORMWISE_INLINE void each_vector(int64_t length, const Step& step) {
  int64_t i = 0;
  for (; i + kLanes<F> <= length; i += kLanes<F>) step(std::true_type{}, i, kLanes<F>);
  if (i < length) step(std::false_type{}, i, length - i);
}

// The same for the channels of a column: where it is full, the compiler knows how many vectors there are.
template <class F, bool kFull, class Step>
NORMWISE_INLINE void each_in_column(int64_t channels, const Step& step) {
  if constexpr (kFull) {
    for (int v = 0; v < kColumn; ++v) step(std::true_type{}, v * kLanes<F>, kLanes<F>);
  } else {
    each_vector<F>(channels, step);
  }
}

template <class T>
bool aligned(const T* at, int64_t run) {
  constexpr int64_t kUnit = kLanes<typename Wide<T>::type> * sizeof(T);
  return reinterpret_cast<uintptr_t>(at) % kUnit == 0 && run * sizeof(T) % kUnit == 0;
}

// How the activation enters a loop: known to the compiler for the two that matter most.
enum class Fused { kNone, kRelu, kAny };

inline Fused fused(int activation) {
  if (activation == static_cast<int>(Activation::kNone)) return Fused::kNone;
  return activation == static_cast<int>(Activation::kRelu) ? Fused::kRelu : Fused::kAny;
}

}  // namespace normwise::NORMWISE_ISA
