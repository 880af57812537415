import torch

x = torch.tensor([[2.0], [4], [6], [8]])  # four samples

mean = x.mean(dim=0)
var = x.var(dim=0, correction=0)  # divided by 4, not by 3
by_hand = (x - mean) / torch.sqrt(var + 1e-5)
print(f"mean {mean.item():.0f}, variance {var.item():.0f}")
print([f"{each:.3f}" for each in by_hand.flatten().tolist()])

layer = torch.nn.BatchNorm1d(1, eps=1e-5)
layer.train()
y = layer(x)
print([f"{each:.3f}" for each in y.flatten().tolist()])
