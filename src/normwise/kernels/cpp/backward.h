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
  Array<double> inv{task.shape.c};     // 1 / sqrt(var + eps)
  PerChannel<F> drag, base;            // dx = g * factor + (x - mean) * drag + base
  F setting = static_cast<F>(setting_of(task.activation));
  F off = activation_of(task.activation) == Activation::kLeakyRelu ? setting : F(0);

  explicit Differentiator(const Backward& b)
      : task(b), mean(b.shape.c), factor(b.shape.c), offset(b.shape.c), drag(b.shape.c), base(b.shape.c) {
    for (int64_t first = 0; first < shape.c; first += task.share) {
      const double of_all = 1 / std::sqrt(task.var[first] + task.eps);
      for (int64_t c = first; c < first + task.share; ++c) {
        inv[c] = of_all;
        const double scaled = inv[c] * scale(c);
        mean[c] = static_cast<F>(task.mean[c]);
        factor[c] = static_cast<F>(scaled);
        offset[c] = static_cast<F>((task.shift ? task.shift[c] : 0) - low(c) * scaled);
      }
    }
  }

  double scale(int64_t c) const { return task.scale ? task.scale[c] : 1; }
  double low(int64_t c) const { return task.mean[c] - *mean.from(c); }  // what mean cannot hold

  // From the sums of g and of g * (x - mean) of a channel.
  void settle_channel(int64_t c, double sum, double product) {
    task.dshift[c] = sum;
    task.dscale[c] = (product - low(c) * sum) * inv[c];
  }
  // Then, from those of the channels that share statistics, what each has to do with them.
  void settle_unit(int64_t first) {
    if (!task.by_batch || !task.count) return;  // nothing, and drag and base are 0
    double sum = 0, product = 0;
    for (int64_t c = first; c < first + task.share; ++c) sum += scale(c) * task.dshift[c], product += scale(c) * task.dscale[c];
    const double i = inv[first], share = i / task.count;
    for (int64_t c = first; c < first + task.share; ++c) {
      drag[c] = static_cast<F>(-share * i * product);
      base[c] = static_cast<F>(-share * sum + low(c) * share * i * product);
    }
  }

  // The gradient behind the activation, with what it takes in registers.
  template <int kVectors, Slope kSlope>
  struct Slopes {
    const T *x, *dy, *residual;
    Activation kind;
    F setting, off;
    Along<F, kVectors> mean, factor, offset;
    NORMWISE_INLINE Slopes(const Differentiator& d, int64_t c)
        : x(static_cast<const T*>(d.task.x)),
          dy(static_cast<const T*>(d.task.dy)),
          residual(static_cast<const T*>(d.task.residual)),
          kind(activation_of(d.task.activation)),
          setting(d.setting),
          off(d.off),
          mean(d.mean.from(c)),
          factor(d.factor.from(c)),
          offset(d.offset.from(c)) {}

    // What is masked is as if it lay on the mean and nobody asked for its gradient; rows are left out as a whole.
    NORMWISE_INLINE V without_masked(V v, const uint8_t* mask, int64_t i, int64_t count) const {
      if constexpr (kVectors != 0) return v;
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

    // Asks for what the vector at this element will take.
    NORMWISE_INLINE void prefetch_at(int64_t element) const {
      prefetch(x + element), prefetch(dy + element);
      if (kSlope == Slope::kAny && residual) prefetch(residual + element);
    }

   private:
    template <class Whole>
    NORMWISE_INLINE V sloped(Whole whole, int64_t at, int64_t i, int64_t count, V d, V g, const uint8_t* bits) const {
      if constexpr (kSlope == Slope::kOne) return g;
      if constexpr (kSlope == Slope::kBits) {
        uint32_t set = 0;
        std::memcpy(&set, bits + i / kLanes<F> * kBitBytes<F>, kBitBytes<F>);
        return scale_unset<F>(set, g, off);
      }
      V z = d * factor.at(i) + offset.at(i);
      if constexpr (kSlope == Slope::kRelu) return z <= 0 ? V{} : g;
      if (residual) z += get<whole>(residual + at + i, count);
      return g * slope<F>(kind, setting, z);
    }
  };

  // What is written, with what it takes in registers.
  template <int kVectors, Slope kSlope>
  struct Writer {
    const Slopes<kVectors, kSlope> slopes;
    T *dx, *dresidual;
    Along<F, kVectors> drag, base;
    NORMWISE_INLINE Writer(const Differentiator& d, int64_t c)
        : slopes(d, c),
          dx(static_cast<T*>(d.task.dx)),
          dresidual(static_cast<T*>(d.task.dresidual)),
          drag(d.drag.from(c)),
          base(d.base.from(c)) {}

    // Asks for where the vector at this element will be written.
    NORMWISE_INLINE void prefetch_at(int64_t element) const {
      if (dx) prefetch(dx + element);
      if (dresidual) prefetch(dresidual + element);
    }

    template <bool kStream, class Whole>
    NORMWISE_INLINE void one(Whole whole, int64_t at, int64_t i, int64_t count, const uint8_t* bits,
                             const uint8_t* mask) const {
      const V d = slopes.centred(whole, at, i, count, mask), g = slopes.gradient(whole, at, i, count, d, bits, mask);
      if (dresidual) put<whole, kStream>(dresidual + at + i, g, count);
      if (!dx) return;
      const V all_of_it = g * slopes.factor.at(i) + (d * drag.at(i) + base.at(i));
      put<whole, kStream>(dx + at + i, slopes.without_masked(all_of_it, mask, i, count), count);
    }
  };
};

