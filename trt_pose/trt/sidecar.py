"""Engine files and their sidecars, read without TensorRT.

A plan stays as TensorRT wrote it, so trtexec and C++ load it; what it lacks (what it is a model of, how images go in)
lies beside it in ``x.engine.json``.
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
# trtexec's own reader (--getPlanVersionOnly): a tag, the version of the format, the version of TensorRT at byte 24.
_TAGS = {b"ftrt": TENSORRT, b"vtrt": RTX}


_VERSION_AT, _HEADER_BYTES = 24, 32


@dataclass(frozen=True)
class PlanHeader:
    """What the first bytes of a plan say: the flavour (None when the tag is unknown) and the version of TensorRT."""

    flavor: str | None
    version: str
    tag: str


@dataclass(frozen=True)
class Sidecar:
    """The description beside an engine.

    Attributes:
        spec: of the model. engine_sha256, onnx_sha256: of the files. engine_bytes: size.
        flavor, flavor_version: what built it.
        gpu: name and compute capability of the GPU it was built on; None for an ahead-of-time build.
        compute_capabilities: GPUs it was built for, as ``8.6``; empty for ``gpu`` alone.
        precision_asked: on the command line or by the file.
        precision_found: layers per type of their outputs, from the engine inspector; None where it could not run.
        precision_note: why not.
        plugins: operators the engine calls. plugin: where they came from for the build.
        profile: least, best, largest shape per input.
        options: the build options. quantization, comparison: reports, where there are any.
        accuracy: AP of the ``file``, of what was ``quantized`` for the build and of the ``engine``, where measured.
        seconds: build time. generator: program and version.
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
        """The GPUs the engine is for, in words."""
        if self.compute_capabilities:
            return f"compute capability {', '.join(self.compute_capabilities)}"
        if self.flavor == RTX:  # portable over the GPUs it builds for by default, wherever it was built
            return "the GPUs TensorRT-RTX builds for by default"
        return f"{self.gpu['name']} ({self.gpu['compute_capability']})" if self.gpu else "an unknown GPU"

    def summary(self, engine: str | Path) -> str:
        """What was built, in one line."""
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
        """The sidecar of ``engine``. Raises EngineError when it is missing, damaged, or of another engine version."""
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
        """Raises ValueError for a field of another type: everything here is printed or compared later."""
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
    """Raises EngineError when the file is missing, truncated, or no plan."""
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
