"""What a model file holds, without running it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import EngineError, MissingDependencyError, RunnerError
from .files import file_sha256
from .gpu.device import find_gpu
from .runtime.runner import TensorInfo
from .spec import ACCURACY_KEY, ModelSpec
from .trt.flavor import describe_flavor
from .trt.inspector import probe
from .trt.sidecar import PlanHeader, Sidecar, read_header


@dataclass(frozen=True)
class Inspection:
    """Description, tensors and size of a model file.

    Attributes:
        path: the file. size_bytes: its size.
        spec: the description inside. inputs, outputs: name to element type and shape.
        operators: number of nodes per operator; None when the onnx package is not installed to count them.
        opset: ONNX operator set; None likewise.
        refusal: why ONNX Runtime does not open the file; empty when it does.
        accuracy: what ``export --verify-data`` measured; None where it did not, or the onnx package is not installed.
    """

    path: str
    size_bytes: int
    spec: ModelSpec
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    operators: dict[str, int] | None
    opset: int | None
    refusal: str = ""
    accuracy: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


def inspect(path: str | Path) -> Inspection:
    """Reads an ``.onnx`` file exported by trt_pose, for whichever runtime.

    A file with a plugin node, which ONNX Runtime does not open, takes the onnx package.

    Raises:
        RunnerError: it is missing, damaged or foreign.
    """
    from .runtime.ort import OnnxRunner

    path, refusal = Path(path), ""
    try:
        with OnnxRunner(path, providers=["cpu"]) as runner:
            spec, inputs, outputs = runner.spec, runner.inputs, runner.outputs
        model = _load(path)
    except RunnerError as error:
        model, refusal = _load(path), str(error)
        if model is None:
            raise
        spec = ModelSpec.from_metadata({item.key: item.value for item in model.metadata_props}, path)
        inputs, outputs = _tensors(model.graph.input), _tensors(model.graph.output)
    operators, opset = _count_operators(model) if model else (None, None)
    size, accuracy = path.stat().st_size, _accuracy(model) if model else None
    return Inspection(str(path), size, spec, inputs, outputs, operators, opset, refusal, accuracy)


@dataclass(frozen=True)
class EngineInspection:
    """Header and description of an engine, read without TensorRT.

    Attributes:
        path: the file. size_bytes: its size.
        header: what its first bytes say. sidecar: the description beside it; None when there is none.
        engine: what TensorRT says about it, where it is installed and the engine loads; None otherwise.
        note: why there is no description, or no word of TensorRT.
    """

    path: str
    size_bytes: int
    header: PlanHeader
    sidecar: Sidecar | None
    engine: dict[str, Any] | None
    note: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def inspect_engine(path: str | Path) -> EngineInspection:
    """Reads an engine's header and description; asks TensorRT for more where there is one, and a GPU.

    Raises:
        EngineError: it is missing, truncated, or no TensorRT plan.
    """
    path = Path(path)
    header, sidecar, engine, notes = read_header(path), None, None, []
    try:
        sidecar = Sidecar.read(path)
        if sidecar.engine_sha256 != file_sha256(path):
            sidecar = None
            notes.append(f"{path.name}.json belongs to another engine. Copy the right one along.")
    except EngineError as error:
        notes.append(str(error))
    try:
        if header.flavor and describe_flavor(header.flavor) and find_gpu():
            engine = probe(path, header.flavor)
    except (EngineError, MissingDependencyError) as error:
        notes.append(str(error))
    return EngineInspection(str(path), path.stat().st_size, header, sidecar, engine, " ".join(notes))


def _load(path: Path) -> Any:
    """The onnx.ModelProto, or None where the package is not installed or cannot read the file."""
    try:
        import onnx

        return onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's, onnx's and the file system's have no common base
        return None


def _accuracy(model: Any) -> dict[str, Any] | None:
    try:
        return next((dict(json.loads(item.value)) for item in model.metadata_props if item.key == ACCURACY_KEY), None)
    except (ValueError, TypeError):  # somebody else's entry of that name
        return None


def _tensors(items: Any) -> dict[str, TensorInfo]:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensors = {item.name: item.type.tensor_type for item in items}
    return {
        name: TensorInfo(
            tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(dim.dim_value or None for dim in kind.shape.dim)
        )
        for name, kind in tensors.items()
    }


def _count_operators(model: Any) -> tuple[dict[str, int], int | None]:
    counts = Counter(node.op_type for node in model.graph.node)
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return dict(counts.most_common()), max(versions, default=None)
