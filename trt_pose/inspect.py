"""What a model file holds, without running it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import RunnerError
from .runtime.base import TensorInfo
from .types import METADATA_KEY, ModelSpec


@dataclass(frozen=True)
class Inspection:
    """Description, tensors and size of a model file.

    Attributes:
        path: the file. size_bytes: its size.
        spec: the description inside. inputs, outputs: name to element type and shape.
        operators: number of nodes per operator; None when the onnx package is not installed to count them.
        opset: ONNX operator set; None likewise.
    """

    path: str
    size_bytes: int
    spec: ModelSpec
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    operators: dict[str, int] | None
    opset: int | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def describe_file(path: str | Path) -> ModelSpec:
    """The description inside an ``.onnx`` file, whoever will run it.

    Raises:
        RunnerError: it is missing, damaged or foreign.
    """
    try:
        return inspect(path).spec
    except RunnerError as error:
        return _read_metadata(Path(path), error)


def _read_metadata(path: Path, refusal: RunnerError) -> ModelSpec:
    """The description of a file ONNX Runtime does not open: one with a plugin node, if the onnx package can read it."""
    try:
        import onnx

        model = onnx.load(path, load_external_data=False)
    except Exception:
        raise refusal from None
    found = [item.value for item in model.metadata_props if item.key == METADATA_KEY]
    if not found:
        raise refusal
    return ModelSpec.from_json(found[0], path)


def inspect(path: str | Path) -> Inspection:
    """Reads an ``.onnx`` file exported by trt_pose. Raises RunnerError when it is missing, damaged or foreign."""
    from .runtime.ort import OnnxRunner

    with OnnxRunner(path, providers=["cpu"]) as runner:
        spec, inputs, outputs = runner.spec, runner.inputs, runner.outputs
    operators, opset = _count_operators(Path(path))
    return Inspection(str(path), Path(path).stat().st_size, spec, inputs, outputs, operators, opset)


def _count_operators(path: Path) -> tuple[dict[str, int] | None, int | None]:
    try:
        import onnx
    except ImportError:
        return None, None
    model = onnx.load(path, load_external_data=False)
    counts = Counter(node.op_type for node in model.graph.node)
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return dict(counts.most_common()), max(versions, default=None)
