// Backward: the sums of g and g * normalized per channel, then the gradients of x and of the residual.
//
// g is the gradient behind the activation. Its slope comes from one bit per element where there was a residual, and
// else from x, by the very expression of the forward.
#pragma once

#include "gather.h"
#include "walk.h"

namespace normwise::NORMWISE_ISA {

enum class Slope { kOne, kRelu, kBits, kAny };

template <class T>
struct Differentiator {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  const Backward& task;
  const Shape& shape = task.shape;
  PerChannel<F> mean, factor, offset;  // of the forward
  PerChannel<F> drag, base;            // dx = g * factor + (x - mean) * drag + base
  F off = task.activation == static_cast<int>(Activation::kLeakyRelu) ? F(0.01) : F(0);

  explicit Differentiator(const Backward& b)
      : task(b), mean(b.shape.c), factor(b.shape.c), offset(b.shape.c), drag(b.shape.c), base(b.shape.c) {
    for (int64_t c = 0; c < shape.c; ++c) {
      const double scaled = inv(c) * (task.scale ? task.scale[c] : 1);
      mean[c] = static_cast<F>(task.mean[c]);
      factor[c] = static_cast<F>(scaled);
      offset[c] = static_cast<F>((task.shift ? task.shift[c] : 0) - low(c) * scaled);
    }
  }

  double inv(int64_t c) const { return 1 / std::sqrt(task.var[c] + task.eps); }
  double low(int64_t c) const { return task.mean[c] - *mean.from(c); }  // what mean cannot hold

  // From the sums of g and of g * (x - mean).
  void settle_channel(int64_t c, double sum, double product) {
    const double i = inv(c);
    task.dshift[c] = sum;
    task.dscale[c] = (product - low(c) * sum) * i;
    const double share = task.by_batch ? i * (task.scale ? task.scale[c] : 1) / shape.values() : 0;
    drag[c] = static_cast<F>(-share * i * task.dscale[c]);
    base[c] = static_cast<F>(-share * task.dshift[c] + low(c) * share * i * task.dscale[c]);
  }

  template <bool kLast, Slope kSlope>
  struct Run {
    const Differentiator& by;
    const T *dy, *x, *r;
    const uint8_t* bits;
    Along<F, kLast> mean, factor, offset;
    Activation kind;

    Run(const Differentiator& d, int64_t at, int64_t c, const uint8_t* run_bits)
        : by(d),
          dy(static_cast<const T*>(d.task.dy) + at),
          x(static_cast<const T*>(d.task.x) + at),
          r(d.task.residual ? static_cast<const T*>(d.task.residual) + at : nullptr),
          bits(run_bits),
          mean{d.mean.from(c)},
          factor{d.factor.from(c)},
          offset{d.offset.from(c)},
          kind(static_cast<Activation>(d.task.activation)) {}

    template <class Whole>
    V centred(Whole whole, int64_t i, int64_t count) const {
      return get<whole>(x + i, count) - mean.at(i);
    }

    template <class Whole>
    V gradient(Whole whole, int64_t i, int64_t count, V d) const {
      const V g = get<whole>(dy + i, count);
      if constexpr (kSlope == Slope::kOne) return g;
      if constexpr (kSlope == Slope::kBits) {
        uint32_t set = 0;
        std::memcpy(&set, bits + i / kLanes<F> * kBitBytes<F>, kBitBytes<F>);
        return unpack<F>(set) ? g : g * by.off;
      }
      V z = d * factor.at(i) + offset.at(i);
      if constexpr (kSlope == Slope::kRelu) return z <= 0 ? V{} : g;
      if (r) z += get<whole>(r + i, count);
      return g * slope<F>(kind, z);
    }
  };

