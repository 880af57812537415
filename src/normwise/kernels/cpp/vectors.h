// Vectors of the width that the instruction set has, by the compiler's vector extensions: the same source is
// compiled once per instruction set (see isa_*.cpp), and on any other processor with its 16-byte vectors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// What a loop calls for each vector: inlined always, or the vectors and pointers that it takes would live in memory.
#define NORMWISE_INLINE __attribute__((always_inline)) inline

namespace normwise::NORMWISE_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// What is computed in: float for everything but double.
template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

template <class F>
constexpr int kLanes = kBytes / static_cast<int>(sizeof(F));

template <class F>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kBytes)));
  typedef int32_t integer __attribute__((vector_size(kBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kBytes)));
  typedef int64_t integer __attribute__((vector_size(kBytes)));
};
template <class F>
using Vector = typename VectorOf<F>::type;
template <class F>
using Integer = typename VectorOf<F>::integer;

typedef uint16_t Sixteen __attribute__((vector_size(kBytes / 2)));
typedef uint32_t Unsigned __attribute__((vector_size(kBytes)));

// The same bits as another type.
template <class To, class From>
NORMWISE_INLINE To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Numbers in memory, all 0. Not a std::vector: its code would be compiled for this instruction set under a name that all
// share, and the linker could hand it to a processor that cannot run it.
template <class F>
class Array {
 public:
  explicit Array(int64_t size) : size_(size), values_(new F[size]()) {}
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { delete[] values_; }
  int64_t size() const { return size_; }
  F* data() { return values_; }
  const F* data() const { return values_; }
  F& operator[](int64_t i) { return values_[i]; }
  const F& operator[](int64_t i) const { return values_[i]; }

 private:
  int64_t size_;
  F* values_;
};

template <class F>
NORMWISE_INLINE Vector<F> all(F value) {
  return value - Vector<F>{};  // broadcast
}

// The sum of the lanes in double, by halves: one after the other they would wait for each other.
NORMWISE_INLINE double wide_sum(Vector<double> v) {
  double parts[kLanes<double>];
  std::memcpy(parts, &v, sizeof v);
#pragma GCC unroll 8
  for (int half = kLanes<double> / 2; half; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  return parts[0];
}
NORMWISE_INLINE double wide_sum(Vector<float> v) {
  typedef float HalfOfThem __attribute__((vector_size(kBytes / 2)));
  HalfOfThem low, high;
  std::memcpy(&low, &v, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
  return wide_sum(__builtin_convertvector(low, Vector<double>) + __builtin_convertvector(high, Vector<double>));
}

// ---------------------------------------------------------------------------------------------- conversions, one value

NORMWISE_INLINE float widen(float x) { return x; }
NORMWISE_INLINE double widen(double x) { return x; }
NORMWISE_INLINE float widen(BFloat16 x) {
  return same_bits<float>(static_cast<uint32_t>(x.bits) << 16);
}
NORMWISE_INLINE float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return same_bits<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // inf, NaN
  if (rest >= 0x400) return same_bits<float>(sign | ((rest << 13) + 0x38000000));         // normal
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;                            // subnormal
  return sign ? -magnitude : magnitude;
}

template <class T>
NORMWISE_INLINE T narrow(typename Wide<T>::type x) {
  return x;
}
template <>
NORMWISE_INLINE BFloat16 narrow<BFloat16>(float x) {
  const auto bits = same_bits<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
}
template <>
NORMWISE_INLINE Half narrow<Half>(float x) {
  const auto bits = same_bits<uint32_t>(x);
  const uint16_t sign = bits >> 16 & 0x8000;
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (rest >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds to inf
  if (rest >= 0x38800000)
    return {static_cast<uint16_t>(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13)};
  return {static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(same_bits<float>(rest) * 0x1p24f)))};
}

// ------------------------------------------------------------------------------------------------------- whole vectors

