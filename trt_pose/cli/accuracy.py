"""The options ``--verify-data`` and ``--verify-images`` of export and build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import say

VerifyData = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="COCO annotations; the accuracy on them is stored with the file."),
]
VerifyImages = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images of --verify-data.")]


def measure_accuracy(data: Path | None, images: Path | None) -> Callable[[Path], dict[str, Any]] | None:
    """Returns a function from a file to its accuracy; None when no annotations are given."""
    if (data is None) != (images is None):
        raise UsageError("--verify-data: name the annotations, and with --verify-images the folder of their images.")
    if data is None or images is None:
        return None
    from ..evaluation import accuracy, check_evaluator
    from ..images.annotations import Annotations

    check_evaluator()  # before the work, not after
    annotated = Annotations.read(data, images)
    return lambda file: accuracy(file, annotated)


def record(output: Path, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Measures an exported file and stores the accuracy in its metadata."""
    from ..graphs.file import record_accuracy

    accuracy = measure(output)
    record_accuracy(output, accuracy)
    return accuracy


def print_accuracy(accuracies: dict[str, dict[str, Any]]) -> None:
    """Prints what :func:`measure_accuracy` measured, one line per file."""
    from ..evaluation import in_words

    for name, entry in accuracies.items():
        if "metrics" in entry:
            say(f"{name}: {in_words(entry['metrics'])} ({entry['data']}, scores above {entry['confidence']:g})")
        else:
            say(f"{name}: not measured: {entry['not_measured']}")
