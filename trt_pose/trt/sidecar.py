"""Engine files and their sidecars, read without TensorRT.

A plan is stored as TensorRT wrote it, so that trtexec and C++ can load it. The sidecar ``x.engine.json`` holds the
description of the model, its input and the build.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import EngineError, RunnerError
from ..files import to_json
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
    engine_sha256: str
    engine_bytes: int
    onnx_sha256: str
    flavor: str
    flavor_version: str
    gpu: dict[str, str] | None = None
    compute_capabilities: tuple[str, ...] = ()
    precision_asked: str = ""
    precision_found: dict[str, int] | None = None
    precision_note: str = ""
    plugins: tuple[str, ...] = ()
    plugin: str = ""
    profile: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    seconds: float = 0.0
    generator: str = ""

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
        found = ", ".join(f"{count} layers {kind}" for kind, count in (self.precision_found or {}).items())
        made = f"TensorRT-RTX {self.flavor_version}" if self.flavor == RTX else f"TensorRT {self.flavor_version}"
        return (
            f"{engine}: {self.engine_bytes / 1e6:.1f} MB, {self.spec.model} in {self.spec.precision}"
            f" ({found or self.precision_note}), {made}, for {self.target}, {self.seconds:.1f} s"
        )

    def to_json(self) -> str:
        return to_json({"trt_pose_engine": SIDECAR_VERSION, **asdict(self)})

    @classmethod
    def read(cls, engine: str | Path) -> Sidecar:
        """Reads the sidecar of ``engine``. Raises EngineError when it is missing, damaged or of a newer version."""
        path = sidecar_path(engine)
        try:
            record = json.loads(path.read_text())
            if record["trt_pose_engine"] > SIDECAR_VERSION:
                raise EngineError(f"reading {path}: version {record['trt_pose_engine']}. Upgrade trt-pose.")
            known = {item.name: record[item.name] for item in fields(cls) if item.name in record}
            known["spec"] = ModelSpec.from_json(json.dumps(record["spec"]), path)
            for name in ("compute_capabilities", "plugins"):
                known[name] = tuple(known.get(name, ()))
            sidecar = cls(**known)
            sidecar._check()
            return sidecar
        except FileNotFoundError as error:
            raise EngineError(
                f"reading {path}: there is no description beside the engine. Build it with trt-pose build, or copy the"
                " .json along with it."
            ) from error
        except OSError as error:
            raise EngineError(f"reading {path}: {error.strerror}. Check the path.") from error
        except (ValueError, KeyError, TypeError, AttributeError, RunnerError) as error:
            raise EngineError(f"reading {path}: not a description of an engine ({error}). Build it again.") from error

    def _check(self) -> None:
        """Raises ValueError when a field that is printed or compared later has the wrong type."""
        texts = (
            self.engine_sha256, self.onnx_sha256, self.flavor, self.flavor_version, self.precision_asked,
            self.precision_note, self.plugin, self.generator, *self.compute_capabilities, *self.plugins,
        )  # fmt: skip
        gpu = {"name": "", "compute_capability": ""} if self.gpu is None else self.gpu
        right = all(isinstance(text, str) for text in texts) and isinstance(self.options, dict)
        right = right and isinstance(gpu, dict) and {"name", "compute_capability"} <= set(gpu)
        right = right and isinstance(self.precision_found, (dict, type(None))) and isinstance(self.profile, dict)
        if not right or not all(isinstance(number, (int, float)) for number in (self.engine_bytes, self.seconds)):
            raise ValueError("a field of another type")


def sidecar_path(engine: str | Path) -> Path:
    return Path(f"{engine}.json")


def read_header(path: str | Path) -> PlanHeader:
    """Reads the header of a plan. Raises EngineError when the file is missing, truncated or not a plan."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise EngineError(f"reading {path}: {error.strerror or error}. Check the path.") from error
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
