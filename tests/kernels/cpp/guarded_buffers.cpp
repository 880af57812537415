// The kernels over buffers that hold not one byte too many, without Python and PyTorch, for `make sanitize`.
//
// Every buffer lies between red zones of AddressSanitizer, or ends at a page that nobody may touch, or starts behind
// one: AddressSanitizer does not look at the vector instructions with masks, the page does. Outputs are filled before
// the call with one pattern and then another: what was not written, or was read before it was, shows as a difference.
// Results are compared with formulas in double, written out one value at a time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "buffers.h"
#include "formulas.h"

namespace {

// ------------------------------------------------------------------------------------------------------------- threads

int64_t g_threads = 1;

void run_on_threads(int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
  const int64_t parts = std::min(count, g_threads);
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < parts; ++part)
    threads.emplace_back(body, context, part * count / parts, (part + 1) * count / parts);
  for (auto& thread : threads) thread.join();
}

// --------------------------------------------------------------------------------------------------------------- cases

struct Case {
  const Kernels* kernels;
  Shape shape;
  int activation;
  bool residual, by_batch, scaled, shifted, wants_dx, wants_dresidual;
  int64_t threads;
  Place place;
  bool masked = false;
  int64_t share = 1;  // channels in a row that have their statistics in common

  int64_t channel(int64_t i) const { return shape.channels_last ? i % shape.c : i / shape.s % shape.c; }
  int64_t position(int64_t i) const {
    return shape.channels_last ? i / shape.c : i / shape.s / shape.c * shape.s + i % shape.s;
  }

  std::string name() const {
    char text[256];
    std::snprintf(text, sizeof text,
                  "%s type %d (%lld, %lld, %lld)%s activation %d residual %d batch %d scale %d shift %d dx %d dr %d "
                  "threads %lld place %d mask %d share %lld",
                  kernels->name, static_cast<int>(shape.type), static_cast<long long>(shape.n),
                  static_cast<long long>(shape.c), static_cast<long long>(shape.s), shape.channels_last ? " last" : "",
                  activation, residual, by_batch, scaled, shifted, wants_dx, wants_dresidual,
                  static_cast<long long>(threads), static_cast<int>(place), masked,
                  static_cast<long long>(share));
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
  Buffer x, dy, residual, mask, scale, shift;
  std::vector<double> mean, var;
  int64_t count = 0;  // of positions that count

  Inputs(const Case& c, std::mt19937& draw)
      : x(c.shape.elements() * size_of(c.shape.type), c.place),
        dy(c.shape.elements() * size_of(c.shape.type), c.place),
        residual(c.residual ? c.shape.elements() * size_of(c.shape.type) : 0, c.place),
        mask(c.masked ? c.shape.values() : 0, c.place),
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
    if (c.masked) blank(c, draw);
    for (int64_t i = 0; i < c.shape.values(); ++i) count += counts(i);
    for (int64_t i = 0; i < c.shape.c; ++i) {
      scale.at<double>()[i] = 1 + 0.3 * normal(draw), shift.at<double>()[i] = normal(draw);
      mean[i] = 0.4 + 0.1 * normal(draw), var[i] = 0.8 + 0.1 * std::abs(normal(draw));
    }
  }

  bool counts(int64_t position) { return !mask.size() || mask.at<uint8_t>()[position]; }

