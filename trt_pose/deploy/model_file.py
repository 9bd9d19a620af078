"""What a deployment has to know of a model file: its description, its tensors, the batches it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError, UsageError
from ..formats import find_format
from ..runtime.onnx_file import has_external_weights
from ..spec import ModelSpec
from ..tasks import find_task
from ..trt.compatibility import check_description
from ..trt.flavor import RTX
from ..trt.sidecar import SUFFIXES, PlanHeader, Sidecar, read_header

ELEMENTS = ("uint8", "float16", "float32", "int32", "int64")


@dataclass(frozen=True)
class ModelFile:
    """A model file that is to be deployed.

    Attributes:
        path: path of the ``.onnx`` file or engine.
        spec: its description.
        elements: NumPy name of the element type of each input and output, by tensor name.
        largest_batch: the largest batch; None for an ``.onnx`` file of a symbolic batch, which has none.
        sidecar: the description beside an engine; None for an ``.onnx`` file.
        header: the header of an engine; None for an ``.onnx`` file.
    """

    path: Path
    spec: ModelSpec
    elements: dict[str, str]
    largest_batch: int | None
    sidecar: Sidecar | None = None
    header: PlanHeader | None = None

    @property
    def fixed_batch(self) -> int | None:
        """The batch of a file that takes no other; None where it varies."""
        return self.spec.input.batch

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of the input and of each output without the batch, by tensor name."""
        source = self.spec.input
        known = find_format(self.spec).shapes(self.spec)
        outputs = {name: tuple(-1 if side is None else side for side in known[name][1:]) for name in known}
        return {source.name: (source.channels, source.height, source.width), **outputs}


def open_model(path: str | Path, doing: str) -> ModelFile:
    """Reads what a deployment has to know of a model file; needs neither TensorRT nor a GPU.

    Args:
        path: an ``.onnx`` file or engine of trt_pose.
        doing: start of the message of an error, ``deploying to Triton``.

    Raises:
        UsageError: the file does not end in padded arrays per image, takes images of any size or normalized input, or
            was built by TensorRT-RTX or without weights.
        RunnerError: the ``.onnx`` file cannot be opened, or has no description.
        EngineError: the engine or its description is missing, damaged or of another build.
    """
    path = Path(path)
    found = _open_engine(path, doing) if path.suffix.lower() in SUFFIXES else _open_onnx(path, doing)
    _check(found.spec, f"{doing}: {path.name}")
    wrong = [name for name in found.shapes() if found.elements.get(name) not in ELEMENTS]
    if wrong:
        raise UsageError(
            f"{doing}: the tensor {wrong[0]} of {path.name} is {found.elements.get(wrong[0], 'missing')}, expected one"
            f" of {', '.join(ELEMENTS)}. Make the file again."
        )
    return found


def _open_onnx(path: Path, doing: str) -> ModelFile:
    from ..runtime.ort import OnnxRunner

    with OnnxRunner(path, providers=["cpu"]) as runner:
        elements = {name: info.dtype for name, info in {**runner.inputs, **runner.outputs}.items()}
        spec = runner.spec
    if has_external_weights(path):
        raise UsageError(f"{doing}: {path.name} has its weights in other files. Export it into one file.")
    return ModelFile(path, spec, elements, spec.input.batch)


def _open_engine(path: Path, doing: str) -> ModelFile:
    header, sidecar = read_header(path), Sidecar.read(path)
    check_description(path, sidecar, header)
    if header.flavor == RTX:
        raise UsageError(f"{doing}: {path.name} was built by TensorRT-RTX, TensorRT is needed. Build it with TensorRT.")
    if sidecar.options.get("strip_weights"):
        raise UsageError(f"{doing}: {path.name} was built with --stripWeights. Build it with its weights.")
    largest = sidecar.spec.input.batch
    if largest is None:
        shapes = sidecar.profile.get(sidecar.spec.input.name, [])
        largest = max((shape[0] for shape in shapes if shape), default=0)
    if largest < 1 or not sidecar.elements:
        raise EngineError(
            f"opening {path}: its description does not say which batches and element types it takes. Build it again."
        )
    return ModelFile(path, sidecar.spec, dict(sidecar.elements), largest, sidecar, header)


def _check(spec: ModelSpec, what: str) -> None:
    if spec.task == "custom" or spec.output.format != "batch":
        find_format(spec)
        raise UsageError(
            f"{what} has the output format {spec.output.format!r}, padded arrays per image are needed. Export it with"
            " --format batch."
        )
    find_task(spec.task)
    if spec.input.takes_any_size:
        raise UsageError(f"{what} takes images of any size, a fixed size is needed. Export it with --imgsz.")
    if not spec.input.normalized_in_graph or spec.input.custom_preprocessing:
        raise UsageError(f"{what} takes normalized input, pixels are needed. Export it with its preprocessing.")
