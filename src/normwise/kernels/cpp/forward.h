// Forward: gather where the batch's own moments are wanted, then normalize, add and activate in one go.
#pragma once

#include "gather.h"
#include "walk.h"

namespace normwise::NORMWISE_ISA {

template <class T>
struct Normalizer {
  using F = typename Wide<T>::type;
  const Forward& task;
  PerChannel<F> mean, factor, offset;  // (x - mean) * factor + offset; what mean cannot hold is in offset

  // What a loop takes, in registers: stores to y could change the task as far as the compiler knows.
  template <bool kLast>
  struct Constants {
    const T *x, *residual;
    T* y;
    Activation kind;
    Along<F, kLast> mean, factor, offset;
    NORMWISE_INLINE Constants(const Normalizer& n, int64_t c)
        : x(static_cast<const T*>(n.task.x)),
          residual(static_cast<const T*>(n.task.residual)),
          y(static_cast<T*>(n.task.y)),
          kind(static_cast<Activation>(n.task.activation)),
          mean(n.mean.from(c)),
          factor(n.factor.from(c)),
          offset(n.offset.from(c)) {}
  };

  explicit Normalizer(const Forward& f) : task(f), mean(f.shape.c), factor(f.shape.c), offset(f.shape.c) {}

  void settle_channel(int64_t c, const Gathered& gathered) {
    if (task.by_batch) task.mean[c] = gathered.mean, task.var[c] = gathered.var();
    const double inv = 1 / std::sqrt(task.var[c] + task.eps), scaled = inv * (task.scale ? task.scale[c] : 1);
    mean[c] = static_cast<F>(task.mean[c]);
    factor[c] = static_cast<F>(scaled);
    offset[c] = static_cast<F>((task.shift ? task.shift[c] : 0) - (task.mean[c] - mean[c]) * scaled);
  }

  // What follows the statistics, for the vector at element `at` + i.
  template <bool kStream, bool kMasked, Fused kFused, bool kResidual, bool kLast, class Whole>
  static NORMWISE_INLINE void one(Whole whole, int64_t at, int64_t i, int64_t count, const Constants<kLast>& by,
                                  uint8_t* bits, const uint8_t* mask) {
    Vector<F> z = (get<whole>(by.x + at + i, count) - by.mean.at(i)) * by.factor.at(i) + by.offset.at(i);
    if constexpr (kResidual) {
      z += get<whole>(by.residual + at + i, count);
      if (bits) {
        const uint32_t set = pack<F>(slope<F>(by.kind, z) == 1);
        std::memcpy(bits + i / kLanes<F> * kBitBytes<F>, &set, kBitBytes<F>);
      }
    }
    if constexpr (kFused == Fused::kRelu) z = z < 0 ? Vector<F>{} : z;
    if constexpr (kFused == Fused::kAny) z = activate<F>(by.kind, z);
    if constexpr (kMasked) z = allowed<F>(mask + i, count) ? z : Vector<F>{};
    put<whole, kStream>(by.y + at + i, z, count);
  }

  // Calls call(fused, residual) with what the compiler is to know of the task.
  template <class Call>
  void with_kind(const Call& call) const {
    const auto with_residual = [&](auto fused) {
      task.residual ? call(fused, std::true_type{}) : call(fused, std::false_type{});
    };
    switch (fused(task.activation)) {
      case Fused::kNone:
        return with_residual(std::integral_constant<Fused, Fused::kNone>{});
      case Fused::kRelu:
        return with_residual(std::integral_constant<Fused, Fused::kRelu>{});
      case Fused::kAny:
        return with_residual(std::integral_constant<Fused, Fused::kAny>{});
    }
  }
};

template <class T, bool kStream>
struct ForwardPlan {
  using F = typename Wide<T>::type;
  static constexpr int64_t kWidth = kColumn * kLanes<F>;
  const Forward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  const T* x = static_cast<const T*>(task.x);
  Normalizer<T> normalizer{task};
  bool serial = shape.elements() <= kSerial;
  int64_t bits_per_run = bit_bytes_of_run<F>(shape.run_length());

  const uint8_t* mask_from(int64_t position) const { return task.mask ? task.mask + position : nullptr; }

  // ------------------------------------------------------------------------------------------------- channels first

  template <bool kMasked>
  Gathered gather_channel(int64_t channel, int64_t from, int64_t to) const {
    Gatherer<T, kMasked> gatherer;
    for (int64_t i = from; i < to; ++i)
      gatherer.add(x + (i * shape.c + channel) * shape.s, mask_from(i * shape.s), shape.s);
    return gatherer.finish();
  }
  Gathered gather_channel(int64_t channel, int64_t from, int64_t to) const {
    return task.mask ? gather_channel<true>(channel, from, to) : gather_channel<false>(channel, from, to);
  }

  // Every `step`th run from `first` to `last`: what was gathered last comes first, for it is still in the cache.
  void normalize_runs(int64_t first, int64_t last, int64_t step) const {
    const int64_t s = shape.s, c = shape.c, number = (last - first) / step + 1;
    normalizer.with_kind([&](auto fused, auto residual) {
      for (int64_t i = 0; i < number; ++i) {
        const int64_t run = task.by_batch ? last - i * step : first + i * step;
        const typename Normalizer<T>::template Constants<false> by(normalizer, run % c);
        uint8_t* const bits = task.bits ? task.bits + run * bits_per_run : nullptr;
        const uint8_t* const mask = mask_from(run / c * s);
        each_vector<F>(s, [&](auto whole, int64_t i, int64_t count) {
          if (mask) {
            Normalizer<T>::template one<kStream, true, fused, residual>(whole, run * s, i, count, by, bits, mask);
          } else {
            Normalizer<T>::template one<kStream, false, fused, residual>(whole, run * s, i, count, by, bits, nullptr);
          }
        });
      }
    });
  }

