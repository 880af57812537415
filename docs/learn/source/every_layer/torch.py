import numpy as np
import torch

numbers = np.random.default_rng(0)
batch = torch.tensor(numbers.normal(size=(64, 32)))
weights = torch.tensor(numbers.normal(size=(10, 32, 32)))


def sizes(factor, normalize):
    x, found = batch, []
    for w in factor * weights:
        x = x @ w
        if normalize:
            norm = torch.nn.BatchNorm1d(32, dtype=x.dtype)
            x = norm(x)  # a new layer is in training mode
        x = torch.relu(x)
        found.append(x.std(correction=0).item())
    return f"{found[0]:.2g} {found[4]:.2g} {found[9]:.2g}"


for factor in (0.1, 0.25, 0.6):
    print(factor, "plain:", sizes(factor, False))
    print(factor, "batch norm:", sizes(factor, True))
