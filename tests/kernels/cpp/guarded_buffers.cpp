// The kernels over buffers that hold not one byte too many, without Python and PyTorch, for `make sanitize`.
//
// Every buffer lies between red zones of AddressSanitizer, or ends at a page that nobody may touch, or starts behind
// one: AddressSanitizer does not look at the vector instructions with masks, the page does. Outputs are filled before
// the call with one pattern and then another: what was not written, or was read before it was, shows as a difference.
// Results are compared with formulas in double, written out one value at a time.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#define NORMWISE_ISA driver
#include "kernels.h"
#include "vectors.h"

using namespace normwise;
using driver::BFloat16;
using driver::Half;

namespace {

// ------------------------------------------------------------------------------------------------------------- buffers

enum Place { kHeap, kBeforePage, kBehindPage, kPlaces };

class Buffer {
 public:
  Buffer(size_t bytes, Place place) : bytes_(bytes), place_(place) {
    if (place == kHeap) {
      if (posix_memalign(&base_, 64, bytes ? bytes : 1)) std::abort();
      at_ = static_cast<char*>(base_);
      return;
    }
    const size_t page = sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    mapped_ = whole + 2 * page;
    base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) std::abort();
    char* const inside = static_cast<char*>(base_) + page;
    if (whole && mprotect(inside, whole, PROT_READ | PROT_WRITE)) std::abort();
    std::memset(inside, kCanary, whole);
    at_ = place == kBeforePage ? inside + (whole - bytes) : inside;
    inside_ = inside, whole_ = whole;
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() {
    if (place_ == kHeap)
      std::free(base_);
    else
      munmap(base_, mapped_);
  }

  template <class T = void>
  T* at() {
    return reinterpret_cast<T*>(at_);
  }
  void fill(int byte) { std::memset(at_, byte, bytes_); }
  // What lies between the buffer and the far page is untouched.
  bool clean() const {
    for (const char* p = inside_; p < inside_ + whole_; ++p)
      if ((p < at_ || p >= at_ + bytes_) && *p != static_cast<char>(kCanary)) return false;
    return true;
  }
  bool same(const Buffer& other) const { return std::memcmp(at_, other.at_, bytes_) == 0; }

 private:
  static constexpr int kCanary = 0x5c;
  size_t bytes_, mapped_ = 0, whole_ = 0;
  Place place_;
  void* base_ = nullptr;
  char *at_ = nullptr, *inside_ = nullptr;
};

// ------------------------------------------------------------------------------------------------------------- threads

int64_t g_threads = 1;

void run_on_threads(int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
  const int64_t parts = std::min(count, g_threads);
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < parts; ++part)
    threads.emplace_back(body, context, part * count / parts, (part + 1) * count / parts);
  for (auto& thread : threads) thread.join();
}

// ---------------------------------------------------------------------------------------------- values of every dtype

size_t size_of(Type type) { return type == Type::kFloat64 ? 8 : type == Type::kFloat32 ? 4 : 2; }

