"""Progress on standard error, silent when it is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TimeRemainingColumn

T = TypeVar("T")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Shows a status line with a spinner while the block runs."""
    with progress_bar(SpinnerColumn()) as progress:
        progress.add_task(text, total=None)
        yield


def track(items: Iterable[T], text: str, total: int | None) -> Iterator[T]:
    """Yields ``items`` and shows a progress bar; ``total`` is their number, None when unknown."""
    with progress_bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        yield from progress.track(items, total=total, description=text)


@contextmanager
def progress_steps(text: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Shows a progress bar; yields a function that sets the number of finished steps and the text."""
    with progress_bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done, said: progress.update(task, completed=done, description=said)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Returns a progress bar with a description and ``columns``, on standard error if that is a terminal."""
    # Without the two redirect flags rich would send the program's standard output to its console, which is stderr.
    return Progress(
        "{task.description}",
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not sys.stderr.isatty(),
    )
