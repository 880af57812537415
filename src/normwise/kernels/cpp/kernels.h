// What the kernels take and give: plain pointers, and the caller's own threads.
#pragma once

#include <cstdint>

namespace normwise {

enum class Type : int { kFloat32, kFloat64, kBFloat16, kHalf };

// Calls body(context, begin, end) for disjoint ranges that cover 0..count, on the framework's threads.
struct Threads {
  void (*run)(int64_t count, void (*body)(void* context, int64_t begin, int64_t end), void* context);
  int64_t number;
};

// x as (n, c, s) where the channels come first in memory, as (n * s, c) where they come last.
struct Shape {
  int64_t n, c, s;
  bool channels_last;
  Type type;
  int64_t values() const { return n * s; }  // per channel, masked ones included
  int64_t elements() const { return n * c * s; }
  // A run is contiguous: one channel of one sample where the channels come first, a row where they come last.
  int64_t runs() const { return channels_last ? n * s : n * c; }
  int64_t run_length() const { return channels_last ? c : s; }
};

// y = activation((x - mean) / sqrt(var + eps) * scale + shift + residual)
struct Forward {
  Shape shape;
  const void *x, *residual;    // residual may be null
  const uint8_t* mask;         // n * s values of 0 or 1, or null: what counts, and is not blanked
  void* y;                     // may be null: only gather
  uint8_t* bits;              // one per element for the slope of the activation, or null
  const double *scale, *shift; // c values each, or null
  double *mean, *var;          // c values each: written when by_batch, else read
  double eps;
  int64_t activation;  // a number of activations.h
  bool by_batch;
  // So many channels in a row have their statistics in common: more than 1 only where they come first, without a mask.
  int64_t share;
};

// dx, dscale, dshift and dresidual of it
struct Backward {
  Shape shape;
  const void *dy, *x, *residual;  // residual is read where the slope cannot be told without it
  const uint8_t* mask;
  int64_t count;                  // of values per statistic that count
  const uint8_t* bits;
  void *dx, *dresidual;           // null where not needed
  const double *scale, *shift, *mean, *var;
  double *dscale, *dshift;        // c values each
  double eps;
  int64_t activation;  // a number of activations.h
  bool by_batch;
  int64_t share;
};

struct Kernels {
  const char* name;
  void (*forward)(const Forward&, const Threads&);
  void (*backward)(const Backward&, const Threads&);
  int64_t (*bytes_of_bits)(const Shape&);  // how many bytes `bits` has: a bit per element and some padding per run
};

// The best for this processor, or the one named; null where that one cannot run here.
const Kernels* kernels(const char* name);

}  // namespace normwise