double read(const void* from, int64_t i, Type type) {
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

void write(void* to, int64_t i, Type type, double value) {
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

// ------------------------------------------------------------------------------------------------------------ formulas

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
double share(double z) { return 0.5 * std::erfc(-z * 0.70710678118654752440); }
double soft(double z) { return std::tanh(z > 30 ? z : std::log1p(std::exp(z))); }

double value(int kind, double z) {
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

double slope(int kind, double z) {
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

// --------------------------------------------------------------------------------------------------------------- cases

struct Case {
  const Kernels* kernels;
  Shape shape;
  int activation;
  bool residual, by_batch, scaled, shifted, wants_dx, wants_dresidual;
  int64_t threads;
  Place place;

  std::string name() const {
    char text[256];
    std::snprintf(text, sizeof text,
                  "%s type %d (%lld, %lld, %lld)%s activation %d residual %d batch %d scale %d shift %d dx %d dr %d "
                  "threads %lld place %d",
                  kernels->name, static_cast<int>(shape.type), static_cast<long long>(shape.n),
                  static_cast<long long>(shape.c), static_cast<long long>(shape.s), shape.channels_last ? " last" : "",
                  activation, residual, by_batch, scaled, shifted, wants_dx, wants_dresidual,
                  static_cast<long long>(threads), static_cast<int>(place));
    return text;
  }
};

int64_t g_cases = 0, g_failures = 0;

void check(bool right, const Case& one, const std::string& what) {
  if (right) return;
  if (++g_failures <= 20) std::printf("WRONG: %s: %s\n", one.name().c_str(), what.c_str());
}

// All that a call writes.
struct Outputs {
  Buffer y, mean, var, bits, dx, dresidual, dscale, dshift;
  Outputs(const Case& c, int byte)
      : y(c.shape.elements() * size_of(c.shape.type), c.place),
        mean(c.shape.c * 8, c.place),
        var(c.shape.c * 8, c.place),
        bits(c.kernels->bytes_of_bits(c.shape), c.place),
        dx(c.wants_dx ? c.shape.elements() * size_of(c.shape.type) : 0, c.place),
        dresidual(c.wants_dresidual ? c.shape.elements() * size_of(c.shape.type) : 0, c.place),
        dscale(c.shape.c * 8, c.place),
        dshift(c.shape.c * 8, c.place) {
    for (Buffer* buffer : all()) buffer->fill(byte);
  }
  std::vector<Buffer*> all() { return {&y, &mean, &var, &bits, &dx, &dresidual, &dscale, &dshift}; }
};

struct Inputs {
  Buffer x, dy, residual, scale, shift;
  std::vector<double> mean, var;

  Inputs(const Case& c, std::mt19937& draw)
      : x(c.shape.elements() * size_of(c.shape.type), c.place),
        dy(c.shape.elements() * size_of(c.shape.type), c.place),
        residual(c.residual ? c.shape.elements() * size_of(c.shape.type) : 0, c.place),
        scale(c.shape.c * 8, c.place),
        shift(c.shape.c * 8, c.place),
        mean(c.shape.c),
        var(c.shape.c) {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < c.shape.elements(); ++i) {
      write(x.at(), i, c.shape.type, 0.5 + normal(draw));
      write(dy.at(), i, c.shape.type, normal(draw));
      if (c.residual) write(residual.at(), i, c.shape.type, normal(draw));
    }
    for (int64_t i = 0; i < c.shape.c; ++i) {
      scale.at<double>()[i] = 1 + 0.3 * normal(draw), shift.at<double>()[i] = normal(draw);
      mean[i] = 0.4 + 0.1 * normal(draw), var[i] = 0.8 + 0.1 * std::abs(normal(draw));
    }
  }
};

constexpr double kEps = 1e-5;
constexpr int kBits[] = {1, 2, 3};  // activations whose slope one bit tells

bool told_by_bits(const Case& c) {
  return c.residual && std::find(std::begin(kBits), std::end(kBits), c.activation) != std::end(kBits);
}

void call(const Case& c, Inputs& in, Outputs& out) {
  g_threads = c.threads;
  const Threads threads{run_on_threads, c.threads};
  Forward f{};
  f.shape = c.shape, f.x = in.x.at(), f.residual = c.residual ? in.residual.at() : nullptr, f.y = out.y.at();
  f.bits = told_by_bits(c) ? out.bits.at<uint8_t>() : nullptr;
  f.scale = c.scaled ? in.scale.at<double>() : nullptr, f.shift = c.shifted ? in.shift.at<double>() : nullptr;
  f.mean = out.mean.at<double>(), f.var = out.var.at<double>();
  if (!c.by_batch) {
    std::copy(in.mean.begin(), in.mean.end(), f.mean);
    std::copy(in.var.begin(), in.var.end(), f.var);
  }
  f.eps = kEps, f.activation = c.activation, f.by_batch = c.by_batch;
  c.kernels->forward(f, threads);

  Backward b{};
  b.shape = c.shape, b.dy = in.dy.at(), b.x = in.x.at();
  b.residual = c.residual && c.activation && !f.bits ? in.residual.at() : nullptr;
  b.bits = f.bits, b.scale = f.scale, b.shift = f.shift, b.mean = f.mean, b.var = f.var;
  b.dx = c.wants_dx ? out.dx.at() : nullptr, b.dresidual = c.wants_dresidual ? out.dresidual.at() : nullptr;
  b.dscale = out.dscale.at<double>(), b.dshift = out.dshift.at<double>();
  b.eps = kEps, b.activation = c.activation, b.by_batch = c.by_batch, b.count = c.shape.values();
  c.kernels->backward(b, threads);
}

// Against the formulas. Where rounding decides on which side of a kink a value falls, dy is made 0 first.
struct Truth {
  std::vector<double> mean, var, z;
  const Shape& shape;

  int64_t channel(int64_t i) const { return shape.channels_last ? i % shape.c : i / shape.s % shape.c; }

  Truth(const Case& c, Inputs& in) : mean(in.mean), var(in.var), z(c.shape.elements()), shape(c.shape) {
    const Type type = shape.type;
    if (c.by_batch) {
      std::fill(mean.begin(), mean.end(), 0), std::fill(var.begin(), var.end(), 0);
      for (int64_t i = 0; i < shape.elements(); ++i) mean[channel(i)] += read(in.x.at(), i, type) / shape.values();
      for (int64_t i = 0; i < shape.elements(); ++i) {
        const double d = read(in.x.at(), i, type) - mean[channel(i)];
        var[channel(i)] += d * d / shape.values();
      }
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const int64_t at = channel(i);
      z[i] = (read(in.x.at(), i, type) - mean[at]) / std::sqrt(var[at] + kEps);
      z[i] = z[i] * (c.scaled ? in.scale.at<double>()[at] : 1) + (c.shifted ? in.shift.at<double>()[at] : 0);
      if (c.residual) z[i] += read(in.residual.at(), i, type);
      for (const double kink : {-3.0, 0.0, 3.0, 6.0})
        if (c.activation && std::abs(z[i] - kink) < 1e-3) write(in.dy.at(), i, type, 0);
    }
  }

  void compare(const Case& c, Inputs& in, Outputs& out) const {
    const Type type = shape.type;
    const double unit = type == Type::kFloat64 ? 1e-11 : type == Type::kFloat32 ? 2e-5 : type == Type::kHalf ? 2e-3 : 2e-2;
    const double inner = type == Type::kFloat64 ? 1e-11 : 2e-5;
    const auto close = [&](double found, double right, double size, const char* what, int64_t i) {
      if (std::abs(found - right) <= size) return;
      check(false, c, what + (" " + std::to_string(i)) + ": " + std::to_string(found) + " for " + std::to_string(right));
    };
    std::vector<double> sum(shape.c), product(shape.c), size(shape.c), inv(shape.c), factor(shape.c);
    for (int64_t i = 0; i < shape.c; ++i) {
      close(out.mean.at<double>()[i], mean[i], inner, "mean", i);
      close(out.var.at<double>()[i], var[i], inner * (1 + var[i]), "var", i);
      inv[i] = 1 / std::sqrt(var[i] + kEps), factor[i] = inv[i] * (c.scaled ? in.scale.at<double>()[i] : 1);
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const int64_t at = channel(i);
      const double g = read(in.dy.at(), i, type) * slope(c.activation, z[i]);
      const double d = (read(in.x.at(), i, type) - mean[at]) * inv[at];
      sum[at] += g, product[at] += g * d, size[at] += std::abs(g) * (1 + std::abs(d));
      const double y = value(c.activation, z[i]);
      // The variance of one value is 0: the spread is sqrt(eps), and what rounding leaves is that much larger.
      const double wide = c.by_batch && shape.values() < 3 ? inv[at] : 1;
      close(read(out.y.at(), i, type), y, unit * (1 + std::abs(y) + std::abs(z[i])) * wide, "y", i);
    }
    for (int64_t i = 0; i < shape.c; ++i) {
      const double wide = c.by_batch && shape.values() < 3 ? inv[i] : 1;
      close(out.dshift.at<double>()[i], sum[i], inner * (1 + size[i]) * wide, "dshift", i);
      close(out.dscale.at<double>()[i], product[i], inner * (1 + size[i]) * wide, "dscale", i);
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const int64_t at = channel(i);
      const double g = read(in.dy.at(), i, type) * slope(c.activation, z[i]);
      const double d = (read(in.x.at(), i, type) - mean[at]) * inv[at], n = shape.values();
      const double dx = factor[at] * (c.by_batch ? g - sum[at] / n - d * product[at] / n : g);
      const double wide = c.by_batch && shape.values() < 3 ? inv[at] : 1;
      const double bound = unit * (1 + std::abs(g)) * (1 + std::abs(factor[at])) * (1 + std::abs(d)) * wide;
      if (c.wants_dx) close(read(out.dx.at(), i, type), dx, bound, "dx", i);
      if (c.wants_dresidual) close(read(out.dresidual.at(), i, type), g, unit * (1 + std::abs(g)), "dresidual", i);
    }
  }
};

void examine(const Case& c, std::mt19937& draw) {
  ++g_cases;
  Inputs in(c, draw);
  const Truth truth(c, in);
  Outputs one(c, 0xff), two(c, 0x3a);  // NaN in every dtype, and a number in every dtype
  call(c, in, one);
  call(c, in, two);
  if (!told_by_bits(c)) one.bits.fill(0), two.bits.fill(0);
  const auto first = one.all(), second = two.all();
  for (size_t i = 0; i < first.size(); ++i) {
    check(first[i]->same(*second[i]), c, "output " + std::to_string(i) + " is not written whole, or read before it is");
    check(first[i]->clean() && second[i]->clean(), c, "a write beside output " + std::to_string(i));
  }
  for (Buffer* buffer : {&in.x, &in.dy, &in.residual, &in.scale, &in.shift})
    check(buffer->clean(), c, "a write beside an input");
  if (c.shape.elements()) truth.compare(c, in, one);
}

// An output large enough to be written past the caches, and the same where its address does not permit that.
void examine_streamed(const Kernels* kernels, Type type, bool last, int activation, bool residual, std::mt19937& draw) {
  ++g_cases;
  const Shape shape{static_cast<int64_t>(16 / size_of(type)), 48, 65536, last, type};
  const Case c{kernels, shape, activation, residual, true, true, true, true, residual, 3, kHeap};
  Inputs in(c, draw);
  Outputs aligned(c, 0xff);
  call(c, in, aligned);
  Case elsewhere = c;
  elsewhere.place = kBeforePage;
  Outputs other(elsewhere, 0x3a);
  call(elsewhere, in, other);
  check(aligned.y.same(other.y) && aligned.dx.same(other.dx) && aligned.dresidual.same(other.dresidual), c,
        "streamed output differs");
  check(other.y.clean() && other.dx.clean(), c, "a write beside a streamed output");
}

}  // namespace

int main(int count, char** arguments) {
  const bool brief = count > 1 && !std::strcmp(arguments[1], "brief");
  const int64_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 130};
  std::vector<Shape> small, large;
  for (const int64_t length : lengths) {
    small.push_back({3, 2, length}), small.push_back({3, length, 2}), small.push_back({1, length, 5});
  }
  for (const Shape& empty : {Shape{0, 3, 5}, Shape{3, 0, 5}, Shape{3, 5, 0}, Shape{0, 0, 0}, Shape{1, 1, 1}, Shape{2, 1, 1}})
    small.push_back(empty);
  // More than one chunk of sums by a little; enough elements for threads; more channels than threads and fewer.
  for (const Shape& shape : {Shape{1, 2, 4095}, Shape{1, 2, 4097}, Shape{1, 1, 8193}, Shape{2, 3, 12301}, Shape{4099, 5, 1},
                             Shape{257, 67, 1}, Shape{9, 33, 65}, Shape{3, 130, 67}, Shape{2, 260, 37}, Shape{1, 8200, 3},
                             Shape{20000, 1, 1}, Shape{1, 1, 20001}})
    large.push_back(shape);

  std::mt19937 draw(0);
  const auto flip = [&] { return draw() % 2 == 0; };
  int place = 0;
  for (const char* name : {"avx512", "avx2", "baseline"}) {
    const Kernels* const kernels = normwise::kernels(name);
    if (!kernels || std::strcmp(kernels->name, name)) {
      std::printf("%s: not on this processor\n", name);
      continue;
    }
    const int64_t before = g_cases;
    for (int type = 0; type < 4; ++type)
      for (const bool last : {false, true}) {
        for (const bool is_large : {false, true})
          for (Shape shape : is_large ? large : small) {
            shape.channels_last = last, shape.type = static_cast<Type>(type);
            for (int activation = 0; activation <= 10; ++activation)
              for (const bool residual : {false, true})
                for (const bool by_batch : {false, true}) {
                  if (brief && draw() % 8) continue;
                  if (draw() % (is_large && activation > 1 ? 8 : 2)) continue;
                  const int64_t threads[] = {1, 2, 3, 8};
                  const bool dresidual = residual && flip();
                  const Case c{kernels, shape,  activation, residual,          by_batch,
                               flip(),  flip(), flip(),     dresidual,         threads[draw() % 4],
                               static_cast<Place>(place++ % kPlaces)};
                  examine(c, draw);
                }
          }
        if (!brief) {
          examine_streamed(kernels, static_cast<Type>(type), last, 0, false, draw);
          examine_streamed(kernels, static_cast<Type>(type), last, 1, true, draw);
        }
      }
    std::printf("%s: %lld cases\n", name, static_cast<long long>(g_cases - before));
  }
  std::printf("%lld cases, %lld wrong\n", static_cast<long long>(g_cases), static_cast<long long>(g_failures));
  return g_failures ? 1 : g_cases == 0;
}
