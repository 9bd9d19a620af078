"""What a runner has on the GPU, over the strict driver and the real cuda packages."""

import io
import re
import statistics
import threading
import time

import numpy as np
import pytest

from trt_pose import EngineError, RunnerError
from trt_pose.gpu import device as devices, kernels
from trt_pose.gpu.arrays import DeviceArray, borrow, stream_handle
from trt_pose.gpu.device import Device, Graph, address_of, copy, driver_version, find_gpu, part, wait
from trt_pose.gpu.frames import BLOCK_THREADS, PackParams, kernel_source as frames_source
from trt_pose.gpu.kernels import Kernel, compile_kernel
from trt_pose.operators.nms import kernel_source as nms_source

from ..conftest import slow_but_first
from .replay import replay_two_copies


@pytest.fixture
def gpu(driver):
    device = Device()
    with device.current("testing"):
        yield device
    device.close()


def test_the_gpu_is_found_and_missed(driver):
    assert find_gpu() == {"name": "Strict GPU", "compute_capability": "9.0"}
    assert find_gpu(1) is None
    assert driver_version() == (13, 0)
    driver.library.strict_close()
    assert find_gpu() is None
    with pytest.raises(RunnerError, match="there is no GPU here, or no driver"):
        Device()


def test_the_context_before_is_the_context_after(driver):
    from cuda.bindings import driver as cuda

    other = driver.new_context()
    assert driver.contexts() == 1
    device = Device()
    assert int(cuda.cuCtxGetCurrent()[1]) == int(other)
    with device.current("testing"):
        assert int(cuda.cuCtxGetCurrent()[1]) == int(device.context) != int(other)
        with pytest.raises(ZeroDivisionError), device.current("testing"):
            raise ZeroDivisionError
        assert driver.contexts() == 2
    assert int(cuda.cuCtxGetCurrent()[1]) == int(other)
    device.close()
    cuda.cuCtxDestroy(other)


def test_copies_are_done_when_somebody_waited(gpu):
    stream, end = gpu.stream(), gpu.event(timed=False)
    source, target, memory = gpu.pinned(64), gpu.pinned(64), gpu.memory(64)
    source.array[:], target.array[:] = 7, 1
    copy(source.buffer, memory, 64, stream)
    copy(memory, target.buffer, 32, stream)
    source.array[:] = 9  # read late
    assert (target.array == 1).all()
    wait(stream, end, spin=False)
    assert target.array.tolist() == [9] * 32 + [1] * 32
    copy(memory, target.buffer, 64, stream)
    wait(stream, end, spin=True)
    assert (target.array == 9).all()
    view = target.view((2, 4), np.float32)
    assert (view.shape, view.ctypes.data) == ((2, 4), address_of(target.buffer))
    copy(memory, target.buffer, 0, stream)
    for item in (source, target):
        item.close()


def test_a_part_keeps_the_whole_alive(driver, gpu):
    memory = gpu.memory(64)
    piece = part(memory, 16)
    assert (piece.size, address_of(piece)) == (16, address_of(memory))
    assert part(memory, 64) is memory
    del memory
    assert driver.count("memory") == 1
    del piece
    assert driver.count("memory") == 0


def test_times_between_events(gpu):
    stream = gpu.stream()
    first, last = gpu.event(timed=True), gpu.event(timed=True)
    stream.record(first)
    stream.record(last)
    last.sync()
    assert 0 <= last - first < 1000


@pytest.mark.parametrize("captures", [True, False])
def test_a_graph_replays_what_was_captured(driver, gpu, captures):
    driver.refuse_captures(not captures)
    graph = replay_two_copies(gpu, captures)
    if graph:
        assert driver.count("executable") == 1
    del graph
    assert (driver.count("graph"), driver.count("executable")) == (0, 0)


