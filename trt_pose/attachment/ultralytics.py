"""What Ultralytics writes into the metadata of the files it exports, and the image size that LibreYOLO writes.

Keys and values: https://docs.ultralytics.com/modes/export (values are Python literals as text).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ExportError

_MOST_PX = 16_384  # of a side
_LONGEST = 100_000  # characters of an entry; 1,000 class names take less


@dataclass(frozen=True)
class Metadata:
    """The facts that ``attach`` needs.

    Attributes:
        task: ``pose``, ``detect``, ``segment``, ...
        joints: number of joints.
        values: numbers per joint: 2 (x, y) or 3 (x, y, confidence).
        classes: names of the classes.
        joint_names: names of the joints; empty where the file does not name them.
    """

    task: str
    joints: int
    values: int
    classes: tuple[str, ...]
    joint_names: tuple[str, ...]


def read_metadata(entries: Mapping[str, str], origin: str) -> Metadata | None:
    """Reads the metadata of an ONNX file; None where Ultralytics did not write it.

    Raises:
        ExportError: the file is no pose model of one class, or its ``kpt_shape`` is damaged.
    """
    if not {"task", "stride", "names"} <= entries.keys():
        return None
    task, names = entries["task"], _literal(entries["names"])
    classes = tuple(str(name) for name in (names.values() if isinstance(names, dict) else names or ()))
    if task != "pose":
        raise ExportError(f"attaching to {origin}: its metadata says task {task!r}. Give the file of a pose model.")
    shape = _literal(entries.get("kpt_shape", ""))
    whole = isinstance(shape, (list, tuple)) and len(shape) == 2 and all(type(size) is int for size in shape)
    if not whole or not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise ExportError(
            f"attaching to {origin}: its metadata says kpt_shape {entries.get('kpt_shape', 'nothing')[:40]!r}, expected"
            " [joints, 2] or [joints, 3]. Export it again."
        )
    joints, values = shape
    if len(classes) > 1:
        listed = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        raise ExportError(
            f"attaching to {origin}: it has {len(classes)} classes ({listed}) with {joints} joints each. Only models of"
            " one class can be attached to; train it with single_cls=True."
        )
    listed = _literal(entries.get("kpt_names", ""))
    first = next(iter(listed.values()), ()) if isinstance(listed, dict) else ()
    joint_names = tuple(str(name) for name in first) if isinstance(first, (list, tuple)) else ()
    return Metadata(task, joints, values, classes, joint_names if len(joint_names) == joints else ())


def exported_size(entries: Mapping[str, str]) -> tuple[int, int] | None:
    """Returns the (height, width) of the images a file was exported for, px; None where its metadata does not say it.

    Ultralytics writes ``imgsz`` as a list, LibreYOLO ``imgsz_h`` and ``imgsz_w``.
    """
    size = _literal(entries.get("imgsz", ""))
    if not isinstance(size, (list, tuple)):
        size = [_literal(entries.get(name, "")) for name in ("imgsz_h", "imgsz_w")]
    if len(size) != 2 or not all(type(side) is int and 0 < side <= _MOST_PX for side in size):
        return None
    return size[0], size[1]


def _literal(text: str) -> Any:
    """Returns the value of a Python literal; None for any other text. Nothing is executed."""
    try:
        return ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
