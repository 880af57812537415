"""torch.export: the network as one graph of PyTorch's operators, in a file that needs neither its code nor normwise."""

import tempfile

import torch
from digits import compare, test, trained

network = trained()

batch = torch.export.Dim("batch")  # of any size; without it, only batches of 8 are taken
program = torch.export.export(network, (test[:8],), dynamic_shapes=({0: batch},))

with tempfile.TemporaryDirectory() as folder:
    torch.export.save(program, f"{folder}/digits.pt2")
    deployed = torch.export.load(f"{folder}/digits.pt2").module()
compare(network, deployed)
