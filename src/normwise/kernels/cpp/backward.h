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
    const double share = task.by_batch && task.count ? i * (task.scale ? task.scale[c] : 1) / task.count : 0;
    drag[c] = static_cast<F>(-share * i * task.dscale[c]);
    base[c] = static_cast<F>(-share * task.dshift[c] + low(c) * share * i * task.dscale[c]);
  }

  // The gradient behind the activation, with what it takes in registers.
  template <bool kLast, Slope kSlope>
  struct Slopes {
    const T *x, *dy, *residual;
    Activation kind;
    F off;
    Along<F, kLast> mean, factor, offset;
    NORMWISE_INLINE Slopes(const Differentiator& d, int64_t c)
        : x(static_cast<const T*>(d.task.x)),
          dy(static_cast<const T*>(d.task.dy)),
          residual(static_cast<const T*>(d.task.residual)),
          kind(static_cast<Activation>(d.task.activation)),
          off(d.off),
          mean(d.mean.from(c)),
          factor(d.factor.from(c)),
          offset(d.offset.from(c)) {}

    // What is masked is as if it lay on the mean and nobody asked for its gradient; rows are left out as a whole.
    NORMWISE_INLINE V without_masked(V v, const uint8_t* mask, int64_t i, int64_t count) const {
      if constexpr (kLast) return v;
      return mask ? (allowed<F>(mask + i, count) ? v : V{}) : v;
    }

    template <class Whole>
    NORMWISE_INLINE V centred(Whole whole, int64_t at, int64_t i, int64_t count, const uint8_t* mask) const {
      // Where a vector is not full, its other lanes are at the mean too.
      const V value = Whole::value ? load(x + at + i) : load_part(x + at + i, count, mean.at(i));
      return without_masked(value - mean.at(i), mask, i, count);
    }

    template <class Whole>
    NORMWISE_INLINE V gradient(Whole whole, int64_t at, int64_t i, int64_t count, V d, const uint8_t* bits,
                               const uint8_t* mask) const {
      const V g = get<whole>(dy + at + i, count);
      return without_masked(sloped(whole, at, i, count, d, g, bits), mask, i, count);
    }

   private:
    template <class Whole>
    NORMWISE_INLINE V sloped(Whole whole, int64_t at, int64_t i, int64_t count, V d, V g, const uint8_t* bits) const {
      if constexpr (kSlope == Slope::kOne) return g;
      if constexpr (kSlope == Slope::kBits) {
        uint32_t set = 0;
        std::memcpy(&set, bits + i / kLanes<F> * kBitBytes<F>, kBitBytes<F>);
        return unpack<F>(set) ? g : g * off;
      }
      V z = d * factor.at(i) + offset.at(i);
      if constexpr (kSlope == Slope::kRelu) return z <= 0 ? V{} : g;
      if (residual) z += get<whole>(residual + at + i, count);
      return g * slope<F>(kind, z);
    }
  };

  // What is written, with what it takes in registers.
  template <bool kLast, Slope kSlope>
  struct Writer {
    const Slopes<kLast, kSlope> slopes;
    T *dx, *dresidual;
    Along<F, kLast> drag, base;
    NORMWISE_INLINE Writer(const Differentiator& d, int64_t c)
        : slopes(d, c),
          dx(static_cast<T*>(d.task.dx)),
          dresidual(static_cast<T*>(d.task.dresidual)),
          drag(d.drag.from(c)),
          base(d.base.from(c)) {}

    template <class Whole>
    NORMWISE_INLINE void one(Whole whole, int64_t at, int64_t i, int64_t count, const uint8_t* bits,
                             const uint8_t* mask) const {
      const V d = slopes.centred(whole, at, i, count, mask), g = slopes.gradient(whole, at, i, count, d, bits, mask);
      if (dresidual) put<whole, false>(dresidual + at + i, g, count);
      if (!dx) return;
      const V all_of_it = g * slopes.factor.at(i) + (d * drag.at(i) + base.at(i));
      put<whole, false>(dx + at + i, slopes.without_masked(all_of_it, mask, i, count), count);
    }
  };
};

// Of one channel, the sums of g and of g * (x - mean): in lanes for some vectors, then in double.
template <class F>
struct Lanes {
  Vector<F> sum[2] = {}, product[2] = {};
  int64_t vectors = 0;
  double total = 0, products = 0;

  void flush() {
    sum[0] += sum[1], product[0] += product[1];
    for (int lane = 0; lane < kLanes<F>; ++lane) total += sum[0][lane], products += product[0][lane];
    sum[0] = sum[1] = product[0] = product[1] = Vector<F>{};
    vectors = 0;
  }
};

