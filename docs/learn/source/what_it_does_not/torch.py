import numpy as np
import torch

numbers = np.random.default_rng(0)
batch = torch.tensor(numbers.normal(size=(128, 256)))
weights = torch.tensor(numbers.normal(size=(30, 256, 256)))
norm = torch.nn.BatchNorm1d(256, dtype=batch.dtype)


def network(x, depth, normalize):
    for w in weights[:depth] * (2 / 256) ** 0.5:
        x = x @ w
        x = torch.relu(norm(x) if normalize else x)
    return x


little = 1e-4 * torch.tensor(numbers.normal(size=(128, 256)))
for depth in (1, 10, 20, 30):
    found = []
    for normalize in (False, True):
        y = network(batch, depth, normalize)
        moved = network(batch + little, depth, normalize)
        change = (moved - y).norm() / y.norm()
        found.append(change / (little.norm() / batch.norm()))
    print(f"{depth}: plain {found[0]:.2g}, batch norm {found[1]:.2g}")
