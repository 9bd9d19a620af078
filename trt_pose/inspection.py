"""Inspection of model files without running them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .documents import parse, to_json
from .errors import EngineError, MissingDependencyError, RunnerError, first_line
from .files import check_readable, file_sha256
from .gpu.device import find_gpu
from .runtime.runner import TensorInfo
from .spec import ACCURACY_KEY, DIGEST_KEY, METADATA_KEY, ModelSpec
from .trt.flavor import describe_flavor
from .trt.inspector import probe
from .trt.sidecar import PlanHeader, Sidecar, read_header


@dataclass(frozen=True)
class Inspection:
    """Description, tensors and size of a model file.

    Attributes:
        path: path of the file.
        size_bytes: size of the file.
        spec: the description stored in the file; None when trt_pose did not write the file.
        inputs: element type and shape of each input, by name.
        outputs: element type and shape of each output, by name.
        operators: number of nodes per operator; None when the onnx package is not installed.
        opset: version of the ONNX operator set; None when the onnx package is not installed.
        refusal: the reason ONNX Runtime does not open the file; empty when it does.
        accuracy: the metrics stored by ``export --verify-data``; None when there are none, or the onnx package is not
            installed.
        precision: precision of the weights and of the quantizers in the graph, ``fp32``, ``fp16``, ``int8`` or
            ``int8+fp16``, whatever the description says; None when the onnx package is not installed.
        heads: the heads of ``attach`` that the outputs of a file without description fit; None for files with one, or
            when a package of ``attach`` is not installed.
        metadata: the other metadata of the file.
        changed: whether the graph or a weight differs from what trt_pose wrote; None when that is not known.
    """

    path: str
    size_bytes: int
    spec: ModelSpec | None
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    operators: dict[str, int] | None
    opset: int | None
    refusal: str = ""
    accuracy: dict[str, Any] | None = None
    precision: str | None = None
    heads: tuple[str, ...] | None = None
    metadata: dict[str, str] | None = None
    changed: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return to_json(self)


def inspect(path: str | Path) -> Inspection:
    """Reads an ``.onnx`` file, for any runtime, of any toolkit.

    Files that ONNX Runtime does not open, and those without a description of trt_pose, are read with the onnx package.

    Raises:
        RunnerError: the file is missing or damaged, or was not exported by trt_pose and the onnx package is missing.
    """
    from .runtime.ort import OnnxRunner

    path, refusal = check_readable(path, "opening", RunnerError), ""
    spec, model = None, _load(path)
    entries = {} if model is None else {item.key: item.value for item in model.metadata_props}
    try:
        with OnnxRunner(path, providers=["cpu"]) as runner:
            spec, inputs, outputs = runner.spec, runner.inputs, runner.outputs
    except RunnerError as error:
        if model is None:
            raise
        if METADATA_KEY in entries:
            spec, refusal = ModelSpec.from_metadata(entries, path), str(error)
        else:
            refusal = _refusal(path)
        inputs, outputs = _tensors(model.graph.input), _tensors(model.graph.output)
    others = {key: value for key, value in entries.items() if key not in (METADATA_KEY, ACCURACY_KEY, DIGEST_KEY)}
    found = Inspection(str(path), path.stat().st_size, spec, inputs, outputs, None, None, refusal, metadata=others)
    if model is None:
        return found
    from .graphs.file import is_changed, precision_of  # needs the onnx package, which is here

    operators, opset = _count_operators(model)
    heads = _heads(path) if spec is None else None
    return replace(
        found,
        operators=operators,
        opset=opset,
        accuracy=_accuracy(model),
        precision=precision_of(model),
        heads=heads,
        changed=is_changed(model),
    )


def _refusal(path: Path) -> str:
    """Returns why ONNX Runtime does not open a file; empty when it does."""
    import onnxruntime

    from .runtime.ort import silent_options

    try:
        onnxruntime.InferenceSession(str(path), silent_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of ONNX Runtime's errors have no common base
        return first_line(error)
    return ""


def _heads(path: Path) -> tuple[str, ...] | None:
    """Returns the heads of ``attach`` that a file fits; None when a package of ``attach`` is missing."""
    try:
        from .attachment.fit import heads_of
    except MissingDependencyError:
        return None
    return heads_of(path)


@dataclass(frozen=True)
class EngineInspection:
    """Header and description of an engine, read without TensorRT.

    Attributes:
        path: path of the engine.
        size_bytes: size of the engine.
        header: flavor and version read from the first bytes of the engine.
        sidecar: the description beside the engine; None when it is missing or belongs to another engine.
        engine: the details TensorRT reports; None when TensorRT or a GPU is missing, or the engine does not load.
        note: why ``sidecar`` or ``engine`` could not be read; empty otherwise.
    """

    path: str
    size_bytes: int
    header: PlanHeader
    sidecar: Sidecar | None
    engine: dict[str, Any] | None
    note: str

    def to_json(self) -> str:
        return to_json(self)


def inspect_engine(path: str | Path) -> EngineInspection:
    """Reads an engine's header and description, and TensorRT's details when TensorRT and a GPU are available.

    Raises:
        EngineError: the engine is missing, truncated, or not a TensorRT plan.
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
    """Returns the onnx.ModelProto; None when the package is not installed or cannot read the file."""
    try:
        import onnx

        return onnx.load(path, load_external_data=False)
    except Exception:  # errors of protobuf, onnx and the file system share no other base class
        return None


def _accuracy(model: Any) -> dict[str, Any] | None:
    try:
        return next((dict(parse(item.value)) for item in model.metadata_props if item.key == ACCURACY_KEY), None)
    except (ValueError, TypeError):  # an entry of that name that trt_pose did not write
        return None


def _tensors(items: Any) -> dict[str, TensorInfo]:
    from .graphs.file import element_name

    tensors = {item.name: item.type.tensor_type for item in items}
    return {
        name: TensorInfo(element_name(kind.elem_type), tuple(dim.dim_value or None for dim in kind.shape.dim))
        for name, kind in tensors.items()
    }


def _count_operators(model: Any) -> tuple[dict[str, int], int | None]:
    counts = Counter(node.op_type for node in model.graph.node)
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return dict(counts.most_common()), max(versions, default=None)
