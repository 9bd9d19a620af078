"""Selection of the layers that become INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import UsageError
from .network import Layer


@dataclass(frozen=True)
class SelectiveQuantizer:
    """Selection of layers by name or pattern (``*`` and ``?``).

    A text without wildcards selects the layer of that name or, if there is none, all layers whose names contain it.

    Attributes:
        include: layers that may become INT8.
        exclude: layers that stay as they are, even if they are included.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))

    @classmethod
    def of(cls, value: SelectiveQuantizer | Sequence[str] | str | None) -> SelectiveQuantizer:
        """Returns a quantizer unchanged, or one that excludes the given names. Raises UsageError for other types."""
        if isinstance(value, SelectiveQuantizer):
            return value
        names = (value,) if isinstance(value, str) else value or ()
        if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"selective_quantizer: got {value!r}, expected a SelectiveQuantizer or names to exclude.")
        return cls(exclude=tuple(names))

    def choose(self, layers: Iterable[Layer]) -> list[Layer]:
        """Returns the layers to quantize. Raises UsageError when a pattern matches none, or all are excluded."""
        layers = list(layers)
        for pattern in (*self.include, *self.exclude):
            if not any(_matches(layer.name, pattern, layers) for layer in layers):
                weighted = [layer.name for layer in layers if layer.weight]
                raise UsageError(
                    f"choosing layers: {pattern!r} matches none of {len(layers)}; the names are like {weighted[0]} and"
                    f" {weighted[-1]}."
                )
        include, exclude = self._found(layers, self.include), self._found(layers, self.exclude)
        chosen = [layer for layer in layers if layer.name in include - exclude]
        if not chosen:
            raise UsageError("choosing layers: every layer is excluded, so nothing becomes INT8. Exclude fewer.")
        return chosen

    def _found(self, layers: list[Layer], patterns: tuple[str, ...]) -> set[str]:
        return {layer.name for pattern in patterns for layer in layers if _matches(layer.name, pattern, layers)}


def _matches(name: str, pattern: str, layers: list[Layer]) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    if any(layer.name == pattern for layer in layers):  # an exact name selects only that layer
        return name == pattern
    return pattern in name
