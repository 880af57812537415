"""AOTInductor: the exported network compiled to a library, which C++ loads without Python."""

import tempfile

import torch
from digits import compare, test, trained

network = trained()
batch = torch.export.Dim("batch")
program = torch.export.export(network, (test[:8],), dynamic_shapes=({0: batch},))

with tempfile.TemporaryDirectory() as folder:
    path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/digits.pt2")
    compare(network, torch._inductor.aoti_load_package(path))