  template <bool kLast, Slope kSlope>
  void write(const Run<kLast, kSlope>& run, int64_t at, int64_t length, int64_t c) const {
    T* dx = task.dx ? static_cast<T*>(task.dx) + at : nullptr;
    T* dr = task.dresidual ? static_cast<T*>(task.dresidual) + at : nullptr;
    const Along<F, kLast> f{factor.from(c)}, p{drag.from(c)}, q{base.from(c)};
    each_vector<F>(length, [&](auto whole, int64_t i, int64_t count) {
      const V d = run.centred(whole, i, count), g = run.gradient(whole, i, count, d);
      if (dr) put<whole, false>(dr + i, g, count);
      if (dx) put<whole, false>(dx + i, g * f.at(i) + (d * p.at(i) + q.at(i)), count);
    });
  }
};

// Per channel: of g, and of g * (x - mean).
struct Sums {
  std::vector<double> sum, product;
  explicit Sums(int64_t number) : sum(number), product(number) {}
};

template <class T, bool kLast, Slope kSlope>
struct BackwardPlan {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>, kWidth = kColumn * kL, kPatience = 4096;
  const Backward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  Differentiator<T> by{task};
  bool serial = shape.elements() <= kSerial;
  bool writes = task.dx || task.dresidual;

  auto run_at(int64_t at, int64_t c, int64_t run) const {
    const int64_t inside = kLast ? c / kL * kBitBytes<F> : 0;
    const uint8_t* bits = task.bits ? task.bits + run * bit_bytes_of_run<F>(shape.run_length()) + inside : nullptr;
    return typename Differentiator<T>::template Run<kLast, kSlope>(by, at, c, bits);
  }

  void add_run(int64_t run, double& total, double& products) const {
    const int64_t s = shape.s;
    const auto here = run_at(run * s, run % shape.c, run);
    for (int64_t begin = 0; begin < s; begin += kPatience) {
      V sum[2] = {}, product[2] = {};
      const int64_t length = std::min(kPatience, s - begin);
      int64_t i = begin;
      for (; i + 2 * kL <= begin + length; i += 2 * kL)
        for (int u = 0; u < 2; ++u) {
          const int64_t j = i + u * kL;
          const V d = here.centred(std::true_type{}, j, kL), g = here.gradient(std::true_type{}, j, kL, d);
          sum[u] += g, product[u] += g * d;
        }
      for (; i < begin + length; i += kL) {
        const int64_t count = std::min(kL, begin + length - i);
        const bool whole = count == kL;
        const V d = whole ? here.centred(std::true_type{}, i, kL) : here.centred(std::false_type{}, i, count);
        const V g =
            whole ? here.gradient(std::true_type{}, i, kL, d) : here.gradient(std::false_type{}, i, count, d);
        sum[0] += g, product[0] += g * d;
      }
      sum[0] += sum[1], product[0] += product[1];
      for (int lane = 0; lane < kL; ++lane) total += sum[0][lane], products += product[0][lane];
    }
  }

  void write_run(int64_t run) const {
    by.template write<kLast, kSlope>(run_at(run * shape.s, run % shape.c, run), run * shape.s, shape.s, run % shape.c);
  }

