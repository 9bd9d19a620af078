"""Tensors and streams of torch, cupy and pycuda with a runner, over the strict driver."""

import ctypes
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from trt_pose import RunnerError
from trt_pose.gpu.device import address_of
from trt_pose.runtime.trt import TrtRunner

from .. import gpu_stand_in as stand_in

pytestmark = pytest.mark.usefixtures("tensorrt")


@pytest.fixture
def runner(tensorrt, tiny_dynamic_plugin_onnx, tmp_path):
    with TrtRunner(stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path)) as opened:
        yield opened


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)


class GpuArray:
    """A tensor of another package, in memory of its own, as pycuda and cupy describe theirs."""

    def __init__(self, runner, array, late=None):
        self.shape, self.dtype = array.shape, array.dtype
        with runner.device.current("testing"):
            self.memory = runner.device.memory(array.nbytes)
            if late is None:
                ctypes.memmove(address_of(self.memory), array.ctypes.data, array.nbytes)
            else:  # filled by work on a stream that runs later
                driver, stream = late
                target, source = address_of(self.memory), array.ctypes.data
                driver.enqueue(stream, lambda: ctypes.memmove(target, source, array.nbytes))

    @property
    def __cuda_array_interface__(self):
        address = address_of(self.memory)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (address, False), "version": 3, "stream": None}


def read(array):
    block = (ctypes.c_uint8 * array.nbytes).from_address(array.ptr)
    return np.ctypeslib.as_array(block).view(array.dtype).reshape(array.shape).copy()


def test_feeds_on_the_gpu_are_copied_there(driver, runner, pixels):
    for batch in (3, 3, 1, 3):
        want = runner.run({"input": pixels[:batch]})
        driver.forget()
        got = runner.run({"input": GpuArray(runner, pixels[:batch])})
        kinds = [kind for kind, _ in driver.calls]
        assert ("h2d" not in kinds, kinds.count("d2d")) == (True, 1)
        for name, values in want.items():
            np.testing.assert_array_equal(got[name], values)


def test_an_output_feeds_the_next_run(driver, runner, tiny_dynamic_plugin_onnx, tmp_path, pixels):
    """A DeviceArray is a guest, too, also of another runner."""
    feed = GpuArray(runner, pixels)
    want = runner.run({"input": pixels})
    with runner.clone() as other:
        kept = other.run({"input": feed}, device=True)
        for name, values in want.items():
            np.testing.assert_array_equal(read(kept[name]), values)


@pytest.mark.parametrize("how", ["number", "cuda_stream", "handle", "ptr", "protocol"])
def test_streams_are_ordered_without_waiting(driver, runner, pixels, how):
    """The run sees what the caller's stream was still to write; the caller's stream sees the run's outputs."""
    want = runner.run({"input": pixels})
    with runner.device.current("testing"):
        stream = runner.device.stream()
        number = address_of(stream)
        other = {
            "number": number, "protocol": stream, "cuda_stream": SimpleNamespace(cuda_stream=number),
            "handle": SimpleNamespace(handle=number), "ptr": SimpleNamespace(ptr=number),
        }[how]  # fmt: skip
        for _ in range(3):
            feed = GpuArray(runner, pixels, late=(driver, number))
            driver.forget()
            kept = runner.run({"input": feed}, device=True, stream=other)
            assert driver.calls == []  # nothing has run: the host waited for nothing
            found = {}
            driver.enqueue(number, lambda kept=kept, found=found: found.update({k: read(v) for k, v in kept.items()}))
            stream.sync()
            for name, values in want.items():
                np.testing.assert_array_equal(found[name], values)
        copies = runner.run({"input": GpuArray(runner, pixels, late=(driver, number))}, stream=other)
        np.testing.assert_array_equal(copies["pred_boxes"], want["pred_boxes"])
        stream.sync()
        stream.close()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 128, 160), np.float32), "input is float32, expected a uint8 array"),
        (np.zeros((1, 3, 64, 160), np.uint8), r"input has shape \(1, 3, 64, 160\)"),
        (np.zeros((5, 3, 128, 160), np.uint8), "got 5 images, its profile ends at 4"),
    ],
    ids=["dtype", "shape", "batch"],
)
def test_wrong_tensors_on_the_gpu_are_one_sentence(runner, array, words):
    with pytest.raises(RunnerError, match=words):
        runner.run({"input": GpuArray(runner, array)})


def test_the_packages_get_the_same_memory(runner, pixels, monkeypatch):
    """What to_torch, to_cupy and to_pycuda call, with packages that write down what they are given."""
    given = {}

    def package(name, **members):
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    package("cupy", from_dlpack=lambda array: given.setdefault("cupy", array))
    package("pycuda")
    package("pycuda.gpuarray", GPUArray=lambda shape, dtype, **rest: given.setdefault("pycuda", (shape, dtype, rest)))
    boxes = runner.run({"input": pixels}, device=True)["pred_boxes"]
    assert boxes.to_cupy() is boxes
    boxes.to_pycuda()
    assert given["pycuda"] == (boxes.shape, boxes.dtype, {"base": boxes, "gpudata": boxes.ptr})
    monkeypatch.setattr("torch.from_dlpack", lambda array: given.setdefault("torch", array))
    assert boxes.to_torch() is boxes


def test_missing_packages_are_named(runner, pixels):
    boxes = runner.run({"input": pixels}, device=True)["pred_boxes"]
    for call, name in ((boxes.to_cupy, "cupy"), (boxes.to_pycuda, "pycuda")):
        if name in sys.modules or importlib.util.find_spec(name):
            continue
        with pytest.raises(ImportError, match=rf"{name}\S* is not installed\. Run: pip install"):
            call()
