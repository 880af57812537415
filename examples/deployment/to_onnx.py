"""ONNX: the network in a file that onnxruntime, and what else reads ONNX, runs without PyTorch."""

import tempfile
import warnings

import onnxruntime
import torch
from digits import compare, test, trained

network = trained()

with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's exporter uses what PyTorch itself deprecates
    path, batch = f"{folder}/digits.onnx", torch.export.Dim("batch")
    torch.onnx.export(
        network, (test[:8],), path, dynamo=True, dynamic_shapes=({0: batch},), input_names=["images"], verbose=False
    )
    session = onnxruntime.InferenceSession(path)
compare(network, lambda batch: session.run(None, {"images": batch.numpy()})[0])
