"""A stand-in for a GPU and TensorRT: memory is the host's, kernels are the real ones compiled by g++, an engine is its
ONNX file in ONNX Runtime. Everything the runner does happens, at once and in order; what it cannot show is timing,
races between streams, and what a real driver refuses.
"""
# ruff: noqa: N802, N815 - CUDA's names

import ctypes
import itertools
import json
import struct
import time
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from trt_pose.files import file_sha256
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.trt.sidecar import Sidecar

VERSION = (11, 4, 0, 1)
GPU = {"name": "Stand-in", "compute_capability": "9.0"}


class Driver:
    """The functions of cuda.bindings.driver that the package calls."""

    class CUresult(IntEnum):
        CUDA_SUCCESS = 0
        CUDA_ERROR_OUT_OF_MEMORY = 2
        CUDA_ERROR_NOT_READY = 600

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
    )
    CUfunction = staticmethod(lambda number: number)

    def __init__(self, kernels):
        self.numbers, self.live, self.calls = itertools.count(1), {}, []
        self.capturing, self.kernels, self.functions = {}, kernels, {}
        self.contexts, self.refuse_capture, self.memory_left = 0, False, None

    def made(self, kind, value=None):
        handle = next(self.numbers)
        self.live[handle] = (kind, value)
        return 0, handle

    def freed(self, handle):
        del self.live[handle]  # a second time is an error
        return (0,)

    def count(self, kind):
        return sum(name == kind for name, _ in self.live.values())

    # Devices and contexts.
    def cuInit(self, _flags):
        return (0,)

    def cuDeviceGetCount(self):
        return 0, 1

    def cuDeviceGet(self, index):
        return 0, index

    def cuDeviceGetName(self, _size, _device):
        return 0, GPU["name"].encode()

    def cuDeviceGetAttribute(self, kind, _device):
        return 0, {"major": 9, "minor": 0}[kind]

    def cuCtxGetDevice(self):
        return 0, 0

    def cuDevicePrimaryCtxRetain(self, device):
        self.contexts += 1
        return 0, f"context {device}"

    def cuDevicePrimaryCtxRelease(self, _device):
        self.contexts -= 1
        return (0,)

    def cuCtxPushCurrent(self, _context):
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, None

    # Memory: addresses of the host.
    def cuMemAlloc(self, size):
        if self.memory_left is not None and size > self.memory_left:
            return self.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xA5, size)  # what nobody wrote must not look like anything
        self.live[ctypes.addressof(block)] = ("memory", block)
        return 0, ctypes.addressof(block)

    def cuMemHostAlloc(self, size, _flags):
        result, address = self.cuMemAlloc(size)
        self.live[address] = ("pinned", self.live[address][1])
        return result, address

    cuMemFree = cuMemFreeHost = cuStreamDestroy = cuEventDestroy = cuGraphDestroy = cuGraphExecDestroy = freed

    def cuMemcpyHtoDAsync(self, target, source, size, _stream):
        ctypes.memmove(target, source, size)
        self.calls.append(("h2d", size))
        return (0,)

    def cuMemcpyDtoHAsync(self, target, source, size, _stream):
        ctypes.memmove(target, source, size)
        self.calls.append(("d2h", size))
        return (0,)

    # Streams, events, graphs: what is enqueued is done.
    def cuStreamCreate(self, _flags):
        return self.made("stream")

    def cuStreamSynchronize(self, _stream):
        return (0,)

    cuStreamQuery = cuStreamSynchronize

    def cuStreamWaitEvent(self, _stream, event, _flags):
        assert self.live[event][1], "waits for an event nobody recorded"
        return (0,)

    def cuEventCreate(self, _flags):
        return self.made("event", [])

    def cuEventRecord(self, event, _stream):
        self.live[event][1].append(time.perf_counter())
        return (0,)

    def cuEventSynchronize(self, event):
        assert self.live[event][1]
        return (0,)

    def cuEventElapsedTime(self, first, second):
        return 0, (self.live[second][1][-1] - self.live[first][1][-1]) * 1e3

    def cuStreamBeginCapture(self, stream, _mode):
        self.capturing[stream] = []
        return (0,)

    def cuStreamEndCapture(self, stream):
        work = self.capturing.pop(stream)
        return (901, None) if self.refuse_capture else self.made("graph", work)

    def cuGraphInstantiate(self, graph, _flags):
        return self.made("executable", self.live[graph][1])

    def cuGraphLaunch(self, executable, _stream):
        for work in self.live[executable][1]:
            work()
        self.calls.append(("graph", executable))
        return (0,)

    # Kernels: the real ones, compiled for the CPU.
    def cuLibraryLoadData(self, _code, *_):
        return 0, "library"

    def cuLibraryGetKernel(self, _library, name):
        self.functions[len(self.functions) + 1] = name.decode()
        return 0, len(self.functions)

    def cuLaunchKernel(self, function, *arguments):
        params = ctypes.c_void_p.from_address(arguments[8])  # the one argument, by value: its address
        getattr(self.kernels, f"{self.functions[function]}_cpu")(params, 0)
        self.calls.append(("kernel", self.functions[function]))
        return (0,)


