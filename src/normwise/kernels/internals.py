"""The names that normwise uses beyond PyTorch's public interface, in one file, so that a new PyTorch is checked here.

They are C functions and are called directly: one more Python function in every call would cost time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

# Of torch.func: the innermost transform that is going on (vmap, grad, jvp, ...), None without one; and all of them.
innermost_transform: Any = torch._C._functorch.peek_interpreter_stack
# How many there are, the one question of these that torch.compile understands.
number_of_transforms: Any = torch._C._functorch.get_dynamic_layer_stack_depth
transforms: Any = torch._C._functorch.get_interpreter_stack
TransformType: Any = torch._C._functorch.TransformType
is_transformed: Any = torch._C._functorch.is_functorch_wrapped_tensor

# How many modes listen to every operation (fake tensors, functionalization, make_fx, ...); what torch.jit.trace records
# into, None without one.
listening_modes: Any = torch._C._len_torch_dispatch_stack
jit_trace: Any = torch._C._get_tracing_state
# A mode of one kind, None where it is off (PROXY is make_fx's); whether a dispatch key is on (export's is
# BEFORE_DISPATCH).
dispatch_mode: Any = torch._C._get_dispatch_mode
PROXY: Any = torch._C._TorchDispatchModeKey.PROXY
# The same of modes that listen to functions before they are operations, as that of a default device does.
function_modes: Any = torch._C._len_torch_function_stack
function_mode: Any = torch._C._get_function_stack_at
is_key_included: Any = torch._C._dispatch_tls_is_dispatch_key_included
BEFORE_DISPATCH: Any = torch._C.DispatchKey.PreDispatch


def constant_in_graph(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``, which would bring in the compiler, and Triton with it, at once.

    That takes a second, and a process that has TensorFlow 2.21 crashes when Triton comes in.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # what the compiler looks for
    return function


# The storage that a weak reference to one knows, or None.
storage_of: Any = torch.UntypedStorage._new_with_weak_ptr


def storage_number(tensor: torch.Tensor) -> int:
    """The number of a tensor's storage, which no other living one has, also where addresses are 0: on meta."""
    number: int = tensor.untyped_storage()._cdata
    return number


# Of autograd: the number of the backward that is going on in this thread, -1 outside of one; its present node; a block
# in which operators do not reach autograd; the hooks that saved tensors go through; a gradient that is an error.
running_backward: Any = torch._C._current_graph_task_id
current_node: Any = torch._C._current_autograd_node
below_autograd: Any = torch._C._AutoDispatchBelowAutograd
saved_tensors_hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks
DelayedError: Any = torch._C._functions.DelayedError
# Whether saved tensors may have hooks here, and how to be called when the backward that is going on ends.
_autograd: Any = torch._C._autograd  # of which the next is in no list of types
saved_tensors_allowed: Any = _autograd._saved_tensors_hooks_is_enabled
queue_callback: Any = torch.autograd.Variable._execution_engine.queue_callback
