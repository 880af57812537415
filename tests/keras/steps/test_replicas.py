"""Synchronized statistics over replicas: TensorFlow's in one process, torch's in two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.keras.calls import BACKEND

# Each replica has a part of the batch, of another size on torch; the output and the gradient are the whole batch's.
TENSORFLOW = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from normwise.keras import BatchNormalization
x = np.random.default_rng(0).normal(1e4, 1, (8, 3)).astype("float32")
dy = np.random.default_rng(1).normal(0, 1, (8, 3)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = BatchNormalization(synchronized=True)
    layer.build((None, 3))

@tf.function
def part():
    index = tf.distribute.get_replica_context().replica_id_in_sync_group
    mine = tf.gather(tf.reshape(x, (2, 4, 3)), index)
    with tf.GradientTape() as tape:
        tape.watch(mine)
        y = layer(mine, training=True)
    return y, tape.gradient(y, mine, tf.gather(tf.reshape(dy, (2, 4, 3)), index))

y, dx = (np.concatenate([r.numpy() for r in part.values]) for part in strategy.run(part))
"""
TORCH = """
import os, sys, numpy as np, torch, torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
from normwise.keras import BatchNormalization
x = np.random.default_rng(0).normal(1e4, 1, (8, 3)).astype("float32")
dy = np.random.default_rng(1).normal(0, 1, (8, 3)).astype("float32")
part = slice(0, 3) if rank == 0 else slice(3, 8)
layer = BatchNormalization(synchronized=True)
mine = torch.as_tensor(x[part]).requires_grad_()
y = layer(mine, training=True)
(dx,) = torch.autograd.grad(y, mine, torch.as_tensor(dy[part]))
y, dx = y.detach().numpy(), dx.numpy()
"""
CHECK = """
from normwise.kernels import reference
right, moments = reference.forward_batch(x, None, None, layer.epsilon)
found = reference.backward_batch(dy, x, None, None, layer.epsilon)
part = part if isinstance(part, slice) else slice(None)
assert np.abs(y - right[part]).max() < 2e-3, y - right[part]
assert np.abs(dx - found.x[part]).max() < 2e-3, dx - found.x[part]
moving = layer.moving_mean.numpy()
assert np.abs(moving - 0.01 * moments.mean).max() < 1e-3, moving
print("right")
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="these are TensorFlow's replicas")
def test_replicas_of_tensorflow() -> None:
    command = [sys.executable, "-W", "ignore", "-c", TENSORFLOW + CHECK]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert process.stdout.strip().endswith("right"), process.stderr[-3000:]


@pytest.mark.skipif(BACKEND != "torch", reason="these are torch's processes")
def test_processes_of_torch_with_parts_of_different_sizes(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", TORCH + CHECK]
    processes = [
        subprocess.Popen(
            [*command, str(rank), f"{tmp_path}/store"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert out.strip().endswith("right"), err[-3000:]
