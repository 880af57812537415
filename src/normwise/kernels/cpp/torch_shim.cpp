// The kernels as PyTorch operators, on PyTorch's own threads, through its stable C++ interface: one build serves every
// PyTorch from 2.11 on. Autograd, shapes for tracing and the choice of when to use them are in normwise/torch.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace {

using normwise::Backward;
using normwise::Forward;
using normwise::Kernels;
using normwise::Shape;
using normwise::Threads;
using normwise::Type;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr const char* kUnknown = "normwise: NORMWISE_ISA asks for an instruction set that this processor does not have";

const Kernels& active() {
  static const Kernels* const found = normwise::kernels(std::getenv("NORMWISE_ISA"));
  STD_TORCH_CHECK(found, kUnknown);
  return *found;
}

Threads torch_threads() {
  uint32_t number = 1;
  torch_get_num_threads(&number);
  const auto run = [](int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return {run, number};
}

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Type::kFloat32;
    case ScalarType::Double:
      return Type::kFloat64;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kHalf;
    default:
      STD_TORCH_CHECK(false, "normwise: float16, bfloat16, float32 or float64 is wanted");
  }
}

// A tensor like x to be written whole; a large one in memory from the pool.
Tensor output_like(const Tensor& x) {
  const size_t bytes = x.numel() * x.element_size();
  if (bytes < normwise::pool::kSmallest || normwise::pool::state().limit <= 0) return torch::stable::empty_like(x);
  void* const block = normwise::pool::take(bytes);
  if (!block) return torch::stable::empty_like(x);  // whose allocator knows how to say that memory is out
  std::vector<int64_t> sizes(x.dim()), strides(x.dim());
  for (int64_t axis = 0; axis < x.dim(); ++axis) sizes[axis] = x.size(axis), strides[axis] = x.stride(axis);
  return torch::stable::from_blob(block, sizes, strides, x.device(), x.scalar_type(),
                                  [bytes](void* at) { normwise::pool::give(at, bytes); });
}

// Whether the axes in this order, outermost first, are dense in memory.
bool dense(const Tensor& x, const std::vector<int64_t>& order) {
  if (x.numel() == 0) return true;
  int64_t expected = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    if (x.size(*axis) != 1 && x.stride(*axis) != expected) return false;
    expected *= x.size(*axis);
  }
  return true;
}

Shape shape_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2 && x.is_cpu(), "normwise: a tensor (N, C, ...) on the CPU is wanted");
  std::vector<int64_t> first{0, 1}, last{0};
  int64_t s = 1;
  for (int64_t axis = 2; axis < x.dim(); ++axis) {
    first.push_back(axis), last.push_back(axis);
    s *= x.size(axis);
  }
  last.push_back(1);
  Shape shape{x.size(0), x.size(1), s, dense(x, last), type_of(x)};
  STD_TORCH_CHECK(shape.channels_last || dense(x, first), "normwise: a dense tensor is wanted, channels first or last");
  return shape;
}

// Of group norm: each sample's channels are channels of their own.
Shape shape_of_groups(const Tensor& x, int64_t groups) {
  const Shape given = shape_of(x);
  STD_TORCH_CHECK(x.is_contiguous() && groups > 0 && given.c % groups == 0,
                  "normwise: groups of the channels of a contiguous tensor are wanted");
  return {1, given.n * given.c, given.s, false, given.type};
}

// The tensor in the memory layout and the dtype of x; a copy where it has another.
Tensor like(const Tensor& tensor, const Tensor& x, const char* name) {
  bool same = tensor.scalar_type() == x.scalar_type() && tensor.dim() == x.dim();
  STD_TORCH_CHECK(tensor.dim() == x.dim(), "normwise: ", name, " must have the shape of the input");
  for (int64_t axis = 0; axis < x.dim(); ++axis) {
    STD_TORCH_CHECK(tensor.size(axis) == x.size(axis), "normwise: ", name, " must have the shape of the input");
    same = same && (x.size(axis) == 1 || tensor.stride(axis) == x.stride(axis));
  }
  if (same) return tensor;
  Tensor copy = torch::stable::empty_like(x);
  torch::stable::copy_(copy, tensor);
  return copy;
}