template <class T>
NORMWISE_INLINE Vector<typename Wide<T>::type> load(const T* from) {
  Vector<typename Wide<T>::type> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
// Of two-byte values, whose bits these are.
template <class T>
NORMWISE_INLINE Vector<float> from_sixteen(Sixteen bits);
template <>
NORMWISE_INLINE Vector<float> from_sixteen<BFloat16>(Sixteen bits) {
  return same_bits<Vector<float>>(__builtin_convertvector(bits, Unsigned) << 16);
}
template <>
NORMWISE_INLINE Vector<float> from_sixteen<Half>(Sixteen bits) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
#elif defined(__F16C__)
  return (Vector<float>)_mm256_cvtph_ps((__m128i)bits);
#else
  Vector<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = widen(Half{bits[i]});
  return v;
#endif
}
template <>
NORMWISE_INLINE Vector<float> load<BFloat16>(const BFloat16* from) {
  Sixteen bits;
  std::memcpy(&bits, from, sizeof bits);
  return from_sixteen<BFloat16>(bits);
}
template <>
NORMWISE_INLINE Vector<float> load<Half>(const Half* from) {
  Sixteen bits;
  std::memcpy(&bits, from, sizeof bits);
  return from_sixteen<Half>(bits);
}

NORMWISE_INLINE Sixteen to_bfloat16(Vector<float> v) {
#if defined(__AVX512BF16__)
  return same_bits<Sixteen>(_mm512_cvtneps_pbh((__m512)v));  // what is subnormal becomes 0
#endif
  const auto bits = same_bits<Unsigned>(v);
  const Unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Unsigned quiet = (bits >> 16) | 0x40;
  const Unsigned nan = (Unsigned)(v != v);
  return __builtin_convertvector((rounded & ~nan) | (quiet & nan), Sixteen);
}

NORMWISE_INLINE Sixteen to_half(Vector<float> v) {
#if defined(__AVX512F__)
  return (Sixteen)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (Sixteen)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  Sixteen bits;
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = narrow<Half>(v[i]).bits;
  return bits;
#endif
}

template <class T>
NORMWISE_INLINE Sixteen to_sixteen(Vector<float> v) {
  if constexpr (std::is_same_v<T, Half>) return to_half(v);
  return to_bfloat16(v);
}

// kStream: past the caches, for outputs that will not be read soon; the address must then be a multiple of the vector.
template <bool kStream, class T>
NORMWISE_INLINE void store(T* to, Vector<typename Wide<T>::type> v) {
  if constexpr (sizeof(T) == 2) {
    const Sixteen bits = to_sixteen<T>(v);
#if defined(__AVX512F__)
    if constexpr (kStream) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)bits);
#elif defined(__AVX2__)
    if constexpr (kStream) return _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)bits);
#endif
    std::memcpy(to, &bits, sizeof bits);
  } else {
#if defined(__AVX512F__)
    if constexpr (kStream) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)v);
#elif defined(__AVX2__)
    if constexpr (kStream) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)v);
#endif
    std::memcpy(to, &v, sizeof v);
  }
}

// Asks for what is at this address, to be in the second cache when it is wanted; the address may be anything.
template <class T>
NORMWISE_INLINE void prefetch(const T* at) {
  __builtin_prefetch(at, 0, 2);
}

// Streamed stores become visible to other threads in order only after this.
NORMWISE_INLINE void drain() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// ----------------------------------------------------------------------------------------------------- parts of vectors

// The first `count` values; the other lanes are `fill`.
template <class T, class F = typename Wide<T>::type>
NORMWISE_INLINE Vector<F> load_part(const T* from, int64_t count, Vector<F> fill) {
#if defined(__AVX512F__)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) return (Vector<F>)_mm512_mask_loadu_ps((__m512)fill, mask, from);
  if constexpr (sizeof(T) == 8) return (Vector<F>)_mm512_mask_loadu_pd((__m512d)fill, mask, from);
  if constexpr (sizeof(T) == 2) {
    const Vector<F> v = from_sixteen<T>(same_bits<Sixteen>(_mm256_maskz_loadu_epi16(mask, from)));
    return (Vector<F>)_mm512_mask_mov_ps((__m512)fill, mask, (__m512)v);
  }
#endif
  Vector<F> v = fill;
  for (int i = 0; i < count; ++i) v[i] = widen(from[i]);
  return v;
}

