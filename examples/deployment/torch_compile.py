"""torch.compile: the network compiled in the process that runs it, for inference."""

import torch
from digits import compare, trained

network = trained()

deployed = torch.compile(network, dynamic=True)  # one compilation for batches of any size
compare(network, deployed)