  void channels_first() {
    const int64_t n = shape.n, c = shape.c;
    if (c >= 2 * threads.number) {
      in_parallel(threads, c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t channel = begin; channel < end; ++channel) {
          double total = 0, products = 0;
          for (int64_t i = 0; i < n; ++i) add_run(i * c + channel, total, products);
          by.settle_channel(channel, total, products);
          for (int64_t i = n - 1; writes && i >= 0; --i) write_run(i * c + channel);
        }
      });
      return;
    }
    Sums of_run(n * c);
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) add_run(run, of_run.sum[run], of_run.product[run]);
    });
    settle(of_run, n);
    if (writes)
      in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t run = end - 1; run >= begin; --run) write_run(run);
      });
  }

  // The channels' sums from those of `parts` parts, each with all channels side by side.
  void settle(const Sums& parts, int64_t number) {
    for (int64_t c = 0; c < shape.c; ++c) {
      double total = 0, products = 0;
      for (int64_t i = 0; i < number; ++i)
        total += parts.sum[i * shape.c + c], products += parts.product[i * shape.c + c];
      by.settle_channel(c, total, products);
    }
  }

  // Rows begin..end of the column of `channels` from `first`.
  void add_block(int64_t begin, int64_t end, int64_t first, int64_t channels, double* sums, double* products) const {
    double wide[2][kWidth] = {};
    for (int64_t from = begin; from < end; from += kFold) {
      V sum[kColumn] = {}, product[kColumn] = {};
      for (int64_t row = from; row < std::min(end, from + kFold); ++row) {
        const auto here = run_at(row * shape.c + first, first, row);
        if (channels == kWidth) {
          for (int v = 0; v < kColumn; ++v) {
            const V d = here.centred(std::true_type{}, v * kL, kL);
            const V g = here.gradient(std::true_type{}, v * kL, kL, d);
            sum[v] += g, product[v] += g * d;
          }
        } else {
          each_vector<F>(channels, [&](auto whole, int64_t i, int64_t count) {
            const V d = here.centred(whole, i, count), g = here.gradient(whole, i, count, d);
            sum[i / kL] += g, product[i / kL] += g * d;
          });
        }
      }
      fold<V, F>(sum, wide[0]);
      fold<V, F>(product, wide[1]);
    }
    std::copy_n(wide[0], channels, sums);
    std::copy_n(wide[1], channels, products);
  }

  void write_block(int64_t begin, int64_t end, int64_t first, int64_t channels) const {
    for (int64_t row = end - 1; writes && row >= begin; --row) {
      const int64_t at = row * shape.c + first;
      by.template write<kLast, kSlope>(run_at(at, first, row), at, channels, first);
    }
  }

  void channels_last() {
    const int64_t c = shape.c, rows = shape.values(), columns = (c + kWidth - 1) / kWidth;
    const bool fits = 2 * rows * kWidth * static_cast<int64_t>(sizeof(T)) <= cache_bytes();
    if (fits && columns >= 2 * threads.number) {
      in_parallel(threads, columns, serial, [&](int64_t begin, int64_t end) {
        for (int64_t column = begin; column < end; ++column) {
          const int64_t first = column * kWidth, channels = std::min(kWidth, c - first);
          double sums[kWidth], products[kWidth];
          add_block(0, rows, first, channels, sums, products);
          for (int64_t i = 0; i < channels; ++i) by.settle_channel(first + i, sums[i], products[i]);
          write_block(0, rows, first, channels);
        }
      });
      return;
    }
    const int64_t blocks = serial ? 1 : std::min(rows, threads.number);
    Sums of_block(blocks * c);
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        for (int64_t first = 0; first < c; first += kWidth)
          add_block(block * rows / blocks, (block + 1) * rows / blocks, first, std::min(kWidth, c - first),
                    of_block.sum.data() + block * c + first, of_block.product.data() + block * c + first);
    });
    settle(of_block, blocks);
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        write_block(block * rows / blocks, (block + 1) * rows / blocks, 0, c);
    });
  }

  void go() {
    if constexpr (kLast) {
      channels_last();
    } else {
      channels_first();
    }
  }
};

template <class T, bool kLast>
void backward_of(const Backward& task, const Threads& threads) {
  if (task.bits) return BackwardPlan<T, kLast, Slope::kBits>{task, threads}.go();
  switch (fused(task.activation)) {
    case Fused::kNone:
      return BackwardPlan<T, kLast, Slope::kOne>{task, threads}.go();
    case Fused::kRelu:
      if (!task.residual) return BackwardPlan<T, kLast, Slope::kRelu>{task, threads}.go();
      [[fallthrough]];
    case Fused::kAny:
      return BackwardPlan<T, kLast, Slope::kAny>{task, threads}.go();
  }
}

template <class T>
void backward_of(const Backward& task, const Threads& threads) {
  if (task.shape.channels_last) return backward_of<T, true>(task, threads);
  backward_of<T, false>(task, threads);
}

}  // namespace normwise::NORMWISE_ISA
