"""The curves of a training run as a picture."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SourceError
from ..files import write_atomically

CSV, PNG = "curves.csv", "curves.png"
_METRICS = ("AP", "AP50", "AR")


@contextmanager
def drawn_at_the_end(folder: Path) -> Iterator[None]:
    """Draws the curves when the block ends, however it ends; without Matplotlib or an epoch there is no picture."""
    try:
        yield
    finally:
        if (folder / CSV).exists() and importlib.util.find_spec("matplotlib") is not None:
            draw(folder / CSV, folder / PNG)


def draw(source: Path, path: Path) -> Path:
    """Draws the loss and its parts, and the metrics, over the epochs.

    Raises:
        SourceError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    losses = {name: [float(row[name]) for row in rows] for name in rows[0] if name.startswith("loss_")}
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [sum(values) for values in zip(*losses.values(), strict=True)], "k", label="loss", marker=".")
    for name, values in losses.items():
        left.plot(epochs, values, label=name.removeprefix("loss_"), marker=".")
    for name in _METRICS:
        points = [(epoch, float(row[name])) for epoch, row in zip(epochs, rows, strict=True) if row.get(name)]
        if points:
            right.plot(
                *zip(*points, strict=True), label=f"{name}, at most {max(value for _, value in points):.3f}", marker="."
            )
            right.legend(fontsize=8)
    left.set(xlabel="epoch", title="loss", yscale="log")
    left.legend(fontsize=8)
    right.set(xlabel="epoch", title="validation", ylim=(0, 1))
    return write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=110), SourceError)
