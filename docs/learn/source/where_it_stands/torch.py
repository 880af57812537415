import numpy as np
import torch

images = np.random.default_rng(0).normal(size=(8, 3, 6, 6))
x = torch.tensor(images, dtype=torch.float32)

conv = torch.nn.Conv2d(3, 5, 3)  # with a bias
norm = torch.nn.BatchNorm2d(5)
y = norm(conv(x))
print("scales and shifts:", norm.weight.numel(), norm.bias.numel())
print("values behind each mean:", y.numel() // 5)

before = torch.relu(norm(conv(x)))
after = norm(torch.relu(conv(x)))
print(f"before ReLU, mean is 0: {abs(before.mean()) < 1e-3}")
print(f"after ReLU, mean is 0: {abs(after.mean()) < 1e-3}")

with torch.no_grad():
    conv.bias += 1

change = (norm(conv(x)) - y).abs().max()
print(f"the bias changes something: {change > 1e-3}")
