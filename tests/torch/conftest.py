"""One thread per worker: these tensors are tiny, and threads of several workers on few cores wait for each other."""

import torch

torch.set_num_threads(1)
