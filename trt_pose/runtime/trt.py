"""Runner for TensorRT 10.3 to 11.x and TensorRT-RTX, based on the named-tensor API."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from ..errors import PoseError, RunnerError
from ..gpu.arrays import DeviceArray, GuestArray, borrow, is_on_gpu, stream_handle
from ..gpu.device import Device, Graph, address_of, copy, wait
from ..spec import ModelSpec
from .bindings import Bindings
from .engine import LoadedEngine, RuntimeContext, kernel_cache, load_engine, make_context, read_description
from .runner import Pipeline, QueryTimes, check_feeds

if TYPE_CHECKING:
    from cuda.core import Event, Stream

Array = npt.NDArray[Any]
Feeds = Mapping[str, Any]


class TrtOptions(TypedDict):
    cuda_graph: bool
    spin_wait: bool
    transfers: bool


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph of the engine's work, or None after a capture that failed; and the input shapes."""

    graph: Graph | None
    shapes: tuple[int, ...]


class TrtRunner:
    """Runner for engines, with buffers allocated once and, if the engine allows, a CUDA graph of the batch size.

    Args:
        model: path of the engine, or a loaded engine to share.
        device: index of the GPU; ignored for a loaded engine.
        library: plugin library, see :func:`trt_pose.trt.plugins.load_plugins`; ignored for a loaded engine.
        weights: the ONNX file that an engine built with ``--stripWeights`` gets its weights from; None looks beside the
            engine; ignored for a loaded engine.
        cuda_graph: capture the engine's work when a batch size is repeated, and launch it as a CUDA graph.
        spin_wait: poll for completion instead of sleeping; saves the wake-up time but keeps a CPU core busy.
        transfers: whether :meth:`time_query` includes the copies.

    Threads may share a runner, which then runs their calls one after the other. :meth:`clone` makes another runner.

    Raises:
        RunnerError: no GPU, no driver, or no execution context.
        EngineError: see :func:`trt_pose.runtime.engine.load_engine`.
        MissingDependencyError: TensorRT or cuda-core is not installed.
    """

    def __init__(
        self,
        model: str | Path | LoadedEngine,
        *,
        device: int = 0,
        library: str | Path | None = None,
        weights: str | Path | None = None,
        cuda_graph: bool = True,
        spin_wait: bool = False,
        transfers: bool = True,
    ) -> None:
        self._options: TrtOptions = {"cuda_graph": cuda_graph, "spin_wait": spin_wait, "transfers": transfers}
        self._stack = ExitStack()
        self.lock = threading.RLock()
        self._captured: _Captured | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._key: tuple[int, ...] = ()
        self._last_key: tuple[int, ...] = ()  # of the last run that succeeded
        self._events: list[Event] = []
        self._runtime: RuntimeContext | None = None
        shared = model if isinstance(model, LoadedEngine) else None
        if shared is None:
            read_description(str(model))  # checks that need no GPU come first
        try:
            self.device = self.own(Device(shared.device if shared else device))
            self._prepare(shared or load_engine(str(model), self.device, library, weights))
        except BaseException:
            self._stack.close()
            raise

    def _prepare(self, loaded: LoadedEngine) -> None:
        self.loaded: LoadedEngine | None = loaded
        self.path, self.trt, self._log = loaded.path, loaded.flavor.module, loaded.log
        self.spec: ModelSpec = loaded.sidecar.spec
        self.runtime = f"{loaded.flavor} on {self.device.gpu['name']}"
        with self.device.current(f"opening {self.path}"):
            self.stream: Stream = self.own(self.device.stream())
            self.end: Event = self.own(self.device.event(timed=False))
            self._guests: Event = self.own(self.device.event(timed=False))
            self.streams: list[Stream] = [self.stream]  # all streams in use
            cache = kernel_cache(loaded.sidecar, self.device)
            self._runtime = make_context(loaded.flavor, loaded.engine, self._options["cuda_graph"], cache)
            if self._runtime.context is None:
                raise RunnerError(f"opening {self.path}: no execution context: {self.reason()}. Free GPU memory.")
            self._stack.callback(self._drop_context)
            bindings = Bindings.of(self, loaded.engine, self._runtime.context)
        self.inputs, self.outputs, self.tensors = bindings.inputs, bindings.outputs, bindings.tensors
        self._allocators = bindings.allocators
        self._graphs = self._options["cuda_graph"] and not self._allocators and not self._runtime.captures_itself
        name = self.spec.input.name
        self.batch_name = name if name in self.inputs else next(iter(self.inputs))
        self.largest_batch = self.tensors[self.batch_name].largest[0]

    def _drop_context(self) -> None:
        """Drops graph, context, engine and memory, before the stream; arrays that a caller holds keep their memory."""
        with suppress(PoseError), self.device.current(f"closing {self.path}"):
            self._captured = None
            self._runtime = None
            self.loaded = None
            for holders in (getattr(self, "tensors", {}), getattr(self, "_allocators", {})):
                holders.clear()

    def own(self, resource: Any) -> Any:
        """Returns ``resource`` and closes it with the runner; the last one added is closed first."""
        self._stack.callback(resource.close)
        return resource

    def run(self, feeds: Feeds, *, device: bool = False, stream: Any = None) -> dict[str, Any]:
        """Runs the engine on named arrays; returns its outputs by name.

        Args:
            feeds: arrays by input name: NumPy arrays, or tensors on this GPU, which are copied there.
            device: return the outputs on the GPU, as :class:`trt_pose.gpu.arrays.DeviceArray`, valid until the next
                run.
            stream: a CUDA stream of the caller: an integer, or a stream of torch, cupy, pycuda or cuda.core. The run
                begins when the work enqueued there is done, and what is enqueued there afterwards waits for the run.
                With ``device`` the host does not wait, unless the engine's output has no fixed size (flat format).

        Raises:
            RunnerError: the arrays do not fit, the runner is closed, or TensorRT failed.
        """
        with self.lock:
            self.check_open()
            with self.device.current(f"running {self.path}"):
                other = None if stream is None else self.device.borrowed(stream_handle(stream))
                if other is not None:
                    other.record(self._guests)
                    self.stream.wait(self._guests)
                feeds = self._accept(feeds)
                shapes = self.set_shapes({name: array.shape for name, array in feeds.items()})
                self._fill(feeds)
                self._upload(feeds)
                self.enqueue()
                if not device:
                    self._download(shapes)
                if other is None or not device or self._allocators:
                    wait(self.stream, self.end, self._options["spin_wait"])
                if other is not None:
                    self.stream.record(self._guests)
                    other.wait(self._guests)
                return self._collect(shapes, device)

    def time_query(self, feeds: Feeds) -> QueryTimes:
        """Times one query as trtexec defines it, by events on the GPU; excludes copies if ``transfers`` is False."""
        counted = self._options["transfers"]
        with self.lock:
            self.check_open()
            with self.device.current(f"running {self.path}"):
                feeds = self._accept(feeds)
                shapes = self.set_shapes({name: array.shape for name, array in feeds.items()})
                self._fill(feeds)
                if not counted:
                    self._upload(feeds)
                    wait(self.stream, self.end, spin=True)
                marks = self._marks()
                start = time.perf_counter()
                self.stream.record(marks[0])
                if counted:
                    self._upload(feeds)
                self.stream.record(marks[1])
                before = time.perf_counter()
                self.enqueue()
                enqueued = time.perf_counter() - before
                self.stream.record(marks[2])
                if counted:
                    self._download(shapes)
                self.stream.record(marks[3])
                wait(self.stream, self.end, self._options["spin_wait"])
                end = time.perf_counter()
                h2d, compute, d2h = (float(marks[i + 1] - marks[i]) for i in range(3))
        return QueryTimes(start, end, compute, enqueued * 1e3, h2d if counted else None, d2h if counted else None)

    def _marks(self) -> list[Event]:
        if not self._events:
            self._events = [self.own(self.device.event(timed=True)) for _ in range(4)]
        return self._events

    def _accept(self, feeds: Feeds) -> dict[str, Any]:
        """Returns the feeds, with tensors on the GPU as GuestArray. Raises RunnerError when they do not fit."""
        taken = {
            name: borrow(value, name, self.device, self.stream) if is_on_gpu(value) else value
            for name, value in feeds.items()
        }
        check_feeds(taken, self.inputs, (np.ndarray, GuestArray))
        self.check_batch(taken[self.batch_name].shape[0])
        return taken

    def check_open(self) -> RuntimeContext:
        """Returns the execution context. Raises RunnerError after :meth:`close`."""
        if self._runtime is None:
            raise RunnerError(f"running {self.path}: the runner is closed. Open it again.")
        return self._runtime

    @property
    def _context(self) -> Any:
        return self.check_open().context

    def check_batch(self, batch: int) -> None:
        """Raises RunnerError for more images than the buffers hold."""
        if batch > self.largest_batch:
            raise RunnerError(
                f"running {self.path}: got {batch} images, its profile ends at {self.largest_batch}. Give fewer,"
                " or build it with a larger --maxShapes."
            )

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Sets the input shapes of a run; returns the output shapes that are known before it.

        Raises:
            RunnerError: a shape is outside the engine's profile.
        """
        for name, shape in shapes.items():
            if None not in self.inputs[name].shape or self._shapes.get(name) == shape:
                continue
            if not self._context.set_input_shape(name, shape):
                raise RunnerError(
                    f"running {self.path}: {name} {shape} is outside its profile: {self.reason()}. Build it with"
                    " other --minShapes and --maxShapes."
                )
            self._shapes[name] = shape
        self._key = tuple(number for shape in shapes.values() for number in shape)
        fixed = [name for name in self.outputs if name not in self._allocators]
        return {name: tuple(self._context.get_tensor_shape(name)) for name in fixed}

    def _fill(self, feeds: Mapping[str, Any]) -> None:
        for name, array in feeds.items():
            if not isinstance(array, GuestArray):
                self.tensors[name].pinned.view(array.shape, array.dtype)[...] = array

    def _upload(self, feeds: Mapping[str, Any]) -> None:
        for name, array in feeds.items():
            tensor = self.tensors[name]
            source = array.buffer if isinstance(array, GuestArray) else tensor.pinned.buffer
            copy(source, tensor.memory, array.nbytes, self.stream)

    def enqueue(self) -> None:
        """Enqueues the engine's work on the stream, as a CUDA graph from the second run of a shape on.

        A graph holds for the shapes that the context ran last: setting others changes state that the graph relies on
        (https://github.com/NVIDIA/TensorRT/issues/3798). So another shape ends the graph. The first run of a shape is
        not captured, because TensorRT updates that state in it and may allocate.
        """
        if self._captured is not None and self._captured.shapes != self._key:
            self._captured = None
        repeated, self._last_key = self._key == self._last_key, ()
        if self._graphs and repeated and self._captured is None:
            graph = Graph.capture(self.stream, self._try_execute) if self._capturable() else None
            self._captured = _Captured(graph, self._key)
            self._log.take()  # what a failed capture said is not the reason of a later failure
        if self._captured is not None and self._captured.graph is not None:
            self._captured.graph.launch(self.stream)
        else:
            self._execute()
        self._last_key = self._key

    def _capturable(self) -> bool:
        """Returns whether a capture is worth trying; TensorRT-RTX knows in advance, TensorRT does not."""
        asks = getattr(self._context, "is_stream_capturable", None)
        return asks is None or bool(asks(address_of(self.stream)))

    def _try_execute(self) -> bool:
        return bool(self._context.execute_async_v3(address_of(self.stream)))

    def _execute(self) -> None:
        if not self._try_execute():
            raise RunnerError(f"running {self.path}: TensorRT failed: {self.reason()}.")

    def _download(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            tensor = self.tensors[name]
            copy(tensor.memory, tensor.pinned.buffer, tensor.size(shape), self.stream)

    def _collect(self, shapes: Mapping[str, tuple[int, ...]], device: bool) -> dict[str, Any]:
        """Returns the outputs by name: copies on the host, or views of the GPU buffers if ``device`` is set."""
        outputs: dict[str, Any] = {}
        for name in self.outputs:
            allocator = self._allocators.get(name)
            tensor = allocator or self.tensors[name]
            if allocator is not None:
                allocator.outgrown.clear()
            if device:
                shape = allocator.shape if allocator is not None else shapes[name]
                outputs[name] = DeviceArray(tensor.memory, shape, tensor.dtype, self.stream, self.device.index)
            elif allocator is not None:
                outputs[name] = allocator.read()
            else:
                outputs[name] = tensor.pinned.view(shapes[name], tensor.dtype).copy()
        return outputs

    def note(self, message: str) -> None:
        """Records why a callback of TensorRT failed."""
        self._log.note(message)

    def reason(self) -> str:
        """Returns the last errors TensorRT logged, and forgets them."""
        return self._log.reason()

    def pipeline(self) -> Pipeline | None:
        """Returns the GPU pipeline of this engine; None when the file does not suit it."""
        from .pipeline import open_pipeline  # imported here: it builds on this module

        return open_pipeline(self)

    def clone(self) -> TrtRunner:
        """Returns a runner with the same engine and options, and with its own context, stream and buffers."""
        if self.loaded is None:
            raise RunnerError(f"cloning {self.path}: the runner is closed. Open it again.")
        return TrtRunner(self.loaded, **self._options)

    def close(self) -> None:
        """Frees all resources of the runner; the engine is freed with the last runner that shares it."""
        with self.lock:
            if self._runtime is not None:
                # After an error that sticks, as an illegal access, waiting fails, too; the rest is freed all the same.
                with suppress(PoseError), self.device.current(f"closing {self.path}"):
                    for stream in self.streams:
                        stream.sync()
                    self._runtime.save_kernels()
            self._stack.close()

    def __enter__(self) -> TrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
