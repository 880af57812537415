// The first step: the mean and the squared deviations of a channel, in one read.
//
// Values are summed about the mean of what came before, in float lanes for a chunk of a few thousand, and the chunks
// are merged in double by Chan's formula: nothing cancels at any mean, in any order of the data.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "vectors.h"

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

// A channel's values arrive run by run; with a mask, only those count where it is 1.
template <class T, bool kMasked>
class Gatherer {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>, kVectors = 256;  // added up before they go to double

 public:
  void add(const T* x, const uint8_t* mask, int64_t length) {
    if (!started_) start(x, mask, length);
    while (length > 0) {
      const int64_t take = std::min(length, (kVectors - vectors_) * kL);
      sum_up(x, mask, take);
      values_ += take, vectors_ += (take + kL - 1) / kL;
      if (vectors_ >= kVectors) flush();
      x += take;
      if (kMasked) mask += take;
      length -= take;
    }
  }

  Gathered finish() {
    if (vectors_) flush();
    return result_;
  }

 private:
  // The first values' mean; where none of them counts, the next run is asked.
  void start(const T* x, const uint8_t* mask, int64_t length) {
    double total = 0;
    int64_t number = 0;
    for (int64_t i = 0; i < length && number < kFirst; ++i)
      if (!kMasked || mask[i]) total += widen(x[i]), ++number;
    if (number) about_ = static_cast<F>(total / number), started_ = true;
  }

  V deviation(const T* x, const uint8_t* mask, int64_t i, V about) {
    const V d = load(x + i) - about;
    if constexpr (!kMasked) return d;
    const Integer<F> in = allowed<F>(mask + i, kL);
    counted_ -= in;
    return in ? d : V{};
  }

  void sum_up(const T* x, const uint8_t* mask, int64_t length) {
    const V about = all(about_);
    V s0 = sum_[0], s1 = sum_[1], s2 = sum_[2], s3 = sum_[3];
    V q0 = square_[0], q1 = square_[1], q2 = square_[2], q3 = square_[3];
    int64_t i = 0;
    for (; i + 4 * kL <= length; i += 4 * kL) {
      const V a = deviation(x, mask, i, about), b = deviation(x, mask, i + kL, about);
      const V c = deviation(x, mask, i + 2 * kL, about), d = deviation(x, mask, i + 3 * kL, about);
      s0 += a, s1 += b, s2 += c, s3 += d;
      q0 += a * a, q1 += b * b, q2 += c * c, q3 += d * d;
    }
    for (; i + kL <= length; i += kL) {
      const V a = deviation(x, mask, i, about);
      s0 += a, q0 += a * a;
    }
    if (i < length) {
      V a = load_part(x + i, length - i, about) - about;
      if constexpr (kMasked) {
        const Integer<F> in = allowed<F>(mask + i, length - i);
        counted_ -= in;
        a = in ? a : V{};
      }
      s1 += a, q1 += a * a;
    }
    // One place further, so that short runs take turns in the sums.
    sum_[0] = s1, sum_[1] = s2, sum_[2] = s3, sum_[3] = s0;
    square_[0] = q1, square_[1] = q2, square_[2] = q3, square_[3] = q0;
  }

  void flush() {
    const V s = (sum_[0] + sum_[1]) + (sum_[2] + sum_[3]), q = (square_[0] + square_[1]) + (square_[2] + square_[3]);
    double total = 0, squares = 0;
    for (int i = 0; i < kL; ++i) total += s[i], squares += q[i];
    double count = values_;
    if constexpr (kMasked) {
      count = 0;
      for (int i = 0; i < kL; ++i) count += counted_[i];
      counted_ = Integer<F>{};
    }
    if (count > 0) {
      result_.merge(count, about_, total, squares);
      about_ = static_cast<F>(result_.mean);
    }
    for (int i = 0; i < 4; ++i) sum_[i] = square_[i] = V{};
    values_ = vectors_ = 0;
  }

  V sum_[4] = {}, square_[4] = {};
  Integer<F> counted_ = {};
  int64_t values_ = 0, vectors_ = 0;
  bool started_ = false;
  F about_ = 0;
  Gathered result_;
};