// A parameter's values in double, whatever its dtype, so many times over; empty for none.
std::vector<double> doubles(const MaybeTensor& parameter, int64_t channels, const char* name, int64_t times = 1) {
  if (!parameter) return {};
  STD_TORCH_CHECK(parameter->dim() == 1 && parameter->size(0) == channels, "normwise: ", name, " must have one value per channel");
  std::vector<double> result(channels * std::max<int64_t>(times, 1));
  const auto read = [&](const auto* values, int64_t stride) {
    for (int64_t c = 0; c < channels; ++c) result[c] = values[c * stride];
  };
  if (parameter->scalar_type() == ScalarType::Float) {  // nearly always, and then without a detour
    read(static_cast<const float*>(parameter->const_data_ptr()), parameter->stride(0));
  } else {
    const Tensor wide = torch::stable::to(*parameter, ScalarType::Double);
    read(static_cast<const double*>(wide.const_data_ptr()), wide.stride(0));
  }
  for (int64_t i = 1; i < times; ++i) std::copy_n(result.begin(), channels, result.begin() + i * channels);
  return result;
}

// A mask (N or 1, 1, *spatial or 1) as one byte per position, positions in the order of x.
MaybeTensor bytes_of(const MaybeTensor& mask, const Tensor& x) {
  if (!mask) return std::nullopt;
  STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->dim() == x.dim(), "normwise: a boolean mask is wanted");
  std::vector<int64_t> sizes(x.dim());
  for (int64_t axis = 0; axis < x.dim(); ++axis) {
    sizes[axis] = axis == 1 ? 1 : x.size(axis);
    STD_TORCH_CHECK(mask->size(axis) == 1 || mask->size(axis) == sizes[axis], "normwise: the mask does not fit the input");
  }
  Tensor whole = torch::stable::new_empty(*mask, sizes);
  return torch::stable::copy_(whole, *mask);
}

const uint8_t* pointer(const MaybeTensor& bytes) {
  return bytes ? static_cast<const uint8_t*>(bytes->const_data_ptr()) : nullptr;
}

const double* pointer(const std::vector<double>& values) { return values.empty() ? nullptr : values.data(); }

Tensor per_channel(const Tensor& x, const Shape& shape) { return torch::stable::new_empty(x, {shape.c}, ScalarType::Double); }

// A parameter's gradient in its own dtype.
Tensor as_parameter(const Tensor& gradient, const MaybeTensor& parameter) {
  if (!parameter || parameter->scalar_type() == ScalarType::Double) return gradient;
  if (parameter->scalar_type() != ScalarType::Float) return torch::stable::to(gradient, parameter->scalar_type());
  Tensor narrow = torch::stable::new_empty(gradient, {gradient.size(0)}, ScalarType::Float);  // nearly always
  const auto* from = static_cast<const double*>(gradient.const_data_ptr());
  std::copy(from, from + gradient.size(0), static_cast<float*>(narrow.mutable_data_ptr()));
  return narrow;
}

// The sums over the samples of what each sample's channels have.
Tensor over_samples(const Tensor& each, int64_t channels) {
  Tensor sums = torch::stable::new_empty(each, {channels});
  auto* const to = static_cast<double*>(sums.mutable_data_ptr());
  const auto* const from = static_cast<const double*>(each.const_data_ptr());
  std::fill_n(to, channels, 0.0);
  for (int64_t at = 0; at < each.numel(); at += channels)
    for (int64_t c = 0; c < channels; ++c) to[c] += from[at + c];
  return sums;
}

// The mean and variance of the batch, with no output.
std::tuple<Tensor, Tensor> batch_norm_moments(Tensor x, MaybeTensor mask) {
  const Shape shape = shape_of(x);
  Tensor mean = per_channel(x, shape), var = per_channel(x, shape);
  const MaybeTensor counting = bytes_of(mask, x);
  Forward task{};
  task.mask = pointer(counting);
  task.shape = shape;
  task.x = x.const_data_ptr();
  task.mean = static_cast<double*>(mean.mutable_data_ptr());
  task.var = static_cast<double*>(var.mutable_data_ptr());
  task.eps = 1.0;
  task.by_batch = true;
  task.share = 1;
  active().forward(task, torch_threads());
  return {mean, var};
}

