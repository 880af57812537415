"""Plain PyTorch: layers of torch.nn in the places of normwise's, served by a process that cannot import normwise."""

import copy
import subprocess
import sys
import tempfile

import torch
from digits import compare, trained
from torch import Tensor

import normwise

SERVER = """
import sys
sys.modules["normwise"] = None  # an import of it fails from here on
import torch

network = torch.load("digits.pt", weights_only=False)  # a file of our own
torch.save(network(torch.load("images.pt")).detach(), "answers.pt")
"""

network = trained()
plain = copy.deepcopy(network)
normwise.swap(plain, to="torch")

with tempfile.TemporaryDirectory() as folder:
    torch.save(plain, f"{folder}/digits.pt")

    def served(images: Tensor) -> Tensor:
        torch.save(images.clone(), f"{folder}/images.pt")
        subprocess.run([sys.executable, "-c", SERVER], cwd=folder, check=True)
        answers: Tensor = torch.load(f"{folder}/answers.pt")
        return answers

    compare(network, served)
