"""The NMS operators as TensorRT plugins in Python, around a kernel compiled by NVRTC.

They work in TensorRT 10.3 to 11.x and TensorRT-RTX. README.md specifies them. The method names are those of
TensorRT's interfaces (IPluginV3, IPluginCreatorV3One). The base classes come from the TensorRT module in use, so
:func:`make_creators` defines the plugin and creator classes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ..gpu.kernels import Kernel
from .contract import DETECTION_NAME, NAME, NAMESPACE, VERSION, NmsFields, check_shapes

BLOCK_THREADS = 1024  # kBlockThreads of the kernel


class KernelParams(ctypes.Structure):
    """Parameters of the kernel; the fields are those of PoseNmsParams in pose_nms_kernel.cuh."""

    _fields_ = (
        ("boxes", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("joints", ctypes.c_void_p),
        ("num_predictions", ctypes.c_void_p),
        ("pred_boxes", ctypes.c_void_p),
        ("pred_scores", ctypes.c_void_p),
        ("pred_joints", ctypes.c_void_p),
        ("pred_classes", ctypes.c_void_p),
        ("anchors", ctypes.c_int),
        ("classes", ctypes.c_int),
        ("joint_count", ctypes.c_int),
        ("candidates", ctypes.c_int),
        ("limit", ctypes.c_int),
        ("score_threshold", ctypes.c_float),
        ("iou_threshold", ctypes.c_float),
    )


# Attribute names, their TensorRT field types and NumPy types.
_ATTRIBUTES = {
    "score_threshold": ("FLOAT32", np.float32),
    "iou_threshold": ("FLOAT32", np.float32),
    "max_output_boxes": ("INT32", np.int32),
    "num_pre_nms_predictions": ("INT32", np.int32),
}
# TensorRT reports an exception in a callback as a failure without a reason, so exceptions are recorded here.
_errors: list[Exception] = []
# The bindings of TensorRT 10.3 (JetPack 6) corrupt Python's heap when a plugin object is freed; 10.4 and newer do not
# (tests/bindings/test_enqueue.py).
_CORRUPTING = ("10.0.", "10.1.", "10.2.", "10.3.")
_never_freed: list[Any] = []
_Method = TypeVar("_Method", bound=Callable[..., Any])


def take_error() -> Exception | None:
    """Returns the first exception raised in a callback since the last call, or None; clears the record."""
    first = _errors[0] if _errors else None
    _errors.clear()
    return first


def _recorded(method: _Method) -> _Method:
    @functools.wraps(method)
    def record(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except Exception as error:
            _errors.append(error)
            raise

    return cast(_Method, record)


class PluginMethods:
    """Methods that TensorRT calls on a plugin.

    Attributes:
        trt: the TensorRT module.
        kernel: the NMS kernel.
        fields: attributes of the operator.
        plugin_name: name of the operator.
    """

    trt: Any
    kernel: Kernel
    fields: NmsFields
    plugin_name: str

    @property
    def _has_joints(self) -> bool:
        return self.plugin_name == NAME

    def get_capability_interface(self, _type: Any) -> Any:
        return self

    def clone(self) -> Any:
        return type(self)(self.plugin_name, self.fields)  # type: ignore[call-arg]

    def attach_to_context(self, _context: Any) -> Any:
        return self.clone()

    def get_output_data_types(self, _input_types: Any) -> list[Any]:
        kinds = self.trt.DataType
        return [kinds.INT32, kinds.FLOAT, kinds.FLOAT, kinds.FLOAT if self._has_joints else kinds.INT32]

    @_recorded
    def get_output_shapes(self, inputs: Any, _shape_inputs: Any, builder: Any) -> list[Any]:
        batch = inputs[0][0]
        limit = builder.constant(self.fields.max_output_boxes)
        one, four, three = (builder.constant(value) for value in (1, 4, 3))
        last = [batch, limit, inputs[2][2], three] if self._has_joints else [batch, limit]
        shapes = ([batch, one], [batch, limit, four], [batch, limit], last)
        return [self.trt.DimsExprs(shape) for shape in shapes]

    def supports_format_combination(self, place: int, tensors: Any, inputs: int) -> bool:
        wanted = self.trt.DataType.FLOAT if place < inputs else self.get_output_data_types(None)[place - inputs]
        description = tensors[place].desc
        return bool(description.format == self.trt.TensorFormat.LINEAR and description.type == wanted)

    @_recorded
    def configure_plugin(self, inputs: Any, _outputs: Any) -> None:
        check_shapes([list(tensor.desc.dims) for tensor in inputs])

    @_recorded
    def on_shape_change(self, inputs: Any, _outputs: Any) -> None:
        check_shapes([list(tensor.dims) for tensor in inputs])

    def get_fields_to_serialize(self) -> Any:
        # A PluginField does not keep a reference to its array, nor TensorRT to the collection: the plugin keeps both.
        self._saved = {name: np.array([getattr(self.fields, name)], dtype) for name, (_, dtype) in _ATTRIBUTES.items()}
        self._fields = field_collection(self.trt, self._saved)
        return self._fields

    def get_valid_tactics(self) -> list[int]:
        return [1]

    def set_tactic(self, _tactic: int) -> None:
        pass

    @_recorded
    def enqueue(
        self, inputs: Any, _outputs: Any, addresses: Any, out_addresses: Any, _workspace: int, stream: int
    ) -> None:
        batch, anchors, classes = inputs[1].dims
        if self._has_joints:
            pointers, joint_count = [*addresses, *out_addresses, None], inputs[2].dims[2]
        else:
            pointers, joint_count = [*addresses, None, *out_addresses[:3], None, out_addresses[3]], 0
        params = KernelParams(
            *pointers, anchors, classes, joint_count,
            min(self.fields.num_pre_nms_predictions, anchors * classes), self.fields.max_output_boxes,
            self.fields.score_threshold, self.fields.iou_threshold,
        )  # fmt: skip
        if batch:  # CUDA rejects an empty grid
            self.kernel.launch((batch, 1), BLOCK_THREADS, params, stream)


def kernel_source() -> Path:
    return Path(str(resources.files("trt_pose").joinpath("cpp/pose_nms/pose_nms_kernel.cuh")))


def make_creators(trt: Any) -> tuple[Any, Any]:
    """Returns the creators of PoseNMS_TRT and DetectionNMS_TRT, derived from classes of the TensorRT module ``trt``."""
    shared_kernel = Kernel(kernel_source(), "pose_nms")
    keeps = str(getattr(trt, "__version__", "")).startswith(_CORRUPTING)
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class NmsPlugin(PluginMethods, *bases):  # type: ignore[misc]
        def __init__(self, name: str, fields: NmsFields) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE
            self.num_outputs = 4
            self.trt, self.kernel, self.fields = trt, shared_kernel, fields
            if keeps:
                _never_freed.append(self)

    class NmsCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE
            self._saved = {field: np.array([], kind) for field, (_, kind) in _ATTRIBUTES.items()}
            self.field_names = field_collection(trt, self._saved)

        @_recorded
        def create_plugin(self, _name: str, fields: Any, _phase: Any) -> Any:
            return NmsPlugin(self.name, NmsFields.from_values(read_fields(fields)))

    return NmsCreator(NAME), NmsCreator(DETECTION_NAME)


def field_collection(trt: Any, values: Mapping[str, Any]) -> Any:
    """Returns the attributes ``values`` as a PluginFieldCollection of TensorRT."""
    kinds = {name: getattr(trt.PluginFieldType, kind) for name, (kind, _) in _ATTRIBUTES.items()}
    return trt.PluginFieldCollection([trt.PluginField(name, values[name], kinds[name]) for name in _ATTRIBUTES])


def read_fields(fields: Any) -> dict[str, float]:
    """Returns the operator's attributes in a PluginFieldCollection; ignores other attributes of the ONNX node."""
    return {field.name: np.asarray(field.data).reshape(-1)[0] for field in fields if field.name in _ATTRIBUTES}
