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
  template <int kVectors>
  struct Constants {
    const T *x, *residual;
    T* y;
    Activation kind;
    F setting;
    Along<F, kVectors> mean, factor, offset;
    NORMWISE_INLINE Constants(const Normalizer& n, int64_t c)
        : x(static_cast<const T*>(n.task.x)),
          residual(static_cast<const T*>(n.task.residual)),
          y(static_cast<T*>(n.task.y)),
          kind(activation_of(n.task.activation)),
          setting(static_cast<F>(setting_of(n.task.activation))),
          mean(n.mean.from(c)),
          factor(n.factor.from(c)),
          offset(n.offset.from(c)) {}
  };

  explicit Normalizer(const Forward& f) : task(f), mean(f.shape.c), factor(f.shape.c), offset(f.shape.c) {}

  // So many channels from this one on, which share statistics.
  void settle_channels(int64_t first, int64_t number, const Gathered& gathered) {
    if (task.by_batch)
      for (int64_t c = first; c < first + number; ++c) task.mean[c] = gathered.mean, task.var[c] = gathered.var();
    const double inv = 1 / std::sqrt(task.var[first] + task.eps);
    for (int64_t c = first; c < first + number; ++c) settle_channel(c, inv);
  }

  void settle_channel(int64_t c, double inv) {
    const double scaled = inv * (task.scale ? task.scale[c] : 1);
    mean[c] = static_cast<F>(task.mean[c]);
    factor[c] = static_cast<F>(scaled);
    offset[c] = static_cast<F>((task.shift ? task.shift[c] : 0) - (task.mean[c] - mean[c]) * scaled);
  }

  // What follows the statistics, for the vector at element `at` + i.
  template <bool kStream, bool kMasked, Fused kFused, Added kAdded, int kVectors, class Whole>
  static NORMWISE_INLINE void one(Whole whole, int64_t at, int64_t i, int64_t count, const Constants<kVectors>& by,
                                  uint8_t* bits, const uint8_t* mask) {
    Vector<F> z = (get<whole>(by.x + at + i, count) - by.mean.at(i)) * by.factor.at(i) + by.offset.at(i);
    if constexpr (kAdded != Added::kNothing) z += get<whole>(by.residual + at + i, count);
    if constexpr (kAdded == Added::kResidualWithBits) {
      const uint32_t set = kFused == Fused::kRelu ? pack_positive<F>(z) : pack<F>(slope<F>(by.kind, by.setting, z) == 1);
      std::memcpy(bits + i / kLanes<F> * kBitBytes<F>, &set, kBitBytes<F>);
    }
    if constexpr (kFused == Fused::kRelu) z = rectified<F>(z);
    if constexpr (kFused == Fused::kAny) z = activate<F>(by.kind, by.setting, z);
    if constexpr (kMasked) z = allowed<F>(mask + i, count) ? z : Vector<F>{};
    put<whole, kStream>(by.y + at + i, z, count);
  }

  // Calls call(fused, added) with what the compiler is to know of the task.
  template <class Call>
  void with_kind(const Call& call) const {
    const auto with_fused = [&](auto fused) {
      if (!task.residual) return call(fused, std::integral_constant<Added, Added::kNothing>{});
      if (!task.bits) return call(fused, std::integral_constant<Added, Added::kResidual>{});
      call(fused, std::integral_constant<Added, Added::kResidualWithBits>{});
    };
    switch (fused(task.activation)) {
      case Fused::kNone:
        return with_fused(std::integral_constant<Fused, Fused::kNone>{});
      case Fused::kRelu:
        return with_fused(std::integral_constant<Fused, Fused::kRelu>{});
      case Fused::kAny:
        return with_fused(std::integral_constant<Fused, Fused::kAny>{});
    }
  }
};

