// The first step: the mean and the squared deviations of a channel, in one read.
//
// Values are summed about the mean of what came before, in float lanes for a chunk of a few thousand, and the chunks
// are merged in double by Chan's formula: nothing cancels at any mean, in any order of the data.
#pragma once

#include <algorithm>

#include "walk.h"

namespace normwise::NORMWISE_ISA {

constexpr int64_t kChunk = 4096;  // rows about the same value
constexpr int64_t kFirst = 64;    // values whose mean the first chunk is summed about

struct Gathered {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean

  void merge(double other_count, double other_mean, double other_squares) {
    if (other_count == 0) return;
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * other_count / total);
    count = total;
  }
  // The sums of `number` values and of their squares, both less `about`.
  void merge(double number, double about, double total, double squared) {
    const double offset = total / number, about_mean = squared - total * offset;
    merge(number, about + offset, about_mean < 0 ? 0 : about_mean);  // NaN stays
  }
  void merge(const Gathered& other) { merge(other.count, other.mean, other.squares); }
  double var() const { return count == 0 ? 0 : squares / count; }
};

// A channel's values arrive as runs at equal distances; with a mask, only those count where it is 1.
template <class T, bool kMasked>
class Gatherer {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>, kVectors = 256;  // added up before they go to double

 public:
  // `runs` runs of `length` values, `distance` values apart in x and `length` apart in the mask. What lies `ahead` values
  // further on is asked for on the way: it is what this thread will want soon.
  void add(const T* x, const uint8_t* mask, int64_t length, int64_t runs, int64_t distance, int64_t ahead) {
    if (length == 0) return;
    if (!started_) start(x, mask, length, runs, distance);
    if (length <= kVectors * kL / 2) {  // several runs between two flushes
      const int64_t vectors = (length + kL - 1) / kL, at_once = std::min<int64_t>(kVectors / vectors, 64);
      for (int64_t run = 0; run < runs; run += at_once) {
        const int64_t some = std::min(at_once, runs - run);
        sum_up(x + run * distance, kMasked ? mask + run * length : nullptr, length, some, distance, ahead);
        flush(length * some);
      }
      return;
    }
    for (int64_t run = 0; run < runs; ++run) {
      for (int64_t from = 0; from < length; from += kVectors * kL) {
        const int64_t take = std::min(length - from, kVectors * kL);
        sum_up(x + run * distance + from, kMasked ? mask + run * length + from : nullptr, take, 1, 0, ahead);
        flush(take);
      }
    }
  }

  const Gathered& result() const { return result_; }

 private:
  // The mean of the first values that count, of as many runs as it takes.
  void start(const T* x, const uint8_t* mask, int64_t length, int64_t runs, int64_t distance) {
    double total = 0;
    int64_t number = 0;
    for (int64_t run = 0; run < runs && number < kFirst; ++run)
      for (int64_t i = 0; i < length && number < kFirst; ++i)
        if (!kMasked || mask[run * length + i]) total += widen(x[run * distance + i]), ++number;
    if (number) about_ = static_cast<F>(total / number), started_ = true;
  }

  static NORMWISE_INLINE void take(V deviation, const uint8_t* mask, int64_t count, V& sum, V& square,
                                   Integer<F>& counted) {
    if constexpr (kMasked) {
      const Integer<F> in = allowed<F>(mask, count);
      counted -= in;
      deviation = in ? deviation : V{};
    }
    sum += deviation, square += deviation * deviation;
  }

  void sum_up(const T* x, const uint8_t* mask, int64_t length, int64_t runs, int64_t distance, int64_t ahead) {
    const V about = all(about_);
    V s0{}, s1{}, s2{}, s3{}, q0{}, q1{}, q2{}, q3{};
    Integer<F> counted{};
    for (int64_t run = 0; run < runs; ++run, x += distance) {
      const auto one = [&](int64_t i, V& sum, V& square) __attribute__((always_inline)) {
        prefetch(x + i + ahead);
        take(load(x + i) - about, kMasked ? mask + i : nullptr, kL, sum, square, counted);
      };
      int64_t i = 0;
      for (; i + 4 * kL <= length; i += 4 * kL)
        one(i, s0, q0), one(i + kL, s1, q1), one(i + 2 * kL, s2, q2), one(i + 3 * kL, s3, q3);
      if (i + 2 * kL <= length) one(i, s0, q0), one(i + kL, s1, q1), i += 2 * kL;
      if (i + kL <= length) one(i, s2, q2), i += kL;
      if (i < length)
        take(load_part(x + i, length - i, about) - about, kMasked ? mask + i : nullptr, length - i, s3, q3, counted);
      if constexpr (kMasked) mask += length;
    }
    sum_ = (s0 + s1) + (s2 + s3), square_ = (q0 + q1) + (q2 + q3), counted_ = counted;
  }