// Per channel: of g, and of g * (x - mean).
struct Sums {
  Array<double> sum, product;
  explicit Sums(int64_t number) : sum(number), product(number) {}
};

template <class T, bool kLast, Slope kSlope>
struct BackwardPlan {
  using F = typename Wide<T>::type;
  using V = Vector<F>;
  static constexpr int64_t kL = kLanes<F>, kWidth = kColumn * kL, kPatience = 128;  // vectors
  const Backward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  Differentiator<T> by{task};
  bool serial = shape.elements() <= kSerial;
  bool writes = task.dx || task.dresidual;

  using Slopes = typename Differentiator<T>::template Slopes<kLast, kSlope>;
  using Writer = typename Differentiator<T>::template Writer<kLast, kSlope>;
  int64_t bits_per_run = bit_bytes_of_run<F>(shape.run_length());

  const uint8_t* bits_of(int64_t run, int64_t channel) const {
    return task.bits ? task.bits + run * bits_per_run + (kLast ? channel / kL * kBitBytes<F> : 0) : nullptr;
  }
  const uint8_t* mask_of_run(int64_t run) const { return task.mask ? task.mask + run / shape.c * shape.s : nullptr; }

  // ------------------------------------------------------------------------------------------------- channels first

  void add_run(int64_t run, Lanes<F>& into) const {
    const int64_t s = shape.s, at = run * s;
    const Slopes slopes(by, run % shape.c);
    const uint8_t *const bits = bits_of(run, 0), *const mask = mask_of_run(run);
    V s0 = into.sum[0], s1 = into.sum[1], p0 = into.product[0], p1 = into.product[1];
    const auto add = [&](auto whole, int64_t i, int64_t count, V& sum, V& product) {
      const V d = slopes.centred(whole, at, i, count, mask), g = slopes.gradient(whole, at, i, count, d, bits, mask);
      sum += g, product += g * d;
    };
    const auto keep = [&](int64_t more) {
      into.sum[0] = s1, into.sum[1] = s0, into.product[0] = p1, into.product[1] = p0;  // short runs take turns
      if ((into.vectors += more) >= kPatience) into.flush();
      s0 = into.sum[0], s1 = into.sum[1], p0 = into.product[0], p1 = into.product[1];
    };
    for (int64_t begin = 0; begin < s; begin += kPatience * kL) {
      const int64_t end = std::min(s, begin + kPatience * kL);
      int64_t i = begin;
      for (; i + 2 * kL <= end; i += 2 * kL) add(std::true_type{}, i, kL, s0, p0), add(std::true_type{}, i + kL, kL, s1, p1);
      for (; i + kL <= end; i += kL) add(std::true_type{}, i, kL, s0, p0);
      if (i < end) add(std::false_type{}, i, end - i, s1, p1);
      keep((end - begin + kL - 1) / kL);
    }
  }

  // The sums of a channel in the samples from..to.
  Lanes<F> add_channel(int64_t channel, int64_t from, int64_t to) const {
    Lanes<F> lanes;
    for (int64_t i = from; i < to; ++i) add_run(i * shape.c + channel, lanes);
    lanes.flush();
    return lanes;
  }

  void write_run(int64_t run) const {
    const Writer writer(by, run % shape.c);
    const uint8_t *const bits = bits_of(run, 0), *const mask = mask_of_run(run);
    each_vector<F>(shape.s, [&](auto whole, int64_t i, int64_t count) {
      writer.one(whole, run * shape.s, i, count, bits, mask);
    });
  }