template <class T, bool kStream>
struct ForwardPlan {
  using F = typename Wide<T>::type;
  const Forward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  const T* x = static_cast<const T*>(task.x);
  Normalizer<T> normalizer{task};
  bool serial = shape.elements() <= kSerial;
  int64_t bits_per_run = bit_bytes_of_run<F>(shape.run_length());
  int64_t ahead = lookahead(shape, sizeof(T));
  bool near = !kStream && stays_near(shape, sizeof(T), threads);

  const uint8_t* mask_from(int64_t position) const { return task.mask ? task.mask + position : nullptr; }

  // ------------------------------------------------------------------------------------------------- channels first

  // Of as many channels as share statistics: they lie side by side, as one.
  Gathered gather_channel(int64_t channel, int64_t from, int64_t to) const {
    const auto gathered = [&](auto gatherer) {
      gatherer.add(x + (from * shape.c + channel) * shape.s, mask_from(from * shape.s), task.share * shape.s, to - from,
                   shape.c * shape.s, ahead);
      return gatherer.result();
    };
    return task.mask ? gathered(Gatherer<T, true>()) : gathered(Gatherer<T, false>());
  }

  template <bool kMasked, Fused kFused, Added kAdded>
  NORMWISE_INLINE void normalize_run(int64_t run, const uint8_t* mask,
                                     const typename Normalizer<T>::template Constants<0>& by) const {
    const int64_t at = run * shape.s;
    uint8_t* const bits = kAdded == Added::kResidualWithBits ? task.bits + run * bits_per_run : nullptr;
    each_vector<F>(shape.s, [&](auto whole, int64_t i, int64_t count) __attribute__((always_inline)) {
      if constexpr (kAdded != Added::kNothing) prefetch(by.residual + at + i + ahead);
      if constexpr (!kStream) prefetch(by.y + at + i + ahead);
      Normalizer<T>::template one<kStream, kMasked, kFused, kAdded>(whole, at, i, count, by, bits, mask);
    });
  }

  // The runs of a channel, from the last: what was gathered last comes first, for it is still in the cache.
  void normalize_channel(int64_t channel) const {
    normalizer.with_kind([&](auto fused, auto added) {
      const typename Normalizer<T>::template Constants<0> by(normalizer, channel);
      for (int64_t i = shape.n - 1; i >= 0; --i) {
        const int64_t run = i * shape.c + channel;
        if (task.mask) {
          normalize_run<true, fused, added>(run, mask_from(i * shape.s), by);
        } else {
          normalize_run<false, fused, added>(run, nullptr, by);
        }
      }
    });
  }

  // The runs begin..end as they lie in memory.
  void normalize_runs(int64_t begin, int64_t end) const {
    if (begin == end) return;
    normalizer.with_kind([&](auto fused, auto added) {
      int64_t sample = begin / shape.c, channel = begin % shape.c;
      for (int64_t run = begin; run < end; ++run) {
        const typename Normalizer<T>::template Constants<0> by(normalizer, channel);
        if (task.mask) {
          normalize_run<true, fused, added>(run, mask_from(sample * shape.s), by);
        } else {
          normalize_run<false, fused, added>(run, nullptr, by);
        }
        if (++channel == shape.c) channel = 0, ++sample;
      }
    });
  }

