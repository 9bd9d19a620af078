"""The device layer, the kernels and other packages' tensors on a real GPU; no TensorRT is needed."""

import statistics
import time

import numpy as np
import pytest

from trt_pose import EngineError, RunnerError
from trt_pose.gpu.arrays import DeviceArray, borrow, is_on_gpu, stream_handle
from trt_pose.gpu.device import Device, Graph, address_of, copy, cuda_errors, find_gpu, part, wait
from trt_pose.gpu.frames import (
    BLOCK_THREADS,
    FRAME,
    PackParams,
    fill_frames,
    kernel_source,
    letterbox_grid,
    letterbox_params,
)  # fmt: skip
from trt_pose.gpu.kernels import Kernel
from trt_pose.images.pixels import letterbox
from trt_pose.spec import InputSpec

from ..plugins.test_frames import by_numpy
from .replay import replay_two_copies

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu():
    device = Device()
    with device.current("testing"):
        yield device
    device.close()


def upload(gpu, stream, array):
    """The array on the GPU."""
    memory, pinned = gpu.memory(array.nbytes), gpu.pinned(array.nbytes)
    pinned.view(array.shape, array.dtype)[...] = array
    copy(pinned.buffer, memory, array.nbytes, stream)
    stream.sync()
    return memory


def download(gpu, stream, memory, shape, dtype):
    """A copy of the memory on the host."""
    pinned = gpu.pinned(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    copy(memory, pinned.buffer, pinned.size, stream)
    stream.sync()
    return pinned.view(shape, dtype).copy()


def make_context(driver):
    """Makes another context, current on this thread; CUDA 13's bindings take a structure first."""
    from cuda.bindings import __version__ as version

    result, made = driver.cuCtxCreate(*([] if version.startswith("12.") else [None]), 0, 0)
    assert int(result) == 0
    return made


def test_the_gpu_has_a_name_and_a_capability():
    found = find_gpu()
    assert found["name"]
    assert float(found["compute_capability"]) >= 7.5
    assert find_gpu(99) is None


def test_the_context_before_is_the_context_after():
    from cuda.bindings import driver

    other = make_context(driver)
    device = Device()
    assert int(driver.cuCtxGetCurrent()[1]) == int(other)
    with device.current("testing"):
        assert int(driver.cuCtxGetCurrent()[1]) == int(device.context) != int(other)
    assert int(driver.cuCtxGetCurrent()[1]) == int(other)
    device.close()
    driver.cuCtxDestroy(other)


@pytest.mark.parametrize("spin", [False, True])
def test_bytes_come_back(gpu, rng, spin):
    stream, end = gpu.stream(), gpu.event(timed=False)
    source, target, memory = gpu.pinned(1 << 20), gpu.pinned(1 << 20), gpu.memory(1 << 20)
    source.array[:] = rng.integers(0, 256, 1 << 20, dtype=np.uint8)
    copy(source.buffer, memory, 1 << 20, stream)
    copy(memory, target.buffer, 1 << 20, stream)
    wait(stream, end, spin=spin)
    np.testing.assert_array_equal(source.array, target.array)
    assert (part(memory, 16).size, address_of(part(memory, 16))) == (16, address_of(memory))


def test_a_graph_replays_what_was_captured(gpu):
    assert replay_two_copies(gpu) is not None


def test_what_a_capture_forbids_ends_it_and_nothing_else(gpu):
    stream = gpu.stream()
    with pytest.raises(Exception, match=r"CUDA_ERROR|capture"):
        Graph.capture(stream, lambda: bool(stream.sync()))
    stream.sync()
    assert Graph.capture(stream, lambda: True) is not None


def test_errors_of_cuda_are_one_sentence(gpu):
    words = r"opening m\.engine: CUDA answered CUDA_ERROR_OUT_OF_MEMORY\. Check"
    with pytest.raises(RunnerError, match=words), cuda_errors("opening m.engine"):
        gpu.memory(1 << 50)
    gpu.memory(1 << 20)


def test_times_between_events(gpu):
    stream, memory = gpu.stream(), [gpu.memory(1 << 28) for _ in range(2)]
    first, last = gpu.event(timed=True), gpu.event(timed=True)
    stream.record(first)
    copy(memory[0], memory[1], 1 << 28, stream)
    stream.record(last)
    last.sync()
    assert 0.01 < last - first < 100


def test_a_launch_costs_little(gpu):
    kernel, stream = Kernel(kernel_source(), "pack_rows"), gpu.stream()
    params, number = PackParams(batch=0, limit=1, joint_count=0), address_of(stream)
    kernel.launch((1, 1), BLOCK_THREADS, params, number)
    times = []
    for _ in range(20):
        stream.sync()
        start = time.perf_counter()
        for _ in range(50):
            kernel.launch((1, 1), BLOCK_THREADS, params, number)
        times.append((time.perf_counter() - start) / 50 * 1e6)
    assert min(times) < 15, statistics.median(times)


def test_a_launch_without_a_context_says_so():
    from cuda.bindings import driver

    driver.cuInit(0)
    driver.cuCtxSetCurrent(None)
    with pytest.raises(EngineError, match="launching pack_rows: no context is current"):
        Kernel(kernel_source(), "pack_rows").launch((1, 1), BLOCK_THREADS, PackParams(), 0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_letterbox_of_full_hd_frames_is_opencvs(gpu, rng, dtype):
    """Every byte: FMA instructions change no tap."""
    spec = InputSpec() if dtype == "uint8" else InputSpec(dtype="float32", white=1)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((1080, 1920), (333, 77), (640, 640), (1, 9))]
    stream, kernel, shape = gpu.stream(), Kernel(kernel_source(), "letterbox"), (len(images), 3, 640, 640)
    sources, frames = [upload(gpu, stream, image) for image in images], np.zeros(len(images), FRAME)
    fill_frames(frames, [image.shape for image in images], [address_of(source) for source in sources], spec)
    placed = upload(gpu, stream, frames.view(np.uint8))
    target = gpu.memory(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    params = letterbox_params(address_of(placed), address_of(target), spec)
    kernel.launch(letterbox_grid(len(images), spec), BLOCK_THREADS, params, address_of(stream))
    for image, found in zip(images, download(gpu, stream, target, shape, dtype), strict=True):
        want = letterbox(image, spec)[0]
        if dtype == "uint8":
            np.testing.assert_array_equal(found, want)
        else:
            np.testing.assert_allclose(found, want.astype(np.float32) * np.float32(1 / 255), rtol=1e-6)


@pytest.mark.parametrize("joints", [17, 1, 133, 0])
def test_packed_rows_are_numpys(gpu, rng, joints):
    """Boxes and joints in pixels of the images; 0 joints: classes, as of a detector."""
    stream, kernel, spec = gpu.stream(), Kernel(kernel_source(), "pack_rows"), InputSpec()
    for batch, limit in ((1, 100), (8, 300), (32, 1), (3, 1000)):
        counts = rng.integers(0, limit + 1, (batch, 1)).astype(np.int32)
        boxes = rng.normal(300, 200, (batch, limit, 4)).astype(np.float32)
        scores = np.sort(rng.uniform(0, 1, (batch, limit)).astype(np.float32), axis=1)[:, ::-1].copy()
        rest = rng.normal(300, 200, (batch, limit, joints, 3)).astype(np.float32)
        if joints == 0:
            rest = rng.integers(0, 80, (batch, limit)).astype(np.int32)
        frames = np.zeros(batch, FRAME)
        placed = fill_frames(frames, [(480, 300 + 50 * image, 3) for image in range(batch)], [0] * batch, spec)
        memory = [upload(gpu, stream, array) for array in (counts, boxes, scores, rest, frames.view(np.uint8))]
        counted, rows = gpu.memory(4 * batch), gpu.memory(4 * batch * limit * (5 + 3 * joints + (joints == 0)))
        starts = [address_of(item) for item in memory]
        joint_start, class_start = (starts[3], None) if joints else (None, starts[3])
        params = PackParams(
            *starts[:3], joint_start, class_start, starts[4], address_of(counted), address_of(rows), batch, limit,
            joints, 0.3,
        )  # fmt: skip
        kernel.launch((1, 1), BLOCK_THREADS, params, address_of(stream))
        want_kept, want_rows = by_numpy(counts, boxes, scores, rest, placed, 0.3)
        np.testing.assert_array_equal(download(gpu, stream, counted, (batch,), np.int32), want_kept)
        found = download(gpu, stream, rows, want_rows.shape, np.float32)
        np.testing.assert_allclose(found, want_rows, rtol=2e-6, atol=1e-4)


def test_torch_and_the_device_layer_read_one_memory(gpu):
    """Both ways, ordered by streams alone; the memory outlives its first holder."""
    import torch

    stream, theirs = gpu.stream(), torch.cuda.Stream()
    assert stream_handle(theirs) == theirs.cuda_stream
    with torch.cuda.stream(theirs):
        tensor = torch.arange(1 << 22, device="cuda", dtype=torch.float32) * 2
        assert is_on_gpu(tensor)
        guest = borrow(tensor, "input", gpu, stream)
    memory = gpu.memory(guest.nbytes)
    copy(guest.buffer, memory, guest.nbytes, stream)
    array = DeviceArray(memory, (2, 1 << 21), np.float32, stream, 0)
    stream.sync()
    tensors = (array.to_torch(), torch.as_tensor(array, device="cuda"), torch.from_dlpack(array))
    del array, memory
    for found in tensors:
        assert torch.equal(found.reshape(-1), tensor)
    with pytest.raises(RunnerError, match="input is not contiguous"):
        borrow(tensor.reshape(2, -1).T, "input", gpu, stream)


def test_cupy_and_the_device_layer_read_one_memory(gpu):
    cupy = pytest.importorskip("cupy")
    stream = gpu.stream()
    theirs = cupy.arange(96, dtype=cupy.float32)
    cupy.cuda.get_current_stream().synchronize()
    guest = borrow(theirs, "input", gpu, stream)
    assert (guest.shape, guest.dtype) == ((96,), np.float32)
    array = DeviceArray(guest.buffer, (4, 24), np.float32, stream, 0)
    np.testing.assert_array_equal(cupy.asnumpy(array.to_cupy()), np.arange(96, dtype=np.float32).reshape(4, 24))
    assert stream_handle(cupy.cuda.Stream(non_blocking=True)) > 0


def test_memory_of_another_context_is_refused(gpu):
    from cuda.bindings import driver

    other = make_context(driver)
    _, address = driver.cuMemAlloc(64)
    driver.cuCtxPopCurrent()
    guest = type("Guest", (), {})()
    guest.__cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (int(address), False), "version": 3}
    with pytest.raises(RunnerError, match=r"another CUDA context|the GPU's primary context"):
        borrow(guest, "input", gpu, gpu.stream())
    driver.cuCtxPushCurrent(other)
    driver.cuMemFree(address)
    driver.cuCtxPopCurrent()
    driver.cuCtxDestroy(other)


def test_keypoints_are_decoded_as_by_numpy(gpu):
    """The kernel for the heatmaps of Keypoint R-CNN gives the bits of the NumPy reference on a GPU, too."""
    from trt_pose.operators.keypoint_decode import KeypointDecode, kernel_source

    from ..plugins import test_keypoint_decode as reference

    rng, stream = np.random.default_rng(5), gpu.stream()
    heatmaps = rng.normal(0, 1, (4, 17, 56, 56)).astype(np.float32)
    for boxes in reference.BOXES.values():
        corners = np.array(boxes, np.float32)
        maps = heatmaps[: len(corners)]
        memories = [
            upload(gpu, stream, array) for array in (maps, corners, np.zeros((len(corners), 17, 3), np.float32))
        ]
        operator = KeypointDecode(Kernel(kernel_source(), "keypoint_decode"), {})
        *inputs, output = map(address_of, memories)
        operator.launch([list(maps.shape), list(corners.shape)], inputs, [output], address_of(stream))
        found = download(gpu, stream, memories[2], (len(corners), 17, 3), np.float32)
        np.testing.assert_array_equal(found, reference.by_numpy(maps, corners))
