// The activations of reference_activations.py: value and slope at z, in vectors.
#pragma once

#include "vectors.h"

namespace normwise::NORMWISE_ISA {

// The numbers are an interface: choose.py's and torch_shim.cpp's callers pass them.
enum class Activation : int {
  kNone, kRelu, kLeakyRelu, kRelu6, kHardswish, kElu, kGelu, kMish, kSigmoid, kSilu, kTanh, kHardsigmoid, kGeluTanh
};

// A number holds the activation in its lowest byte and, in the others, the upper seven bytes of its setting, a double:
// the slope of a leaky ReLU below 0, the alpha of an ELU. Nothing there stands for the usual one.
inline Activation activation_of(int64_t number) { return static_cast<Activation>(number & 0xff); }
inline double setting_of(int64_t number) {
  const int64_t bits = number & ~int64_t{0xff};
  double setting;
  std::memcpy(&setting, &bits, sizeof setting);
  return bits ? setting : (activation_of(number) == Activation::kLeakyRelu ? 0.01 : 1.0);
}

template <class F>
inline Vector<F> choose(Integer<F> condition, Vector<F> yes, Vector<F> no) {
  return condition ? yes : no;
}

// e^x, relative error below 2e-7 in float; 0 and inf beyond the range.
inline Vector<float> exponential(Vector<float> x) {
  using V = Vector<float>;
  const V top = all(88.72283f), bottom = all(-103.97f);
  const V in = x < bottom ? bottom : (x > top ? top : x);
  const V shifted = in * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer, kept in the low bits
  const V n = shifted - 12582912.0f;
  const V r = (in - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: r keeps its digits
  V p = all(1.0f / 5040);
  for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + coefficient;
  // 2^n in two factors, so that neither overflows where the product does not.
  const Integer<float> k = __builtin_convertvector(n, Integer<float>), half = k >> 1;
  const Integer<float> a = (half + 127) << 23, b = (k - half + 127) << 23;
  const V scaled = p * same_bits<V>(a) * same_bits<V>(b);
  const V bounded = x > top ? all(HUGE_VALF) : (x < bottom ? V{} : scaled);
  return x == x ? bounded : x;
}
inline Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

template <class F>
inline Vector<F> sigmoid(Vector<F> z) {
  return F(1) / (F(1) + exponential(-z));
}

template <class F>
inline Vector<F> hyperbolic_tangent(Vector<F> z) {
  const Vector<F> size = z < 0 ? -z : z;
  const Vector<F> far = exponential(size * F(-2));
  Vector<F> t = (F(1) - far) / (F(1) + far);
  if constexpr (sizeof(F) == 4) {  // near 0 the difference would lose its digits
    const Vector<F> q = z * z;
    const Vector<F> near = size * (((q * F(-17.0 / 315) + F(2.0 / 15)) * q - F(1.0 / 3)) * q + F(1));
    t = size < F(0.25) ? near : t;
  } else {
    for (int i = 0; i < kLanes<F>; ++i) t[i] = std::tanh(size[i]);
  }
  return z < 0 ? -t : t;
}

// P(N(0, 1) <= z): Abramowitz and Stegun 7.1.26 in float (absolute error 1e-7), the library's in double.
inline Vector<float> normal_share(Vector<float> z) {
  using V = Vector<float>;
  const V u = (z < 0 ? -z : z) * 0.70710678f;
  const V t = 1.0f / (1.0f + 0.3275911f * u);
  V p = all(1.061405429f);
  for (const float coefficient : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + coefficient;
  const V tail = 0.5f * p * t * exponential(-u * u);
  return z < 0 ? tail : 1.0f - tail;
}
inline Vector<double> normal_share(Vector<double> z) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = 0.5 * std::erfc(-z[i] * 0.70710678118654752440);
  return z;
}

// tanh(softplus(z)) without a logarithm: (e^2 + 2e) / (e^2 + 2e + 2) with e = e^z, 1 where e^z is large.
template <class F>
inline Vector<F> tanh_softplus(Vector<F> z) {
  const Vector<F> e = exponential(z > F(20) ? all(F(20)) : z);
  const Vector<F> m = e * (e + F(2));
  return m / (m + F(2));
}

// What tanh makes of the share below z: (1 + tanh(u)) / 2 = sigmoid(2u) with u = sqrt(2 / pi) (z + 0.044715 z^3).
constexpr double kGeluSlope = 1.59576912160573071176, kGeluCube = 0.044715;  // 2 sqrt(2 / pi)
template <class F>
inline Vector<F> tanh_share(Vector<F> z) {
  return sigmoid<F>(z * (F(kGeluSlope) + F(kGeluSlope * kGeluCube) * z * z));
}

template <class F>
inline Vector<F> activate(Activation kind, F setting, Vector<F> z) {
  const Vector<F> zero = {};
  switch (kind) {
    case Activation::kNone:
      return z;
    case Activation::kRelu:
      return z < 0 ? zero : z;
    case Activation::kLeakyRelu:
      return z > 0 ? z : z * setting;
    case Activation::kRelu6:
      return z < 0 ? zero : (z > F(6) ? all(F(6)) : z);
    case Activation::kHardswish: {
      const Vector<F> gate = z < F(-3) ? zero : (z > F(3) ? all(F(6)) : z + F(3));
      return z * gate / F(6);
    }
    case Activation::kElu: {
      Vector<F> low = exponential(z) - F(1);
      if constexpr (sizeof(F) == 4) {  // near 0 the difference would lose its digits
        const Vector<F> near = z * (F(1) + z * (F(0.5) + z * (F(1.0 / 6) + z * F(1.0 / 24))));
        low = z > F(-0.05) ? near : low;
      } else {
        for (int i = 0; i < kLanes<F>; ++i) low[i] = std::expm1(z[i]);
      }
      return z > 0 ? z : low * setting;
    }
    case Activation::kGelu:
      return z * normal_share(z);
    case Activation::kMish:
      return z * tanh_softplus<F>(z);
    case Activation::kSigmoid:
      return sigmoid<F>(z);
    case Activation::kSilu:
      return z * sigmoid<F>(z);
    case Activation::kTanh:
      return hyperbolic_tangent<F>(z);
    case Activation::kHardsigmoid:
      return (z < F(-3) ? zero : (z > F(3) ? all(F(6)) : z + F(3))) / F(6);
    case Activation::kGeluTanh:
      return z * tanh_share<F>(z);
  }
  return z;
}

template <class F>
inline Vector<F> slope(Activation kind, F setting, Vector<F> z) {
  const Vector<F> zero = {}, one = all(F(1));
  switch (kind) {
    case Activation::kNone:
      return one;
    case Activation::kRelu:
      return z <= 0 ? zero : one;
    case Activation::kLeakyRelu:
      return z > 0 ? one : all(setting);
    case Activation::kRelu6:
      return z <= 0 ? zero : (z >= F(6) ? zero : one);
    case Activation::kHardswish:
      return z < F(-3) ? zero : (z <= F(3) ? z / F(3) + F(0.5) : one);
    case Activation::kElu:
      return z > 0 ? one : exponential(z) * setting;
    case Activation::kGelu: {
      const Vector<F> near = z * z > F(1600) ? all(F(40)) : z;
      return normal_share(z) + near * exponential(near * near * F(-0.5)) * F(0.39894228040143267794);
    }
    case Activation::kMish: {
      const Vector<F> t = tanh_softplus<F>(z);
      return t + z * sigmoid<F>(z) * (one - t * t);
    }
    case Activation::kSigmoid: {
      const Vector<F> s = sigmoid<F>(z);
      return s * (one - s);
    }
    case Activation::kSilu: {
      const Vector<F> s = sigmoid<F>(z);
      return s * (one + z * (one - s));
    }
    case Activation::kTanh: {
      const Vector<F> t = hyperbolic_tangent<F>(z);
      return one - t * t;
    }
    case Activation::kHardsigmoid:
      return z <= F(-3) ? zero : (z >= F(3) ? zero : all(F(1.0 / 6)));
    case Activation::kGeluTanh: {
      const Vector<F> near = z * z > F(1600) ? all(F(40)) : z;
      const Vector<F> s = tanh_share<F>(z), t = tanh_share<F>(near);
      return s + near * t * (one - t) * (F(kGeluSlope) + F(3 * kGeluSlope * kGeluCube) * near * near);
    }
  }
  return one;
}

// Whether one bit per element says all about the slope: 1 where it is set, `off` where not.
inline bool one_bit(Activation kind) {
  return kind == Activation::kRelu || kind == Activation::kLeakyRelu || kind == Activation::kRelu6;
}

}  // namespace normwise::NORMWISE_ISA