  void channels_first() {
    const int64_t n = shape.n, c = shape.c;
    if (task.by_batch && (task.share > 1 || c >= 2 * threads.number)) {
      in_parallel(threads, c / task.share, serial, [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t first = unit * task.share;
          normalizer.settle_channels(first, task.share, gather_channel(first, 0, n));
          if (!task.y) continue;
          for (int64_t channel = first; channel < first + task.share; ++channel) normalize_channel(channel);
        }
        if (kStream) drain();
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
      normalizer.settle_channels(channel, 1, all_runs);
    }
    if (!task.y) return;
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      normalize_runs(begin, end);
      if (kStream) drain();
    });
  }

  // -------------------------------------------------------------------------------------------------- channels last

  void gather_rows(int64_t begin, int64_t end, Gathered* into) const {
    ColumnGatherer<T>(shape.c).add(x + begin * shape.c, mask_from(begin), end - begin, into);
  }

  // What was gathered last comes first.
  void normalize_rows(int64_t begin, int64_t end) const {
    normalizer.with_kind([&](auto fused, auto added) {
      const auto normalize = [&](int64_t from, int64_t to) { normalize_stretch<fused, added>(from, to); };
      if (!task.by_batch) return normalize(begin, end);
      each_stretch(begin, end, shape.c * sizeof(T), normalize);
    });
  }

  // What is in the nearest caches goes column by column, whose constants stay in registers; all else as memory lies.
  template <Fused kFused, Added kAdded>
  void normalize_stretch(int64_t begin, int64_t end) const {
    const int64_t c = shape.c;
    if (c == kColumn * kLanes<F>) return normalize_columns<kFused, kAdded, kColumn, true>(begin, end, 0, c);
    if constexpr (!kStream) {
      if (near)
        return each_column_of_rows<F>(begin, end, c, c * sizeof(T), [&](auto vectors, auto whole, const Part& part) {
          normalize_columns<kFused, kAdded, vectors, whole>(part.from, part.to, part.first, part.width);
        });
    }
    normalize_columns<kFused, kAdded, kWholeRow, true>(begin, end, 0, c);
  }

  // The channels first..first + width of these rows.
  template <Fused kFused, Added kAdded, int kVectors, bool kWhole>
  void normalize_columns(int64_t from, int64_t to, int64_t first, int64_t width) const {
    const typename Normalizer<T>::template Constants<kVectors> by(normalizer, first);
    const int64_t c = shape.c, bit_stride = bits_per_run;
    const int64_t next = (width == c ? rows_of_page(c * sizeof(T)) : to - from) * c;
    const int64_t bit_first = first / kLanes<F> * kBitBytes<F>;
    uint8_t* const all_bits = task.bits;
    const uint8_t* const mask = task.mask;
    for (int64_t row = from; row < to; ++row) {
      const int64_t at = row * c + first;
      if (mask && !mask[row]) {
        std::memset(by.y + at, 0, width * sizeof(T));
        continue;
      }
      uint8_t* const bits = kAdded == Added::kResidualWithBits ? all_bits + row * bit_stride + bit_first : nullptr;
      each_in_row<F, kVectors, kWhole>(width, [&](auto whole, int64_t i, int64_t count) __attribute__((always_inline)) {
        if constexpr (kAdded != Added::kNothing) prefetch(by.residual + at + i + next);
        if constexpr (!kStream) prefetch(by.y + at + i + next);
        Normalizer<T>::template one<kStream, false, kFused, kAdded>(whole, at, i, count, by, bits, nullptr);
      });
    }
  }

  void channels_last() {
    const int64_t c = shape.c, rows = shape.values();
    const int64_t blocks = serial ? 1 : std::max<int64_t>(1, std::min(rows, threads.number));
    Array<Gathered> of_block(task.by_batch ? blocks * c : 0);
    if (task.by_batch) {
      in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block)
          gather_rows(block * rows / blocks, (block + 1) * rows / blocks, of_block.data() + block * c);
      });
    }
    for (int64_t channel = 0; channel < c; ++channel) {
      Gathered all_blocks;
      if (task.by_batch)
        for (int64_t block = 0; block < blocks; ++block) all_blocks.merge(of_block[block * c + channel]);
      normalizer.settle_channels(channel, 1, all_blocks);
    }
    if (!task.y) return;
    in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        normalize_rows(block * rows / blocks, (block + 1) * rows / blocks);
      if (kStream) drain();
    });
  }
};

template <class T>
void forward_of(const Forward& task, const Threads& threads) {
  const Shape& shape = task.shape;
  const bool stream = task.y && shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamed &&
                      aligned(static_cast<const T*>(task.y), shape.run_length());
  const auto go = [&](auto plan) { shape.channels_last ? plan.channels_last() : plan.channels_first(); };
  stream ? go(ForwardPlan<T, true>{task, threads}) : go(ForwardPlan<T, false>{task, threads});
}

}  // namespace normwise::NORMWISE_ISA
