import normwise
import torch

batch = torch.tensor([[2.0], [4], [6], [8]])
model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
layer = model[0]


def say(when):
    mean, var = layer.running_mean, layer.running_var
    print(f"{when}: mean {mean.item():.2f}, var {var.item():.2f}")


say("new")
model.train()
for _ in range(10):
    model(batch)  # momentum 0.1 is the weight of the new batch

say("after 10 batches")

model.eval()
y = model(batch)
print([f"{each:.2f}" for each in y.flatten().tolist()])

normwise.recalibrate(model, [batch])
say("recalibrated")
y = model(batch)
print([f"{each:.2f}" for each in y.flatten().tolist()])
