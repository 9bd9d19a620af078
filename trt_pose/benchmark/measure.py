"""The measurement: files take turns, so that whatever slows the machine down slows them all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..images.pixels import read
from ..images.sources import Frame
from ..predictor import PosePredictor, place
from ..progress import track
from ..runtime.pipeline import open_pipeline
from ..runtime.runner import Arrays, QueryTimes, Runner, time_query
from ..runtime.trt import TrtRunner
from .options import BenchOptions


@dataclass
class Subject:
    """A file under measurement.

    Attributes:
        file: its path. runners: one per stream. queries: an endless supply. turns: times, turn by turn.
        stages: ms per image of decode, letterbox, inference and results, where they are measured; on a GPU the
            letterbox is inside.
        streamed_per_s: images per second of a predictor at work, where they are measured: stages overlap there.
    """

    file: str
    runners: list[Runner]
    queries: Iterator[Arrays]
    turns: list[list[QueryTimes]] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    streamed_per_s: float | None = None

    @property
    def times(self) -> list[QueryTimes]:
        return [query for turn in self.turns for query in turn]

    @property
    def walltime_s(self) -> float:
        """From the first query enqueued to the last one completed, waiting for other files left out."""
        return sum(max(q.end_s for q in turn) - min(q.start_s for q in turn) for turn in self.turns)


def measure(subjects: list[Subject], options: BenchOptions) -> None:
    """Warms up, then lets every file take its turn until each has had its time and its queries."""
    for item in subjects:
        _warm_up(item, options)
    with ThreadPoolExecutor(options.streams) as pool:
        for _ in track(_rounds(subjects, options), "measuring", None):
            for item in subjects:
                item.turns.append(_turn(item, options, pool))


def _rounds(subjects: list[Subject], options: BenchOptions) -> Iterator[int]:
    count = 0
    while True:
        done = all(
            item.walltime_s >= options.duration_s and sum(map(len, item.turns)) >= options.iterations
            for item in subjects
        )
        if done and count:
            return
        yield count
        count += 1


def _warm_up(item: Subject, options: BenchOptions) -> None:
    until = time.perf_counter() + options.warm_up_ms / 1e3
    while True:
        for runner in item.runners:
            time_query(runner, next(item.queries))
        if time.perf_counter() >= until:
            return


def _turn(item: Subject, options: BenchOptions, pool: ThreadPoolExecutor) -> list[QueryTimes]:
    """``avg_runs`` queries on every stream, all streams at once."""
    queries = [[next(item.queries) for _ in range(options.avg_runs)] for _ in item.runners]
    if len(item.runners) == 1:
        return _run_all(item.runners[0], queries[0])
    done = pool.map(_run_all, item.runners, queries)
    return [query for times in done for query in times]


def _run_all(runner: Runner, queries: list[Arrays]) -> list[QueryTimes]:
    return [time_query(runner, query) for query in queries]


def measure_images(item: Subject, predictor: PosePredictor, paths: list[Path], options: BenchOptions) -> None:
    """Follows images from their files to poses, one at a time, each stage timed; then a predictor on all of them."""
    supply = itertools.cycle(paths)
    follow = _on_gpu(item, predictor) if isinstance(item.runners[0], TrtRunner) else _on_host(item, predictor)
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


def _on_host(item: Subject, predictor: PosePredictor) -> _Follow:
    """The four calls of ``PosePredictor._run`` and the decoding before them."""
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


def _on_gpu(item: Subject, predictor: PosePredictor) -> _Follow:
    """What the host does of the pipeline: enqueue the upload, the kernels and the engine, and wait for the rows."""
    pipeline = open_pipeline(item.runners[0])
    if pipeline is None:
        return _on_host(item, predictor)

    def follow(path: Path) -> list[tuple[str, float]]:
        clock = [time.perf_counter()]
        image = read(path)
        clock.append(time.perf_counter())
        ticket = pipeline.submit([image], 0.0)
        clock.append(time.perf_counter())
        pipeline.collect(ticket)
        clock.append(time.perf_counter())
        return _stages(("decode", "submit", "wait"), clock)

    return follow


def _stages(names: tuple[str, ...], clock: list[float]) -> list[tuple[str, float]]:
    return [(name, (end - start) * 1e3) for name, start, end in zip(names, clock, clock[1:], strict=False)]