def test_what_a_capture_forbids_ends_it_and_nothing_else(driver, gpu):
    stream = gpu.stream()
    for forbidden in (lambda: gpu.pinned(8), stream.sync, lambda: wait(stream, gpu.event(timed=False), spin=False)):
        with pytest.raises(Exception, match=r"CUDA_ERROR|capture"):
            Graph.capture(stream, lambda forbidden=forbidden: bool(forbidden()))
        stream.sync()
    assert all("captur" in line for line in driver.forgive())
    assert Graph.capture(stream, lambda: True) is not None


def test_errors_of_cuda_are_one_sentence(driver, gpu):
    driver.memory_left(10)
    words = r"opening m\.engine: CUDA answered CUDA_ERROR_OUT_OF_MEMORY\. Check"
    with pytest.raises(RunnerError, match=words), devices.cuda_errors("opening m.engine"):
        gpu.memory(64)
    with pytest.raises(ZeroDivisionError), devices.cuda_errors("opening"):
        raise ZeroDivisionError


class Guest:
    """A tensor as pycuda, cupy and numba describe theirs."""

    def __init__(self, address, shape, typestr="<f4", strides=None, stream=None):
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": typestr, "data": (address, False), "version": 3, "strides": strides,
            "stream": stream,
        }  # fmt: skip


def test_guests_are_borrowed(driver, gpu):
    stream, memory = gpu.stream(), gpu.memory(96)
    guest = borrow(Guest(address_of(memory), (2, 4, 3)), "input", gpu, stream)
    assert (guest.shape, guest.dtype, guest.nbytes) == ((2, 4, 3), np.float32, 96)
    own = borrow(DeviceArray(memory, (3, 8), np.float32, stream, 0), "input", gpu, stream)
    assert (own.shape, address_of(own.buffer)) == ((3, 8), address_of(memory))
    packed = borrow(Guest(address_of(memory), (2, 4, 3), strides=(48, 12, 4)), "input", gpu, stream)
    assert packed.shape == (2, 4, 3)
    with pytest.raises(RunnerError, match="input is not contiguous"):
        borrow(Guest(address_of(memory), (2, 4), strides=(4, 8)), "input", gpu, stream)


def test_memory_of_another_context_names_autoprimaryctx(driver, gpu):
    from cuda.bindings import driver as cuda

    other = driver.new_context()
    _, address = cuda.cuMemAlloc(64)
    cuda.cuCtxPopCurrent()
    with pytest.raises(RunnerError, match=r"another CUDA context.*pycuda\.autoprimaryctx instead of"):
        borrow(Guest(int(address), (4,)), "input", gpu, gpu.stream())
    host = np.zeros(4, np.float32)
    with pytest.raises(RunnerError, match="the GPU's primary context"):
        borrow(Guest(host.ctypes.data, (4,)), "input", gpu, gpu.stream())
    cuda.cuCtxPushCurrent(other)
    cuda.cuMemFree(address)
    cuda.cuCtxDestroy(other)


def test_an_empty_array_has_no_address(gpu):
    array = DeviceArray(gpu.memory(1), (0, 56), np.float32, gpu.stream(), 0)
    assert array.__cuda_array_interface__["data"] == (0, False)
    assert (array.ptr, array.nbytes) == (0, 0)


def test_streams_of_other_packages(gpu):
    from types import SimpleNamespace as Foreign

    stream = gpu.stream()
    number = address_of(stream)
    for other in (number, stream, Foreign(cuda_stream=number), Foreign(handle=number), Foreign(ptr=number)):
        assert stream_handle(other) == number
    with pytest.raises(RunnerError, match="expected an integer or a stream of torch, cupy, pycuda or"):
        stream_handle("stream")


def test_a_launch_costs_little(driver, gpu):
    """The host's time in front of a driver that only writes the launch down."""
    kernel, stream = Kernel(frames_source(), "pack_rows"), gpu.stream()
    params, number = PackParams(batch=0, limit=1, joint_count=0), address_of(stream)
    kernel.launch((1, 1), BLOCK_THREADS, params, number)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(50):
            kernel.launch((1, 1), BLOCK_THREADS, params, number)
        times.append((time.perf_counter() - start) / 50 * 1e6)
        stream.sync()
    assert min(times) < 15, statistics.median(times)


