import torch

one = torch.tensor([[2.0], [4], [6], [8]])
other = torch.tensor([[0.0], [4], [8], [12]])
layer = torch.nn.BatchNorm1d(1, eps=1e-5)
print("new:", layer.weight.item(), layer.bias.item())

# Scale and shift that undo the normalization of `one`.
with torch.no_grad():
    layer.weight.fill_((5 + 1e-5) ** 0.5)  # its deviation
    layer.bias.fill_(5)  # its mean

for batch in (one, other):
    y = layer(batch)
    print([f"{each:.2f}" for each in y.flatten().tolist()])
