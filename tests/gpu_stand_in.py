"""A stand-in for TensorRT, over the strict driver: an engine is its ONNX file in ONNX Runtime.

It is as strict as TensorRT where that is known (NVIDIA/TensorRT issues 1475 and 3798, the bindings' sources): one
logger per process; a CUDA graph holds for the shapes that its context ran last; exceptions of callbacks are swallowed;
a shape that is refused changes nothing; everything needs a current context, and memory that is allocated.
"""

import ctypes
import weakref
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from trt_pose.runtime.ort import OnnxRunner

from .engines import write_plan

VERSION = (11, 4, 0, 1)
GPU = {"name": "Strict GPU", "compute_capability": "9.0"}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity


class Engine:
    """The ONNX file whose path the plan holds."""

    def __init__(self, module, path):
        self.module, self.driver, self.session = module, module.driver, OnnxRunner(path, providers=["cpu"])
        self.tensors = {**self.session.inputs, **self.session.outputs}
        self.names = list(self.tensors)
        self.num_io_tensors = len(self.names)
        self.filled = not module.stripped

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "in" if name in self.session.inputs else "out"

    def get_tensor_dtype(self, name):
        return self.tensors[name].dtype

    def get_tensor_shape(self, name):
        return tuple(-1 if side is None else side for side in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name, _profile):
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in (1, 2, 4)]

    def create_execution_context(self):
        assert self.driver.contexts(), "no context is current"
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.driver, self.addresses, self.allocators, self.shapes = engine, engine.driver, {}, {}, {}
        self.fails, self.last = False, None

    def set_input_shape(self, name, shape):
        wanted = self.engine.get_tensor_shape(name)
        fits = len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))
        if not fits or not 1 <= shape[0] <= 4:
            self.engine.module.log(Severity.ERROR, "the shape is outside the profile")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        shape = list(self.shapes.get(name, self.engine.get_tensor_shape(name)))
        flat = name == "flat_predictions"
        if shape[0] == -1 and not flat and self.shapes:
            shape[0] = next(iter(self.shapes.values()))[0]
        return tuple(shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name, allocator):
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, stream):
        assert self.driver.contexts(), "no context is current"
        if self.fails or not self.engine.filled:
            return False
        shapes = {name: self.get_tensor_shape(name) for name in self.engine.session.inputs}
        if self.driver.is_capturing(stream):
            # What is captured holds until the context runs other shapes.
            return self.driver.enqueue(stream, lambda: self.work(shapes, garbage=self.last != shapes)) == 0
        self.last = shapes
        if self.allocators:  # TensorRT waits for the shape before it asks for memory
            from cuda.bindings import driver

            driver.cuStreamSynchronize(stream)
            return self.work(shapes)
        return self.driver.enqueue(stream, lambda: self.work(shapes)) == 0

    def work(self, shapes, garbage=False):
        feeds = {}
        for name, info in self.engine.session.inputs.items():
            size = int(np.prod(shapes[name])) * np.dtype(info.dtype).itemsize
            assert self.driver.holds(self.addresses[name], size), f"{name} is not memory of the GPU"
            block = (ctypes.c_uint8 * size).from_address(self.addresses[name])
            feeds[name] = np.ctypeslib.as_array(block).view(info.dtype).reshape(shapes[name]).copy()
        for name, array in self.engine.session.run(feeds).items():
            address = self.addresses.get(name)
            if name in self.allocators:
                try:
                    address = self.allocators[name].reallocate_output_async(name, 0, max(array.nbytes, 1), 256, 0)
                    self.allocators[name].notify_shape(name, array.shape)
                except Exception:  # as the bindings: printed, and null
                    address = 0
                if not address:
                    return False
            assert self.driver.holds(address, max(array.nbytes, 1)), f"{name} is not memory of the GPU"
            values = np.full_like(array, 99) if garbage else np.ascontiguousarray(array)
            ctypes.memmove(address, values.ctypes.data, array.nbytes)
        return True


class TensorRT(SimpleNamespace):
    """The stand-in for the tensorrt module.

    Attributes:
        starts: whether a runtime can be made.
        stripped: whether the engines lack their weights until they are refitted.
    """

    first: Any

    def __init__(self, driver, operators=("PoseNMS_TRT", "DetectionNMS_TRT"), starts=True, stripped=False):
        registry = SimpleNamespace(get_creator=lambda name, _version, _namespace: name if name in operators else None)
        super().__init__(
            driver=driver,
            starts=starts,
            stripped=stripped,
            first=None,
            refitted=[],
            ILogger=ILogger,
            IOutputAllocator=type("IOutputAllocator", (), {}),
            TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
            nptype=np.dtype,
            init_libnvinfer_plugins=lambda *_: True,
            get_plugin_registry=lambda: registry,
        )

    def keep(self, logger):
        """The first logger of the process stays the one, and must live."""
        if self.first is None:
            self.first = weakref.ref(logger)

    def log(self, severity, message):
        logger = self.first()
        assert logger is not None, "the logger was freed: TensorRT would call into nothing"
        logger.log(severity, message)

    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        self.keep(logger)
        if not self.starts:
            self.log(Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize(plan):
            assert self.driver.contexts(), "no context is current"
            path = plan[32:].decode()
            if not Path(path).exists():
                self.log(Severity.ERROR, "the plan is damaged")
                return None
            return Engine(self, path)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def Refitter(self, engine, logger):  # noqa: N802 - TensorRT's name
        self.keep(logger)

        def refit():
            engine.filled = bool(self.refitted)
            return engine.filled

        return SimpleNamespace(refit_cuda_engine=refit, get_missing_weights=list)

    def OnnxParserRefitter(self, _refitter, logger):  # noqa: N802 - TensorRT's name
        self.keep(logger)
        return SimpleNamespace(refit_from_file=lambda path: self.refitted.append(path) or True)


def write_engine(onnx, folder, **changes):
    """A plan that stands for an ONNX file, and its description."""
    path = folder / f"{Path(onnx).stem}.engine"
    return write_plan(onnx, path, str(onnx).encode(), ".".join(map(str, VERSION)), GPU, changes)


def install(monkeypatch, driver, **options):
    """Puts the stand-in in the place of TensorRT; returns it."""
    from trt_pose.runtime import engine as loaded
    from trt_pose.trt.flavor import Flavor

    module = TensorRT(driver, **options)
    flavor = Flavor("tensorrt", ".".join(map(str, VERSION)), module)
    monkeypatch.setattr(loaded, "find_flavor", lambda name=None: flavor)
    return module