template <class T>
NORMWISE_INLINE void store_part(T* to, Vector<typename Wide<T>::type> v, int64_t count) {
#if defined(__AVX512F__)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(to, mask, (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(to, mask, (__m512d)v);
  if constexpr (sizeof(T) == 2) return _mm256_mask_storeu_epi16(to, mask, same_bits<__m256i>(to_sixteen<T>(v)));
#endif
  for (int i = 0; i < count; ++i) to[i] = narrow<T>(v[i]);
}

// The condition that a mask's bytes, each 0 or 1, state for the lanes.
template <class F>
NORMWISE_INLINE Integer<F> allowed(const uint8_t* mask, int64_t count) {
  Integer<F> v = {};
  if (count == kLanes<F>) {
    typedef uint8_t Bytes __attribute__((vector_size(kLanes<F>)));
    Bytes bytes;
    std::memcpy(&bytes, mask, sizeof bytes);
    return __builtin_convertvector(bytes, Integer<F>) != 0;
  }
  for (int i = 0; i < count; ++i) v[i] = mask[i];
  return v != 0;
}

// One bit per lane where the condition (all ones or all zeros per lane) holds.
template <class F>
NORMWISE_INLINE uint32_t pack(Integer<F> condition) {
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 4) return _mm512_movepi32_mask((__m512i)condition);
  return _mm512_movepi64_mask((__m512i)condition);
#elif defined(__AVX2__)
  if constexpr (sizeof(F) == 4) return _mm256_movemask_ps((__m256)condition);
  return _mm256_movemask_pd((__m256d)condition);
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes<F>; ++i) bits |= static_cast<uint32_t>(condition[i] & 1) << i;
  return bits;
#endif
}

// 0 where the value is below it; what is not a number stays.
template <class F>
NORMWISE_INLINE Vector<F> rectified(Vector<F> v) {
#if defined(__AVX512F__)  // of equal ones, and with what is not a number, max takes the second
  if constexpr (sizeof(F) == 4) return (Vector<F>)_mm512_maskz_max_ps(0xffff, __m512{}, (__m512)v);
  return (Vector<F>)_mm512_maskz_max_pd(0xff, __m512d{}, (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(F) == 4) return (Vector<F>)_mm256_max_ps(__m256{}, (__m256)v);
  return (Vector<F>)_mm256_max_pd(__m256d{}, (__m256d)v);
#else
  return v < 0 ? Vector<F>{} : v;
#endif
}

// One bit per lane where the value is above 0, or not a number.
template <class F>
NORMWISE_INLINE uint32_t pack_positive(Vector<F> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 4) return _mm512_cmp_ps_mask((__m512)v, __m512{}, _CMP_NLE_UQ);
  return _mm512_cmp_pd_mask((__m512d)v, __m512d{}, _CMP_NLE_UQ);
#else
  return pack<F>(~(v <= 0));
#endif
}

// The condition back from its bits.
template <class F>
NORMWISE_INLINE Integer<F> unpack(uint32_t bits) {
  Integer<F> lane;
  for (int i = 0; i < kLanes<F>; ++i) lane[i] = int64_t{1} << i;
  return ((static_cast<decltype(lane[0] + 0)>(bits) - Integer<F>{}) & lane) != 0;
}

// v where the lane's bit is set, v * factor where it is not.
template <class F>
NORMWISE_INLINE Vector<F> scale_unset(uint32_t bits, Vector<F> v, F factor) {
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 4)
    return (Vector<F>)_mm512_mask_mul_ps((__m512)v, static_cast<__mmask16>(~bits), (__m512)v, (__m512)all(factor));
  return (Vector<F>)_mm512_mask_mul_pd((__m512d)v, static_cast<__mmask8>(~bits), (__m512d)v, (__m512d)all(factor));
#else
  return unpack<F>(bits) ? v : v * factor;
#endif
}

}  // namespace normwise::NORMWISE_ISA
