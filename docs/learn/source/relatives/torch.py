import torch
from torch import nn

x = torch.arange(48.0).sin().reshape(2, 6, 4)  # 2 samples
company = x.clone()
company[1] += 3  # another second sample
brighter = x.clone()
brighter[0] += 3  # every channel of the first sample
channel = x.clone()
channel[0, 0] += 3  # one channel of the first sample

layers = {
    "batch": nn.BatchNorm1d(6),
    "layer": nn.GroupNorm(1, 6),
    "group": nn.GroupNorm(3, 6),
    "instance": nn.InstanceNorm1d(6),
}
for name, layer in layers.items():
    y = layer(x)[0]
    same = [
        torch.allclose(layer(other)[0], y, atol=1e-3)
        for other in (company, brighter, channel)
    ]
    print(name, *same)