// Of channels side by side, sums in float that go to double before they lose digits: one of 64 terms keeps all but the
// last bit.
constexpr int64_t kFold = 64;

// So many rows of all channels are walked at a time, a part of kFold: few enough for them to stay in the nearest cache,
// and their pages known; enough to pay for what a column takes into registers.
inline int64_t rows_at_a_time(int64_t row_bytes) {
  int64_t rows = kFold;
  while (rows > 8 && rows * row_bytes > 16 * 1024) rows /= 2;
  return rows;
}

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

// Channels in the lanes: rows begin..end of the channels first..first + channels of a matrix of `stride` channels. All
// channels of some rows are summed before the next rows, so that memory is read in its order.
template <class T, int kVectors>
class ColumnGatherer {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>, kWidth = kVectors * kL;

 public:
  explicit ColumnGatherer(int64_t channels)
      : channels_(channels), about_(channels + kWidth), total_(channels + kWidth), squares_(channels + kWidth) {}

  void add(const T* x, const uint8_t* mask, int64_t stride, int64_t rows, Gathered* into) {
    start(x, mask, stride, rows);
    for (int64_t begin = 0; begin < rows; begin += kChunk) {
      const int64_t end = std::min(rows, begin + kChunk);
      total_.clear();
      squares_.clear();
      int64_t count = 0;
      for (int64_t row = begin; row < end; ++row) count += !mask || mask[row];
      if (count == 0) continue;
      const int64_t some = rows_at_a_time(channels_ * sizeof(T));
      for (int64_t from = begin; from < end; from += some) {
        for (int64_t c = 0; c < channels_; c += kWidth)
          sum_up(x + c, mask, stride, from, std::min(end, from + some), c);
        if ((from - begin) % kFold == kFold - some || from + some >= end) total_.fold(), squares_.fold();
      }
      for (int64_t c = 0; c < channels_; ++c) {
        into[c].merge(count, about_[c], total_[c], squares_[c]);
        about_[c] = static_cast<F>(into[c].mean);
      }
    }
  }

 private:
  // Of each channel, the mean of its first values that count.
  void start(const T* x, const uint8_t* mask, int64_t stride, int64_t rows) {
    std::fill_n(about_.data(), about_.size(), F(0));
    int64_t number = 0;
    for (int64_t row = 0; row < rows && number < 8; ++row) {
      if (mask && !mask[row]) continue;
      ++number;
      for (int64_t c = 0; c < channels_; ++c) about_[c] += (widen(x[row * stride + c]) - about_[c]) / number;
    }
  }

  void sum_up(const T* x, const uint8_t* mask, int64_t stride, int64_t from, int64_t to, int64_t c) {
    const int64_t channels = std::min(kWidth, channels_ - c), whole = channels / kL, rest = channels % kL;
    V k[kVectors], s[kVectors], q[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      k[v] = load(about_.data() + c + v * kL);
      s[v] = load(total_.narrow(c + v * kL)), q[v] = load(squares_.narrow(c + v * kL));
    }
    const T* row = x + from * stride;
    if (channels == kWidth) {
      for (int64_t r = from; r < to; ++r, row += stride) {
        if (mask && !mask[r]) continue;
        for (int v = 0; v < kVectors; ++v) {
          const V d = load(row + v * kL) - k[v];
          s[v] += d, q[v] += d * d;
        }
      }
    } else {
      for (int64_t r = from; r < to; ++r, row += stride) {
        if (mask && !mask[r]) continue;
        for (int v = 0; v * kL < channels; ++v) {
          const V d = (v < whole ? load(row + v * kL) : load_part(row + v * kL, rest, V{})) - k[v];
          s[v] += d, q[v] += d * d;
        }
      }
    }
    for (int v = 0; v < kVectors; ++v)
      store<false>(total_.narrow(c + v * kL), s[v]), store<false>(squares_.narrow(c + v * kL), q[v]);
  }

  int64_t channels_;
  Array<F> about_;
  FoldedSums<F> total_, squares_;
};

}  // namespace normwise::NORMWISE_ISA