// Statistics given: normalize by them. Not given: by the batch's own, which are returned.
std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_forward(
    Tensor x, MaybeTensor residual, MaybeTensor mask, MaybeTensor scale, MaybeTensor shift, MaybeTensor mean,
    MaybeTensor var, double eps, int64_t activation, bool keep_bits, int64_t groups) {
  STD_TORCH_CHECK(!groups || !(mask || mean), "normwise: groups have no mask and no statistics given");
  const Shape shape = groups ? shape_of_groups(x, groups) : shape_of(x);
  const int64_t channels = x.size(1), times = groups ? x.size(0) : 1;
  const bool by_batch = !mean;
  Tensor y = output_like(x);
  const std::vector<double> scales = doubles(scale, channels, "weight", times),
                            shifts = doubles(shift, channels, "bias", times);
  std::vector<double> means = doubles(mean, shape.c, "mean"), vars = doubles(var, shape.c, "var");
  Tensor mean_out = per_channel(x, shape), var_out = per_channel(x, shape);
  Tensor bits = torch::stable::new_empty(x, {keep_bits ? active().bytes_of_bits(shape) : 0}, ScalarType::Byte);
  const MaybeTensor added = residual ? MaybeTensor(like(*residual, x, "residual")) : std::nullopt;
  const MaybeTensor counting = bytes_of(mask, x);

  Forward task{};
  task.mask = pointer(counting);
  task.shape = shape;
  task.x = x.const_data_ptr();
  task.residual = added ? added->const_data_ptr() : nullptr;
  task.y = y.mutable_data_ptr();
  task.bits = keep_bits ? static_cast<uint8_t*>(bits.mutable_data_ptr()) : nullptr;
  task.scale = pointer(scales);
  task.shift = pointer(shifts);
  task.mean = static_cast<double*>(mean_out.mutable_data_ptr());
  task.var = static_cast<double*>(var_out.mutable_data_ptr());
  if (!by_batch) {
    std::copy(means.begin(), means.end(), task.mean);
    std::copy(vars.begin(), vars.end(), task.var);
  }
  task.eps = eps;
  task.activation = activation;
  task.by_batch = by_batch;
  task.share = groups ? std::max<int64_t>(channels / groups, 1) : 1;
  active().forward(task, torch_threads());
  return {y, mean_out, var_out, bits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    Tensor dy, Tensor x, MaybeTensor residual, MaybeTensor mask, MaybeTensor scale, MaybeTensor shift, Tensor mean,
    Tensor var, Tensor bits, double eps, int64_t activation, bool by_batch, bool wants_dx, bool wants_dresidual, int64_t groups) {
  const Shape shape = groups ? shape_of_groups(x, groups) : shape_of(x);
  const int64_t channels = x.size(1), times = groups ? x.size(0) : 1;
  const Tensor gradient = like(dy, x, "the gradient");
  const MaybeTensor added = residual ? MaybeTensor(like(*residual, x, "residual")) : std::nullopt;
  const std::vector<double> scales = doubles(scale, channels, "weight", times),
                            shifts = doubles(shift, channels, "bias", times);
  Tensor dscale = per_channel(x, shape), dshift = per_channel(x, shape);
  const auto output = [&](bool wanted) { return wanted ? output_like(x) : torch::stable::new_empty(x, {0}); };
  Tensor dx = output(wants_dx), dresidual = output(wants_dresidual);

  const MaybeTensor counting = bytes_of(mask, x);
  Backward task{};
  task.mask = pointer(counting);
  task.count = task.mask ? std::accumulate(task.mask, task.mask + shape.values(), int64_t{0}) : shape.values() * (groups ? channels / groups : 1);
  task.shape = shape;
  task.dy = gradient.const_data_ptr();
  task.x = x.const_data_ptr();
  task.residual = added ? added->const_data_ptr() : nullptr;
  task.bits = bits.numel() ? static_cast<const uint8_t*>(bits.const_data_ptr()) : nullptr;
  task.dx = wants_dx ? dx.mutable_data_ptr() : nullptr;
  task.dresidual = wants_dresidual ? dresidual.mutable_data_ptr() : nullptr;
  task.scale = pointer(scales);
  task.shift = pointer(shifts);
  task.mean = static_cast<const double*>(mean.const_data_ptr());
  task.var = static_cast<const double*>(var.const_data_ptr());
  task.dscale = static_cast<double*>(dscale.mutable_data_ptr());
  task.dshift = static_cast<double*>(dshift.mutable_data_ptr());
  task.eps = eps;
  task.activation = activation;
  task.by_batch = by_batch;
  task.share = groups ? std::max<int64_t>(channels / groups, 1) : 1;
  active().backward(task, torch_threads());
  if (groups) dscale = over_samples(dscale, channels), dshift = over_samples(dshift, channels);
  return {dx, as_parameter(dscale, scale), as_parameter(dshift, shift), dresidual};
}

}  // namespace

