"""The pose NMS plugin for TensorRT: the compiled library where there is one, else the same operator in Python.

Both are found by name, version and namespace, so an engine built with one runs with the other. The specification is
plugins/README.md. The method names of the two plugin classes are TensorRT's (IPluginV3, IPluginCreatorV3One).
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, UsageError
from ..runtime.cuda import Kernel
from ..types import ModelSpec
from .flavor import Flavor

NAME, VERSION, NAMESPACE = "PoseNMS_TRT", "1", ""
LIBRARY = "libtrt_pose_plugins.so"
LIBRARY_VARIABLE = "TRT_POSE_PLUGINS"
MAX_ANCHORS, MAX_CANDIDATES, MAX_OUTPUTS, MAX_JOINTS = 65_536, 4_096, 4_096, 256
_BLOCK_THREADS = 1024  # kBlockThreads of the kernel


@dataclass(frozen=True)
class LoadedPlugin:
    """How the operator came into this process: ``library`` or ``python``, from where, operator version."""

    kind: str
    path: str
    version: str = VERSION

    def __str__(self) -> str:
        return f"{NAME} {self.version} from {self.path}" + (" (Python)" if self.kind == "python" else "")


@dataclass(frozen=True)
class PoseNmsFields:
    """Attributes of the operator. Raises UsageError when one is out of range."""

    score_threshold: float
    iou_threshold: float
    max_output_boxes: int
    num_pre_nms_predictions: int

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise UsageError(f"{NAME}: {name} is {value}, expected 0 to 1. Export the model again.")
        for name, most in (("max_output_boxes", MAX_OUTPUTS), ("num_pre_nms_predictions", MAX_CANDIDATES)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise UsageError(f"{NAME}: {name} is {value}, expected 1 to {most}. Export the model again.")

    @classmethod
    def from_values(cls, values: Mapping[str, float]) -> PoseNmsFields:
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise UsageError(f"{NAME}: the attributes {', '.join(missing)} are missing. Export the model again.")
        return cls(
            float(values["score_threshold"]),
            float(values["iou_threshold"]),
            int(values["max_output_boxes"]),
            int(values["num_pre_nms_predictions"]),
        )


def check_buildable(spec: ModelSpec, flavor: Flavor) -> None:
    """Raises EngineError when ``flavor`` cannot build a file of this description."""
    if not flavor.is_rtx:
        return
    if spec.output.format == "flat":
        raise EngineError(
            f"building {spec.model} with {flavor}: the flat format has a data-dependent number of rows (NonZero), which"
            " TensorRT-RTX cannot build. Export it in batch format."
        )
    if spec.output.format == "batch" and NAME not in spec.plugins_required:
        raise EngineError(
            f"building {spec.model} with {flavor}: it was exported for ONNX Runtime, and TensorRT-RTX cannot build its"
            " NonMaxSuppression. Export it with --backend tensorrt."
        )


class KernelParams(ctypes.Structure):
    """PoseNmsParams of pose_nms_kernel.cuh, field by field."""

    _fields_ = (
        ("boxes", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("joints", ctypes.c_void_p),
        ("num_predictions", ctypes.c_void_p),
        ("pred_boxes", ctypes.c_void_p),
        ("pred_scores", ctypes.c_void_p),
        ("pred_joints", ctypes.c_void_p),
        ("anchors", ctypes.c_int),
        ("joint_count", ctypes.c_int),
        ("candidates", ctypes.c_int),
        ("limit", ctypes.c_int),
        ("score_threshold", ctypes.c_float),
        ("iou_threshold", ctypes.c_float),
    )


def load_plugins(flavor: Flavor, library: str | Path | None = None) -> LoadedPlugin:
    """Registers the operator with TensorRT, once per process.

    Looked for in this order: ``library``, ``$TRT_POSE_PLUGINS``, the package, ``plugins/build`` of a checkout, the
    loader's path; where there is none, or ``python`` is asked for by name, the Python plugin serves.

    Raises:
        EngineError: a named library is missing, does not load, or lacks the operator.
    """
    registry = flavor.module.get_plugin_registry()
    key = id(registry)
    if key in _loaded and library is None:
        return _loaded[key]
    named = library or os.environ.get(LIBRARY_VARIABLE)
    found: LoadedPlugin | None = None
    if named and str(named) != "python":
        found = _load_library(registry, Path(named))
        if found is None:
            raise EngineError(f"loading plugins: there is no {named}. Build it with make plugin, or correct the path.")
    elif not named:
        found = next((loaded for path in _places() if (loaded := _load_library(registry, path))), None)
    if found is None:
        found = _register_python(registry, flavor.module)
    _loaded[key] = found
    return found


_loaded: dict[int, LoadedPlugin] = {}
_kept_alive: list[Any] = []  # TensorRT keeps no reference to a creator


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parent.parent
    yield package / LIBRARY
    yield package.parent / "plugins" / "build" / LIBRARY
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        yield Path(folder) / LIBRARY


def _load_library(registry: Any, path: Path) -> LoadedPlugin | None:
    if not path.exists():
        return None
    if registry.load_library(str(path)) is None or registry.get_creator(NAME, VERSION, NAMESPACE) is None:
        raise EngineError(
            f"loading plugins: {path} does not load into this TensorRT or has no {NAME} version {VERSION}."
            " Build it again with make plugin."
        )
    return LoadedPlugin("library", str(path))


def _register_python(registry: Any, trt: Any) -> LoadedPlugin:
    creator = python_creator(trt)
    if not registry.register_creator(creator, NAMESPACE):
        raise EngineError(f"loading plugins: TensorRT refused to register {NAME} version {VERSION}. Restart Python.")
    _kept_alive.append(creator)
    return LoadedPlugin("python", __file__)


def python_creator(trt: Any) -> Any:
    """The creator of the Python plugin, made of the base classes of the TensorRT module ``trt``."""
    kernel = Kernel(Path(str(resources.files("trt_pose").joinpath("assets/pose_nms_kernel.cuh"))), "pose_nms")
    floats, integers = trt.PluginFieldType.FLOAT32, trt.PluginFieldType.INT32
    kinds = {
        "score_threshold": (floats, np.float32),
        "iou_threshold": (floats, np.float32),
        "max_output_boxes": (integers, np.int32),
        "num_pre_nms_predictions": (integers, np.int32),
    }

    class PoseNmsPlugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):  # type: ignore[misc]
        def __init__(self, fields: PoseNmsFields) -> None:
            trt.IPluginV3.__init__(self)
            trt.IPluginV3OneCore.__init__(self)
            trt.IPluginV3OneBuild.__init__(self)
            trt.IPluginV3OneRuntime.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.num_outputs = 4
            self.fields = fields

        def get_capability_interface(self, _type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return PoseNmsPlugin(self.fields)

        def attach_to_context(self, _context: Any) -> Any:
            return self.clone()

        def get_output_data_types(self, _input_types: Any) -> list[Any]:
            return [trt.DataType.INT32, trt.DataType.FLOAT, trt.DataType.FLOAT, trt.DataType.FLOAT]

        def get_output_shapes(self, inputs: Any, _shape_inputs: Any, builder: Any) -> list[Any]:
            batch, joint_count = inputs[0][0], inputs[2][2]
            limit = builder.constant(self.fields.max_output_boxes)
            one, four, three = (builder.constant(value) for value in (1, 4, 3))
            return [
                trt.DimsExprs(shape)
                for shape in ([batch, one], [batch, limit, four], [batch, limit], [batch, limit, joint_count, three])
            ]

        def supports_format_combination(self, place: int, tensors: Any, _inputs: int) -> bool:
            wanted = trt.DataType.INT32 if place == 3 else trt.DataType.FLOAT
            description = tensors[place].desc
            return bool(description.format == trt.TensorFormat.LINEAR and description.type == wanted)

        def configure_plugin(self, inputs: Any, _outputs: Any) -> None:
            check_shapes([list(tensor.desc.dims) for tensor in inputs])

        def on_shape_change(self, inputs: Any, _outputs: Any) -> None:
            check_shapes([list(tensor.dims) for tensor in inputs])

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection(
                [
                    trt.PluginField(name, np.array([getattr(self.fields, name)], dtype), kind)
                    for name, (kind, dtype) in kinds.items()
                ]
            )

        def get_valid_tactics(self) -> list[int]:
            return [1]

        def set_tactic(self, _tactic: int) -> None:
            pass

        def enqueue(
            self, inputs: Any, _outputs: Any, addresses: Any, out_addresses: Any, _workspace: int, stream: int
        ) -> None:
            batch, anchors, joint_count = inputs[2].dims[0], inputs[2].dims[1], inputs[2].dims[2]
            params = KernelParams(
                *addresses, *out_addresses, anchors, joint_count,
                min(self.fields.num_pre_nms_predictions, anchors), self.fields.max_output_boxes,
                self.fields.score_threshold, self.fields.iou_threshold,
            )  # fmt: skip
            kernel.launch(batch, _BLOCK_THREADS, params, stream)

    class PoseNmsCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(name, np.array([], dtype), kind) for name, (kind, dtype) in kinds.items()]
            )
            self.error: Exception | None = None

        def create_plugin(self, _name: str, fields: Any, _phase: Any) -> Any:
            # TensorRT turns an exception in here into "creator failed": the caller of the builder finds it in `error`.
            try:
                values = {field.name: np.asarray(field.data).reshape(-1)[0] for field in fields if field.name in kinds}
                return PoseNmsPlugin(PoseNmsFields.from_values(values))
            except Exception as error:
                self.error = error
                raise

    return PoseNmsCreator()


def check_shapes(shapes: list[list[int]]) -> None:
    """Raises UsageError unless the inputs are boxes (B, A, 4), scores (B, A, 1), joints (B, A, J, 3); -1 is unknown."""
    boxes, scores, joints = shapes
    right = len(boxes) == len(scores) == 3 and len(joints) == 4 and boxes[2] == 4 and scores[2] == 1 and joints[3] == 3
    if not right or boxes[1] != scores[1] or boxes[1] != joints[1]:
        raise UsageError(
            f"{NAME}: got boxes {boxes}, scores {scores}, joints {joints}, expected (B, A, 4), (B, A, 1), (B, A, J, 3)."
            " Export the model again."
        )
    if boxes[1] > MAX_ANCHORS or joints[2] > MAX_JOINTS:
        raise UsageError(
            f"{NAME}: got {boxes[1]} anchors and {joints[2]} joints, it takes {MAX_ANCHORS} and {MAX_JOINTS} at most."
            " Use a smaller input."
        )
