"""The input and output buffers of an execution context of TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError, first_line
from ..gpu.device import Pinned, address_of, copy, wait
from ..trt.flavor import element_name
from .runner import TensorInfo

if TYPE_CHECKING:
    from cuda.core import Buffer

    from .trt import TrtRunner

Array = npt.NDArray[Any]


class Tensor:
    """An input or output, with buffers on the GPU and on the host for the largest batch."""

    def __init__(self, runner: TrtRunner, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.largest = name, np.dtype(dtype), shape
        size = self.size(shape)
        self.memory: Buffer = runner.device.memory(size)
        self.pinned: Pinned = runner.own(runner.device.pinned(size))

    def size(self, shape: tuple[int, ...]) -> int:
        """Returns the size of a tensor of this shape in bytes."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Bindings:
    """The tensors of an execution context, allocated for the largest batch, with their addresses given to TensorRT.

    Attributes:
        inputs: type and shape by name.
        outputs: names, in the order of the description.
        tensors: the buffers by name, of all tensors whose largest shape is known.
        allocators: output allocators by name, of the tensors whose shape is known only after a run (flat format).
    """

    inputs: dict[str, TensorInfo]
    outputs: list[str]
    tensors: dict[str, Tensor]
    allocators: dict[str, Any]

    @classmethod
    def of(cls, runner: TrtRunner, engine: Any, context: Any) -> Bindings:
        """Allocates the tensors of ``context``; ``runner`` owns them.

        Raises:
            RunnerError: TensorRT rejects a shape or an address.
        """
        mode = runner.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        bindings = cls({}, [], {}, {})
        # The shapes of the outputs are known once those of all inputs are set.
        for name in (name for name in names if engine.get_tensor_mode(name) == mode.INPUT):
            bindings._add_input(runner, engine, context, name)
        for name in (name for name in names if engine.get_tensor_mode(name) != mode.INPUT):
            bindings._add_output(runner, engine, context, name)
        order = {name: place for place, name in enumerate(runner.spec.output.names)}
        bindings.outputs.sort(key=lambda name: order.get(name, len(order)))
        return bindings

    def _add_input(self, runner: TrtRunner, engine: Any, context: Any, name: str) -> None:
        shape = tuple(engine.get_tensor_shape(name))
        largest = tuple(engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape
        info = TensorInfo(
            element_name(runner.trt, engine.get_tensor_dtype(name)), tuple(None if side < 0 else side for side in shape)
        )
        self.inputs[name] = info
        if -1 in shape and not context.set_input_shape(name, largest):
            raise RunnerError(f"opening {runner.path}: TensorRT refuses its own profile. Build it again.")
        self._bind(runner, context, Tensor(runner, name, info.dtype, largest))

    def _add_output(self, runner: TrtRunner, engine: Any, context: Any, name: str) -> None:
        self.outputs.append(name)
        shape, dtype = tuple(context.get_tensor_shape(name)), element_name(runner.trt, engine.get_tensor_dtype(name))
        if -1 in shape:
            self.allocators[name] = make_allocator(runner.trt, runner, dtype)
            if not context.set_output_allocator(name, self.allocators[name]):
                raise RunnerError(
                    f"opening {runner.path}: TensorRT refuses an allocator for {name}: {runner.reason()}."
                )
        else:
            self._bind(runner, context, Tensor(runner, name, dtype, shape))

    def _bind(self, runner: TrtRunner, context: Any, tensor: Tensor) -> None:
        self.tensors[tensor.name] = tensor
        if not context.set_tensor_address(tensor.name, address_of(tensor.memory)):
            raise RunnerError(
                f"opening {runner.path}: TensorRT refuses the memory of {tensor.name}: {runner.reason()}."
            )


def make_allocator(trt: Any, runner: TrtRunner, dtype: str) -> Any:
    """Returns an output allocator for a tensor whose shape is known only after the run (flat format)."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory: Buffer = runner.device.memory(1 << 16)
            self.pinned: Pinned = runner.own(runner.device.pinned(1 << 16))
            self.shape: tuple[int, ...] = ()
            self.dtype = np.dtype(dtype)
            self.outgrown: list[Buffer] = []  # the run that outgrew them may still use them

        def reallocate_output_async(self, _name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            try:
                if size > self.memory.size:
                    self.outgrown.append(self.memory)
                    self.memory = runner.device.memory(max(size, 2 * self.memory.size))
            except Exception as error:  # TensorRT reports an exception of a callback without its reason
                runner.note(f"allocating {size} bytes: {first_line(error)}")
                return 0
            return address_of(self.memory)

        def reallocate_output(self, _name: str, memory: int, size: int, alignment: int) -> int:
            return self.reallocate_output_async(_name, memory, size, alignment, 0)

        def notify_shape(self, _name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def read(self) -> Array:
            """Returns a copy of the tensor; valid after the run."""
            size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
            if size > self.pinned.size:
                self.pinned = runner.own(runner.device.pinned(size))
            copy(self.memory, self.pinned.buffer, size, runner.stream)
            wait(runner.stream, runner.end, spin=False)
            values: Array = self.pinned.view(self.shape, self.dtype).copy()
            return values

    return Allocator()
