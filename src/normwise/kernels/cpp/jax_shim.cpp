// The kernels as handlers of XLA's custom calls on the CPU, on XLA's own threads, through its foreign-function interface.
// Derivatives, batching and the choice of when to use them are in normwise/keras.
#include <Python.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using normwise::Backward;
using normwise::Forward;
using normwise::Kernels;
using normwise::Shape;
using normwise::Threads;
using normwise::Type;
using Given = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

const Kernels* active() {
  static const Kernels* const found = normwise::kernels(std::getenv("NORMWISE_ISA"));
  return found;
}

// A loop's ranges, for whoever comes. All of XLA's threads may be waiting in calls like this one: so the caller takes part,
// and waits for nothing but ranges that others have begun. A task that comes too late finds none left.
class Loop {
 public:
  Loop(int64_t count, int64_t ranges, void (*body)(void*, int64_t, int64_t), void* context)
      : count_(count), ranges_(ranges), body_(body), context_(context) {}

  void work() {
    for (int64_t range; (range = next_.fetch_add(1)) < ranges_;) {
      body_(context_, count_ * range / ranges_, count_ * (range + 1) / ranges_);
      if (done_.fetch_add(1) + 1 == ranges_) {
        const std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_one();
      }
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_.load() == ranges_; });
  }

 private:
  const int64_t count_, ranges_;
  void (*const body_)(void*, int64_t, int64_t);
  void* const context_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Of the call that this thread is in.
thread_local ffi::ThreadPool* pool = nullptr;

Threads threads_of(ffi::ThreadPool& of_call) {
  pool = &of_call;
  const auto run = [](int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
    const int64_t ranges = std::min(count, pool->num_threads());
    const auto loop = std::make_shared<Loop>(count, ranges, body, context);
    for (int64_t other = 1; other < ranges; ++other) pool->Schedule([loop] { loop->work(); });
    loop->work();
    loop->wait();
  };
  return {run, std::max<int64_t>(of_call.num_threads(), 1)};
}

// Of float16, bfloat16, float32 and float64, which are all that normwise/keras hands over.
Type type_of(ffi::DataType type) {
  switch (type) {
    case ffi::F64:
      return Type::kFloat64;
    case ffi::BF16:
      return Type::kBFloat16;
    case ffi::F16:
      return Type::kHalf;
    default:
      return Type::kFloat32;
  }
}

// XLA's arrays are dense with their axes in order: what is before the channels is one axis, and what is behind them.
Shape shape_of(const Given& x, int64_t axis) {
  Shape shape{1, x.dimensions()[axis], 1, false, type_of(x.element_type())};
  for (int64_t i = 0; i < axis; ++i) shape.n *= x.dimensions()[i];
  for (size_t i = axis + 1; i < x.dimensions().size(); ++i) shape.s *= x.dimensions()[i];
  shape.channels_last = shape.s == 1;
  return shape;
}

std::vector<double> doubles(const Given& values) {
  const size_t count = values.element_count();
  if (values.element_type() == ffi::F64) {
    const auto* from = static_cast<const double*>(values.untyped_data());
    return {from, from + count};
  }
  const auto* from = static_cast<const float*>(values.untyped_data());
  return {from, from + count};
}

void put(const double* from, Result& to) {
  const size_t count = to->element_count();
  if (to->element_type() == ffi::F64) {
    std::copy_n(from, count, static_cast<double*>(to->untyped_data()));
  } else {
    std::copy_n(from, count, static_cast<float*>(to->untyped_data()));
  }
}

// Null for an array without elements, which stands for none.
void* pointer(const Given& array) { return array.element_count() ? array.untyped_data() : nullptr; }

// Without 64-bit numbers switched on, JAX has no doubles: the exact moments are bytes to it.
ffi::Error forward(ffi::ThreadPool threads, Given x, Given scale, Given shift, Given residual, Result y, Result mean,
                   Result var, Result exact, Result bits, int64_t axis, double eps, int64_t activation) {
  const std::vector<double> scales = doubles(scale), shifts = doubles(shift);
  Forward task{};
  task.shape = shape_of(x, axis);
  task.x = x.untyped_data();
  task.residual = pointer(residual);
  task.y = y->untyped_data();
  task.bits = static_cast<uint8_t*>(pointer(*bits));
  task.scale = scales.data();
  task.shift = shifts.data();
  task.mean = static_cast<double*>(exact->untyped_data());
  task.var = task.mean + task.shape.c;
  task.eps = eps;
  task.activation = activation;
  task.by_batch = true;
  task.share = 1;
  active()->forward(task, threads_of(threads));
  put(task.mean, mean);
  put(task.var, var);
  return ffi::Error::Success();
}

