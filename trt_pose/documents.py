"""JSON documents: writing them, and reading them into typed values.

Every JSON text that the package reads passes :func:`read` or :func:`convert`, which check types and bounds and name the
path of the first wrong value (``$.input.height``). Unknown fields are ignored, so that files of newer versions can be
read.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from .errors import PoseError, first_line
from .files import check_readable

T = TypeVar("T")

# Bounds of the values in documents. They keep a damaged or hostile file from reaching an allocation or a terminal.
Side = Annotated[int, Meta(ge=1, le=65_536)]  # px
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Magnitude = Annotated[float, Meta(ge=0.0, le=3.5e38)]
Name = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z", max_length=10_000)]  # one line, no control characters
_LARGEST_BYTES = 2 << 30


def to_json(record: Any, indent: int | None = 2) -> str:
    """Returns JSON that every parser accepts: infinite numbers and NaN become null, other text is ASCII.

    Args:
        record: dicts, lists, dataclasses, strings, numbers (NumPy's, too), None.
        indent: spaces per level; None writes one line.
    """
    plain = msgspec.to_builtins(record, enc_hook=_plain, str_keys=True)
    # DEL is a control character that JSON does not escape.
    return json.dumps(_finite(plain), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


# A terminal obeys control characters, and some characters reorder the text around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: object, lines: bool = True) -> str:
    """Returns text for a terminal, with control characters as escapes (``\\x1b``).

    Args:
        text: the text, with names that others have chosen.
        lines: keep line breaks; else they are escaped, too.
    """
    shown = str(text) if lines else str(text).replace("\n", "\\n")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), shown)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a NumPy number or array
        return value.tolist()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(text: str | bytes) -> Any:
    """Parses JSON. Raises ValueError with one sentence when it is damaged or nested too deeply."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(_reason(error)) from error


def _parse_loosely(text: bytes) -> Any:
    """:func:`parse` that reads NaN and infinite numbers as None."""
    try:
        return parse(text)
    except ValueError:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def convert(record: Any, kind: type[T]) -> T:
    """Converts parsed JSON to ``kind``, a dataclass or msgspec structure. Raises ValueError that names the path."""
    try:
        return msgspec.convert(record, kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ValueError(_reason(error)) from error


def read(path: str | Path, kind: type[T], what: str, error: type[PoseError], mend: str, nan: bool = False) -> T:
    """Reads a JSON file into ``kind``.

    Args:
        path: the file.
        kind: a dataclass or msgspec structure, or ``dict``.
        what: what the file should be, ``COCO annotations``.
        error: exception to raise.
        mend: last sentence of the message.
        nan: accept the words NaN and Infinity, which Python's json writes and JSON does not have; they become None.

    Raises:
        error: the file cannot be read, is no JSON, or has a value of another type or out of bounds.
    """
    path = check_readable(path, "reading", error)
    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise error(f"reading {path}: {size >> 20} MB are more than {what} have. {mend}")
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark is allowed
        return convert(_parse_loosely(text) if nan else parse(text), kind)
    except OSError as problem:
        raise error(f"reading {path}: {problem.strerror or problem}. Check the path.") from problem
    except ValueError as problem:
        if isinstance(problem, PoseError):
            raise
        raise error(f"reading {path}: not {what} ({first_line(problem)}). {mend}") from problem


def _reason(error: Exception) -> str:
    """msgspec's message with its path in front: ``$.input.height: expected int, got str``."""
    text, _, path = first_line(error).partition(" - at `")
    text = text.replace("`", "").rstrip(".")
    text = re.sub(r"str matching regex .*", "text without control characters", text)
    return f"{path.rstrip('`')}: {text[:1].lower()}{text[1:]}" if path else text
