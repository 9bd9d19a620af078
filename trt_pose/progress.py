"""Progress on standard error, silent when it is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


@contextmanager
def step(text: str) -> Iterator[None]:
    """A status line with a spinner while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(text):
        yield


def track(items: Iterable[T], text: str, total: int | None) -> Iterator[T]:
    """Passes ``items`` through under a progress bar."""
    if not sys.stderr.isatty():
        yield from items
        return
    yield from rich_track(items, text, total=total, console=Console(stderr=True), transient=True)
