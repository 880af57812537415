// The first step: the mean and the squared deviations of a channel, in one read.
//
// Values are summed about the mean of what came before, in float lanes for a chunk of a few thousand, and the chunks
// are merged in double by Chan's formula: nothing cancels at any mean, in any order of the data.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "vectors.h"

namespace normwise::NORMWISE_ISA {

constexpr int64_t kChunk = 4096;  // values per channel in float lanes before they go to double
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
  void merge(const Gathered& other) { merge(other.count, other.mean, other.squares); }
  double var() const { return count == 0 ? 0 : squares / count; }
};

// A channel's values arrive run by run.
template <class T>
class Gatherer {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>;

 public:
  void add(const T* x, int64_t length) {
    if (result_.count == 0 && pending_ == 0) about_ = start(x, length);
    while (length > 0) {
      const int64_t take = std::min(length, kChunk - pending_);
      sum_up(x, take);
      pending_ += take;
      if (pending_ == kChunk) flush();
      x += take;
      length -= take;
    }
  }

  Gathered finish() {
    if (pending_) flush();
    return result_;
  }

 private:
  static F start(const T* x, int64_t length) {
    const int64_t number = std::min(length, kFirst);
    double total = 0;
    for (int64_t i = 0; i < number; ++i) total += widen(x[i]);
    return static_cast<F>(total / number);
  }

  void sum_up(const T* x, int64_t length) {
    const V about = all(about_);
    V s0 = sum_[0], s1 = sum_[1], s2 = sum_[2], s3 = sum_[3];
    V q0 = square_[0], q1 = square_[1], q2 = square_[2], q3 = square_[3];
    int64_t i = 0;
    for (; i + 4 * kL <= length; i += 4 * kL) {
      const V a = load(x + i) - about, b = load(x + i + kL) - about;
      const V c = load(x + i + 2 * kL) - about, d = load(x + i + 3 * kL) - about;
      s0 += a, s1 += b, s2 += c, s3 += d;
      q0 += a * a, q1 += b * b, q2 += c * c, q3 += d * d;
    }
    for (; i + kL <= length; i += kL) {
      const V a = load(x + i) - about;
      s0 += a, q0 += a * a;
    }
    if (i < length) {
      const V a = load_part(x + i, length - i, about) - about;
      s1 += a, q1 += a * a;
    }
    sum_[0] = s0, sum_[1] = s1, sum_[2] = s2, sum_[3] = s3;
    square_[0] = q0, square_[1] = q1, square_[2] = q2, square_[3] = q3;
  }

  void flush() {
    const V s = (sum_[0] + sum_[1]) + (sum_[2] + sum_[3]), q = (square_[0] + square_[1]) + (square_[2] + square_[3]);
    double total = 0, squares = 0;
    for (int i = 0; i < kL; ++i) total += s[i], squares += q[i];
    const double offset = total / pending_;
    result_.merge(pending_, about_ + offset, std::max(squares - total * offset, 0.0));
    if (squares != squares) result_.squares = squares;  // NaN: std::max would hide it
    about_ = static_cast<F>(result_.mean);
    for (int i = 0; i < 4; ++i) sum_[i] = square_[i] = V{};
    pending_ = 0;
  }

  V sum_[4] = {}, square_[4] = {};
  int64_t pending_ = 0;
  F about_ = 0;
  Gathered result_;
};

// Float lanes are added to double ones before they lose digits: a sum of 64 terms keeps all but the last bit.
constexpr int64_t kFold = 64;

template <class V, class F, int kVectors>
inline void fold(const V (&lanes)[kVectors], double* into) {
  F values[kVectors * kLanes<F>];
  std::memcpy(values, lanes, sizeof lanes);
  for (int i = 0; i < kVectors * kLanes<F>; ++i) into[i] += values[i];
}

// Channels in the lanes: kVectors of them side by side (the last one may be partial), rows `stride` apart.
template <class T, int kVectors>
void gather_columns(const T* x, int64_t stride, int64_t rows, int64_t channels, Gathered* into) {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  constexpr int64_t kL = kLanes<F>, kWidth = kVectors * kL;
  const int64_t whole = channels / kL, rest = channels % kL;
  F about[kWidth] = {};
  const int64_t number = std::min<int64_t>(rows, 8);
  for (int64_t r = 0; r < number; ++r)
    for (int64_t i = 0; i < channels; ++i) about[i] += widen(x[r * stride + i]) / number;

  for (int64_t begin = 0; begin < rows; begin += kChunk) {
    const int64_t chunk = std::min(kChunk, rows - begin);
    double total[kWidth] = {}, squares[kWidth] = {};
    V k[kVectors];
    for (int v = 0; v < kVectors; ++v) k[v] = load(about + v * kL);
    for (int64_t from = begin; from < begin + chunk; from += kFold) {
      const int64_t to = std::min(begin + chunk, from + kFold);
      const T* row = x + from * stride;
      V s[kVectors] = {}, q[kVectors] = {};
      if (channels == kWidth) {
        for (int64_t r = from; r < to; ++r, row += stride)
          for (int v = 0; v < kVectors; ++v) {
            const V d = load(row + v * kL) - k[v];
            s[v] += d, q[v] += d * d;
          }
      } else {
        for (int64_t r = from; r < to; ++r, row += stride)
          for (int v = 0; v * kL < channels; ++v) {
            const V d = (v < whole ? load(row + v * kL) : load_part(row + v * kL, rest, V{})) - k[v];
            s[v] += d, q[v] += d * d;
          }
      }
      fold<V, F>(s, total);
      fold<V, F>(q, squares);
    }
    for (int64_t i = 0; i < channels; ++i) {
      const double offset = total[i] / chunk, about_mean = squares[i] - total[i] * offset;
      into[i].merge(chunk, about[i] + offset, about_mean < 0 ? 0 : about_mean);
      about[i] = static_cast<F>(into[i].mean);
    }
  }
}

}  // namespace normwise::NORMWISE_ISA
