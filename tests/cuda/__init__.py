"""The strict driver (strict_driver.cpp) as a Python object.

cuda.core and cuda.bindings look for ``libcuda.so.1``; the loader gives them a library of that name that the process has
loaded already. So it is loaded before anything else (tests/conftest.py), and has no GPU until a test opens one.
"""

import ctypes
import gc
import hashlib
import importlib.util
import itertools
import shutil
from pathlib import Path

from ..kernel_on_cpu import PLUGINS, compile_cpp

SOURCE = Path(__file__).parent / "strict_driver.cpp"
BUILT = Path(__file__).parent.parent.parent / "build" / "strict_driver"
KERNELS = {
    "frames": PLUGINS / "runtime" / "cpu" / "frames_cpu.cpp",
    "nms": PLUGINS / "pose_nms" / "cpu" / "pose_nms_cpu.cpp",
    "keypoints": PLUGINS / "keypoint_decode" / "cpu" / "keypoint_decode_cpu.cpp",
}


def _has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


# Asked once, before the strict driver is loaded under the same name.
REAL_DRIVER = _has_driver()
KINDS = ("stream", "event", "graph", "executable", "memory", "pinned")
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_longlong)


def why_not():
    """Why the strict driver cannot take a real one's place here; empty when it can."""
    if REAL_DRIVER:
        return "a real driver is here"
    if shutil.which("g++") is None:
        return "needs g++"
    return "" if importlib.util.find_spec("cuda.core") else "needs cuda-core"


def build():
    """Builds the driver and the kernels for the CPU, once for each state of the sources; returns the driver's path."""
    sources = [SOURCE, *KERNELS.values(), *PLUGINS.glob("**/*.cuh"),
               *PLUGINS.glob("**/cuda_on_cpu.hpp")]  # fmt: skip
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = BUILT / digest
    if not (folder / "libcuda.so.1").exists():
        temporary = folder.with_suffix(f".{id(folder)}")
        temporary.mkdir(parents=True)
        shared = ("-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o")
        compile_cpp(*shared, temporary / "libcuda.so.1", "-Wl,-soname,libcuda.so.1", SOURCE)
        for name, source in KERNELS.items():
            compile_cpp(*shared[:3], "-o", temporary / f"{name}.so", source)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
    return folder / "libcuda.so.1"


class StrictDriver:
    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        for name in ("strict_misuses", "strict_calls"):
            getattr(self.library, name).restype = ctypes.c_char_p
        self.library.strict_new_context.restype = ctypes.c_void_p
        self.library.strict_enqueue.argtypes = (ctypes.c_void_p, _WORK, ctypes.c_longlong)
        self.library.strict_holds.argtypes = (ctypes.c_ulonglong, ctypes.c_size_t)
        self.library.strict_memory_left.argtypes = (ctypes.c_size_t,)
        self.library.strict_is_capturing.argtypes = (ctypes.c_void_p,)
        for name in KERNELS:
            self.library.strict_kernels(str(path.parent / f"{name}.so").encode())
        self._numbers, self._work, self.failures = itertools.count(1), {}, []
        self._run = _WORK(self._call)

    def _call(self, number):
        try:
            self._work[number]()
        except BaseException as error:
            self.failures.append(error)

    def open(self, capability=(9, 0), version=13000):
        self.failures.clear()
        self._work.clear()
        self.library.strict_open(*capability, version)

    def close(self):
        """Takes the GPU away; what lives or was misused is an error."""
        self.library.strict_drain()
        self._work.clear()  # and what its functions hold
        alive, misuses, failures = self.alive(), self.misuses(), list(self.failures)
        self.library.strict_close()
        assert not failures, failures
        assert not misuses, misuses
        assert not alive, alive

    def alive(self):
        """What was made and not freed, by kind; memory is freed when its stream gets there."""
        gc.collect()
        self.library.strict_drain()
        counts = {kind: self.library.strict_live(kind.encode()) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    def count(self, kind):
        return self.alive().get(kind, 0)

    def misuses(self):
        return self.library.strict_misuses().decode().splitlines()

    def forgive(self):
        """Returns the misuses, and forgets them."""
        found = self.misuses()
        self.library.strict_forgive()
        return found

    @property
    def calls(self):
        """What ran: ("h2d", 64), ("kernel", "letterbox"), ("graph", "")."""
        lines = [line.partition(" ") for line in self.library.strict_calls().decode().splitlines()]
        return [(kind, int(rest) if rest.isdecimal() else rest) for kind, _, rest in lines]

    def forget(self):
        self.library.strict_forget_calls()

    def contexts(self):
        """The depth of this thread's stack of contexts."""
        return self.library.strict_contexts()

    def new_context(self):
        """Makes another context of the GPU, current on this thread, as pycuda.autoinit does; returns its address."""
        return self.library.strict_new_context()

    def holds(self, address, size):
        return bool(self.library.strict_holds(address, size))

    def is_capturing(self, stream):
        return bool(self.library.strict_is_capturing(stream))

    def enqueue(self, stream, work):
        """Enqueues a call, as TensorRT enqueues its kernels; returns the driver's code."""
        number = next(self._numbers)
        self._work[number] = work
        return self.library.strict_enqueue(stream, self._run, number)

    def refuse_captures(self, refuses=True):
        self.library.strict_refuse_capture(refuses)

    def fail_waits(self, fails=True):
        """As after an illegal access, waiting for a stream is an error, except for the default one."""
        self.library.strict_fail_waits(fails)

    def memory_left(self, size):
        self.library.strict_memory_left(size)
