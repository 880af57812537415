import torch

# Two features of four houses: rooms, and square metres.
x = torch.tensor([[1.0, 30], [2, 90], [3, 60], [4, 120]])
price = torch.tensor([40.0, 110, 90, 160])


def steps(x):
    x, y = x - x.mean(dim=0), price - price.mean()
    curvature = torch.linalg.eigvalsh(x.T @ x / len(x))
    rate = 1 / curvature[-1]  # above twice this, it diverges
    w = torch.zeros(2)
    for step in range(100_000):
        error = x @ w - y
        if error.square().mean() < 0.01 * y.square().mean():
            break
        w -= rate * (x.T @ error) / len(x)
    return f"{curvature[-1] / curvature[0]:.0f} {step}"


print("as they are:", steps(x))
scaled = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
print("standardized:", steps(scaled))
