"""Which layers become INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import UsageError
from .network import Layer


@dataclass(frozen=True)
class SelectiveQuantizer:
    """Layers by name or pattern (``*`` and ``?``); a name without either also matches as a part.

    Attributes:
        include: layers that may become INT8. exclude: of these, the ones that do not.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: SelectiveQuantizer | Sequence[str] | str | None) -> SelectiveQuantizer:
        """A quantizer as it is; names alone are exclusions. Raises UsageError for anything else."""
        if isinstance(value, SelectiveQuantizer):
            return value
        names = (value,) if isinstance(value, str) else value or ()
        if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"selective_quantizer: got {value!r}, expected a SelectiveQuantizer or names to exclude.")
        return cls(exclude=tuple(names))

    def choose(self, layers: Iterable[Layer]) -> list[Layer]:
        """The layers to quantize. Raises UsageError for a pattern that matches none."""
        layers = list(layers)
        for pattern in (*self.include, *self.exclude):
            if not any(_matches(layer.name, pattern) for layer in layers):
                weighted = [layer.name for layer in layers if layer.weight]
                raise UsageError(
                    f"choosing layers: {pattern!r} matches none of {len(layers)}; the names are like {weighted[0]} and"
                    f" {weighted[-1]}. Correct it."
                )
        return [layer for layer in layers if self._takes(layer.name)]

    def _takes(self, name: str) -> bool:
        included = any(_matches(name, pattern) for pattern in self.include)
        return included and not any(_matches(name, pattern) for pattern in self.exclude)


def _matches(name: str, pattern: str) -> bool:
    wild = any(sign in pattern for sign in "*?[")
    return fnmatchcase(name, pattern) if wild else pattern in name