STABLE_TORCH_LIBRARY(normwise, m) {
  m.def("batch_norm_moments(Tensor x, Tensor? mask) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_forward(Tensor x, Tensor? residual, Tensor? mask, Tensor? scale, Tensor? shift, Tensor? mean, "
      "Tensor? var, float eps, int activation, bool keep_bits, int groups) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_backward(Tensor dy, Tensor x, Tensor? residual, Tensor? mask, Tensor? scale, Tensor? shift, "
      "Tensor mean, Tensor var, Tensor bits, float eps, int activation, bool by_batch, bool wants_dx, bool wants_dresidual, "
      "int groups) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(normwise, CPU, m) {
  m.impl("batch_norm_moments", TORCH_BOX(&batch_norm_moments));
  m.impl("batch_norm_forward", TORCH_BOX(&batch_norm_forward));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

// Importing the module loads the library, whose static initializers register the operators.
namespace {

PyObject* instruction_set(PyObject*, PyObject*) {
  if (const Kernels* const found = normwise::kernels(std::getenv("NORMWISE_ISA"))) return PyUnicode_FromString(found->name);
  PyErr_SetString(PyExc_RuntimeError, kUnknown);
  return nullptr;
}

PyObject* pool_state(PyObject*, PyObject*) {
  const normwise::pool::State state = normwise::pool::state();
  return Py_BuildValue("(LLLLL)", state.limit, state.kept, state.lent, state.reused, state.fresh);
}

PyObject* set_pool_limit(PyObject*, PyObject* bytes) {
  const long long limit = PyLong_AsLongLong(bytes);
  if (limit == -1 && PyErr_Occurred()) return nullptr;
  normwise::pool::set_limit(limit);
  Py_RETURN_NONE;
}

PyObject* release_pool(PyObject*, PyObject*) {
  normwise::pool::release_all();
  Py_RETURN_NONE;
}

// Running statistics by their addresses. As operators these would mark the buffers as changed, which autograd takes for a
// mistake where it has seen them; and an operator's call costs more than what there is to do.
struct Running {
  void *mean, *var;
  int64_t channels;
  bool is_double;

  int64_t bytes() const { return channels * (is_double ? sizeof(double) : sizeof(float)); }

  // From a call's first four arguments: two addresses, the number of channels, and whether they are doubles.
  static std::optional<Running> from(PyObject* const* arguments, Py_ssize_t number, Py_ssize_t expected) {
    if (number != expected) {
      PyErr_Format(PyExc_TypeError, "normwise: %zd arguments are wanted, received %zd", expected, number);
      return std::nullopt;
    }
    const Running running{PyLong_AsVoidPtr(arguments[0]), PyLong_AsVoidPtr(arguments[1]), PyLong_AsLongLong(arguments[2]),
                          PyObject_IsTrue(arguments[3]) == 1};
    return PyErr_Occurred() ? std::nullopt : std::optional<Running>(running);
  }

  // Of each channel, writes what next(mean, var, c) makes of them if both are finite; the number of those that are not.
  template <class Next>
  int64_t step(const Next& next) const {
    const auto of = [&](auto* means, auto* vars) {
      using F = std::remove_reference_t<decltype(*means)>;
      int64_t left_out = 0;
      for (int64_t c = 0; c < channels; ++c) {
        const auto [new_mean, new_var] = next(means[c], vars[c], c);
        const F a = static_cast<F>(new_mean), b = static_cast<F>(new_var);
        if (std::isfinite(a) && std::isfinite(b)) {
          means[c] = a, vars[c] = b;
        } else {
          ++left_out;
        }
      }
      return left_out;
    };
    return is_double ? of(static_cast<double*>(mean), static_cast<double*>(var))
                     : of(static_cast<float*>(mean), static_cast<float*>(var));
  }
};

PyObject* move_running(PyObject*, PyObject* const* arguments, Py_ssize_t number) {
  const auto running = Running::from(arguments, number, 8);
  if (!running) return nullptr;
  const auto *mean = static_cast<const double*>(PyLong_AsVoidPtr(arguments[4])),
             *var = static_cast<const double*>(PyLong_AsVoidPtr(arguments[5]));
  const double population = PyFloat_AsDouble(arguments[6]), weight = PyFloat_AsDouble(arguments[7]);
  if (PyErr_Occurred()) return nullptr;
  return PyLong_FromLongLong(running->step([&](double old_mean, double old_var, int64_t c) {
    return std::pair{old_mean + weight * (mean[c] - old_mean), old_var + weight * (population * var[c] - old_var)};
  }));
}

// What `remember` saw last on this thread.
thread_local std::vector<char> remembered;

PyObject* remember(PyObject*, PyObject* const* arguments, Py_ssize_t number) {
  const auto running = Running::from(arguments, number, 4);
  if (!running) return nullptr;
  const int64_t bytes = running->bytes();
  remembered.resize(2 * bytes);
  std::memcpy(remembered.data(), running->mean, bytes);
  std::memcpy(remembered.data() + bytes, running->var, bytes);
  Py_RETURN_NONE;
}

PyObject* restore_if_not_finite(PyObject*, PyObject* const* arguments, Py_ssize_t number) {
  const auto running = Running::from(arguments, number, 5);
  if (!running) return nullptr;
  auto* const updates = static_cast<int64_t*>(PyLong_AsVoidPtr(arguments[4]));
  if (PyErr_Occurred()) return nullptr;
  const int64_t bytes = running->bytes(), size = running->is_double ? sizeof(double) : sizeof(float);
  if (static_cast<int64_t>(remembered.size()) != 2 * bytes) {
    PyErr_SetString(PyExc_RuntimeError, "normwise: statistics of another size were remembered");
    return nullptr;
  }
  const auto restore = [&](int64_t c) {
    std::memcpy(static_cast<char*>(running->mean) + c * size, remembered.data() + c * size, size);
    std::memcpy(static_cast<char*>(running->var) + c * size, remembered.data() + bytes + c * size, size);
  };
  int64_t left_out = 0;
  for (int64_t c = 0; c < running->channels; ++c) {
    const bool finite = running->is_double ? std::isfinite(static_cast<double*>(running->mean)[c]) &&
                                                 std::isfinite(static_cast<double*>(running->var)[c])
                                           : std::isfinite(static_cast<float*>(running->mean)[c]) &&
                                                 std::isfinite(static_cast<float*>(running->var)[c]);
    if (!finite) restore(c), ++left_out;
  }
  if (updates && (left_out < running->channels || running->channels == 0)) ++*updates;
  return PyLong_FromLongLong(left_out);
}

template <class Function>
PyCFunction fast(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"move_running", fast(move_running), METH_FASTCALL,
     "Exponential moving average of statistics, by their addresses; how many channels are left as they were."},
    {"remember", fast(remember), METH_FASTCALL, "Keeps a copy of statistics, by their addresses."},
    {"restore_if_not_finite", fast(restore_if_not_finite), METH_FASTCALL,
     "Puts what is remembered in the place of what is not finite, and counts a batch that entered; of how many channels."},
    {"instruction_set", instruction_set, METH_NOARGS, "The instruction set that the kernels use on this processor."},
    {"pool_state", pool_state, METH_NOARGS, "Bytes at most, kept and lent; blocks reused and fresh."},
    {"set_pool_limit", set_pool_limit, METH_O, "How many bytes the pool keeps at most; 0 switches it off."},
    {"release_pool", release_pool, METH_NOARGS, "Gives everything that the pool keeps back to the system."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_torch_kernels", "normwise's kernels as PyTorch operators.", -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__torch_kernels() { return PyModule_Create(&module); }