  void channels_first() {
    const int64_t n = shape.n, c = shape.c;
    if (task.by_batch && c >= 2 * threads.number) {
      in_parallel(threads, c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t channel = begin; channel < end; ++channel) {
          normalizer.settle_channel(channel, gather_channel(channel, 0, n));
          normalize_runs(channel, (n - 1) * c + channel, c);
        }
        if (kStream) settle();
      });
      return;
    }
    Array<Gathered> of_run(task.by_batch ? n * c : 0);
    if (task.by_batch) {
      in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t run = begin; run < end; ++run) of_run[run] = gather_channel(run % c, run / c, run / c + 1);
      });
    }
    for (int64_t channel = 0; channel < c; ++channel) {
      Gathered all_runs;
      if (task.by_batch)
        for (int64_t i = 0; i < n; ++i) all_runs.merge(of_run[i * c + channel]);
      normalizer.settle_channel(channel, all_runs);
    }
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      normalize_runs(begin, end - 1, 1);
      if (kStream) settle();
    });
  }

  // -------------------------------------------------------------------------------------------------- channels last

  void gather_rows(int64_t begin, int64_t end, int64_t first, int64_t channels, Gathered* into) const {
    ColumnGatherer<T, kColumn>(channels).add(x + begin * shape.c + first, mask_from(begin), shape.c, end - begin, into);
  }

  // Rows begin..end of the channels first..first + channels, some rows of all columns at a time; what was gathered last
  // comes first.
  void normalize_rows(int64_t begin, int64_t end, int64_t first, int64_t channels) const {
    normalizer.with_kind([&](auto fused, auto residual) {
      const int64_t some = rows_at_a_time(channels * sizeof(T));
      for (int64_t done = begin; done < end; done += some) {
        const int64_t size = std::min(some, end - done);
        const int64_t from = task.by_batch ? end - (done - begin) - size : done, to = from + size;
        for (int64_t c = first; c < first + channels; c += kWidth) {
          const int64_t width = std::min(kWidth, first + channels - c);
          if (width == kWidth) {
            normalize_column<fused, residual, true>(from, to, c, width);
          } else {
            normalize_column<fused, residual, false>(from, to, c, width);
          }
        }
      }
    });
  }

  template <Fused kFused, bool kResidual, bool kFull>
  void normalize_column(int64_t from, int64_t to, int64_t first, int64_t channels) const {
    const typename Normalizer<T>::template Constants<true> by(normalizer, first);
    const int64_t inside = first / kLanes<F> * kBitBytes<F>, stride = shape.c, bit_stride = bits_per_run;
    uint8_t* const all_bits = task.bits;
    const uint8_t* const mask = task.mask;
    for (int64_t row = from; row < to; ++row) {
      const int64_t at = row * stride + first;
      if (mask && !mask[row]) {
        std::memset(by.y + at, 0, channels * sizeof(T));
        continue;
      }
      uint8_t* const bits = all_bits ? all_bits + row * bit_stride + inside : nullptr;
      each_in_column<F, kFull>(channels, [&](auto whole, int64_t i, int64_t count) {
        Normalizer<T>::template one<kStream, false, kFused, kResidual>(whole, at, i, count, by, bits, nullptr);
      });
    }
  }

  void channels_last() {
    const int64_t c = shape.c, rows = shape.values(), columns = (c + kWidth - 1) / kWidth;
    const int64_t bytes = sizeof(T);
    const bool fits = rows * kWidth * bytes <= cache_bytes() && c * bytes < kPage;  // else each row is another page
    if (task.by_batch && fits && columns >= 2 * threads.number) {
      in_parallel(threads, columns, serial, [&](int64_t begin, int64_t end) {
        for (int64_t column = begin; column < end; ++column) {
          const int64_t first = column * kWidth, channels = std::min(kWidth, c - first);
          Gathered gathered[kWidth];
          gather_rows(0, rows, first, channels, gathered);
          for (int64_t i = 0; i < channels; ++i) normalizer.settle_channel(first + i, gathered[i]);
          normalize_rows(0, rows, first, channels);
        }
        if (kStream) settle();
      });
      return;
    }
    const int64_t blocks = serial ? 1 : std::max<int64_t>(1, std::min(rows, threads.number));
    Array<Gathered> of_block(task.by_batch ? blocks * c : 0);
    if (task.by_batch) {
      in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block)
          gather_rows(block * rows / blocks, (block + 1) * rows / blocks, 0, c, of_block.data() + block * c);
      });
    }
    for (int64_t channel = 0; channel < c; ++channel) {
      Gathered all_blocks;
      if (task.by_batch)
        for (int64_t block = 0; block < blocks; ++block) all_blocks.merge(of_block[block * c + channel]);
      normalizer.settle_channel(channel, all_blocks);
    }
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        normalize_rows(block * rows / blocks, (block + 1) * rows / blocks, 0, c);
      if (kStream) settle();
    });
  }
};

template <class T>
void forward_of(const Forward& task, const Threads& threads) {
  const Shape& shape = task.shape;
  const bool stream = shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamed &&
                      aligned(static_cast<const T*>(task.y), shape.run_length());
  const auto go = [&](auto plan) { shape.channels_last ? plan.channels_last() : plan.channels_first(); };
  stream ? go(ForwardPlan<T, true>{task, threads}) : go(ForwardPlan<T, false>{task, threads});
}

}  // namespace normwise::NORMWISE_ISA
