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

  explicit Normalizer(const Forward& f) : task(f), mean(f.shape.c), factor(f.shape.c), offset(f.shape.c) {}

  void settle_channel(int64_t c, const Gathered& gathered) {
    if (task.by_batch) task.mean[c] = gathered.mean, task.var[c] = gathered.var();
    const double inv = 1 / std::sqrt(task.var[c] + task.eps), scaled = inv * (task.scale ? task.scale[c] : 1);
    mean[c] = static_cast<F>(task.mean[c]);
    factor[c] = static_cast<F>(scaled);
    offset[c] = static_cast<F>((task.shift ? task.shift[c] : 0) - (task.mean[c] - mean[c]) * scaled);
  }

  // `length` elements from element `at`, the first of which belongs to channel c.
  template <bool kLast, bool kStream, Fused kFused, bool kResidual>
  void run(int64_t at, int64_t length, int64_t c, uint8_t* bits) const {
    const T* x = static_cast<const T*>(task.x) + at;
    const T* r = static_cast<const T*>(task.residual) + (kResidual ? at : 0);
    T* y = static_cast<T*>(task.y) + at;
    const Along<F, kLast> m{mean.from(c)}, f{factor.from(c)}, b{offset.from(c)};
    const auto kind = static_cast<Activation>(task.activation);
    each_vector<F>(length, [&](auto whole, int64_t i, int64_t count) {
      Vector<F> z = (get<whole>(x + i, count) - m.at(i)) * f.at(i) + b.at(i);
      if constexpr (kResidual) {
        z += get<whole>(r + i, count);
        if (bits) {
          const uint32_t set = pack<F>(slope<F>(kind, z) == 1);
          std::memcpy(bits + i / kLanes<F> * kBitBytes<F>, &set, kBitBytes<F>);
        }
      }
      if constexpr (kFused == Fused::kRelu) z = z < 0 ? Vector<F>{} : z;
      if constexpr (kFused == Fused::kAny) z = activate<F>(kind, z);
      put<whole, kStream>(y + i, z, count);
    });
  }

  template <bool kLast, bool kStream, Fused kFused>
  void run(int64_t at, int64_t length, int64_t c, uint8_t* bits) const {
    if (task.residual) return run<kLast, kStream, kFused, true>(at, length, c, bits);
    run<kLast, kStream, kFused, false>(at, length, c, bits);
  }

  template <bool kLast, bool kStream>
  void run(int64_t at, int64_t length, int64_t c, uint8_t* bits) const {
    switch (fused(task.activation)) {
      case Fused::kNone:
        return run<kLast, kStream, Fused::kNone>(at, length, c, bits);
      case Fused::kRelu:
        return run<kLast, kStream, Fused::kRelu>(at, length, c, bits);
      case Fused::kAny:
        return run<kLast, kStream, Fused::kAny>(at, length, c, bits);
    }
  }
};

template <class T, bool kLast, bool kStream>
struct ForwardPlan {
  using F = typename Wide<T>::type;
  static constexpr int64_t kWidth = kColumn * kLanes<F>;
  const Forward& task;
  const Threads& threads;
  const Shape& shape = task.shape;
  const T* x = static_cast<const T*>(task.x);
  Normalizer<T> normalizer{task};
  bool serial = shape.elements() <= kSerial;