// Of one channel, the sums of g and of g * (x - mean).
struct ChannelSums {
  double sum = 0, product = 0;

  template <class V>
  void add(V more, V more_products) {
    sum += wide_sum(more), product += wide_sum(more_products);
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
  static constexpr int64_t kL = kLanes<F>, kPatience = 128;  // vectors
  const Backward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  Differentiator<T> by{task};
  bool serial = shape.elements() <= kSerial;
  bool writes = task.dx || task.dresidual;
  bool near = stays_near(shape, 2 * sizeof(T), threads);  // x and dy

  template <int kVectors>
  using SlopesOf = typename Differentiator<T>::template Slopes<kVectors, kSlope>;
  template <int kVectors>
  using WriterOf = typename Differentiator<T>::template Writer<kVectors, kSlope>;
  using Slopes = SlopesOf<0>;
  using Writer = WriterOf<0>;
  int64_t bits_per_run = bit_bytes_of_run<F>(shape.run_length());
  int64_t ahead = lookahead(shape, sizeof(T));

  const uint8_t* bits_of(int64_t run, int64_t channel) const {
    return task.bits ? task.bits + run * bits_per_run + (kLast ? channel / kL * kBitBytes<F> : 0) : nullptr;
  }
  const uint8_t* mask_of_sample(int64_t sample) const { return task.mask ? task.mask + sample * shape.s : nullptr; }

  // ------------------------------------------------------------------------------------------------- channels first

  // The sums of a channel in the samples from..to: in lanes for some vectors, then in double.
  ChannelSums add_channel(int64_t channel, int64_t from, int64_t to) const {
    const Slopes slopes(by, channel);
    ChannelSums sums;
    const int64_t vectors = (shape.s + kL - 1) / kL, samples = std::max<int64_t>(kPatience / std::max<int64_t>(vectors, 1), 1);
    for (int64_t sample = from; sample < to; sample += samples) {
      for (int64_t begin = 0; begin < shape.s; begin += kPatience * kL)
        add_part(slopes, channel, sample, std::min(to, sample + samples), begin, std::min(shape.s, begin + kPatience * kL), sums);
    }
    return sums;
  }

  // The values begin..end of the channel's run in each of the samples from..to.
  void add_part(const Slopes& given, int64_t channel, int64_t from, int64_t to, int64_t begin, int64_t end,
                ChannelSums& sums) const {
    const Slopes slopes = given;  // in registers
    V s0{}, s1{}, p0{}, p1{};
    for (int64_t sample = from; sample < to; ++sample) {
      const int64_t run = sample * shape.c + channel, at = run * shape.s;
      const uint8_t *const bits = bits_of(run, 0), *const mask = mask_of_sample(sample);
      const auto add = [&](auto whole, int64_t i, int64_t count, V& sum, V& product) __attribute__((always_inline)) {
        slopes.prefetch_at(at + i + ahead);
        const V d = slopes.centred(whole, at, i, count, mask), g = slopes.gradient(whole, at, i, count, d, bits, mask);
        sum += g, product += g * d;
      };
      int64_t i = begin;
      for (; i + 2 * kL <= end; i += 2 * kL) add(std::true_type{}, i, kL, s0, p0), add(std::true_type{}, i + kL, kL, s1, p1);
      if (i + kL <= end) add(std::true_type{}, i, kL, s0, p0), i += kL;
      if (i < end) add(std::false_type{}, i, end - i, s1, p1);
    }
    sums.add(s0 + s1, p0 + p1);
  }

  template <bool kStream>
  NORMWISE_INLINE void write_run(const Writer& writer, int64_t run, int64_t sample) const {
    const int64_t at = run * shape.s;
    const uint8_t *const bits = bits_of(run, 0), *const mask = mask_of_sample(sample);
    each_vector<F>(shape.s, [&](auto whole, int64_t i, int64_t count) __attribute__((always_inline)) {
      if constexpr (!kStream) writer.prefetch_at(at + i + ahead);
      writer.template one<kStream>(whole, at, i, count, bits, mask);
    });
  }

  template <bool kStream>
  void channels_first() {
    const int64_t n = shape.n, c = shape.c;
    if (task.share > 1 || c >= 2 * threads.number) {
      in_parallel(threads, c / task.share, serial, [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t first = unit * task.share, last = first + task.share - 1;
          for (int64_t channel = first; channel <= last; ++channel) {
            const ChannelSums sums = add_channel(channel, 0, n);
            by.settle_channel(channel, sums.sum, sums.product);
          }
          by.settle_unit(first);
          if (!writes) continue;
          for (int64_t channel = last; channel >= first; --channel) {
            const Writer writer(by, channel);
            for (int64_t i = n - 1; i >= 0; --i) write_run<kStream>(writer, i * c + channel, i);
          }
        }
        if (kStream) drain();
      });
      return;
    }
    Sums of_run(n * c);
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) {
        const ChannelSums sums = add_channel(run % c, run / c, run / c + 1);
        of_run.sum[run] = sums.sum, of_run.product[run] = sums.product;
      }
    });
    settle(of_run, n);
    if (!writes) return;
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      for (int64_t run = end - 1; run >= begin; --run) write_run<kStream>(Writer(by, run % c), run, run / c);
      if (kStream) drain();
    });
  }

  // The channels' sums from those of `parts` parts, each with all channels side by side.
  void settle(const Sums& parts, int64_t number) {
    for (int64_t c = 0; c < shape.c; ++c) {
      double total = 0, products = 0;
      for (int64_t i = 0; i < number; ++i)
        total += parts.sum[i * shape.c + c], products += parts.product[i * shape.c + c];
      by.settle_channel(c, total, products);
      by.settle_unit(c);
    }
  }

  // -------------------------------------------------------------------------------------------------- channels last

  void add_rows(int64_t begin, int64_t end, double* sums, double* products) const {
    const int64_t channels = shape.c;
    FoldedSums<F> sum_totals(channels + kL), product_totals(channels + kL);
    const int64_t some = rows_at_a_time(channels * sizeof(T));
    for (int64_t from = begin; from < end; from += some) {
      const int64_t to = std::min(from + some, end);
      each_column<F>(channels, [&](auto vectors, auto whole, int64_t c, int64_t width) {
        add_column<vectors, whole>(from, to, c, width, sum_totals.narrow(c), product_totals.narrow(c));
      });
      if ((to - begin) % kFold == 0 || to == end) sum_totals.fold(), product_totals.fold();
    }
    for (int64_t c = 0; c < channels; ++c) sums[c] = sum_totals[c], products[c] = product_totals[c];
  }

  template <int kVectors, bool kWhole>
  void add_column(int64_t from, int64_t to, int64_t c, int64_t width, F* sums, F* products) const {
    const SlopesOf<kVectors> slopes(by, c);
    const uint8_t* const mask = task.mask;
    const int64_t stride = shape.c, next = (to - from) * stride;
    V sum[kVectors], product[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = load(sums + v * kL), product[v] = load(products + v * kL);
    for (int64_t row = from; row < to; ++row) {
      if (mask && !mask[row]) continue;
      const uint8_t* const bits = bits_of(row, c);
      const int64_t at = row * stride + c;
      each_in_column<F, kVectors, kWhole>(width, [&](auto whole, int64_t i, int64_t count) __attribute__((always_inline)) {
        slopes.prefetch_at(at + i + next);
        const V d = slopes.centred(whole, at, i, count, nullptr);
        const V g = slopes.gradient(whole, at, i, count, d, bits, nullptr);
        sum[i / kL] += g, product[i / kL] += g * d;
      });
    }
    for (int v = 0; v < kVectors; ++v) store<false>(sums + v * kL, sum[v]), store<false>(products + v * kL, product[v]);
  }

  // What is in the nearest caches goes column by column, whose constants stay in registers; all else as memory lies.
  template <bool kStream>
  void write_rows(int64_t begin, int64_t end) const {
    const int64_t channels = shape.c, row_bytes = channels * sizeof(T);
    each_stretch(begin, end, row_bytes, [&](int64_t from, int64_t to) {
      if (channels == kColumn * kL) return write_columns<kStream, kColumn, true>(from, to, 0, channels);
      if constexpr (!kStream) {
        if (near)
          return each_column_of_rows<F>(from, to, channels, row_bytes, [&](auto vectors, auto whole, const Part& part) {
            write_columns<kStream, vectors, whole>(part.from, part.to, part.first, part.width);
          });
      }
      write_columns<kStream, kWholeRow, true>(from, to, 0, channels);
    });
  }

  // The channels first..first + width of these rows.
  template <bool kStream, int kVectors, bool kWhole>
  void write_columns(int64_t from, int64_t to, int64_t first, int64_t width) const {
    const WriterOf<kVectors> writer(by, first);
    const uint8_t* const mask = task.mask;
    const int64_t c = shape.c, next = (width == c ? rows_of_page(c * sizeof(T)) : to - from) * c;
    for (int64_t row = from; row < to; ++row) {
      const int64_t at = row * c + first;
      if (mask && !mask[row]) {
        for (T* out : {writer.dx, writer.dresidual})
          if (out) std::memset(out + at, 0, width * sizeof(T));
        continue;
      }
      const uint8_t* const bits = bits_of(row, first);
      each_in_row<F, kVectors, kWhole>(width, [&](auto whole, int64_t i, int64_t count) __attribute__((always_inline)) {
        if constexpr (!kStream) writer.prefetch_at(at + i + next);
        writer.template one<kStream>(whole, at, i, count, bits, nullptr);
      });
    }
  }

  template <bool kStream>
  void channels_last() {
    const int64_t c = shape.c, rows = shape.values();
    const int64_t blocks = serial ? 1 : std::max<int64_t>(1, std::min(rows, threads.number));
    Sums of_block(blocks * c);
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        add_rows(block * rows / blocks, (block + 1) * rows / blocks, of_block.sum.data() + block * c,
                 of_block.product.data() + block * c);
    });
    settle(of_block, blocks);
    if (!writes) return;
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        write_rows<kStream>(block * rows / blocks, (block + 1) * rows / blocks);
      if (kStream) drain();
    });
  }

  void go() {
    const auto suits = [&](const void* out) { return !out || aligned(static_cast<const T*>(out), shape.run_length()); };
    const bool stream = shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamed && suits(task.dx) && suits(task.dresidual);
    if constexpr (kLast) {
      stream ? channels_last<true>() : channels_last<false>();
    } else {
      stream ? channels_first<true>() : channels_first<false>();
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
