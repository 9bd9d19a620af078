"""One benchmark run: opens the files, measures them in turns and creates the report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..formats import count_predictions
from ..predictor import PosePredictor
from ..runtime import Runner, find_backend, open_runner
from ..runtime.runner import Arrays, ParallelRunner, QueryTimes
from ..trt.sidecar import SUFFIXES
from .feeding import MOST_IMAGES, count_images, image_paths, make_feeds
from .figures import ratio, summarize
from .machine import machine
from .measure import Target, measure, measure_images
from .options import BenchOptions
from .report import ROWS, BenchReport, FileReport
from .trtexec import find_trtexec, run_trtexec


def bench(files: Sequence[str | Path], options: BenchOptions | None = None, *, trtexec: bool = False) -> BenchReport:
    """Measures model files, ``.onnx`` or engines, in turns in one run.

    Args:
        files: one or more paths; latencies are also reported relative to the first.
        options: settings; None takes the defaults.
        trtexec: whether to run trtexec on each engine, too.

    Returns:
        The report of all files.

    Raises:
        UsageError: invalid settings, or ``trtexec`` with a file that is not an engine.
        RunnerError: a file cannot be opened or does not take images.
        SourceError: an image cannot be read.
        EngineError: an engine cannot be used, or trtexec failed.
        MissingDependencyError: trtexec was requested and is not on the path.
    """
    options = options or BenchOptions()
    names = [str(file) for file in files]
    _check(names, options, trtexec)
    with ExitStack() as stack:
        targets = [_open_target(name, options, stack) for name in names]
        measure(targets, options)
        if options.end_to_end:
            for target in targets:
                measure_images(target, PosePredictor(target.runners[0]), image_paths(options), options)
        reports = [_report(target, targets[0], options) for target in targets]
    if trtexec:
        reports = [add_trtexec(report, options) for report in reports]
    return BenchReport(machine(), options, _headline(options, any(map(_is_engine, names))), tuple(reports))


def _check(names: Sequence[str], options: BenchOptions, trtexec: bool) -> None:
    """Raises UsageError or MissingDependencyError for what can be known before a file is opened."""
    engines = [name for name in names if _is_engine(name)]
    if not names:
        raise UsageError("measuring: got no file. Name an .onnx file or an engine.")
    if trtexec and len(engines) != len(names):
        raise UsageError("--trtexec: it runs engines, and a file here is none. Leave it out, or build an engine.")
    if len(engines) == len(names) and (options.threads is not None or options.provider is not None):
        raise UsageError(
            "--threads, --provider: they are for .onnx files, and every file here is an engine. Leave them out."
        )
    if trtexec:
        for name in names:
            find_trtexec(name)


def _is_engine(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _open_target(name: str, options: BenchOptions, stack: ExitStack) -> Target:
    """Opens a file and makes its queries; ``stack`` closes it."""
    given: dict[str, Any] = {
        "threads": options.threads,
        "providers": options.provider,
        "cuda_graph": options.cuda_graph,
        "spin_wait": options.spin_wait,
        "transfers": options.transfers,
    }
    known = find_backend(name).options
    runner = stack.enter_context(open_runner(name, **{key: value for key, value in given.items() if key in known}))
    more = [runner] * (options.streams - 1)  # threads share what runs an .onnx file
    if isinstance(runner, ParallelRunner):  # an engine needs one context per stream
        more = [stack.enter_context(runner.clone()) for _ in more]
    queries = make_feeds(runner, options)
    if options.end_to_end:
        _check_end_to_end(runner)
    return Target(name, [runner, *more], itertools.cycle(queries), describe_workload(name, runner, queries))


def _check_end_to_end(runner: Runner) -> None:
    """Raises UsageError for a fixed batch of several images."""
    if (runner.spec.input.batch or 1) != 1:
        raise UsageError(
            f"--end-to-end: it follows one image at a time, the file takes {runner.spec.input.batch}. Export it with"
            " --batch 1 or dynamic."
        )


def describe_workload(name: str, runner: Runner, feeds: list[Arrays]) -> dict[str, Any]:
    """Returns facts about a file on these inputs, among them the mean numbers of detections and candidates."""
    counts = [count_predictions(runner.run(feed)) for feed in feeds]
    known = [count for count in counts if count is not None]
    return {
        "model": runner.spec.model,
        "precision": runner.spec.precision,
        "batch": count_images(runner, feeds[0]),
        "runtime": runner.runtime,
        "detections": sum(known) / len(known) if known else None,
        "candidates": _candidates(name, feeds),
    }


def _candidates(name: str, feeds: list[Arrays]) -> float | None:
    if _is_engine(name):
        return None
    try:
        from .candidates import count_candidates
    except ImportError:  # the onnx package is missing; the measurement does not need it
        return None
    counts = count_candidates(name, feeds)
    return sum(counts) / len(counts) if counts else None


def _report(item: Target, first: Target, options: BenchOptions) -> FileReport:
    times = item.times
    fields = {name: [getattr(query, name) for query in times] for name in ROWS}
    if all(value is None for value in fields["h2d_ms"]) and all(value is None for value in fields["enqueue_ms"]):
        del fields["compute_ms"]  # no GPU stages: the compute time equals the latency
    figures = {name: summarize(values, options.percentiles) for name, values in fields.items() if None not in values}
    medians = [[_median(turn) for turn in target.turns] for target in (item, first)]
    return FileReport(
        file=item.file,
        queries=len(times),
        walltime_s=item.walltime_s,
        times=figures,
        stages={name: summarize(values, options.percentiles) for name, values in item.stages.items()},
        streamed_per_s=item.streamed_per_s,
        ratio=None if item is first else ratio(*medians),
        every=times,
        **item.workload,
    )


def _median(turn: list[QueryTimes]) -> float:
    return sorted(query.latency_ms for query in turn)[len(turn) // 2]


def add_trtexec(item: FileReport, options: BenchOptions) -> FileReport:
    return replace(item, beside=run_trtexec(item.file, options, item.batch))


def _headline(options: BenchOptions, engines: bool) -> str:
    """Returns one line with the settings; results with different settings are not comparable."""
    switches = {"CUDA graph": options.cuda_graph, "spin wait": options.spin_wait, "data transfers": options.transfers}
    told = "; ".join(f"{name} {'on' if value else 'off'}" for name, value in switches.items()) if engines else ""
    shown = f"{options.images} (at most {MOST_IMAGES} images)" if options.images else "the photograph in the package"
    source = "tensors from files" if options.inputs else shown
    return (
        f"settings: warmUp {options.warm_up_ms:g} ms, duration {options.duration_s:g} s, iterations"
        f" {options.iterations}, avgRuns {options.avg_runs}, infStreams {options.streams}; input: {source}"
        + (f"; {told}" if told else "")
    )
