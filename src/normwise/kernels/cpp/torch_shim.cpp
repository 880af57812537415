// The kernels as PyTorch operators, on PyTorch's own threads, through its stable C++ interface: one build serves every
// PyTorch from 2.11 on. Autograd, shapes for tracing and the choice of when to use them are in normwise/torch.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <optional>
#include <tuple>
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

const Kernels& active() {
  static const Kernels* const found = normwise::kernels(std::getenv("NORMWISE_ISA"));
  STD_TORCH_CHECK(found, "normwise: NORMWISE_ISA asks for an instruction set that this processor does not have");
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
  if (bytes < normwise::pool::kSmallest || normwise::pool::state().limit == 0) return torch::stable::empty_like(x);
  void* const block = normwise::pool::take(bytes);
  if (!block) return torch::stable::empty_like(x);  // whose allocator knows how to say that memory is out
  std::vector<int64_t> sizes(x.dim()), strides(x.dim());
  for (int64_t axis = 0; axis < x.dim(); ++axis) sizes[axis] = x.size(axis), strides[axis] = x.stride(axis);
  return torch::stable::from_blob(block, sizes, strides, x.device(), x.scalar_type(),
                                  [bytes](void* at) { normwise::pool::give(at, bytes); });
}

// Whether the axes in this order, outermost first, are dense in memory.
bool dense(const Tensor& x, const std::vector<int64_t>& order) {
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

// A parameter's values in double, whatever its dtype; empty for none.
std::vector<double> doubles(const MaybeTensor& parameter, int64_t channels, const char* name) {
  if (!parameter) return {};
  STD_TORCH_CHECK(parameter->dim() == 1 && parameter->size(0) == channels, "normwise: ", name, " must have one value per channel");
  const Tensor wide = parameter->scalar_type() == ScalarType::Double ? *parameter
                                                                     : torch::stable::to(*parameter, ScalarType::Double);
  const auto* values = static_cast<const double*>(wide.const_data_ptr());
  std::vector<double> result(channels);
  for (int64_t c = 0; c < channels; ++c) result[c] = values[c * wide.stride(0)];
  return result;
}

const double* pointer(const std::vector<double>& values) { return values.empty() ? nullptr : values.data(); }

Tensor per_channel(const Tensor& x) { return torch::stable::new_empty(x, {x.size(1)}, ScalarType::Double); }

// A parameter's gradient in its own dtype.
Tensor as_parameter(const Tensor& gradient, const MaybeTensor& parameter) {
  if (!parameter || parameter->scalar_type() == ScalarType::Double) return gradient;
  return torch::stable::to(gradient, parameter->scalar_type());
}

// Statistics given: normalize by them. Not given: by the batch's own, which are returned.
std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_forward(
    Tensor x, MaybeTensor residual, MaybeTensor scale, MaybeTensor shift, MaybeTensor mean, MaybeTensor var, double eps,
    int64_t activation, bool keep_bits) {
  const Shape shape = shape_of(x);
  const bool by_batch = !mean;
  Tensor y = output_like(x);
  const std::vector<double> scales = doubles(scale, shape.c, "weight"), shifts = doubles(shift, shape.c, "bias");
  std::vector<double> means = doubles(mean, shape.c, "mean"), vars = doubles(var, shape.c, "var");
  Tensor mean_out = per_channel(x), var_out = per_channel(x);
  Tensor bits = torch::stable::new_empty(x, {keep_bits ? active().bytes_of_bits(shape) : 0}, ScalarType::Byte);
  const MaybeTensor added = residual ? MaybeTensor(like(*residual, x, "residual")) : std::nullopt;

  Forward task{};
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
  task.activation = static_cast<int>(activation);
  task.by_batch = by_batch;
  active().forward(task, torch_threads());
  return {y, mean_out, var_out, bits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    Tensor dy, Tensor x, MaybeTensor residual, MaybeTensor scale, MaybeTensor shift, Tensor mean, Tensor var, Tensor bits,
    double eps, int64_t activation, bool by_batch, bool wants_dx, bool wants_dresidual) {
  const Shape shape = shape_of(x);
  const Tensor gradient = like(dy, x, "the gradient");
  const MaybeTensor added = residual ? MaybeTensor(like(*residual, x, "residual")) : std::nullopt;
  const std::vector<double> scales = doubles(scale, shape.c, "weight"), shifts = doubles(shift, shape.c, "bias");
  Tensor dscale = per_channel(x), dshift = per_channel(x);
  const auto output = [&](bool wanted) { return wanted ? output_like(x) : torch::stable::new_empty(x, {0}); };
  Tensor dx = output(wants_dx), dresidual = output(wants_dresidual);

  Backward task{};
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
  task.activation = static_cast<int>(activation);
  task.by_batch = by_batch;
  active().backward(task, torch_threads());
  return {dx, as_parameter(dscale, scale), as_parameter(dshift, shift), dresidual};
}

}  // namespace

STABLE_TORCH_LIBRARY(normwise, m) {
  m.def(
      "batch_norm_forward(Tensor x, Tensor? residual, Tensor? scale, Tensor? shift, Tensor? mean, Tensor? var, "
      "float eps, int activation, bool keep_bits) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_backward(Tensor dy, Tensor x, Tensor? residual, Tensor? scale, Tensor? shift, Tensor mean, Tensor var, "
      "Tensor bits, float eps, int activation, bool by_batch, bool wants_dx, bool wants_dresidual) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(normwise, CPU, m) {
  m.impl("batch_norm_forward", TORCH_BOX(&batch_norm_forward));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

// Importing the module loads the library, whose static initializers register the operators.
namespace {

PyObject* instruction_set(PyObject*, PyObject*) { return PyUnicode_FromString(active().name); }

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

PyMethodDef methods[] = {
    {"instruction_set", instruction_set, METH_NOARGS, "The instruction set that the kernels use on this processor."},
    {"pool_state", pool_state, METH_NOARGS, "Bytes at most, kept and lent; blocks reused and fresh."},
    {"set_pool_limit", set_pool_limit, METH_O, "How many bytes the pool keeps at most; 0 switches it off."},
    {"release_pool", release_pool, METH_NOARGS, "Gives everything that the pool keeps back to the system."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_torch_kernels", "normwise's kernels as PyTorch operators.", -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__torch_kernels() { return PyModule_Create(&module); }