  void flush(int64_t values) {
    const double total = wide_sum(sum_), squares = wide_sum(square_);
    double count = values;
    if constexpr (kMasked) {
      count = 0;
      for (int i = 0; i < kL; ++i) count += counted_[i];
    }
    if (count == 0) return;
    result_.merge(count, about_, total, squares);
    about_ = static_cast<F>(result_.mean);
  }

  V sum_ = {}, square_ = {};
  Integer<F> counted_ = {};
  bool started_ = false;
  F about_ = 0;
  Gathered result_;
};

template <class F>
class FoldedSums {
 public:
  explicit FoldedSums(int64_t channels) : narrow_(channels), wide_(channels) {}
  F* narrow(int64_t c) { return narrow_.data() + c; }
  double operator[](int64_t c) const { return wide_[c]; }
  void clear() { std::fill_n(wide_.data(), wide_.size(), 0.0); }
  void fold() {
    for (int64_t c = 0; c < wide_.size(); ++c) wide_[c] += narrow_[c], narrow_[c] = 0;
  }

 private:
  Array<F> narrow_;
  Array<double> wide_;
};

// Channels in the lanes, rows of all channels. All channels of some rows are summed before the next rows, so that memory is
// read nearly in its order.
template <class T>
class ColumnGatherer {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>;

 public:
  explicit ColumnGatherer(int64_t channels)
      : channels_(channels), about_(channels + kL), total_(channels + kL), squares_(channels + kL) {}

  void add(const T* x, const uint8_t* mask, int64_t rows, Gathered* into) {
    start(x, mask, rows);
    for (int64_t begin = 0; begin < rows; begin += kChunk) {
      const int64_t end = std::min(rows, begin + kChunk);
      total_.clear();
      squares_.clear();
      int64_t count = 0;
      for (int64_t row = begin; row < end; ++row) count += !mask || mask[row];
      if (count == 0) continue;
      const int64_t some = rows_at_a_time(channels_ * sizeof(T));
      for (int64_t from = begin; from < end; from += some) {
        const int64_t to = std::min(end, from + some);
        each_column<F>(channels_, [&](auto vectors, auto whole, int64_t c, int64_t width) {
          sum_up<vectors, whole>(x + from * channels_ + c, mask ? mask + from : nullptr, to - from, c, width);
        });
        if ((from - begin) % kFold == kFold - some || to == end) total_.fold(), squares_.fold();
      }
      for (int64_t c = 0; c < channels_; ++c) {
        into[c].merge(count, about_[c], total_[c], squares_[c]);
        about_[c] = static_cast<F>(into[c].mean);
      }
    }
  }

 private:
  // Of each channel, the mean of its first values that count.
  void start(const T* x, const uint8_t* mask, int64_t rows) {
    std::fill_n(about_.data(), about_.size(), F(0));
    int64_t number = 0;
    for (int64_t row = 0; row < rows && number < 8; ++row) {
      if (mask && !mask[row]) continue;
      ++number;
      for (int64_t c = 0; c < channels_; ++c) about_[c] += (widen(x[row * channels_ + c]) - about_[c]) / number;
    }
  }

  template <int kVectors, bool kWhole>
  void sum_up(const T* x, const uint8_t* mask, int64_t rows, int64_t c, int64_t width) {
    const int64_t stride = channels_;
    const Along<F, kVectors> about(about_.data() + c);
    V sum[kVectors], square[kVectors];
    for (int v = 0; v < kVectors; ++v)
      sum[v] = load(total_.narrow(c + v * kL)), square[v] = load(squares_.narrow(c + v * kL));
    const T* row = x;
    for (int64_t r = 0; r < rows; ++r, row += stride) {
      if (mask && !mask[r]) continue;
      each_in_column<F, kVectors, kWhole>(width, [&](auto full, int64_t i, int64_t count) __attribute__((always_inline)) {
        prefetch(row + i + rows * stride);  // the next rows'
        const V d = get<full>(row + i, count) - about.at(i);
        sum[i / kL] += d, square[i / kL] += d * d;
      });
    }
    for (int v = 0; v < kVectors; ++v)
      store<false>(total_.narrow(c + v * kL), sum[v]), store<false>(squares_.narrow(c + v * kL), square[v]);
  }

  int64_t channels_;
  Array<F> about_;
  FoldedSums<F> total_, squares_;
};

}  // namespace normwise::NORMWISE_ISA
