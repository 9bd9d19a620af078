"""The measurement; files are measured in turns, so that a slowdown of the machine affects all of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..images.pixels import read
from ..images.reading import Frame
from ..predictor import PosePredictor, place
from ..progress import track
from ..runtime.runner import Arrays, ImageRunner, QueryTimes, Runner, time_query
from .options import BenchOptions


@dataclass
class Target:
    """A file under measurement.

    Attributes:
        file: path.
        runners: one per stream.
        queries: endless iterator over the inputs.
        workload: facts about the file on these inputs, for the report.
        turns: query times of each turn.
        stages: end-to-end times per image by stage, ms: decode, letterbox, inference and results; on a GPU decode,
            submit and wait. Empty unless measured.
        streamed_per_s: images per second of a predictor, whose stages overlap; None unless measured.
    """

    file: str
    runners: list[Runner]
    queries: Iterator[Arrays]
    workload: dict[str, Any] = field(default_factory=dict)
    turns: list[list[QueryTimes]] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    streamed_per_s: float | None = None

    @property
    def times(self) -> list[QueryTimes]:
        return [query for turn in self.turns for query in turn]

    @property
    def walltime_s(self) -> float:
        """Time from the first to the last query of each turn, summed over the turns, s."""
        return sum(max(q.end_s for q in turn) - min(q.start_s for q in turn) for turn in self.turns)


def measure(targets: list[Target], options: BenchOptions) -> None:
    """Warms up, then measures the files in turns until each has reached its duration and number of queries."""
    for item in targets:
        _warm_up(item, options)
    with ThreadPoolExecutor(options.streams) as pool:
        for _ in track(_rounds(targets, options), "measuring", None):
            for item in targets:
                item.turns.append(_turn(item, options, pool))


def _rounds(targets: list[Target], options: BenchOptions) -> Iterator[int]:
    count = 0
    while True:
        done = all(
            item.walltime_s >= options.duration_s and sum(map(len, item.turns)) >= options.iterations
            for item in targets
        )
        if done and count:
            return
        yield count
        count += 1


def _warm_up(item: Target, options: BenchOptions) -> None:
    until = time.perf_counter() + options.warm_up_ms / 1e3
    while True:
        for runner in item.runners:
            time_query(runner, next(item.queries))
        if time.perf_counter() >= until:
            return


def _turn(item: Target, options: BenchOptions, pool: ThreadPoolExecutor) -> list[QueryTimes]:
    """Runs ``avg_runs`` queries on every stream, all streams at once, and returns their times."""
    queries = [[next(item.queries) for _ in range(options.avg_runs)] for _ in item.runners]
    if len(item.runners) == 1:
        return _run_all(item.runners[0], queries[0])
    done = pool.map(_run_all, item.runners, queries)
    return [query for times in done for query in times]


def _run_all(runner: Runner, queries: list[Arrays]) -> list[QueryTimes]:
    return [time_query(runner, query) for query in queries]


def measure_images(item: Target, predictor: PosePredictor, paths: list[Path], options: BenchOptions) -> None:
    """Measures each stage from image file to poses, one image at a time, then a predictor on as many images."""
    supply = itertools.cycle(paths)
    follow = _on_gpu(item, predictor)
    until = time.perf_counter() + options.duration_s
    count = 0
    while time.perf_counter() < until or count < options.iterations:
        for name, ms in follow(next(supply)):
            item.stages.setdefault(name, []).append(ms)
        count += 1
    start = time.perf_counter()
    done = sum(1 for _ in predictor.stream(str(path) for path in itertools.islice(supply, count)))
    item.streamed_per_s = done / (time.perf_counter() - start)


_Follow = Callable[[Path], list[tuple[str, float]]]


def _on_host(item: Target, predictor: PosePredictor) -> _Follow:
    """Returns a function that times decoding and the calls of ``PosePredictor._run`` for one image."""
    spec, runner = predictor.spec, item.runners[0]

    def follow(path: Path) -> list[tuple[str, float]]:
        clock = [time.perf_counter()]
        image = read(path)
        clock.append(time.perf_counter())
        pixels, placed = place([image], spec.input)
        clock.append(time.perf_counter())
        outputs = runner.run({spec.input.name: pixels})
        clock.append(time.perf_counter())
        predictor.read(outputs, [Frame(image, str(path))], placed)
        clock.append(time.perf_counter())
        return _stages(("decode", "letterbox", "inference", "results"), clock)

    return follow


def _on_gpu(item: Target, predictor: PosePredictor) -> _Follow:
    """Returns a function that times the host's part of the GPU pipeline for one image.

    The stages are decoding, enqueueing the upload, kernels and engine, and waiting for the rows.
    """
    runner = item.runners[0]
    pipeline = runner.pipeline() if isinstance(runner, ImageRunner) else None
    if pipeline is None:
        return _on_host(item, predictor)

    def follow(path: Path) -> list[tuple[str, float]]:
        clock = [time.perf_counter()]
        image = read(path)
        clock.append(time.perf_counter())
        pending = pipeline.submit([image], 0.0)
        clock.append(time.perf_counter())
        pipeline.collect(pending)
        clock.append(time.perf_counter())
        return _stages(("decode", "submit", "wait"), clock)

    return follow


def _stages(names: tuple[str, ...], clock: list[float]) -> list[tuple[str, float]]:
    return [(name, (end - start) * 1e3) for name, start, end in zip(names, clock, clock[1:], strict=False)]
