"""Engine files and their sidecars, read without TensorRT.

A plan is stored as TensorRT wrote it, so that trtexec and C++ can load it. The sidecar ``x.engine.json`` holds the
description of the model, its input and the build.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..documents import Name, convert, read, to_json
from ..errors import EngineError
from ..files import check_readable
from ..spec import ModelSpec
from .flavor import RTX, TENSORRT

SUFFIXES = (".engine", ".plan", ".trt")
SIDECAR_VERSION = 1
# As trtexec reads it (--getPlanVersionOnly): a tag, the version of the format, the version of TensorRT at byte 24.
_TAGS = {b"ftrt": TENSORRT, b"vtrt": RTX}
_VERSION_AT, _HEADER_BYTES = 24, 32


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan.

    Attributes:
        flavor: the TensorRT that built the plan; None when unknown.
        version: version of that TensorRT.
        tag: first four bytes of the plan.
    """

    flavor: str | None
    version: str
    tag: str


@dataclass(frozen=True)
class Sidecar:
    """The description beside an engine.

    Attributes:
        spec: description of the model.
        engine_sha256: SHA-256 of the engine file.
        engine_bytes: size of the engine file.
        onnx_sha256: SHA-256 of the ONNX file.
        elements: NumPy name of the element type of each input and output; empty when unknown.
        weights: names of the files that may hold the weights of an engine built without them.
        flavor: ``tensorrt`` or ``tensorrt_rtx``, whichever built the engine.
        flavor_version: version of that TensorRT.
        gpu: name and compute capability of the GPU it was built on; None for an ahead-of-time build.
        compute_capabilities: compute capabilities it was built for, such as ``8.6``; empty when built for ``gpu`` only.
        precision_asked: precision requested for the build, or else that of the ONNX file.
        precision_found: number of layers per output type, from the engine inspector; None when unavailable.
        precision_note: the reason when ``precision_found`` is None.
        plugins: plugin operators that the engine calls.
        plugin: origin of these plugins during the build.
        profile: minimum, optimum and maximum shape per input.
        options: build options.
        quantization: report of the quantization, if any.
        comparison: report of the comparison of the source with the quantized file, if any.
        accuracy: AP of the ``file``, of the ``quantized`` file made for the build and of the ``engine``, if measured.
        seconds: build time.
        generator: program and version that wrote the sidecar.
    """

    spec: ModelSpec
    engine_sha256: Name
    engine_bytes: int
    onnx_sha256: Name
    flavor: Name
    flavor_version: Name
    gpu: dict[Name, Name] | None = None
    compute_capabilities: tuple[Name, ...] = ()
    precision_asked: Name = ""
    precision_found: dict[Name, int] | None = None
    precision_note: Name = ""
    plugins: tuple[Name, ...] = ()
    plugin: Name = ""
    profile: dict[Name, list[list[int]]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    seconds: float = 0.0
    generator: Name = ""
    weights: tuple[Name, ...] = ()
    elements: dict[Name, Name] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Description of the GPUs that the engine was built for."""
        if self.compute_capabilities:
            return f"compute capability {', '.join(self.compute_capabilities)}"
        if self.flavor == RTX:  # runs on all GPUs that it builds for by default, whichever GPU built it
            return "the GPUs TensorRT-RTX builds for by default"
        return f"{self.gpu['name']} ({self.gpu['compute_capability']})" if self.gpu else "an unknown GPU"

    def summary(self, engine: str | Path) -> str:
        """Returns a one-line summary of the engine."""
        layers = ", ".join(f"{count} layers {kind}" for kind, count in (self.precision_found or {}).items())
        made = f"TensorRT-RTX {self.flavor_version}" if self.flavor == RTX else f"TensorRT {self.flavor_version}"
        return (
            f"{engine}: {self.engine_bytes / 1e6:.1f} MB, {self.spec.model} in {self.spec.precision}"
            f" ({layers or self.precision_note}), {made}, for {self.target}, {self.seconds:.1f} s"
        )

    def to_json(self) -> str:
        return to_json({"trt_pose_engine": SIDECAR_VERSION, **asdict(self)})

    @classmethod
    def read(cls, engine: str | Path) -> Sidecar:
        """Reads the sidecar of ``engine``. Raises EngineError when it is missing, damaged or of a newer version."""
        path = sidecar_path(engine)
        if not path.exists():
            raise EngineError(
                f"reading {path}: there is no description beside the engine. Build it with trt-pose build, or copy the"
                " .json along with it."
            )
        what, mend = "a description of an engine", "Build it again."
        record: dict[str, Any] = read(path, dict, what, EngineError, mend)
        version = record.get("trt_pose_engine")
        if isinstance(version, int) and version > SIDECAR_VERSION:
            raise EngineError(f"reading {path}: version {version}. Upgrade trt-pose.")
        try:
            if version is None:
                raise ValueError("it has no version")
            sidecar = convert(record, cls)
            if sidecar.gpu is not None and not {"name", "compute_capability"} <= set(sidecar.gpu):
                raise ValueError("$.gpu: expected name and compute_capability")
            return sidecar
        except ValueError as error:
            raise EngineError(f"reading {path}: not {what} ({error}). {mend}") from error


def sidecar_path(engine: str | Path) -> Path:
    return Path(f"{engine}.json")


def read_header(path: str | Path) -> PlanHeader:
    """Reads the header of a plan. Raises EngineError when the file is missing, truncated or not a plan."""
    with check_readable(path, "reading", EngineError).open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise EngineError(f"reading {path}: {len(head)} bytes are not an engine. Build it again.")
    tag = head[:4]
    if tag not in _TAGS:
        raise EngineError(
            f"reading {path}: it begins with {tag!r}, which is no TensorRT plan. Engines of tools that put a header of"
            " their own first must be unpacked; else build it again."
        )
    version = ".".join(str(number) for number in head[_VERSION_AT : _VERSION_AT + 4])
    return PlanHeader(_TAGS[tag], version, tag.decode("ascii"))
