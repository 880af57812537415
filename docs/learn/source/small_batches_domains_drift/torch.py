import normwise
import numpy as np
import torch

normal = np.random.default_rng(0).normal(size=(1024, 1))
day = torch.tensor(normal, dtype=torch.float32)
night = 2 * day + 5  # the same things, seen otherwise

for size in (2, 8, 32):
    means = day.reshape(-1, size).mean(dim=1)
    print(f"batches of {size}, means differ by {means.std():.2f}")

model = torch.nn.Sequential(torch.nn.BatchNorm1d(1)).eval()


def say(statistics):
    d, n = model(day), model(night)
    print(f"{statistics}: day {d.mean():z.1f} {d.std():.1f},", end="")
    print(f" night {n.mean():z.1f} {n.std():.1f}")


normwise.recalibrate(model, [day])
say("of day")
normwise.recalibrate(model, [day, night])
say("of both")
normwise.adapt(model, [night], prior=0)
say("of night")
