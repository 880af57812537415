// Values of every dtype as doubles, and the activations, one value at a time.
#pragma once

#include <algorithm>
#include <cmath>

#define NORMWISE_ISA driver
#include "kernels.h"
#include "vectors.h"

using namespace normwise;
using driver::BFloat16;
using driver::Half;

inline size_t size_of(Type type) { return type == Type::kFloat64 ? 8 : type == Type::kFloat32 ? 4 : 2; }

inline double read(const void* from, int64_t i, Type type) {
  switch (type) {
    case Type::kFloat32:
      return static_cast<const float*>(from)[i];
    case Type::kFloat64:
      return static_cast<const double*>(from)[i];
    case Type::kBFloat16:
      return driver::widen(static_cast<const BFloat16*>(from)[i]);
    default:
      return driver::widen(static_cast<const Half*>(from)[i]);
  }
}

inline void write(void* to, int64_t i, Type type, double value) {
  switch (type) {
    case Type::kFloat32:
      static_cast<float*>(to)[i] = static_cast<float>(value);
      break;
    case Type::kFloat64:
      static_cast<double*>(to)[i] = value;
      break;
    case Type::kBFloat16:
      static_cast<BFloat16*>(to)[i] = driver::narrow<BFloat16>(static_cast<float>(value));
      break;
    default:
      static_cast<Half*>(to)[i] = driver::narrow<Half>(static_cast<float>(value));
  }
}

inline double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
inline double share(double z) { return 0.5 * std::erfc(-z * 0.70710678118654752440); }
inline double soft(double z) { return std::tanh(z > 30 ? z : std::log1p(std::exp(z))); }

inline double value(int kind, double z) {
  switch (kind) {
    case 1: return z > 0 ? z : 0;
    case 2: return z > 0 ? z : 0.01 * z;
    case 3: return std::min(std::max(z, 0.0), 6.0);
    case 4: return z * std::min(std::max(z + 3, 0.0), 6.0) / 6;
    case 5: return z > 0 ? z : std::expm1(z);
    case 6: return z * share(z);
    case 7: return z * soft(z);
    case 8: return sigmoid(z);
    case 9: return z * sigmoid(z);
    case 10: return std::tanh(z);
    default: return z;
  }
}

inline double slope(int kind, double z) {
  const double s = sigmoid(z), t = soft(z);
  switch (kind) {
    case 1: return z > 0 ? 1 : 0;
    case 2: return z > 0 ? 1 : 0.01;
    case 3: return z > 0 && z < 6 ? 1 : 0;
    case 4: return z < -3 ? 0 : z <= 3 ? z / 3 + 0.5 : 1;
    case 5: return z > 0 ? 1 : std::exp(z);
    case 6: return share(z) + z * std::exp(-0.5 * z * z) * 0.39894228040143267794;
    case 7: return t + z * s * (1 - t * t);
    case 8: return s * (1 - s);
    case 9: return s * (1 + z * (1 - s));
    case 10: return 1 - std::tanh(z) * std::tanh(z);
    default: return 1;
  }
}
