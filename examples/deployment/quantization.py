"""Quantization: the ONNX file in whole numbers of 8 bits, calibrated on training images."""

import logging
import tempfile
import warnings

import onnxruntime
import torch
from digits import compare, images, labels, test, train, trained
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

network = trained()


class Calibration(CalibrationDataReader):
    """Training images: the ranges of the numbers are taken from them."""

    def __init__(self) -> None:
        self.batches = iter(train[:512].split(64))

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


logging.disable(logging.WARNING)  # onnxruntime advises to do what the next lines do
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's exporter uses what PyTorch itself deprecates
    path, batch = f"{folder}/digits.onnx", torch.export.Dim("batch")
    torch.onnx.export(
        network, (test[:8],), path, dynamo=True, dynamic_shapes=({0: batch},), input_names=["images"], verbose=False
    )
    quant_pre_process(path, f"{folder}/prepared.onnx")
    quantize_static(f"{folder}/prepared.onnx", f"{folder}/digits8.onnx", Calibration())
    session = onnxruntime.InferenceSession(f"{folder}/digits8.onnx")


def deployed(batch: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


compare(network, deployed)
for name, run in (("float32", network), ("8 bits", deployed)):
    correct = (run(test).argmax(1) == labels[len(train) :]).float().mean()
    print(f"accuracy on {len(images) - len(train)} test images, {name}: {correct:.3f}")
