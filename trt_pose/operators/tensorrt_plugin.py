"""The operators as TensorRT plugins in Python, around kernels compiled by NVRTC.

They work in TensorRT 10.3 to 11.x and TensorRT-RTX. README.md specifies them. The method names are those of
TensorRT's interfaces (IPluginV3, IPluginCreatorV3One). The base classes come from the TensorRT module in use, so
:func:`make_creators` defines the plugin and creator classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from ..gpu.kernels import Kernel
from . import keypoint_decode, nms
from .contract import NAMESPACE, VERSION
from .operator import Operator

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
        operator: the operator with its attributes.
    """

    trt: Any
    operator: Operator

    def get_capability_interface(self, _type: Any) -> Any:
        return self

    def clone(self) -> Any:
        return type(self)(self.operator)  # type: ignore[call-arg]

    def attach_to_context(self, _context: Any) -> Any:
        return self.clone()

    def get_output_data_types(self, _input_types: Any) -> list[Any]:
        return [getattr(self.trt.DataType, kind) for kind in self.operator.outputs]

    @_recorded
    def get_output_shapes(self, inputs: Any, _shape_inputs: Any, builder: Any) -> list[Any]:
        return [self.trt.DimsExprs(shape) for shape in self.operator.output_shapes(inputs, builder.constant)]

    def supports_format_combination(self, place: int, tensors: Any, inputs: int) -> bool:
        wanted = self.trt.DataType.FLOAT if place < inputs else self.get_output_data_types(None)[place - inputs]
        description = tensors[place].desc
        return bool(description.format == self.trt.TensorFormat.LINEAR and description.type == wanted)

    @_recorded
    def configure_plugin(self, inputs: Any, _outputs: Any) -> None:
        self.operator.check([list(tensor.desc.dims) for tensor in inputs])

    @_recorded
    def on_shape_change(self, inputs: Any, _outputs: Any) -> None:
        self.operator.check([list(tensor.dims) for tensor in inputs])

    def get_fields_to_serialize(self) -> Any:
        # A PluginField does not keep a reference to its array, nor TensorRT to the collection: the plugin keeps both.
        kinds, values = self.operator.attributes, self.operator.values
        self._saved = {name: np.array([values[name]], kind) for name, (_, kind) in kinds.items()}
        self._fields = field_collection(self.trt, kinds, self._saved)
        return self._fields

    def get_valid_tactics(self) -> list[int]:
        return [1]

    def set_tactic(self, _tactic: int) -> None:
        pass

    @_recorded
    def enqueue(
        self, inputs: Any, _outputs: Any, addresses: Any, out_addresses: Any, _workspace: int, stream: int
    ) -> None:
        self.operator.launch([list(tensor.dims) for tensor in inputs], addresses, out_addresses, stream)


def make_creators(trt: Any) -> tuple[Any, ...]:
    """Returns a creator of each operator, in the order of ``contract.OWN``, for the TensorRT module ``trt``."""
    nms_kernel = Kernel(nms.kernel_source(), "pose_nms")
    keypoint_kernel = Kernel(keypoint_decode.kernel_source(), "keypoint_decode")
    keeps = str(getattr(trt, "__version__", "")).startswith(_CORRUPTING)
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Plugin(PluginMethods, *bases):  # type: ignore[misc]
        def __init__(self, operator: Operator) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = operator.name, VERSION, NAMESPACE
            self.num_outputs = len(operator.outputs)
            self.trt, self.operator = trt, operator
            if keeps:
                _never_freed.append(self)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, operator: Any, kernel: Kernel) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = operator.name, VERSION, NAMESPACE
            self._operator, self._kernel = operator, kernel
            self._saved = {field: np.array([], kind) for field, (_, kind) in operator.attributes.items()}
            self.field_names = field_collection(trt, operator.attributes, self._saved)

        @_recorded
        def create_plugin(self, _name: str, fields: Any, _phase: Any) -> Any:
            return Plugin(self._operator(self._kernel, read_fields(fields, self._operator.attributes)))

    return (
        Creator(nms.PoseNms, nms_kernel),
        Creator(nms.DetectionNms, nms_kernel),
        Creator(keypoint_decode.KeypointDecode, keypoint_kernel),
    )


def field_collection(trt: Any, kinds: Mapping[str, tuple[str, Any]], values: Mapping[str, Any]) -> Any:
    """Returns the attributes ``values`` as a PluginFieldCollection of TensorRT."""
    types = {name: getattr(trt.PluginFieldType, kind) for name, (kind, _) in kinds.items()}
    return trt.PluginFieldCollection([trt.PluginField(name, values[name], types[name]) for name in kinds])


def read_fields(fields: Any, names: Mapping[str, Any]) -> dict[str, float]:
    """Returns the attributes ``names`` in a PluginFieldCollection; ignores other attributes of the ONNX node."""
    return {field.name: np.asarray(field.data).reshape(-1)[0] for field in fields if field.name in names}