 private:
  // Most positions, a few or none; where they do not count, the values are NaN.
  void blank(const Case& c, std::mt19937& draw) {
    const unsigned share[] = {0, 10, 50, 97, 100}, percent = share[draw() % 5];
    const int64_t late = draw() % 3 ? 0 : c.shape.values() / 2;  // where the first ones that count may be
    for (int64_t i = 0; i < c.shape.values(); ++i) mask.at<uint8_t>()[i] = i >= late && draw() % 100 < percent;
    for (int64_t i = 0; i < c.shape.elements(); ++i) {
      if (counts(c.position(i))) continue;
      for (Buffer* buffer : {&x, &dy, &residual})
        if (buffer->size()) write(buffer->at(), i, c.shape.type, NAN);
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
  f.mask = c.masked ? in.mask.at<uint8_t>() : nullptr, f.share = c.share;
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
  b.eps = kEps, b.activation = c.activation, b.by_batch = c.by_batch, b.mask = f.mask, b.count = in.count * c.share, b.share = c.share;
  c.kernels->backward(b, threads);
}

// Against the formulas. Where rounding decides on which side of a kink a value falls, dy is made 0 first.
struct Truth {
  std::vector<double> mean, var, z;
  const Shape& shape;
  double number;  // of values behind a statistic

  // The first of the channels that share this element's statistics.
  static int64_t unit(const Case& c, int64_t i) { return c.channel(i) / c.share * c.share; }

  Truth(const Case& c, Inputs& in)
      : mean(in.mean), var(in.var), z(c.shape.elements()), shape(c.shape), number(std::max<double>(in.count, 1) * c.share) {
    const Type type = shape.type;
    if (c.by_batch) {
      std::fill(mean.begin(), mean.end(), 0), std::fill(var.begin(), var.end(), 0);
      for (int64_t i = 0; i < shape.elements(); ++i)
        if (in.counts(c.position(i))) mean[unit(c, i)] += read(in.x.at(), i, type) / number;
      for (int64_t i = 0; i < shape.elements(); ++i) {
        if (!in.counts(c.position(i))) continue;
        const double d = read(in.x.at(), i, type) - mean[unit(c, i)];
        var[unit(c, i)] += d * d / number;
      }
      for (int64_t i = 0; i < shape.c; ++i) mean[i] = mean[i / c.share * c.share], var[i] = var[i / c.share * c.share];
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      if (!in.counts(c.position(i))) continue;
      const int64_t at = c.channel(i);
      z[i] = (read(in.x.at(), i, type) - mean[at]) / std::sqrt(var[at] + kEps);
      z[i] = z[i] * (c.scaled ? in.scale.at<double>()[at] : 1) + (c.shifted ? in.shift.at<double>()[at] : 0);
      if (c.residual) z[i] += read(in.residual.at(), i, type);
      for (const double kink : {-3.0, 0.0, 3.0, 6.0})
        if (c.activation && std::abs(z[i] - kink) < 1e-3) write(in.dy.at(), i, type, 0);
    }
  }

  void compare(const Case& c, Inputs& in, Outputs& out) const {
    const Type type = shape.type;
    const double inner = type == Type::kFloat64 ? 1e-11 : 2e-5;
    const auto close = [&](double found, double right, double size, const char* what, int64_t i) {
      if (std::abs(found - right) <= size) return;
      check(false, c, what + (" " + std::to_string(i)) + ": " + std::to_string(found) + " for " + std::to_string(right));
    };
    std::vector<double> sum(shape.c), product(shape.c), size(shape.c), inv(shape.c), factor(shape.c);
    std::vector<double> all(shape.c), all_products(shape.c);  // of the channels that share statistics, times their scale
    // The variance of one value is 0: the spread is sqrt(eps), and what rounding leaves is that much larger.
    const auto wide = [&](int64_t at) { return c.by_batch && number < 3 ? inv[at] : 1; };
    for (int64_t i = 0; i < shape.c; ++i) {
      close(out.mean.at<double>()[i], mean[i], inner, "mean", i);
      close(out.var.at<double>()[i], var[i], inner * (1 + var[i]), "var", i);
      inv[i] = 1 / std::sqrt(var[i] + kEps), factor[i] = inv[i] * (c.scaled ? in.scale.at<double>()[i] : 1);
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const int64_t at = c.channel(i), first = unit(c, i);
      if (!in.counts(c.position(i))) {
        close(read(out.y.at(), i, type), 0, 0, "masked y", i);
        continue;
      }
      const double g = read(in.dy.at(), i, type) * slope(c.activation, z[i]);
      const double d = (read(in.x.at(), i, type) - mean[at]) * inv[at], scale = factor[at] / inv[at];
      sum[at] += g, product[at] += g * d, size[at] += std::abs(g) * (1 + std::abs(d));
      all[first] += scale * g, all_products[first] += scale * g * d;
      const double y = value(c.activation, z[i]);
      close(read(out.y.at(), i, type), y, unit_of(type) * (1 + std::abs(y) + std::abs(z[i])) * wide(at), "y", i);
    }
    for (int64_t i = 0; i < shape.c; ++i) {
      close(out.dshift.at<double>()[i], sum[i], inner * (1 + size[i]) * wide(i), "dshift", i);
      close(out.dscale.at<double>()[i], product[i], inner * (1 + size[i]) * wide(i), "dscale", i);
    }
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const int64_t at = c.channel(i), first = unit(c, i);
      if (!in.counts(c.position(i))) {
        if (c.wants_dx) close(read(out.dx.at(), i, type), 0, 0, "masked dx", i);
        if (c.wants_dresidual) close(read(out.dresidual.at(), i, type), 0, 0, "masked dresidual", i);
        continue;
      }
      const double g = read(in.dy.at(), i, type) * slope(c.activation, z[i]);
      const double d = (read(in.x.at(), i, type) - mean[at]) * inv[at];
      const double through = (all[first] + d * all_products[first]) / number;
      const double dx = factor[at] * g - (c.by_batch ? inv[at] * through : 0);
      const double bound =
          unit_of(type) * (1 + std::abs(g)) * (1 + std::abs(factor[at]) + inv[at]) * (1 + std::abs(d)) * wide(at);
      if (c.wants_dx) close(read(out.dx.at(), i, type), dx, bound, "dx", i);
      if (c.wants_dresidual) close(read(out.dresidual.at(), i, type), g, unit_of(type) * (1 + std::abs(g)), "dresidual", i);
    }
  }

  static double unit_of(Type type) {
    return type == Type::kFloat64 ? 1e-11 : type == Type::kFloat32 ? 2e-5 : type == Type::kHalf ? 2e-3 : 2e-2;
  }
};

void examine(const Case& c, std::mt19937& draw) {
  ++g_cases;
  Inputs in(c, draw);
  const Truth truth(c, in);
  Outputs one(c, 0xff), two(c, 0x3a);  // NaN in every dtype, and a number in every dtype
  call(c, in, one);
  call(c, in, two);
  // Of masked rows nobody asks for bits.
  if (!told_by_bits(c) || (c.masked && c.shape.channels_last)) one.bits.fill(0), two.bits.fill(0);
  const auto first = one.all(), second = two.all();
  for (size_t i = 0; i < first.size(); ++i) {
    check(first[i]->same(*second[i]), c, "output " + std::to_string(i) + " is not written whole, or read before it is");
    check(first[i]->clean() && second[i]->clean(), c, "a write beside output " + std::to_string(i));
  }
  for (Buffer* buffer : {&in.x, &in.dy, &in.residual, &in.mask, &in.scale, &in.shift})
    check(buffer->clean(), c, "a write beside an input");
  if (c.shape.elements()) truth.compare(c, in, one);
}

// An output large enough to be written past the caches, and the same where its address does not permit that.
void examine_streamed(const Kernels* kernels, Type type, bool last, int activation, bool residual, bool masked,
                      std::mt19937& draw) {
  ++g_cases;
  const Shape shape{static_cast<int64_t>(16 / size_of(type)), 48, 16384, last, type};  // 12 MB
  const Case c{kernels, shape, activation, residual, true, true, true, true, residual, 3, kHeap, masked};
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
                             Shape{20000, 1, 1}, Shape{1, 1, 20001}, Shape{131, 520, 1}, Shape{67, 1030, 1},
                             Shape{3, 5, 2049}, Shape{4097, 17, 1}, Shape{40, 2100, 1}})
    large.push_back(shape);
  // As group norm has them: samples times channels, of which so many share their statistics.
  const struct {
    Shape shape;
    int64_t share;
  } grouped[] = {{{1, 6, 5}, 3}, {{1, 24, 17}, 2}, {{1, 40, 1}, 5}, {{1, 12, 4099}, 3}, {{1, 64, 33}, 32}};

  std::mt19937 draw(0);
  const auto flip = [&] { return draw() % 2 == 0; };
  int place = 0;
  for (const char* name : {"avx512_bf16", "avx512", "avx2", "baseline"}) {
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
                               static_cast<Place>(place++ % kPlaces), draw() % 3 == 0};
                  examine(c, draw);
                }
          }
        for (const auto& [shape, share] : grouped) {
          if (last) break;
          for (int activation = 0; activation <= 2; ++activation)
            for (const bool residual : {false, true})
              for (const int64_t threads : {1, 3}) {
                Shape typed = shape;
                typed.type = static_cast<Type>(type);
                examine(Case{kernels, typed, activation, residual, true, flip(), flip(), flip(), residual, threads,
                             static_cast<Place>(place++ % kPlaces), false, share}, draw);
              }
        }
        if (!brief) {
          examine_streamed(kernels, static_cast<Type>(type), last, 0, false, false, draw);
          examine_streamed(kernels, static_cast<Type>(type), last, 1, true, false, draw);
          examine_streamed(kernels, static_cast<Type>(type), last, 1, true, true, draw);
        }
      }
    std::printf("%s: %lld cases\n", name, static_cast<long long>(g_cases - before));
  }
  std::printf("%lld cases, %lld wrong\n", static_cast<long long>(g_cases), static_cast<long long>(g_failures));
  return g_failures ? 1 : g_cases == 0;
}
