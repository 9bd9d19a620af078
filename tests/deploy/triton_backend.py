"""A backend for Triton in the place of its backends for ONNX Runtime and TensorRT, which no package on PyPI holds.

Triton loads it from a folder with the name of the backend. It takes the configuration that is written for the real
one, is as strict about names, types and shapes, and runs the file by ONNX Runtime. A plan of the tests is a header and
an ONNX file.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as backend

HEADER_BYTES = 32
TYPES = {
    "tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
}  # fmt: skip


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        plan = self.config["platform"] == "tensorrt_plan"
        data = (folder / ("model.plan" if plan else "model.onnx")).read_bytes()
        if plan and data[:4] != b"ftrt":
            raise backend.TritonModelException("the plan is damaged")
        self.session = onnxruntime.InferenceSession(
            data[HEADER_BYTES:] if plan else data, providers=["CPUExecutionProvider"]
        )
        self.check("input", self.session.get_inputs())
        self.check("output", self.session.get_outputs())

    def check(self, kind, tensors):
        """The configuration has the tensors of the file; with max_batch_size, without their symbolic first axis."""
        batched = self.config["max_batch_size"] > 0
        said = {item["name"]: item for item in self.config[kind]}
        if set(said) != {tensor.name for tensor in tensors}:
            raise backend.TritonModelException(f"{kind}: {sorted(said)} is not what the file has")
        for tensor in tensors:
            item, shape = said[tensor.name], [side if isinstance(side, int) else -1 for side in tensor.shape]
            if batched and shape[0] != -1:
                raise backend.TritonModelException(f"{tensor.name}: the file does not support batching")
            if [int(side) for side in item["dims"]] != shape[batched:] or item["data_type"] != TYPES[tensor.type]:
                raise backend.TritonModelException(f"{tensor.name}: {item} is not {tensor.type} {shape}")

    def execute(self, requests):
        inputs, sizes = {}, []
        for item in self.config["input"]:
            parts = [backend.get_input_tensor_by_name(request, item["name"]).as_numpy() for request in requests]
            inputs[item["name"]], sizes = np.concatenate(parts), [len(part) for part in parts]
        outputs = self.session.run(None, inputs)
        names, answers, start = [tensor.name for tensor in self.session.get_outputs()], [], 0
        for size in sizes:
            rows = slice(start, start + size)
            tensors = [
                backend.Tensor(name, np.ascontiguousarray(array[rows]))
                for name, array in zip(names, outputs, strict=True)
            ]
            answers.append(backend.InferenceResponse(tensors))
            start += size
        return answers
