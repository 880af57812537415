// What forward and backward share: threads, numbers per channel, and the walk along a run.
//
// Where the channels come first, the unit of work is a channel: one thread reads it from memory once, and a second time
// from the cache. Where they come last, it is a block of rows for each thread, swept twice, the second time from its end.
#pragma once

#include <unistd.h>

#include <algorithm>

#include "activations.h"
#include "kernels.h"
#include "vectors.h"

namespace normwise::NORMWISE_ISA {

constexpr int64_t kSerial = 64 * 1024;             // elements up to which waking threads costs more than they save
constexpr int64_t kStreamed = int64_t{12} << 20;   // bytes from which an output is written past the caches
constexpr int64_t kStretch = 256 * 1024;           // bytes that are read in order when rows are walked from the last
constexpr int64_t kPage = 4096;
constexpr int kColumn = 4;                         // vectors side by side in a column of channels

inline int64_t cache_bytes() {
  static const int64_t bytes = [] {
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return static_cast<int64_t>(found > 0 ? found : 1 << 20);
  }();
  return bytes;
}

// True if what one thread has of a tensor stays in its cache, so that rows need not be walked as memory lies.
inline bool stays_near(const Shape& shape, int64_t bytes_per_value, const Threads& threads) {
  return shape.elements() * bytes_per_value <= cache_bytes() / 2 * threads.number;
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

// Such a number for a loop. In registers: where the channels come first (kVectors = 0), one for a whole run; where they come
// last, one for each channel of a column of so many vectors. Or in memory, for each channel of a whole row.
constexpr int kWholeRow = -1;

template <class F, int kVectors>
struct Along {
  Vector<F> held[kVectors ? kVectors : 1];
  NORMWISE_INLINE explicit Along(const F* values) {
    if constexpr (kVectors == 0) held[0] = all(*values);
    for (int v = 0; v < kVectors; ++v) held[v] = load(values + v * kLanes<F>);
  }
  NORMWISE_INLINE Vector<F> at(int64_t i) const { return held[kVectors ? i / kLanes<F> : 0]; }
};
template <class F>
struct Along<F, kWholeRow> {
  const F* values;
  NORMWISE_INLINE explicit Along(const F* from) : values(from) {}
  NORMWISE_INLINE Vector<F> at(int64_t i) const { return load(values + i); }
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

// Where the channels come first, how many values ahead of a run lies what is wanted soon: within long runs, memory is
// read in its order and the processor sees it coming; of short ones, which lie far apart, the same sample's run some
// channels on, as many as the cache holds beside what it is needed for.
inline int64_t lookahead(const Shape& shape, int64_t bytes_per_value) {
  const int64_t run = shape.s * bytes_per_value, channel = shape.n * run;
  if (channel == 0) return 0;
  if (run >= kPage) return 2048 / bytes_per_value;
  const int64_t channels = std::min(kPage / run, cache_bytes() / 4 / channel);
  return channels > 0 ? channels * shape.s : shape.c * shape.s;
}

// Calls step(whole, i, count) for each vector of a run, the last of which may be a part.
template <class F, class Step>
NORMWISE_INLINE void each_vector(int64_t length, const Step& step) {
  int64_t i = 0;
  for (; i + kLanes<F> <= length; i += kLanes<F>) step(std::true_type{}, i, kLanes<F>);
  if (i < length) step(std::false_type{}, i, length - i);
}

inline int64_t rows_of_page(int64_t row_bytes) { return std::max<int64_t>(kPage / std::max<int64_t>(row_bytes, 1), 1); }

// Calls step(from, to) for stretches of the rows begin..end from the last to the first, because what was read last is still
// in the cache; within a stretch as memory lies, for only that order is seen coming.
template <class Step>
void each_stretch(int64_t begin, int64_t end, int64_t row_bytes, const Step& step) {
  const int64_t rows = std::max<int64_t>(kStretch / std::max<int64_t>(row_bytes, 1), 1);
  for (int64_t to = end; to > begin; to -= rows) step(std::max(begin, to - rows), to);
}

// Of channels side by side, sums in float that go to double before they lose digits: one of 64 terms keeps all but the
// last bit.
constexpr int64_t kFold = 64;

// So many rows of all channels are walked at a time, a part of kFold: few enough for them to stay in the nearest cache,
// and their pages known; enough to pay for what a column takes into registers.
inline int64_t rows_at_a_time(int64_t row_bytes) {
  int64_t rows = kFold;
  while (rows > 8 && rows * row_bytes > 64 * 1024) rows /= 2;
  return rows;
}

template <int kVectors>
using Vectors = std::integral_constant<int, kVectors>;

// Calls step(vectors, whole, c, width) for the columns of a row: of kColumn vectors while there are so many, then of one, the
// last of which may be a part.
template <class F, class Step>
NORMWISE_INLINE void each_column(int64_t channels, const Step& step) {
  constexpr int64_t kL = kLanes<F>;
  int64_t c = 0;
  for (; c + kColumn * kL <= channels; c += kColumn * kL) step(Vectors<kColumn>{}, std::true_type{}, c, kColumn * kL);
  for (; c + kL <= channels; c += kL) step(Vectors<1>{}, std::true_type{}, c, kL);
  if (c < channels) step(Vectors<1>{}, std::false_type{}, c, channels - c);
}

// Calls step(whole, i, count) for each vector of a column; the compiler knows how many there are.
template <class F, int kVectors, bool kWhole, class Step>
NORMWISE_INLINE void each_in_column(int64_t width, const Step& step) {
  if constexpr (kWhole) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) step(std::true_type{}, v * kLanes<F>, kLanes<F>);
  } else {
    step(std::false_type{}, 0, width);
  }
}

// The same for a whole row or a column of it.
template <class F, int kVectors, bool kWhole, class Step>
NORMWISE_INLINE void each_in_row(int64_t width, const Step& step) {
  if constexpr (kVectors == kWholeRow) {
    each_vector<F>(width, step);
  } else {
    each_in_column<F, kVectors, kWhole>(width, step);
  }
}

// Some rows, and some channels of them.
struct Part {
  int64_t from, to, first, width;
};

// Calls step(vectors, whole, part) for the columns of the rows begin..end, some rows at a time.
template <class F, class Step>
NORMWISE_INLINE void each_column_of_rows(int64_t begin, int64_t end, int64_t channels, int64_t row_bytes, const Step& step) {
  const int64_t some = rows_at_a_time(row_bytes);
  for (int64_t from = begin; from < end; from += some)
    each_column<F>(channels, [&](auto vectors, auto whole, int64_t first, int64_t width) {
      step(vectors, whole, Part{from, std::min(end, from + some), first, width});
    });
}

template <class T>
bool aligned(const T* at, int64_t run) {
  constexpr int64_t kUnit = kLanes<typename Wide<T>::type> * sizeof(T);
  return reinterpret_cast<uintptr_t>(at) % kUnit == 0 && run * sizeof(T) % kUnit == 0;
}

// How the activation enters a loop: known to the compiler for the two that matter most.
enum class Fused { kNone, kRelu, kAny };
// What is added, and whether one bit per value is kept for the slope.
enum class Added { kNothing, kResidual, kResidualWithBits };

inline Fused fused(int64_t activation) {
  if (activation_of(activation) == Activation::kNone) return Fused::kNone;
  return activation_of(activation) == Activation::kRelu ? Fused::kRelu : Fused::kAny;
}

}  // namespace normwise::NORMWISE_ISA
