"""Runner for TensorRT 10.3 to 11.x and TensorRT-RTX, based on the named-tensor API.

It is written against their bindings and tested with a stand-in for the GPU (tests/gpu_stand_in.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from ..errors import RunnerError
from ..gpu.device import Device, DeviceArray, Event, Graph, Stream, download, upload
from ..spec import ModelSpec
from .bindings import Bindings
from .engine import LoadedEngine, load_engine, make_context, read_description
from .runner import Arrays, Pipeline, QueryTimes, check_feeds

Array = npt.NDArray[Any]


class TrtRunner:
    """Runner for engines, with buffers allocated once and, if the engine allows, a CUDA graph of the batch size.

    Args:
        model: path of the engine, or a loaded engine to share.
        device: index of the GPU; ignored for a loaded engine.
        library: plugin library, see :func:`trt_pose.trt.plugins.load_plugins`; ignored for a loaded engine.
        cuda_graph: capture the engine's work when a batch size is repeated, and launch it as a CUDA graph.
        spin_wait: poll for completion instead of sleeping; saves the wake-up time but keeps a CPU core busy.
        transfers: whether :meth:`time_query` includes the copies.

    Threads may share a runner, which then runs their calls one after the other. :meth:`clone` makes another runner.

    Raises:
        RunnerError: no GPU, no driver, or no execution context.
        EngineError: see :func:`trt_pose.runtime.engine.load_engine`.
        MissingDependencyError: TensorRT or cuda-bindings is not installed.
    """

    def __init__(
        self,
        model: str | Path | LoadedEngine,
        *,
        device: int = 0,
        library: str | Path | None = None,
        cuda_graph: bool = True,
        spin_wait: bool = False,
        transfers: bool = True,
    ) -> None:
        self._options = {"cuda_graph": cuda_graph, "spin_wait": spin_wait, "transfers": transfers}
        self._stack = ExitStack()
        self.lock = threading.RLock()
        self._graph: Graph | None = None
        self._captured: tuple[int, ...] = ()  # input shapes of the graph, or of a failed capture
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._key: tuple[int, ...] = ()
        self._last_key: tuple[int, ...] = ()
        self._events: list[Event] = []
        shared = model if isinstance(model, LoadedEngine) else None
        if shared is None:
            read_description(str(model))  # checks that need no GPU come first
        try:
            self.device = self.own(Device(shared.device if shared else device))
            self._prepare(shared or load_engine(str(model), self.device, library))
        except BaseException:
            self._stack.close()
            raise

    def _prepare(self, loaded: LoadedEngine) -> None:
        self.loaded: LoadedEngine | None = loaded
        self.path, self.trt, self._log = loaded.path, loaded.flavor.module, loaded.log
        self.spec: ModelSpec = loaded.sidecar.spec
        self.runtime = f"{loaded.flavor} on {self.device.gpu['name']}"
        self.stream: Stream = self.own(Stream(self.device))
        self.streams: list[Stream] = [self.stream]  # all streams in use
        with self.device.current():
            self._context = make_context(loaded.flavor, loaded.engine)
            if self._context is None:
                raise RunnerError(f"opening {self.path}: no execution context: {self.reason()}. Free GPU memory.")
            self._stack.callback(self._drop_context)
            bindings = Bindings.of(self, loaded.engine, self._context)
        self.inputs, self.outputs, self.tensors = bindings.inputs, bindings.outputs, bindings.tensors
        self._allocators = bindings.allocators
        name = self.spec.input.name
        self.batch_name = name if name in self.inputs else next(iter(self.inputs))
        self.largest_batch = self.tensors[self.batch_name].largest[0]

    def _drop_context(self) -> None:
        """Drops the context and the engine, after the buffers and graphs and before the stream."""
        with self.device.current():
            self._context = None
            self.loaded = None

    def own(self, resource: Any) -> Any:
        """Returns ``resource`` and closes it with the runner; the last one added is closed first."""
        self._stack.callback(resource.close)
        return resource

    def run(self, feeds: Arrays, *, device: bool = False) -> dict[str, Any]:
        """Runs the engine on named arrays; returns its outputs by name.

        Args:
            feeds: arrays by input name.
            device: return the outputs on the GPU, as :class:`DeviceArray`, valid until the next run.

        Raises:
            RunnerError: the arrays do not fit, the runner is closed, or TensorRT failed.
        """
        with self.lock:
            self._check(feeds)
            with self.device.current() as driver:
                shapes = self.set_shapes({name: array.shape for name, array in feeds.items()})
                self._fill(feeds)
                self._upload(driver, feeds)
                self.enqueue(driver)
                if not device:
                    self._download(driver, shapes)
                self.stream.wait(driver, self._options["spin_wait"])
                return self._collect(driver, shapes, device)

    def time_query(self, feeds: Arrays) -> QueryTimes:
        """Times one query as trtexec defines it, by events on the GPU; excludes copies if ``transfers`` is False."""
        counted = self._options["transfers"]
        with self.lock:
            self._check(feeds)
            with self.device.current() as driver:
                shapes = self.set_shapes({name: array.shape for name, array in feeds.items()})
                self._fill(feeds)
                if not counted:
                    self._upload(driver, feeds)
                    self.stream.wait(driver, spin=True)
                marks = self._marks()
                start = time.perf_counter()
                marks[0].record(driver, self.stream)
                if counted:
                    self._upload(driver, feeds)
                marks[1].record(driver, self.stream)
                before = time.perf_counter()
                self.enqueue(driver)
                enqueued = time.perf_counter() - before
                marks[2].record(driver, self.stream)
                if counted:
                    self._download(driver, shapes)
                marks[3].record(driver, self.stream)
                self.stream.wait(driver, self._options["spin_wait"])
                end = time.perf_counter()
                h2d, compute, d2h = (marks[i + 1].ms_since(driver, marks[i]) for i in range(3))
        return QueryTimes(start, end, compute, enqueued * 1e3, h2d if counted else None, d2h if counted else None)

    def _marks(self) -> list[Event]:
        if not self._events:
            self._events = [self.own(Event(self.device, timed=True)) for _ in range(4)]
        return self._events

    def _check(self, feeds: Arrays) -> None:
        self.check_open()
        check_feeds(feeds, self.inputs)
        self.check_batch(feeds[self.batch_name].shape[0])

    def check_open(self) -> None:
        """Raises RunnerError after :meth:`close`."""
        if self._context is None:
            raise RunnerError(f"running {self.path}: the runner is closed. Open it again.")

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

    def _fill(self, feeds: Arrays) -> None:
        for name, array in feeds.items():
            self.tensors[name].pinned.view(array.shape, array.dtype)[...] = array

    def _upload(self, driver: Any, feeds: Arrays) -> None:
        for name, array in feeds.items():
            upload(driver, self.tensors[name].memory, self.tensors[name].pinned, array.nbytes, self.stream)

    def enqueue(self, driver: Any) -> None:
        """Enqueues the engine's work on the stream, as a CUDA graph from the second run of a shape on.

        There is only one graph at a time, because setting other shapes changes state that an earlier graph relies on
        (https://github.com/NVIDIA/TensorRT/issues/3798). The first run of a shape is not captured: a shape may occur
        only once, like the last batch of a folder, and TensorRT allocates memory in this run.
        """
        if self._options["cuda_graph"] and not self._allocators and self._key == self._last_key != self._captured:
            self.stream.wait(driver, spin=False)
            if self._graph is not None:
                self._graph.close()
            self._graph = Graph.capture(self.device, self.stream, self._try_execute) if self._capturable() else None
            self._captured = self._key
        self._last_key = self._key
        if self._graph is not None and self._captured == self._key:
            self._graph.launch(driver, self.stream)
        else:
            self._execute()

    def _capturable(self) -> bool:
        """Returns whether a capture is worth trying; TensorRT-RTX knows in advance, TensorRT does not."""
        asks = getattr(self._context, "is_stream_capturable", None)
        return asks is None or bool(asks(self.stream.address))

    def _try_execute(self) -> bool:
        return bool(self._context.execute_async_v3(self.stream.address))

    def _execute(self) -> None:
        if not self._try_execute():
            raise RunnerError(f"running {self.path}: TensorRT failed: {self.reason()}.")

    def _download(self, driver: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            tensor = self.tensors[name]
            download(driver, tensor.pinned, tensor.memory, tensor.size(shape), self.stream)

    def _collect(self, driver: Any, shapes: Mapping[str, tuple[int, ...]], device: bool) -> dict[str, Any]:
        """Returns the outputs by name: copies on the host, or views of the GPU buffers if ``device`` is set."""
        outputs: dict[str, Any] = {}
        for name in self.outputs:
            allocator = self._allocators.get(name)
            shape = allocator.shape if allocator is not None else shapes[name]
            if device:
                memory = allocator.memory if allocator is not None else self.tensors[name].memory
                dtype = allocator.dtype if allocator is not None else self.tensors[name].dtype
                outputs[name] = DeviceArray(memory.address, shape, dtype, self.stream, self.device.index)
            elif allocator is not None:
                outputs[name] = allocator.read(driver)
            else:
                outputs[name] = self.tensors[name].pinned.view(shape, self.tensors[name].dtype).copy()
        return outputs

    def reason(self) -> str:
        """Returns the last errors TensorRT logged, and forgets them."""
        reason = "; ".join(self._log.errors[-2:]) or "no reason was given"
        self._log.errors.clear()
        return reason[:400].rstrip(".")

    def pipeline(self) -> Pipeline | None:
        """Returns the GPU pipeline of this engine; None when the file does not suit it."""
        from .pipeline import open_pipeline  # imported here: it builds on this module

        return open_pipeline(self)

    def clone(self) -> TrtRunner:
        """Returns a runner with the same engine and options, and with its own context, stream and buffers."""
        if self.loaded is None:
            raise RunnerError(f"cloning {self.path}: the runner is closed. Open it again.")
        graph, spin, transfers = (self._options[name] for name in ("cuda_graph", "spin_wait", "transfers"))
        return TrtRunner(self.loaded, cuda_graph=graph, spin_wait=spin, transfers=transfers)

    def close(self) -> None:
        """Frees all resources of the runner; the engine is freed with the last runner that shares it."""
        with self.lock:
            if self._context is not None:
                with self.device.current() as driver:
                    for stream in self.streams:
                        stream.wait(driver, spin=False)
            if self._graph is not None:
                self._graph.close()
            self._stack.close()

    def __enter__(self) -> TrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