def test_a_launch_without_a_context_says_so(driver):
    with pytest.raises(EngineError, match="launching pack_rows: no context is current"):
        Kernel(frames_source(), "pack_rows").launch((1, 1), BLOCK_THREADS, PackParams(), 0)
    assert driver.forgive() == ["cuCtxGetDevice: no context is current"]


def test_kernels_of_a_newer_cuda_than_the_driver(driver, gpu, monkeypatch):
    monkeypatch.setattr(kernels, "driver_version", lambda: (12, 4))
    monkeypatch.setattr(kernels, "nvrtc_version", lambda: (13, 0))
    code = type("Code", (), {"get_kernel": lambda self, name: gpu._core.ObjectCode.from_cubin(b"no").get_kernel(name)})
    monkeypatch.setattr(kernels, "compile_kernel", lambda source, architecture: code())
    words = r"NVRTC is of CUDA 13\.0, and the driver supports CUDA 12\.4: .* pip install 'cuda-bindings\[all\]<13'"
    with pytest.raises(EngineError, match=words):
        Kernel(frames_source(), "letterbox").launch((1, 1), BLOCK_THREADS, PackParams(), address_of(gpu.stream()))
    assert driver.forgive() == ["cuLibraryLoadData: no cubin"]


def test_threads_launch_the_same_kernel(driver, gpu):
    kernel, found = Kernel(frames_source(), "pack_rows"), []

    def work():
        with gpu.current("testing"):
            stream = gpu.stream()
            kernel.launch((1, 1), BLOCK_THREADS, PackParams(batch=0), address_of(stream))
            stream.sync()
            found.append(stream)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert driver.calls.count(("kernel", "pack_rows")) == 8


@pytest.mark.parametrize(
    "architecture", slow_but_first(["sm_90", "sm_75", "sm_80", "sm_87", "sm_89", "sm_100", "sm_120"])
)
def test_what_the_kernels_need_of_a_gpu(driver, architecture):
    """Registers for a full block, no spills, the static shared memory of every GPU, and no doubles per pixel."""
    core = pytest.importorskip("cuda.core")
    limits = {"pose_nms": (64, 48 << 10, 0), "letterbox": (64, 2 << 10, 8), "pack_rows": (64, 8 << 10, 0)}
    found = {}
    for source in (nms_source(), frames_source()):
        text, log = source.read_text(encoding="utf-8"), io.StringIO()
        options = {"arch": architecture, "std": "c++17", "name": source.name}
        core.Program(text, "c++", core.ProgramOptions(**options, ptxas_options=["-v"])).compile("cubin", logs=log)
        ptx = core.Program(text, "c++", core.ProgramOptions(**options)).compile("ptx").code.decode()
        for part_ in log.getvalue().split("Compiling entry function '")[1:]:
            name = part_.partition("'")[0]
            body = ptx.split(f".entry {name}")[1].split(".entry")[0]
            doubles = len(re.findall(r"^\s+(?!cvt|mov|ld)[\w.]+\.f64", body, re.MULTILINE))
            spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part_)))
            registers, shared = (int(re.search(words, part_)[1]) for words in (r"(\d+) registers", r"(\d+) bytes smem"))
            found[name] = (registers, shared, doubles, spilled)
    assert set(found) == set(limits)
    for name, (registers, shared, doubles) in limits.items():
        assert found[name][3] == 0, name
        assert all(a <= b for a, b in zip(found[name], (registers, shared, doubles), strict=False)), found


def test_cubins_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pytest.importorskip("cuda.core")
    first = bytes(compile_kernel(frames_source(), "sm_90").code)
    assert bytes(compile_kernel(frames_source(), "sm_90").code) == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no")  # a folder that cannot be made
    assert bytes(compile_kernel(frames_source(), "sm_90").code)[:4] == b"\x7fELF"