class Logger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class Engine:
    """The ONNX file whose path the plan holds."""

    def __init__(self, driver, path):
        self.driver, self.session = driver, OnnxRunner(path, providers=["cpu"])
        self.tensors = {**self.session.inputs, **self.session.outputs}
        self.names = list(self.tensors)
        self.num_io_tensors = len(self.names)

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
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.allocators, self.shapes = engine, {}, {}, {}
        self.runs, self.fails = 0, False

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return 1 <= shape[0] <= 4

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

    def execute_async_v3(self, stream):
        captured = self.engine.driver.capturing.get(stream)
        if captured is not None:
            captured.append(self.work)
            return True
        self.work()
        return not self.fails

    def work(self):
        self.runs += 1
        feeds = {}
        for name, info in self.engine.session.inputs.items():
            shape = self.get_tensor_shape(name)
            size = int(np.prod(shape)) * np.dtype(info.dtype).itemsize
            block = (ctypes.c_uint8 * size).from_address(self.addresses[name])
            feeds[name] = np.ctypeslib.as_array(block).view(info.dtype).reshape(shape).copy()
        for name, array in self.engine.session.run(feeds).items():
            address = self.addresses.get(name)
            if name in self.allocators:
                address = self.allocators[name].reallocate_output_async(name, 0, max(array.nbytes, 1), 256, 0)
                self.allocators[name].notify_shape(name, array.shape)
            ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)


def tensorrt(driver, operators=("PoseNMS_TRT", "DetectionNMS_TRT")):
    """The stand-in for the tensorrt module."""
    registry = SimpleNamespace(get_creator=lambda name, _version, _namespace: name if name in operators else None)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            path = plan[32:].decode()
            if not Path(path).exists():
                self.logger.log(Logger.Severity.ERROR, "the plan is damaged")
                return None
            return Engine(driver, path)

    class ILogger(Logger):
        pass

    return SimpleNamespace(
        ILogger=ILogger,
        Runtime=Runtime,
        IOutputAllocator=type("IOutputAllocator", (), {}),
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        nptype=np.dtype,
        init_libnvinfer_plugins=lambda *_: True,
        get_plugin_registry=lambda: registry,
    )


def write_engine(onnx, folder, **changes):
    """A plan that stands for an ONNX file, and its description."""
    path = folder / f"{Path(onnx).stem}.engine"
    path.write_bytes(b"ftrt" + bytes(20) + struct.pack("4B", *VERSION) + bytes(4) + str(onnx).encode())
    with OnnxRunner(onnx, providers=["cpu"]) as runner:
        spec = runner.spec
    sidecar = Sidecar(
        spec, file_sha256(path), path.stat().st_size, "", "tensorrt", "11.4.0.1", GPU, plugins=spec.plugins_required
    )
    record = {**json.loads(sidecar.to_json()), **changes}
    Path(f"{path}.json").write_text(json.dumps(record))
    return path


def install(monkeypatch, kernels, **options):
    """Puts the stand-in in the place of cuda-bindings' driver and of TensorRT; returns the driver."""
    from trt_pose.gpu import device, kernels as compiler
    from trt_pose.runtime import engine as loaded
    from trt_pose.trt.flavor import Flavor

    driver = Driver(kernels)
    for module in (compiler, device):
        monkeypatch.setattr(module, "bindings", lambda part: {"driver": driver}[part])
    monkeypatch.setattr(compiler, "compile_kernel", lambda source, architecture: b"")
    flavor = Flavor("tensorrt", ".".join(map(str, VERSION)), tensorrt(driver, **options))
    monkeypatch.setattr(loaded, "find_flavor", lambda name=None: flavor)
    return driver
