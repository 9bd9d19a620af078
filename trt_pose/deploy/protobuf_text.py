"""The text format of protocol buffers, in which Triton reads its configuration.

https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """The name of a value of an enumeration, which has no quotes."""

    __slots__ = ()


def to_text(message: Mapping[str, Any]) -> str:
    """Returns a message as text.

    Args:
        message: values by field. A list is a repeated field, a mapping a message.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in message.items():
        messages = isinstance(value, list) and any(isinstance(part, Mapping) for part in value)
        for item in value if messages else [value]:
            if isinstance(item, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            elif isinstance(item, (list, tuple)):
                yield f"{indent}{name}: [ {', '.join(map(_scalar, item))} ]"
            else:
                yield f"{indent}{name}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's escapes of printable text are those of the text format
        return json.dumps(value, ensure_ascii=False)
    return str(value)
