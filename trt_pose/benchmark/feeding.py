"""Inputs of a measurement: real images, or tensors from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError, SourceError, UsageError
from ..images.pixels import example_path, read
from ..images.sources import find_images
from ..predictor import place
from ..runtime.runner import Arrays, Runner, check_feeds
from .options import BenchOptions

MOST_IMAGES = 64  # held in memory, decoded


def image_paths(options: BenchOptions) -> list[Path]:
    """Returns the paths of the first 64 images; of the photograph in the package when ``options`` names none.

    Raises:
        SourceError: there is no such image, folder or glob.
    """
    if options.images is None:
        return [example_path()]
    found = find_images(options.images)
    if found is None and not Path(options.images).is_file():
        raise SourceError(f"opening {options.images!r}: there is no such image, folder or glob. Check the path.")
    return (found or [Path(options.images)])[:MOST_IMAGES]


def make_feeds(runner: Runner, options: BenchOptions) -> list[Arrays]:
    """Returns the queries of a measurement, to be used in turn.

    Raises:
        UsageError: the file has another batch or other inputs.
        RunnerError: the file does not take images, or a tensor does not fit its input.
    """
    size = _batch_size(runner, options)
    if options.inputs:
        feeds = _load_inputs(runner, options, size)
        check_feeds(feeds, runner.inputs)
        if options.batch not in (None, count_images(runner, feeds)):
            raise UsageError(
                f"--batch: got {options.batch}, --loadInputs has {count_images(runner, feeds)}. Leave it out."
            )
        return [feeds]
    spec = runner.spec
    if not spec.input.normalized_in_graph or spec.input.custom_preprocessing:
        raise RunnerError(
            f"measuring {spec.model}: it does not take images. Feed it with --loadInputs {spec.input.name}:FILE.npy."
        )
    images = [read(path) for path in image_paths(options)]
    groups = [images[start : start + size] for start in range(0, len(images), size)]
    groups = [(group * size)[:size] for group in groups]  # fills an incomplete last group by repeating its images
    return [{spec.input.name: place(group, spec.input)[0]} for group in groups]


def _batch_size(runner: Runner, options: BenchOptions) -> int:
    """Returns the images per query. Raises UsageError when the file has another fixed batch."""
    fixed = runner.spec.input.batch
    if options.batch is not None and fixed not in (None, options.batch):
        raise UsageError(f"--batch: got {options.batch}, the file takes {fixed}. Leave it out.")
    return options.batch or fixed or 1


def count_images(runner: Runner, feeds: Arrays) -> int:
    """Returns the number of images in a query."""
    name = runner.spec.input.name
    return len(feeds[name if name in feeds else next(iter(feeds))])


def _load_inputs(runner: Runner, options: BenchOptions, size: int) -> Arrays:
    feeds: dict[str, npt.NDArray[Any]] = {}
    for name, path in options.inputs:
        if name not in runner.inputs:
            raise UsageError(f"--loadInputs: there is no input {name!r}, the file has {', '.join(runner.inputs)}.")
        info = runner.inputs[name]
        shape = [size if place == 0 and side is None else side for place, side in enumerate(info.shape)]
        try:
            if Path(path).suffix == ".npy":
                feeds[name] = np.load(path, allow_pickle=False)
            elif None in shape:
                raise ValueError("raw bytes do not say their height and width; use .npy")
            else:  # raw bytes, trtexec's format
                feeds[name] = np.fromfile(path, info.dtype).reshape([side or 0 for side in shape])
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"--loadInputs {name}:{path}: {error}. Give the input as .npy or raw bytes.") from error
    return feeds
