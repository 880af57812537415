import torch

x = torch.tensor([2.0, 4, 6, 8], dtype=torch.float64)
dy = torch.tensor([1.0, -2, 0.5, 3], dtype=torch.float64)
scale, eps = 1.5, 1e-5

# By the formula.
deviation = torch.sqrt(x.var(correction=0) + eps)
normal = (x - x.mean()) / deviation
away = dy - dy.mean() - normal * (dy * normal).mean()
dx = scale / deviation * away

# By autograd.
layer = torch.nn.BatchNorm1d(1, eps=eps, dtype=torch.float64)
torch.nn.init.constant_(layer.weight, scale)
x = x.reshape(4, 1).requires_grad_()
layer(x).backward(dy.reshape(4, 1))
autograd = x.grad.flatten()

print([f"{each:.2f}" for each in dx.tolist()])
print([f"{each:.2f}" for each in autograd.tolist()])
print(f"sum is 0: {abs(dx.sum()) < 1e-12}")
print(f"sum against x is 0: {abs((dx * normal).sum()) < 1e-4}")