ffi::Error backward(ffi::ThreadPool threads, Given dy, Given x, Given scale, Given shift, Given residual, Given exact,
                    Given bits, Result dx, Result dscale, Result dshift, Result dresidual, int64_t axis, double eps,
                    int64_t activation) {
  const std::vector<double> scales = doubles(scale), shifts = doubles(shift);
  std::vector<double> dscales(scales.size()), dshifts(scales.size());
  Backward task{};
  task.shape = shape_of(x, axis);
  task.count = task.shape.values();
  task.dy = dy.untyped_data();
  task.x = x.untyped_data();
  task.residual = pointer(residual);
  task.bits = static_cast<const uint8_t*>(pointer(bits));
  task.dx = pointer(*dx);
  task.dresidual = pointer(*dresidual);
  task.scale = scales.data();
  task.shift = shifts.data();
  task.mean = static_cast<const double*>(exact.untyped_data());
  task.var = task.mean + task.shape.c;
  task.dscale = dscales.data();
  task.dshift = dshifts.data();
  task.eps = eps;
  task.activation = activation;
  task.by_batch = true;
  task.share = 1;
  active()->backward(task, threads_of(threads));
  put(dscales.data(), dscale);
  put(dshifts.data(), dshift);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kForward, forward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Given>()   // x
                           .Arg<Given>()   // scale
                           .Arg<Given>()   // shift
                           .Arg<Given>()   // residual, or without elements
                           .Ret<Given>()   // y
                           .Ret<Given>()   // mean
                           .Ret<Given>()   // var
                           .Ret<Given>()   // exact: the doubles of both
                           .Ret<Given>()   // bits, or without elements
                           .Attr<int64_t>("axis")
                           .Attr<double>("eps")
                           .Attr<int64_t>("activation"));

XLA_FFI_DEFINE_HANDLER(kBackward, backward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Given>()   // dy
                           .Arg<Given>()   // x
                           .Arg<Given>()   // scale
                           .Arg<Given>()   // shift
                           .Arg<Given>()   // residual, or without elements
                           .Arg<Given>()   // exact
                           .Arg<Given>()   // bits, or without elements
                           .Ret<Given>()   // dx, or without elements where not needed
                           .Ret<Given>()   // dscale
                           .Ret<Given>()   // dshift
                           .Ret<Given>()   // dresidual, or without elements
                           .Attr<int64_t>("axis")
                           .Attr<double>("eps")
                           .Attr<int64_t>("activation"));

PyObject* handlers(PyObject*, PyObject*) {
  const auto capsule = [](XLA_FFI_Handler* handler) {
    return PyCapsule_New(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET", nullptr);
  };
  return Py_BuildValue("{s:N,s:N}", "normwise_forward", capsule(kForward), "normwise_backward", capsule(kBackward));
}

PyObject* bytes_of_bits(PyObject*, PyObject* arguments) {
  long long n, c, s;
  int is_double;
  if (!PyArg_ParseTuple(arguments, "LLLp", &n, &c, &s, &is_double)) return nullptr;
  return PyLong_FromLongLong(active()->bytes_of_bits({n, c, s, s == 1, is_double ? Type::kFloat64 : Type::kFloat32}));
}

PyMethodDef methods[] = {
    {"handlers", handlers, METH_NOARGS, "The handlers of the custom calls, by the names to register them under."},
    {"bytes_of_bits", bytes_of_bits, METH_VARARGS, "How many bytes the bits of x as (n, c, s) have; the last argument tells whether it is of doubles."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_jax_kernels", "normwise's kernels as custom calls of XLA.", -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__jax_kernels() {
  if (active()) return PyModule_Create(&module);
  PyErr_SetString(PyExc_ImportError,
                  "normwise: NORMWISE_ISA asks for an instruction set that this processor does not have");
  return nullptr;
}
