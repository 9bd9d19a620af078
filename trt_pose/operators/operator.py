"""What a plugin in Python must know of its operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

Shapes = list[list[int]]


class Operator(ABC):
    """One operator with the values of its attributes. Its inputs are FP32.

    Attributes:
        name: name of the operator.
        attributes: TensorRT's field type and NumPy type of each attribute, by name.
        outputs: TensorRT's names of the outputs' element types.
        values: the values of the attributes, by name.
    """

    name: str
    attributes: ClassVar[Mapping[str, tuple[str, Any]]] = {}
    outputs: tuple[str, ...]
    values: Mapping[str, float]

    @abstractmethod
    def check(self, shapes: Shapes) -> None:
        """Raises UsageError when the operator does not take inputs of these shapes; -1 is an unknown size."""

    @abstractmethod
    def output_shapes(self, inputs: Any, constant: Callable[[int], Any]) -> list[list[Any]]:
        """Returns the shapes of the outputs, in the type of the sizes that ``inputs`` and ``constant`` give."""

    @abstractmethod
    def launch(self, shapes: Shapes, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        """Launches the kernel on ``stream``, with the addresses of the inputs and outputs on the GPU."""
