import torch
from sklearn.datasets import load_digits
from torch import nn

images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16, dtype=torch.float32)
y = torch.tensor(labels)


def network(batch_norm):
    layers, inputs = [], 64
    for _ in range(5):
        layers.append(nn.Linear(inputs, 64))
        if batch_norm:
            layers.append(nn.BatchNorm1d(64))
        layers.append(nn.Sigmoid())
        inputs = 64
    return nn.Sequential(*layers, nn.Linear(64, 10))


def trained(batch_norm, rate):
    torch.manual_seed(0)
    model = network(batch_norm)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for _ in range(150):
        rows = torch.randint(len(x), (60,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (model.eval()(x).argmax(dim=1) == y).float().mean()
    return "learned" if right > 0.8 else "did not learn"


for rate in (0.1, 1.0):
    print(f"rate {rate}, plain: {trained(False, rate)}")
    print(f"rate {rate}, batch norm: {trained(True, rate)}")