  void channels_first() {
    const int64_t n = shape.n, c = shape.c;
    if (c >= 2 * threads.number) {
      in_parallel(threads, c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t channel = begin; channel < end; ++channel) {
          const Lanes<F> sums = add_channel(channel, 0, n);
          by.settle_channel(channel, sums.total, sums.products);
          for (int64_t i = n - 1; writes && i >= 0; --i) write_run(i * c + channel);
        }
      });
      return;
    }
    Sums of_run(n * c);
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) {
        const Lanes<F> sums = add_channel(run % c, run / c, run / c + 1);
        of_run.sum[run] = sums.total, of_run.product[run] = sums.products;
      }
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

  // -------------------------------------------------------------------------------------------------- channels last

  // Calls step(full, from, to, column, its channels), some rows of all columns at a time, so that memory is read in its
  // order; from the end where `backwards`.
  template <class Step>
  void each_block(int64_t begin, int64_t end, int64_t first, int64_t channels, bool backwards, const Step& step) const {
    const int64_t some = rows_at_a_time(channels * sizeof(T));
    for (int64_t done = begin; done < end; done += some) {
      const int64_t size = std::min(some, end - done), from = backwards ? end - (done - begin) - size : done;
      for (int64_t c = first; c < first + channels; c += kWidth) {
        const int64_t width = std::min(kWidth, first + channels - c);
        width == kWidth ? step(std::true_type{}, from, from + size, c, width)
                        : step(std::false_type{}, from, from + size, c, width);
      }
    }
  }

  // The sums of rows begin..end and the channels first..first + channels.
  void add_rows(int64_t begin, int64_t end, int64_t first, int64_t channels, double* sums, double* products) const {
    FoldedSums<F> sum_totals(channels + kWidth), product_totals(channels + kWidth);
    each_block(begin, end, first, channels, false, [&](auto full, int64_t from, int64_t to, int64_t c, int64_t width) {
      const Slopes slopes(by, c);
      V sum[kColumn], product[kColumn];
      for (int v = 0; v < kColumn; ++v)
        sum[v] = load(sum_totals.narrow(c - first + v * kL)), product[v] = load(product_totals.narrow(c - first + v * kL));
      for (int64_t row = from; row < to; ++row) {
        if (task.mask && !task.mask[row]) continue;
        const uint8_t* const bits = bits_of(row, c);
        each_in_column<F, full>(width, [&](auto whole, int64_t i, int64_t count) {
          const int64_t at = row * shape.c + c;
          const V d = slopes.centred(whole, at, i, count, nullptr);
          const V g = slopes.gradient(whole, at, i, count, d, bits, nullptr);
          sum[i / kL] += g, product[i / kL] += g * d;
        });
      }
      for (int v = 0; v < kColumn; ++v)
        store<false>(sum_totals.narrow(c - first + v * kL), sum[v]), store<false>(product_totals.narrow(c - first + v * kL), product[v]);
      const bool last_column = c + width == first + channels, full_fold = (to - begin) % kFold == 0;
      if (last_column && (full_fold || to == end)) sum_totals.fold(), product_totals.fold();
    });
    for (int64_t c = 0; c < channels; ++c) sums[c] = sum_totals[c], products[c] = product_totals[c];
  }

  void write_rows(int64_t begin, int64_t end, int64_t first, int64_t channels) const {
    if (!writes) return;
    each_block(begin, end, first, channels, true, [&](auto full, int64_t from, int64_t to, int64_t c, int64_t width) {
      const Writer writer(by, c);
      for (int64_t row = from; row < to; ++row) {
        const int64_t at = row * shape.c + c;
        if (task.mask && !task.mask[row]) {
          for (void* out : {task.dx, task.dresidual})
            if (out) std::memset(static_cast<T*>(out) + at, 0, width * sizeof(T));
          continue;
        }
        const uint8_t* const bits = bits_of(row, c);
        each_in_column<F, full>(width, [&](auto whole, int64_t i, int64_t count) {
          writer.one(whole, at, i, count, bits, nullptr);
        });
      }
    });
  }

  void channels_last() {
    const int64_t c = shape.c, rows = shape.values(), columns = (c + kWidth - 1) / kWidth;
    const int64_t bytes = sizeof(T);
    const bool fits = 2 * rows * kWidth * bytes <= cache_bytes() && c * bytes < kPage;  // else each row is another page
    if (fits && columns >= 2 * threads.number) {
      in_parallel(threads, columns, serial, [&](int64_t begin, int64_t end) {
        for (int64_t column = begin; column < end; ++column) {
          const int64_t first = column * kWidth, channels = std::min(kWidth, c - first);
          double sums[kWidth], products[kWidth];
          add_rows(0, rows, first, channels, sums, products);
          for (int64_t i = 0; i < channels; ++i) by.settle_channel(first + i, sums[i], products[i]);
          write_rows(0, rows, first, channels);
        }
      });
      return;
    }
    const int64_t blocks = serial ? 1 : std::max<int64_t>(1, std::min(rows, threads.number));
    Sums of_block(blocks * c);
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        add_rows(block * rows / blocks, (block + 1) * rows / blocks, 0, c, of_block.sum.data() + block * c,
                 of_block.product.data() + block * c);
    });
    settle(of_block, blocks);
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        write_rows(block * rows / blocks, (block + 1) * rows / blocks, 0, c);
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
