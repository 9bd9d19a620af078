"""trtexec's spellings of shapes, memory pools and capabilities, read from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..builder.options import HARDWARE, POOLS, VERBOSITY, Shape
from ..errors import UsageError

_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_shapes(text: str | None) -> dict[str, Shape]:
    """``input:1x3x640x640`` (or the shape alone) to a dict. Raises UsageError for another form."""
    parsed: dict[str, Shape] = {}
    for part in (text or "").split(",") if text else ():
        name, _, sizes = part.rpartition(":")
        if not re.fullmatch(r"\d+(x\d+)*", sizes):
            raise UsageError(f"shapes: got {part!r}, expected the form input:1x3x640x640.")
        if name in parsed:
            raise UsageError(f"shapes: got {text!r}, expected each input once.")
        parsed[name] = tuple(int(size) for size in sizes.split("x"))
    return parsed


def parse_pools(text: str | None) -> dict[str, int]:
    """``workspace:2048,tacticSharedMem:48K`` (MiB where no unit is given) to bytes per pool."""
    parsed = {}
    for part in text.split(",") if text else ():
        name, _, size = part.partition(":")
        number = re.fullmatch(r"(\d+(?:\.\d+)?)([BKMG]?)", size)
        if name not in POOLS or not number or POOLS[name] in parsed:
            raise UsageError(
                f"--memPoolSize: got {part!r}, expected one of {', '.join(POOLS)}, once, a colon and a size:"
                " workspace:2048."
            )
        parsed[POOLS[name]] = int(float(number[1]) * _UNITS[number[2] or "M"])
    return parsed


def parse_capabilities(text: str | None) -> tuple[tuple[int, int], ...]:
    """``8.6,120`` to ((8, 6), (12, 0)). Raises UsageError for another form."""
    parsed = []
    for part in text.split(",") if text else ():
        number = re.fullmatch(r"(\d{1,2})\.?(\d)", part.strip())
        if not number:
            raise UsageError(f"--computeCapabilities: got {part!r}, expected the form 8.6 or 86.")
        parsed.append((int(number[1]), int(number[2])))
    return tuple(parsed)


def parse_hardware(text: str | None) -> str | None:
    return None if text in (None, "none") else _word("--hardwareCompatibilityLevel", str(text), HARDWARE)


def parse_verbosity(text: str) -> str:
    return _word("--profilingVerbosity", text, VERBOSITY)


def _word(option: str, text: str, words: Mapping[str, str]) -> str:
    if text not in words:
        raise UsageError(f"{option}: got {text!r}, expected one of {', '.join(words)}.")
    return words[text]