  void channels_first() {
    const int64_t n = shape.n, c = shape.c, s = shape.s, bits_per_run = bit_bytes_of_run<F>(s);
    const auto normalize = [&](int64_t run) {
      normalizer.template run<false, kStream>(run * s, s, run % c, task.bits ? task.bits + run * bits_per_run : nullptr);
    };
    if (task.by_batch && c >= 2 * threads.number) {
      in_parallel(threads, c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t channel = begin; channel < end; ++channel) {
          Gatherer<T> gatherer;
          for (int64_t i = 0; i < n; ++i) gatherer.add(x + (i * c + channel) * s, s);
          normalizer.settle_channel(channel, gatherer.finish());
          for (int64_t i = n - 1; i >= 0; --i) normalize(i * c + channel);
        }
        if (kStream) settle();
      });
      return;
    }
    std::vector<Gathered> of_run(task.by_batch ? n * c : 0);
    if (task.by_batch) {
      in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
        for (int64_t run = begin; run < end; ++run) {
          Gatherer<T> gatherer;
          gatherer.add(x + run * s, s);
          of_run[run] = gatherer.finish();
        }
      });
    }
    for (int64_t channel = 0; channel < c; ++channel) {
      Gathered all_runs;
      if (task.by_batch)
        for (int64_t i = 0; i < n; ++i) all_runs.merge(of_run[i * c + channel]);
      normalizer.settle_channel(channel, all_runs);
    }
    in_parallel(threads, n * c, serial, [&](int64_t begin, int64_t end) {
      for (int64_t run = end - 1; run >= begin; --run) normalize(run);
      if (kStream) settle();
    });
  }

  void gather_block(int64_t first_row, int64_t rows, int64_t first, int64_t channels, Gathered* into) const {
    for (int64_t c = first; c < first + channels; c += kWidth)
      gather_columns<T, kColumn>(
          x + first_row * shape.c + c, shape.c, rows, std::min(kWidth, first + channels - c), into + (c - first));
  }

  void normalize_block(int64_t begin, int64_t end, int64_t first, int64_t channels) const {
    const int64_t c = shape.c, bits_per_run = bit_bytes_of_run<F>(c);
    for (int64_t row = end - 1; row >= begin; --row)
      normalizer.template run<true, kStream>(
          row * c + first, channels, first,
          task.bits ? task.bits + row * bits_per_run + first / kLanes<F> * kBitBytes<F> : nullptr);
  }

  void channels_last() {
    const int64_t c = shape.c, rows = shape.values(), columns = (c + kWidth - 1) / kWidth;
    const bool fits = rows * kWidth * static_cast<int64_t>(sizeof(T)) <= cache_bytes();
    if (task.by_batch && fits && columns >= 2 * threads.number) {
      in_parallel(threads, columns, serial, [&](int64_t begin, int64_t end) {
        Gathered gathered[kWidth];
        for (int64_t column = begin; column < end; ++column) {
          const int64_t first = column * kWidth, channels = std::min(kWidth, c - first);
          std::fill_n(gathered, kWidth, Gathered{});
          gather_block(0, rows, first, channels, gathered);
          for (int64_t i = 0; i < channels; ++i) normalizer.settle_channel(first + i, gathered[i]);
          normalize_block(0, rows, first, channels);
        }
        if (kStream) settle();
      });
      return;
    }
    const int64_t blocks = serial ? 1 : std::min(rows, threads.number);
    std::vector<Gathered> of_block(task.by_batch ? blocks * c : 0);
    if (task.by_batch) {
      in_parallel(threads, blocks, serial, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
          const int64_t from = block * rows / blocks, to = (block + 1) * rows / blocks;
          gather_block(from, to - from, 0, c, of_block.data() + block * c);
        }
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
        normalize_block(block * rows / blocks, (block + 1) * rows / blocks, 0, c);
      if (kStream) settle();
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

template <class T>
void forward_of(const Forward& task, const Threads& threads) {
  const Shape& shape = task.shape;
  const bool stream = shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamed &&
                      aligned(static_cast<const T*>(task.y), shape.run_length());
  if (shape.channels_last) {
    stream ? ForwardPlan<T, true, true>{task, threads}.go() : ForwardPlan<T, true, false>{task, threads}.go();
  } else {
    stream ? ForwardPlan<T, false, true>{task, threads}.go() : ForwardPlan<T, false, false>{task, threads}.go();
  }
}

}  // namespace normwise::NORMWISE_ISA
